"""The places to run by name: one table from which a kind, or a job of any launcher, finds its executor's class."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

from slurm import queue
from slurm.debug import DebugExecutor
from slurm.executor import Executor
from slurm.job_id import JobId
from slurm.local import LocalPool
from slurm.profile import Profile, ProfileError
from slurm.slurm_array import SlurmArray
from slurm.task import ROOT

_CLASSES: dict[str, type[Executor]] = {each.kind: each for each in (SlurmArray, LocalPool, DebugExecutor)}

AUTO = "auto"
"""Slurm where `sbatch` answers, else local."""

KINDS = (AUTO, *_CLASSES)
"""What the command line takes."""


def executor_class(kind: str) -> type[Executor]:
    """Returns the class of a kind of executor; one that this code doesn't know has no jobs that could be found."""
    return _CLASSES.get(kind, DebugExecutor)


def may_be_in_this_process(kind: str) -> bool:
    """Whether a kind of `KINDS` leaves it open, or says, that tasks are calls in the launcher's process."""
    return kind == AUTO or executor_class(kind).in_this_process


def make_executor(kind: str, folder: Path, profile: Profile, *, threads: int = 1, code: Path = ROOT) -> Executor:
    """Returns the executor of a kind of `KINDS`.

    Args:
        kind: which.
        folder: takes submitit's files; on a cluster all nodes must see it.
        profile: what the place offers.
        threads: CPU threads of each task.
        code: folder that tasks import from.

    Raises:
        ProfileError: Slurm was asked for and isn't here, or the folder's path can't be used.
    """
    chosen = executor_class(_resolve(kind))
    if reason := chosen.why_unfit(folder):
        raise ProfileError(f"{reason}; choose another --runs ({chosen.kind} executor)")
    return chosen.make(folder, profile, threads=threads, code=code)


def cancel(job_ids: Iterable[JobId]) -> None:
    """Ends jobs of any executor, whoever submitted them."""
    for kind, jobs in itertools.groupby(sorted(job_ids, key=lambda job: job.kind), key=lambda job: job.kind):
        executor_class(kind).cancel_jobs(list(jobs))


def _resolve(kind: str) -> str:
    if kind == AUTO:
        return SlurmArray.kind if queue.answers() else LocalPool.kind
    if kind == SlurmArray.kind and not queue.answers():
        raise ProfileError("no Slurm here: sbatch doesn't answer (is SLURM_CONF set?)")
    return kind
