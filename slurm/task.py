"""The callable that is submitted: stateless, so that a job that was stopped starts again from what lies on disk."""

from __future__ import annotations

import dataclasses
import importlib
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import submitit
from submitit.helpers import DelayedSubmission

ROOT = Path(__file__).resolve().parents[1]
"""Of this project, which processes import from unless told otherwise."""

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class LostContact(RuntimeError):
    """Another process of the job has ended, which has the reason; this one can't go on alone."""


@dataclasses.dataclass(frozen=True)
class Task:
    """A call to be made in another process.

    Attributes:
        target: an importable function, as "package.module:function".
        args: its arguments.
        log: file that takes all the process prints, appended to; "" leaves the output where it goes.
        env: environment variables of the call; with `WORLD_SIZE` among them, each process adds its own rank.
        mortal: whether SIGTERM ends the process. On Slurm it must not: there it only announces the signal to save.
    """

    target: str
    args: tuple[str, ...]
    log: str = ""
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    mortal: bool = False

    def __call__(self) -> None:
        os.environ.update(self.env)
        if "WORLD_SIZE" in self.env:
            place = submitit.JobEnvironment()
            os.environ.update(RANK=str(place.global_rank), LOCAL_RANK=str(place.local_rank))
        if self.log:
            _redirect_output(self.log)
        if self.mortal:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        resolve(self.target)(*self.args)

    def checkpoint(self) -> DelayedSubmission:
        """What submitit queues again after a preemption or a time limit: the same call."""
        return DelayedSubmission(self)


def resolve(target: str) -> Callable[..., Any]:
    """Returns the function that "package.module:function" names.

    Raises:
        ValueError: there is none.
    """
    module, _, name = target.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"no function '{target}': {error}") from error


def num_processes() -> int:
    """Returns how many processes Slurm or torchrun started for this job; 1 where neither did."""
    if _is_on_slurm():
        return submitit.JobEnvironment().num_tasks
    return int(os.environ["WORLD_SIZE"]) if on_torchrun() else 1


def leads() -> bool:
    """Whether this is the first process of its job, or its only one."""
    if _is_on_slurm():
        return submitit.JobEnvironment().global_rank == 0
    return not on_torchrun() or os.environ["RANK"] == "0"


def on_torchrun() -> bool:
    """Whether torchrun, or whatever sets its variables, started this process; what submitit starts sets them too."""
    return not _is_on_slurm() and all(os.environ.get(name) for name in _TORCHRUN)


def is_shared() -> bool:
    """Whether processes that torchrun started with this one wait for it."""
    return on_torchrun() and os.environ["WORLD_SIZE"] != "1"


def _is_on_slurm() -> bool:
    return os.environ.get("SUBMITIT_EXECUTOR") == "slurm"


def _redirect_output(path: str) -> None:
    """Sends the process' output, that of C libraries and children included, to the end of a file."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(file, stream.fileno())
    os.close(file)
