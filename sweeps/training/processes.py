"""One run by several processes, one for each GPU or node: each trains and is tested on its share of the videos.

The first process leads: it claims the run, measures and writes. The others wait for its orders, so a run that fails
before training ends for all of them. Gradients are averaged by DistributedDataParallel and batch norms see the whole
batch, so every process holds the same weights, those that one process would reach with the same batches, but for
rounding and for what is dropped at random, which depends on the shape of a share.

Processes that work together wait for each other, so a process that fails alone leaves the others waiting. It notes
why, in a row where it can, and its end breaks the connections of the others, who end too (see `Team.together`).

Who starts the processes: Slurm, through submitit, or `torchrun`; elsewhere a process is alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import torch
from submitit.helpers import TorchDistributedEnvironment
from torch import distributed, nn

from slurm.task import LostContact, num_processes, on_torchrun
from sweeps.training.team_batch_norm import share_batch_norms

_PATIENCE = datetime.timedelta(hours=6)  # followers wait while the leader measures

_Item = TypeVar("_Item")


@dataclasses.dataclass
class Team:
    """The processes of a run; by default there is one.

    Attributes:
        rank: number of this process; 0 leads.
        size: how many there are.
        local_size: how many of them are on this machine.
        broken: whether one of them failed while the others were waiting for it; none can be reached any more.
    """

    rank: int = 0
    size: int = 1
    local_size: int = 1
    broken: bool = False

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def order(self, what: str) -> None:
        """Tells the others, who `listen`, what to do; called by the leader."""
        with self.together():
            self.tell(what)

    def listen(self) -> str:
        """Waits for the leader's order and returns it."""
        return self.tell("")

    @contextlib.contextmanager
    def together(self, *common: type[Exception]) -> Iterator[None]:
        """Around what all processes do in step. An error that all meet alike is of a type in `common`.

        Raises:
            LostContact: in place of what torch says when another process has gone.
        """
        try:
            yield
        except common:
            raise
        except BaseException as error:
            self.broken = self.size > 1
            if self.broken and _is_lost_contact(error):
                raise LostContact(f"process {self.rank} lost contact with another one ({error})") from error
            raise

    def parallel(self, model: nn.Module) -> nn.Module:
        """Returns the model as it is trained: gradients are means over the team, batch norms see the whole batch."""
        if self.size == 1:
            return model
        share_batch_norms(model)
        # Of a convolution with one channel a group, whose strides can be told in two ways.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        cuda = next(model.parameters()).is_cuda
        devices = [torch.cuda.current_device()] if cuda else None
        return nn.parallel.DistributedDataParallel(model, device_ids=devices)

    def agree(self, model: nn.Module) -> None:
        """Gives all processes the leader's weights and statistics."""
        if self.size == 1:
            return
        for value in [*model.parameters(), *model.buffers()]:
            whole = value.detach().contiguous()
            distributed.broadcast(whole, src=0)
            value.detach().copy_(whole)

    def share(self, batches: Iterable[list[_Item]]) -> Iterable[list[_Item]]:
        """Returns this process' part of every batch."""
        return batches if self.size == 1 else _Share(batches, self.rank, self.size)

    def sum(self, value: float) -> float:
        """Returns the sum over the team."""
        if self.size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64)
        distributed.all_reduce(total)
        return total.item()

    def union(self, items: Sequence[str]) -> list[str]:
        """Returns everybody's items."""
        if self.size == 1:
            return list(items)
        gathered: list[Sequence[str]] = [()] * self.size
        distributed.all_gather_object(gathered, list(items))
        return [item for items in gathered for item in items]

    def gather(self, value: Any) -> list[Any]:
        """Returns everybody's value to the leader, by rank, and nothing to the others."""
        if self.size == 1:
            return [value]
        gathered = [None] * self.size if self.leads else None
        distributed.gather_object(value, gathered, dst=0)
        return gathered or []

    def tell(self, value: Any) -> Any:
        """Returns the leader's value to everybody."""
        if self.size == 1:
            return value
        message = [value]
        distributed.broadcast_object_list(message, src=0)
        return message[0]


ALONE = Team()

_team: Team | None = None


@contextlib.contextmanager
def join() -> Iterator[Team]:
    """Forms the team of all processes that Slurm or torchrun started for this job; elsewhere a process is alone.

    Inside another `join` it is the same team.
    """
    global _team
    if num_processes() == 1 or _team is not None:
        yield current()
        return
    _team = _meet()
    try:
        yield _team
    except BaseException:
        _team.broken = True  # the others may be waiting for what this process has not done
        raise
    finally:
        team, _team = _team, None
        if not team.broken:
            team.sum(0)  # who leaves first would break the connections that others still wait on
        if not (team.broken and torch.cuda.is_available()):  # NCCL would wait for what will never come
            distributed.destroy_process_group()


def current() -> Team:
    """Returns the team that this process has joined."""
    return _team or ALONE


def is_broken() -> bool:
    """Whether this process' team is."""
    return current().broken


def _meet() -> Team:
    if not on_torchrun():
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
    rank, size, local_rank, local_size = (
        int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    )
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank % torch.cuda.device_count())
    distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=_PATIENCE)
    return Team(rank, size, local_size)


def _is_lost_contact(error: BaseException) -> bool:
    """Whether an error only says that a connection broke; gloo has no type of its own for that."""
    return isinstance(error, distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


@dataclasses.dataclass(frozen=True)
class _Share(Generic[_Item]):
    batches: Iterable[list[_Item]]
    rank: int
    size: int

    def __iter__(self) -> Iterator[list[_Item]]:
        return (batch[self.rank :: self.size] for batch in self.batches)
