"""A bounded pool of local processes: never more at once than asked, cores and GPUs shared out between them."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import socket
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import submitit

from slurm import environment, processes
from slurm.executor import Executor, Resources
from slurm.job_id import JobId
from slurm.processes import cpu_count, process_ended, process_id, visible_gpus
from slurm.profile import Profile
from slurm.task import ROOT, Task

_STRAGGLERS_S = 60.0


@dataclasses.dataclass(frozen=True)
class _Running:
    job: submitit.Job[None]
    num_processes: int
    folder: Path


class LocalPool(Executor):
    """Runs each task in fresh processes of submitit's local executor, as many at once as there are slots.

    A slot is one GPU, or as many CPU cores as a process has threads where there are no GPUs. A task takes one, or as
    many as `gpus_per_node` or `tasks_per_node` ask for; it then runs as so many processes, under torchrun's variables.

    Args:
        folder: takes submitit's files; a job's are removed when it has ended.
        profile: `gpus_per_node`, `tasks_per_node`, `max_parallel`, `time_min`, `signal_delay_s`, `max_timeouts` and
            `environment` apply.
        threads: CPU threads of each process.
        gpus: names of the GPUs as `CUDA_VISIBLE_DEVICES` takes them; None means all there are.
        code: folder that tasks import from.
    """

    kind = processes.KIND

    def __init__(
        self, folder: Path, profile: Profile, threads: int = 1, gpus: Sequence[str] | None = None, code: Path = ROOT
    ) -> None:
        self._folder = folder
        self._profile = profile
        self._threads = threads
        self._code = code
        self._gpus = tuple(visible_gpus() if gpus is None else gpus)
        self._slots = self._gpus or ("",) * max(1, cpu_count() // threads, profile.max_parallel or 1)
        self._running: dict[JobId, _Running] = {}
        self._others: list[JobId] = []
        self._incomplete_since: dict[JobId, float] = {}

    @classmethod
    def make(cls, folder: Path, profile: Profile, *, threads: int, code: Path) -> Self:
        """Returns a pool of all the GPUs there are."""
        return cls(folder, profile, threads, code=code)

    @property
    def may_have_gpus(self) -> bool:
        """Whether this machine has any."""
        return bool(self._gpus)

    def why_never(self, resources: Resources) -> str:
        """Returns why no task with these resources can ever run here; "" where one can."""
        profile = self._profile.changed(**resources)
        if profile.nodes > 1:
            return f"it asks for {profile.nodes} nodes, and this is one machine"
        if profile.gpus_per_node > max(1, len(self._gpus)):
            return f"it asks for {profile.gpus_per_node} GPUs, and this machine has {len(self._gpus)}"
        return ""

    def capacity(self, resources: Resources, others: Sequence[JobId] = ()) -> int:
        """Returns how many tasks could be started now, beside what other launchers of this machine left running."""
        self._others = [job_id for job_id in others if process_ended(job_id) is None]
        places = len(self._free()) // self._num_slots(resources)
        if self._profile.max_parallel is None:
            return places
        return max(0, min(places, self._profile.max_parallel - len(self._running) - len(self._others)))

    def submit(self, tasks: Sequence[Task], token: str, resources: Resources) -> list[JobId]:
        """Starts tasks and returns a job id for each; should one not start, those that did are ended.

        Args:
            tasks: at most `capacity` of them.
            token: names the submission on clusters; processes need none.
            resources: `gpus_per_node` of these tasks; None means as the profile says.
        """
        started: list[JobId] = []
        try:
            for task in tasks:
                started.append(self._start(task, resources))
        except BaseException:
            processes.end_processes(started, self.ended)
            raise
        return started

    def ended(self, job_id: JobId, *, started: bool = True) -> str | None:
        """Returns None while a job runs, afterwards how it ended: "" if by itself, else a cause."""
        running = self._running.get(job_id)
        if running is None:
            return process_ended(job_id)
        if not running.job.done():
            self._end_the_rest(job_id, running.num_processes)
            return None
        del self._running[job_id]
        cause = _cause(running.job)
        shutil.rmtree(running.folder, ignore_errors=True)
        return cause

    def cancel(self, job_ids: Sequence[JobId]) -> None:
        """Ends jobs, those of another launcher on this machine included, and waits until they are gone."""
        processes.end_processes(job_ids, self.ended)

    @classmethod
    def job_ended(cls, job_id: JobId, *, started: bool = True) -> str | None:
        """Returns None while a process runs that some launcher of this machine started."""
        return process_ended(job_id)

    @classmethod
    def cancel_jobs(cls, job_ids: Sequence[JobId]) -> None:
        """Ends processes of this machine, and waits until they are gone."""
        processes.end_processes(job_ids)

    @classmethod
    def takes_places_here(cls) -> bool:
        """Processes of other launchers take cores and GPUs of this machine."""
        return True

    def _free(self) -> list[str]:
        """Slots that nobody uses."""
        used = [slot for job_id in (*self._running, *self._others) for slot in job_id.slots]
        free = Counter(self._slots) - Counter(used)
        return [slot for slot in dict.fromkeys(self._slots) for _ in range(free[slot])]

    def _num_processes(self, resources: Resources) -> int:
        profile = self._profile.changed(**resources)
        return profile.tasks_per_node or max(1, profile.gpus_per_node)

    def _num_slots(self, resources: Resources) -> int:
        wanted = self._profile.changed(**resources).gpus_per_node if self._gpus else self._num_processes(resources)
        return min(max(1, wanted), len(self._slots))

    def _start(self, task: Task, resources: Resources) -> JobId:
        profile = self._profile.changed(**resources)
        slots = tuple(self._free()[: self._num_slots(resources)])
        num_processes = self._num_processes(resources)
        folder = self._folder / uuid.uuid4().hex[:12]
        executor = submitit.LocalExecutor(folder, max_num_timeout=profile.max_timeouts)
        executor.update_parameters(
            timeout_min=profile.time_min,
            signal_delay_s=profile.signal_delay_s,
            tasks_per_node=num_processes,
            stderr_to_stdout=True,
        )
        # submitit hides all GPUs from a job that asks for none, and counts from 0; the slots' names have to come last.
        env = {
            **task.env,
            "CUDA_VISIBLE_DEVICES": ",".join(slots) if self._gpus else "",
            **_meeting_point(num_processes),
        }
        task = dataclasses.replace(task, mortal=True, env=env)
        seen = environment.with_code(environment.for_jobs(os.environ, profile.environment), self._code, self._threads)
        with environment.replaced(seen), _deaf_to_ctrl_c():
            job = executor.submit(task)
        job_id = process_id(int(job.job_id), slots)
        self._running[job_id] = _Running(job, num_processes, folder)
        return job_id

    def _end_the_rest(self, job_id: JobId, num_processes: int) -> None:
        """Ends a job one of whose processes has long ended: the others may be waiting for it."""
        there = processes.num_children(job_id) if num_processes > 1 else 0
        if there in (0, num_processes):  # none have been started yet, or all are there
            self._incomplete_since.pop(job_id, None)
        elif time.monotonic() - self._incomplete_since.setdefault(job_id, time.monotonic()) > _STRAGGLERS_S:
            processes.kill_tree(job_id)


def _cause(job: submitit.Job[None]) -> str:
    for part in (job, *job._sub_jobs):
        part._results_timeout_s = 0  # the process has ended: nothing will appear on a local disk by waiting
    try:
        error = job.exception()
    except OSError as missing:  # somebody removed submitit's files
        return f"the process is gone, and what it left can't be read ({missing.strerror})"
    if error is None:
        return ""
    if isinstance(error, submitit.core.utils.FailedJobError):
        lines = [line for line in str(error).split("-" * 22)[1].splitlines() if line.strip()]
        return lines[-1]
    return "the process was killed, by hand or for want of memory"


def _meeting_point(num_processes: int) -> dict[str, str]:
    """Where processes of one task find each other, as torchrun says it; each knows its own rank (see `Task`)."""
    if num_processes == 1:
        return {}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    sizes = dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(num_processes))
    return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), **sizes}


@contextlib.contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Processes started here ignore Ctrl-C, which a terminal sends to all: the launcher ends them in order instead."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
