"""Processes of this machine: told apart, looked at, ended; and how many cores and GPUs there are for them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from slurm.job_id import JobId

KIND = "local"
"""Of the job ids of processes."""

GONE = "the process is gone"

_KILL_AFTER_S = 10.0


def process_id(pid: int, slots: Sequence[str] = ("",)) -> JobId:
    """Returns the job id of a process of this machine, with the slots that it takes.

    Raises:
        psutil.NoSuchProcess: there is none.
    """
    return JobId(KIND, str(pid), f"{psutil.Process(pid).create_time():.2f}", tuple(slots))


def process_ended(job_id: JobId) -> str | None:
    """Returns None while a process of this machine runs, whoever started it."""
    return None if find(job_id) else GONE


def find(job_id: JobId) -> psutil.Process | None:
    """Returns the process, None where it has ended."""
    with contextlib.suppress(psutil.Error, ValueError):
        pid = int(job_id.native)
        process = psutil.Process(pid)
        if process_id(pid).started == job_id.started and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def end_processes(job_ids: Sequence[JobId], ended: Callable[[JobId], str | None] = process_ended) -> None:
    """Asks processes of this machine to end, makes those that don't, and waits until all are gone."""
    deadline = time.monotonic() + _KILL_AFTER_S
    while alive := [job_id for job_id in job_ids if ended(job_id) is None]:
        late = time.monotonic() > deadline
        for job_id in alive:
            kill_tree(job_id) if late else _ask_to_end(job_id)
        time.sleep(0.2)


def kill_tree(job_id: JobId) -> None:
    """Kills a process and all that it started."""
    with contextlib.suppress(psutil.Error):
        if process := find(job_id):
            for child in [*process.children(recursive=True), process]:
                child.kill()


def num_children(job_id: JobId) -> int:
    """Returns how many processes a process has started that are still there; 0 where it is gone itself."""
    with contextlib.suppress(psutil.Error):
        if process := find(job_id):
            return len(process.children())
    return 0


def cpu_count() -> int:
    """Returns how many CPU cores this process may use, which a container's quota or an affinity can make few."""
    allowed = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return allowed
    return allowed if quota == "max" else max(1, min(allowed, int(quota) // int(period)))


def visible_gpus() -> list[str]:
    """Returns the GPUs of this machine as `CUDA_VISIBLE_DEVICES` names them, without waiting for torch."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name not in ("", "-1")]
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(index) for index, line in enumerate(line for line in listing.splitlines() if line.startswith("GPU "))]


def _ask_to_end(job_id: JobId) -> None:
    with contextlib.suppress(psutil.Error):
        if process := find(job_id):
            process.send_signal(signal.SIGTERM)
