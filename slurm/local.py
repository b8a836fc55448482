"""A bounded pool of local processes: never more at once than asked, cores and GPUs shared out between them."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil
import submitit
from submitit.helpers import environment_variables

from slurm.profile import Profile
from slurm.task import Task

_KILL_AFTER_S = 10.0
_STRAGGLERS_S = 60.0

ROOT = Path(__file__).resolve().parents[1]
"""Of this project, which processes import from unless told otherwise."""


@dataclasses.dataclass(frozen=True)
class _Running:
    job: submitit.LocalJob[None]
    slots: tuple[str, ...]
    processes: int
    folder: Path


class LocalPool:
    """Runs each task in fresh processes of submitit's local executor, as many at once as there are slots.

    A slot is one GPU, or as many CPU cores as a process has threads where there are no GPUs. A task takes one, or as
    many as `gpus_per_node` or `tasks_per_node` ask for; it then runs as so many processes, under torchrun's variables.

    Args:
        folder: takes submitit's files; a job's are removed when it has ended.
        profile: `gpus_per_node`, `tasks_per_node`, `max_parallel`, `time_min`, `signal_delay_s`, `max_timeouts` apply.
        threads: CPU threads of each process.
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
        self._gpus = tuple(visible_gpus() if gpus is None else gpus)
        self._slots = self._gpus or ("",) * max(1, cpu_count() // threads, profile.max_parallel or 1)
        self._running: dict[str, _Running] = {}
        self._others: list[str] = []
        self._incomplete_since: dict[str, float] = {}

    def why_never(self, resources: Mapping[str, int | float | None]) -> str:
        """Returns why no task with these resources can ever run here; "" where one can."""
        profile = self._profile.changed(**resources)
        if profile.nodes > 1:
            return f"it asks for {profile.nodes} nodes, and this is one machine"
        if profile.gpus_per_node > max(1, len(self._gpus)):
            return f"it asks for {profile.gpus_per_node} GPUs, and this machine has {len(self._gpus)}"
        return ""

    def capacity(self, resources: Mapping[str, int | float | None], others: Sequence[str] = ()) -> int:
        """How many tasks could be started now.

        Args:
            resources: of each of them.
            others: jobs that other launchers of this machine left running, which take their slots as well.
        """
        self._others = [job_id for job_id in others if process_ended(job_id) is None]
        places = len(self._free()) // self._num_slots(resources)
        if self._profile.max_parallel is None:
            return places
        return max(0, min(places, self._profile.max_parallel - len(self._running) - len(self._others)))

    def submit(self, tasks: Sequence[Task], token: str, resources: Mapping[str, int | float | None]) -> list[str]:
        """Starts tasks and returns a job id for each.

        Args:
            tasks: at most `capacity` of them.
            token: names the submission on clusters; processes need none.
            resources: `gpus_per_node` of these tasks; None means as the profile says.
        """
        return [self._start(task, resources) for task in tasks]

    def ended(self, job_id: str) -> str | None:
        """Returns None while a job runs, afterwards how it ended: "" if by itself, else a cause."""
        running = self._running.get(job_id)
        if running is None:
            return process_ended(job_id)
        if not running.job.done():
            self._end_the_rest(job_id, running.processes)
            return None
        del self._running[job_id]
        cause = _cause(running.job)
        shutil.rmtree(running.folder, ignore_errors=True)
        return cause

    def cancel(self, job_ids: Sequence[str]) -> None:
        """Ends jobs, those of another launcher on this machine included, and waits until they are gone."""
        end_processes(job_ids, self.ended)

    def _free(self) -> list[str]:
        """Slots that nobody uses."""
        used = [slot for running in self._running.values() for slot in running.slots]
        used += [slot for job_id in self._others for slot in _slots_of(job_id)]
        free = Counter(self._slots) - Counter(used)
        return [slot for slot in dict.fromkeys(self._slots) for _ in range(free[slot])]

    def _num_processes(self, resources: Mapping[str, int | float | None]) -> int:
        profile = self._profile.changed(**resources)
        return profile.tasks_per_node or max(1, profile.gpus_per_node)

    def _num_slots(self, resources: Mapping[str, int | float | None]) -> int:
        wanted = self._profile.changed(**resources).gpus_per_node if self._gpus else self._num_processes(resources)
        return min(max(1, wanted), len(self._slots))

    def _start(self, task: Task, resources: Mapping[str, int | float | None]) -> str:
        slots = tuple(self._free()[: self._num_slots(resources)])
        processes = self._num_processes(resources)
        folder = self._folder / uuid.uuid4().hex[:12]
        executor = submitit.LocalExecutor(folder, max_num_timeout=self._profile.max_timeouts)
        executor.update_parameters(
            timeout_min=self._profile.time_min,
            signal_delay_s=self._profile.signal_delay_s,
            tasks_per_node=processes,
            stderr_to_stdout=True,
        )
        # submitit hides all GPUs from a job that asks for none, and counts from 0; the slots' names have to come last.
        env = {**task.env, "CUDA_VISIBLE_DEVICES": ",".join(slots) if self._gpus else "", **_meeting_point(processes)}
        task = dataclasses.replace(task, mortal=True, env=env)
        with environment_variables(**_environment(self._threads, self._code)), _deaf_to_ctrl_c():
            job = executor.submit(task)
        job_id = process_id(int(job.job_id), slots)
        self._running[job_id] = _Running(job, slots, processes, folder)
        return job_id

    def _end_the_rest(self, job_id: str, processes: int) -> None:
        """Ends a job one of whose processes has long ended: the others may be waiting for it."""
        process = _process(job_id) if processes > 1 else None
        if process is None or len(_children(process)) in (0, processes):  # none have been started yet, or all are there
            self._incomplete_since.pop(job_id, None)
        elif time.monotonic() - self._incomplete_since.setdefault(job_id, time.monotonic()) > _STRAGGLERS_S:
            _kill_tree(job_id)


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


def process_id(pid: int, slots: Sequence[str] = ("",)) -> str:
    """Returns the job id of a process of this machine; its start time tells it from a later one of the same number.

    The slots that it takes, if they have names or are several, are a part of it: "local:4711:1700000000.25@0,1".
    """
    taken = ",".join(slots)
    return f"local:{pid}:{psutil.Process(pid).create_time():.2f}" + (f"@{taken}" if taken else "")


def _slots_of(job_id: str) -> list[str]:
    return job_id.partition("@")[2].split(",")


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
    job_id = job_id.partition("@")[0]
    pid = int(job_id.split(":")[1])
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        if process_id(pid) == job_id and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def _children(process: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return process.children()
    return []


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
    for part in (job, *job._sub_jobs):
        part._results_timeout_s = 0  # the process has ended: nothing will appear on a local disk by waiting
    error = job.exception()
    if error is None:
        return ""
    if isinstance(error, submitit.core.utils.FailedJobError):
        lines = [line for line in str(error).split("-" * 22)[1].splitlines() if line.strip()]
        return lines[-1]
    return "the process was killed, by hand or for want of memory"


def _meeting_point(processes: int) -> dict[str, str]:
    """Where processes of one task find each other, as torchrun says it; each knows its own rank (see `Task`)."""
    if processes == 1:
        return {}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    sizes = dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(processes))
    return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), **sizes}


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
