"""One interface over the places a task can run, and the choice between them.

Every executor has `kind`, `why_never(resources)` -> why such a task can't be had at all, `capacity(resources, others)`
-> how many of them it takes now, `submit(tasks, token, resources)` -> job ids, `ended(job_id)` -> None while a job may
still run, else how it ended, and `cancel(job_ids)`.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import submitit

from slurm import queue
from slurm.local import ROOT, LocalPool, end_processes, process_ended
from slurm.profile import Profile, ProfileError
from slurm.task import Task

Resources = Mapping[str, int | float | None]

KINDS = ("auto", "slurm", "local", "debug")

_UNLIMITED = 1_000_000
_QUERY_EVERY_S = 2.0
_FORGOTTEN_AFTER_S = 15.0


class SubmitError(RuntimeError):
    """The cluster refused a submission; `passing` when it may accept the same later."""

    def __init__(self, message: str, *, passing: bool) -> None:
        super().__init__(message)
        self.passing = passing


class Executor(Protocol):
    """See the module's docstring."""

    kind: str

    def why_never(self, resources: Resources) -> str: ...

    def capacity(self, resources: Resources, others: Sequence[str] = ()) -> int: ...

    def submit(self, tasks: Sequence[Task], token: str, resources: Resources) -> list[str]: ...

    def ended(self, job_id: str) -> str | None: ...

    def cancel(self, job_ids: Sequence[str]) -> None: ...


def make_executor(kind: str, folder: Path, profile: Profile, *, threads: int = 1, code: Path = ROOT) -> Executor:
    """Returns the executor of a kind of `KINDS`; "auto" is Slurm where `sbatch` answers, else local.

    Args:
        folder: takes submitit's files; on a cluster all nodes must see it.
        threads: CPU threads of each task.
        code: folder that tasks import from.

    Raises:
        ProfileError: Slurm was asked for and isn't here.
    """
    if kind == "auto":
        kind = "slurm" if queue.answers() else "local"
    if kind == "slurm" and not queue.answers():
        raise ProfileError("no Slurm here: sbatch doesn't answer (is SLURM_CONF set?)")
    if kind == "slurm":
        return SlurmQueue(folder, profile, threads, code)
    return LocalPool(folder, profile, threads, code=code) if kind == "local" else DebugRunner(folder)


def job_ended(job_id: str) -> str | None:
    """Like `Executor.ended`, for a job of any executor that some other launcher submitted."""
    kind = job_id.partition(":")[0]
    return {"local": process_ended, "slurm": _squeue.ended, "debug": lambda _: "the launcher is gone"}[kind](job_id)


def cancel(job_ids: Sequence[str]) -> None:
    """Ends jobs of any executor, whoever submitted them."""
    by_kind: dict[str, list[str]] = {"local": [], "slurm": [], "debug": []}
    for job_id in job_ids:
        by_kind[job_id.partition(":")[0]].append(job_id)
    queue.cancel([job_id.partition(":")[2] for job_id in by_kind["slurm"]])
    end_processes(by_kind["local"])


class DebugRunner:
    """Runs each task at once in this process, where a debugger can follow it."""

    kind = "debug"

    def __init__(self, folder: Path) -> None:
        self._executor = submitit.DebugExecutor(folder)
        self._causes: dict[str, str] = {}

    def why_never(self, resources: Resources) -> str:
        """Refuses nothing: a task gets this process, whatever it asks for."""
        return ""

    def capacity(self, resources: Resources, others: Sequence[str] = ()) -> int:
        """One at a time."""
        return 1

    def submit(self, tasks: Sequence[Task], token: str, resources: Resources) -> list[str]:
        """Runs the tasks to their end."""
        return [self._run(task) for task in tasks]

    def ended(self, job_id: str) -> str | None:
        """Returns how a job ended: "" if by itself, else its exception."""
        return self._causes.get(job_id, "the launcher is gone")

    def cancel(self, job_ids: Sequence[str]) -> None:
        """Does nothing: no job outlives `submit`."""

    def _run(self, task: Task) -> str:
        job = self._executor.submit(Task(task.target, task.args, env=task.env))
        error = job.exception()
        job_id = f"debug:{job.job_id}"
        self._causes[job_id] = "" if error is None else f"{type(error).__name__}: {error}"
        return job_id


