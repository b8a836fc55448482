"""One run by several processes, one for each GPU or node: each trains on its share of every batch.

The first process leads: it claims the run, measures, evaluates and writes. The others wait for its orders, so a run
that fails before or after training ends for all of them. Gradients are averaged by DistributedDataParallel; every
process holds the same weights, those that one process would reach with the same batches, but for rounding.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
from collections.abc import Iterable, Iterator, Sequence

import torch
from submitit.helpers import TorchDistributedEnvironment
from torch import distributed, nn

from slurm.task import num_processes

_PATIENCE = datetime.timedelta(hours=6)  # followers wait while the leader measures and evaluates


@dataclasses.dataclass(frozen=True)
class Team:
    """The processes of a run; by default there is one.

    Attributes:
        rank: number of this process; 0 leads.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def order(self, what: str) -> None:
        """Tells the others, who `listen`, what to do; called by the leader."""
        self._broadcast(what)

    def listen(self) -> str:
        """Waits for the leader's order and returns it."""
        return self._broadcast("")

    def parallel(self, model: nn.Module) -> nn.Module:
        """Returns the model as it is trained: its gradients are means over the team."""
        if self.size == 1:
            return model
        cuda = next(model.parameters()).is_cuda
        return nn.parallel.DistributedDataParallel(model, device_ids=[torch.cuda.current_device()] if cuda else None)

    def share(self, batches: Iterable[Sequence]) -> Iterable[Sequence]:
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

    def _broadcast(self, what: str) -> str:
        if self.size == 1:
            return what
        message = [what]
        distributed.broadcast_object_list(message, src=0)
        return message[0]


ALONE = Team()


@contextlib.contextmanager
def join() -> Iterator[Team]:
    """Forms the team of all processes that Slurm started for this job; elsewhere a process is alone."""
    size = num_processes()
    if size == 1:
        yield ALONE
        return
    place = TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
    if torch.cuda.is_available():
        torch.cuda.set_device(place.local_rank)
    distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=_PATIENCE)
    try:
        yield Team(place.rank, size)
    finally:
        distributed.destroy_process_group()


@dataclasses.dataclass(frozen=True)
class _Share:
    batches: Iterable[Sequence]
    rank: int
    size: int

    def __iter__(self) -> Iterator[Sequence]:
        return (batch[self.rank :: self.size] for batch in self.batches)
