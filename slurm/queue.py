"""What Slurm says about jobs: a hint, since the query can fail, lag, or have forgotten."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import time
from collections.abc import Sequence

from slurm import environment

ENDED_STATES = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "DEADLINE", "BOOT_FAIL"})
"""States that a job doesn't leave. NODE_FAIL and PREEMPTED aren't among them: Slurm queues such jobs again."""

HELD = "launch failed requeued held"
"""Slurm's reason for a job whose node could not start it: the prolog failed, or slurmd died over it."""

_FORMAT = "%i|%T|%N|%r|%L|%j"
_QUERY_EVERY_S = 2.0
_FORGOTTEN_AFTER_S = 15.0


@dataclasses.dataclass(frozen=True)
class QueuedJob:
    """One line of `squeue`.

    Attributes:
        state: such as PENDING, RUNNING or TIMEOUT.
        node: where it runs, "" while it doesn't.
        reason: why it waits, or why it ended.
        time_left: of its wall time, as Slurm writes it.
        name: of the job.
    """

    state: str
    node: str
    reason: str
    time_left: str
    name: str

    @property
    def ended(self) -> bool:
        return self.state in ENDED_STATES

    @property
    def held(self) -> bool:
        """Whether Slurm could not launch it and put it aside until an administrator lets it go, which may be never."""
        return self.state == "PENDING" and self.reason.replace("_", " ") == HELD


def answers() -> bool:
    """Whether there is a Slurm to submit to."""
    return _run("sbatch", "--version") is not None


def jobs() -> dict[str, QueuedJob] | None:
    """Returns this user's jobs by id ("12" or, in an array, "12_3"), some minutes back; None when Slurm won't say."""
    output = _run("squeue", "-h", "-r", "-t", "all", "--me", "-o", _FORMAT)
    if output is None:
        return None
    found = {}
    for line in output.splitlines():
        job_id, *facts = line.split("|", 5)
        if len(facts) == 5:
            found[job_id.strip()] = QueuedJob(*facts)
    return found


def final_state(job_id: str) -> str:
    """Returns the state of a job that has left the queue, "" where no accounting remembers it."""
    output = _run("sacct", "-n", "-X", "-P", "-o", "State", "-j", job_id)
    return output.split()[0] if output and output.strip() else ""


def max_array_size() -> int | None:
    """Returns the cluster's limit on the length of a job array, None when it won't say."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", _run("scontrol", "show", "config") or "", re.MULTILINE)
    return int(found.group(1)) if found else None


def cancel(job_ids: Sequence[str]) -> bool:
    """Cancels jobs; returns whether Slurm took the order."""
    return not job_ids or _run("scancel", *job_ids) is not None


class View:
    """The queue as it was some seconds ago at most, and since when a job has been missing from it."""

    def __init__(self) -> None:
        self._jobs: dict[str, QueuedJob] | None = None
        self._asked_at = float("-inf")
        self._missing_since: dict[str, float] = {}

    def jobs(self) -> dict[str, QueuedJob] | None:
        """Returns what `jobs` does, asking at most every other second."""
        if time.monotonic() - self._asked_at > _QUERY_EVERY_S:
            self._jobs = jobs()
            self._asked_at = time.monotonic()
        return self._jobs

    def is_missing(self, job_id: str) -> bool:
        """Whether a job has left the queue for good: a query may lag behind sbatch, or behind a restart."""
        found = self.jobs()
        if found is None or job_id in found:
            self._missing_since.pop(job_id, None)
            return False
        since = self._missing_since.setdefault(job_id, time.monotonic())
        return time.monotonic() - since >= _FORGOTTEN_AFTER_S


def _run(*command: str) -> str | None:
    """What a program of Slurm prints; None where it fails. A job that asks is no part of what it asks about."""
    seen = environment.for_jobs(os.environ)
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30, env=seen).stdout
    except (OSError, subprocess.SubprocessError):
        return None
