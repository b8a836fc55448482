"""Runs each task at once in this process, where a debugger can follow it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import submitit

from slurm.executor import Executor, Resources
from slurm.job_id import JobId
from slurm.profile import Profile
from slurm.task import Task

_GONE = "the launcher is gone"


class DebugExecutor(Executor):
    """Runs each task to its end before `submit` returns.

    Args:
        folder: takes submitit's files.
    """

    kind = "debug"
    in_this_process = True

    def __init__(self, folder: Path) -> None:
        self._executor = submitit.DebugExecutor(folder)
        self._causes: dict[JobId, str] = {}

    @classmethod
    def make(cls, folder: Path, profile: Profile, *, threads: int, code: Path) -> Self:
        """Returns an executor; neither profile nor code matter in this process."""
        return cls(folder)

    def why_never(self, resources: Resources) -> str:
        """Refuses nothing: a task gets this process, whatever it asks for."""
        return ""

    def capacity(self, resources: Resources, others: Sequence[JobId] = ()) -> int:
        """One at a time."""
        return 1

    def submit(self, tasks: Sequence[Task], token: str, resources: Resources) -> list[JobId]:
        """Runs the tasks to their end."""
        return [self._run(task) for task in tasks]

    def ended(self, job_id: JobId, *, started: bool = True) -> str | None:
        """Returns how a job ended: "" if by itself, else its exception."""
        return self._causes.get(job_id, _GONE)

    @classmethod
    def job_ended(cls, job_id: JobId, *, started: bool = True) -> str | None:
        """Of another launcher, which this one never overlaps: a call lives no longer than its launcher."""
        return _GONE

    @classmethod
    def cancel_jobs(cls, job_ids: Sequence[JobId]) -> None:
        """Does nothing: no job outlives `submit`."""

    def _run(self, task: Task) -> JobId:
        job = self._executor.submit(Task(task.target, task.args, env=task.env))
        error = job.exception()
        job_id = JobId(self.kind, str(job.job_id))
        self._causes[job_id] = "" if error is None else f"{type(error).__name__}: {error}"
        return job_id
