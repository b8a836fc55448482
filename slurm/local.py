"""A bounded pool of local processes: never more at once than asked, cores and GPUs shared out between them."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil
import submitit
from submitit.helpers import environment_variables

from slurm.profile import Profile
from slurm.task import Task

_KILL_AFTER_S = 10.0

ROOT = Path(__file__).resolve().parents[1]
"""Of this project, which processes import from unless told otherwise."""


@dataclasses.dataclass(frozen=True)
class _Running:
    job: submitit.LocalJob[None]
    slot: str
    folder: Path


class LocalPool:
    """Runs each task in a fresh process of submitit's local executor, at most one for each slot.

    A slot is one GPU, or as many CPU cores as a task has threads where there are no GPUs.

    Args:
        folder: takes submitit's files; a job's are removed when it has ended.
        profile: `max_parallel`, `time_min`, `signal_delay_s`, `max_timeouts` apply.
        threads: CPU threads of each task.
        gpus: names of the GPUs as `CUDA_VISIBLE_DEVICES` takes them; None means all there are.
        code: folder that tasks import from.
    """

    kind = "local"

    def __init__(
        self, folder: Path, profile: Profile, threads: int = 1, gpus: Sequence[str] | None = None, code: Path = ROOT
    ) -> None:
        self._folder = folder
        self._profile = profile
        self._threads = threads
        self._code = code
        gpus = visible_gpus() if gpus is None else gpus
        slots = list(gpus) or [""] * max(1, cpu_count() // threads)
        if profile.max_parallel and profile.max_parallel > len(slots) and not gpus:
            slots = [""] * profile.max_parallel
        self._free = slots[: profile.max_parallel]
        self._running: dict[str, _Running] = {}

    @property
    def capacity(self) -> int:
        """How many tasks could be started now."""
        return len(self._free)

    def submit(self, tasks: Sequence[Task], token: str, resources: Mapping[str, int | float | None]) -> list[str]:
        """Starts tasks and returns a job id for each.

        Args:
            tasks: at most `capacity` of them.
            token: names the submission on clusters; processes need none.
            resources: ignored here, where a task gets one slot whatever it asks for.
        """
        return [self._start(task) for task in tasks]

    def ended(self, job_id: str) -> str | None:
        """Returns None while a job runs, afterwards how it ended: "" if by itself, else a cause."""
        running = self._running.get(job_id)
        if running is None:
            return process_ended(job_id)
        if not running.job.done():
            return None
        del self._running[job_id]
        self._free.insert(0, running.slot)
        cause = _cause(running.job)
        shutil.rmtree(running.folder, ignore_errors=True)
        return cause

    def cancel(self, job_ids: Sequence[str]) -> None:
        """Ends jobs, those of another launcher on this machine included, and waits until they are gone."""
        end_processes(job_ids, self.ended)

    def _start(self, task: Task) -> str:
        slot = self._free.pop(0)
        folder = self._folder / uuid.uuid4().hex[:12]
        executor = submitit.LocalExecutor(folder, max_num_timeout=self._profile.max_timeouts)
        executor.update_parameters(
            timeout_min=self._profile.time_min,
            signal_delay_s=self._profile.signal_delay_s,
            stderr_to_stdout=True,
        )
        # submitit hides all GPUs from a job that asks for none, and counts from 0; the slot's name has to come last.
        task = dataclasses.replace(task, mortal=True, env={**task.env, "CUDA_VISIBLE_DEVICES": slot})
        with environment_variables(**_environment(self._threads, self._code)), _deaf_to_ctrl_c():
            job = executor.submit(task)
        job_id = process_id(int(job.job_id))
        self._running[job_id] = _Running(job, slot, folder)
        return job_id


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


def process_id(pid: int) -> str:
    """Returns the job id of a process of this machine; its start time tells it from a later one of the same number."""
    return f"local:{pid}:{psutil.Process(pid).create_time():.2f}"


def process_ended(job_id: str) -> str | None:
    """Like `LocalPool.ended`, for a process that another launcher of this machine started."""
    return None if _process(job_id) else "the process is gone"


def end_processes(job_ids: Sequence[str], ended: Callable[[str], str | None] = process_ended) -> None:
    """Asks processes of this machine to end, makes those that don't, and waits until all are gone."""
    deadline = time.monotonic() + _KILL_AFTER_S
    while alive := [job_id for job_id in job_ids if ended(job_id) is None]:
        late = time.monotonic() > deadline
        for job_id in alive:
            _kill_tree(job_id) if late else _signal(job_id, signal.SIGTERM)
        time.sleep(0.2)


def _process(job_id: str) -> psutil.Process | None:
    pid = int(job_id.split(":")[1])
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        if process_id(pid) == job_id and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def _signal(job_id: str, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.Error):
        if process := _process(job_id):
            process.send_signal(number)


def _kill_tree(job_id: str) -> None:
    with contextlib.suppress(psutil.Error):
        if process := _process(job_id):
            for child in [*process.children(recursive=True), process]:
                child.kill()


def _cause(job: submitit.LocalJob[None]) -> str:
    job._results_timeout_s = 0  # the process has ended: nothing will appear on a local disk by waiting
    error = job.exception()
    if error is None:
        return ""
    if isinstance(error, submitit.core.utils.FailedJobError):
        lines = [line for line in str(error).split("-" * 22)[1].splitlines() if line.strip()]
        return lines[-1]
    return "the process was killed, by hand or for want of memory"


def _environment(threads: int, code: Path) -> dict[str, str]:
    """What a process must know before its first import: where from, and its share of the cores."""
    limits = {f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "MKL", "OPENBLAS")}
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(code), os.environ.get("PYTHONPATH")))), **limits}


@contextlib.contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Processes started here ignore Ctrl-C, which a terminal sends to all: the launcher ends them in order instead."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