class SlurmQueue:
    """Submits job arrays, in pieces no longer than the cluster takes.

    Args:
        folder: takes submitit's files, in a folder for each submission, since a new cluster counts jobs from 1 again.
        profile: what to ask of the cluster.
        threads: CPU threads of each process, for `cpus_per_task` where the profile has none.
        code: folder that tasks import from.
    """

    kind = "slurm"

    def __init__(self, folder: Path, profile: Profile, threads: int = 1, code: Path = ROOT) -> None:
        self._folder = folder
        self._profile = profile
        self._threads = threads
        self._code = code
        self._max_array_size = min(profile.max_array_size, queue.max_array_size() or profile.max_array_size)
        self._outstanding: set[str] = set()

    def why_never(self, resources: Resources) -> str:
        """Leaves it to the cluster to refuse."""
        return ""

    def capacity(self, resources: Resources, others: Sequence[str] = ()) -> int:
        """How many tasks may be queued now, whatever they ask for."""
        limit = self._profile.max_submitted or _UNLIMITED
        self._outstanding = {job_id for job_id in self._outstanding if _squeue.ended(job_id) is None}
        return min(self._max_array_size, max(0, limit - len(self._outstanding)))

    def submit(self, tasks: Sequence[Task], token: str, resources: Resources) -> list[str]:
        """Queues tasks as one job array and returns a job id for each.

        Args:
            tasks: at most `capacity` of them.
            token: becomes the job's name, by which a submission is found whose launcher died before it could note it.
            resources: `nodes`, `gpus_per_node`, `mem_gib`, `time_min` of these tasks; None means as the profile says.

        Raises:
            SubmitError: sbatch refused, with its message.
        """
        executor = submitit.SlurmExecutor(self._folder / token, max_num_timeout=self._profile.max_timeouts)
        executor.update_parameters(**self._parameters(self._profile.changed(**resources), token))
        try:
            jobs = executor.submit_array([*tasks])
        except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
            raise _refusal(error) from None
        ids = [f"slurm:{job.job_id}" for job in jobs]
        self._outstanding.update(ids)
        return ids

    def ended(self, job_id: str) -> str | None:
        """Returns None while a job may run, also while Slurm can't be asked; else how it ended, or why it won't run."""
        return _squeue.ended(job_id)

    def cancel(self, job_ids: Sequence[str]) -> None:
        """Cancels jobs, whoever submitted them."""
        queue.cancel([job_id.partition(":")[2] for job_id in job_ids])

    def _parameters(self, profile: Profile, token: str) -> dict[str, object]:
        parameters = {
            "job_name": token,
            "partition": profile.partition,
            "account": profile.account,
            "qos": profile.qos,
            "constraint": profile.constraint,
            "nodes": profile.nodes,
            "gpus_per_node": profile.gpus_per_node or None,
            "ntasks_per_node": profile.tasks_per_node or max(1, profile.gpus_per_node),
            "cpus_per_task": profile.cpus_per_task or self._threads,
            "mem": f"{int(profile.mem_gib * 1024)}M" if profile.mem_gib else None,
            "time": profile.time_min,
            "signal_delay_s": profile.signal_delay_s,
            "array_parallelism": profile.max_parallel or _UNLIMITED,
            "stderr_to_stdout": True,
            "setup": [*self._environment(), *profile.setup],
            # One process of a job that dies, or that leads and leaves, would have the others wait for hours.
            "srun_args": ["--kill-on-bad-exit=1", "--wait=60"],
            # Without it a node that goes down, or a preemption, would be the end of the job on some clusters.
            "additional_parameters": {"requeue": True, **profile.sbatch},
        }
        return {name: value for name, value in parameters.items() if value is not None}

    def _environment(self) -> list[str]:
        """Shell lines that let a job import what it should, even where sbatch passes no environment on."""
        limits = [f"export {name}_NUM_THREADS={self._threads}" for name in ("OMP", "MKL", "OPENBLAS")]
        path = f"{shlex.quote(str(self._code))}${{PYTHONPATH:+:$PYTHONPATH}}"
        return [f"export PYTHONPATH={path}", *limits]


class _Squeue:
    """A shared, briefly cached view of the queue."""

    def __init__(self) -> None:
        self._jobs: dict[str, queue.QueuedJob] | None = None
        self._asked_at = float("-inf")
        self._missing_since: dict[str, float] = {}

    def jobs(self) -> dict[str, queue.QueuedJob] | None:
        if time.monotonic() - self._asked_at > _QUERY_EVERY_S:
            self._jobs = queue.jobs()
            self._asked_at = time.monotonic()
        return self._jobs

    def ended(self, job_id: str) -> str | None:
        slurm_id = job_id.partition(":")[2]
        jobs = self.jobs()
        if jobs is None:
            return None
        job = jobs.get(slurm_id)
        if job is not None:
            self._missing_since.pop(job_id, None)
            if job.held:
                return f"Slurm says {queue.HELD}"
            return f"Slurm says {job.state} ({job.reason})" if job.ended else None
        # A query may lag behind sbatch or a restart, so a job is missing only when it stays so.
        since = self._missing_since.setdefault(job_id, time.monotonic())
        if time.monotonic() - since < _FORGOTTEN_AFTER_S:
            return None
        state = queue.final_state(slurm_id)
        return f"Slurm says {state}" if state else "the job has left Slurm's queue"


_squeue = _Squeue()


def find_submission(token: str) -> dict[int, str] | None:
    """Returns the job ids of a submission by array index, {} when Slurm knows none; None when Slurm won't say."""
    jobs = _squeue.jobs()
    if jobs is None:
        return None
    ids = [job_id for job_id, job in jobs.items() if job.name == token]
    return {int(job_id.partition("_")[2] or 0): f"slurm:{job_id}" for job_id in ids}


_PASSING = (
    "unable to contact",
    "timed out",
    "refused",
    "unreachable",
    "limit",
    "temporarily",
    "try again",
    "zero bytes",
)


def _refusal(error: Exception) -> SubmitError:
    lines = [line for line in str(error).splitlines() if "sbatch: error" in line] or str(error).splitlines()[-1:]
    message = "; ".join(line.replace("sbatch: error: ", "").strip() for line in lines)
    passing = any(words in message.lower() for words in _PASSING)
    return SubmitError(f"sbatch refused: {message}", passing=passing)
