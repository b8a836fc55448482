"""Submits job arrays to a Slurm cluster, and says what became of their jobs."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

import submitit

from slurm import environment, queue
from slurm.executor import Executor, Resources, SubmitError
from slurm.job_id import JobId
from slurm.profile import Profile
from slurm.task import ROOT, Task

_UNLIMITED = 1_000_000
_FRESH_S = 30.0

view = queue.View()


class SlurmArray(Executor):
    """Submits job arrays, in pieces no longer than the cluster takes.

    Args:
        folder: takes submitit's files, in a folder for each submission, since a new cluster counts jobs from 1 again.
            All nodes must see it.
        profile: what to ask of the cluster.
        threads: CPU threads of each process, for `cpus_per_task` where the profile has none.
        code: folder that tasks import from.
    """

    kind = "slurm"
    outlives_launcher = True
    unfit_folder: ClassVar[Mapping[str, str]] = {**Executor.unfit_folder, r"%|\\": "sbatch reads in its own way"}

    def __init__(self, folder: Path, profile: Profile, threads: int = 1, code: Path = ROOT) -> None:
        self._folder = folder
        self._profile = profile
        self._threads = threads
        self._code = code
        self._max_array_size = min(profile.max_array_size, queue.max_array_size() or profile.max_array_size)
        self._outstanding: set[JobId] = set()

    @classmethod
    def make(cls, folder: Path, profile: Profile, *, threads: int, code: Path) -> Self:
        """Returns an executor of the cluster that `sbatch` knows."""
        return cls(folder, profile, threads, code)

    def why_never(self, resources: Resources) -> str:
        """Leaves it to the cluster to refuse."""
        return ""

    def capacity(self, resources: Resources, others: Sequence[JobId] = ()) -> int:
        """Returns how many tasks may be queued now, whatever they ask for."""
        limit = self._profile.max_submitted or _UNLIMITED
        self._outstanding = {job_id for job_id in self._outstanding if self.job_ended(job_id) is None}
        return min(self._max_array_size, max(0, limit - len(self._outstanding)))

    def submit(self, tasks: Sequence[Task], token: str, resources: Resources) -> list[JobId]:
        """Queues tasks as one job array and returns a job id for each.

        Args:
            tasks: at most `capacity` of them.
            token: becomes the job's name, by which a submission is found whose launcher died before it could note it.
            resources: of these tasks; None means as the profile says.

        Raises:
            SubmitError: sbatch refused, with its message.
        """
        executor = submitit.SlurmExecutor(self._folder / token, max_num_timeout=self._profile.max_timeouts)
        executor.update_parameters(**self._parameters(self._profile.changed(**resources), token))
        try:
            with environment.replaced(self._seen()):
                jobs = executor.submit_array([*tasks])
        except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
            raise _refusal(error) from None
        ids = [JobId(self.kind, str(job.job_id)) for job in jobs]
        self._outstanding.update(ids)
        return ids

    @classmethod
    def job_ended(cls, job_id: JobId, *, started: bool = True) -> str | None:
        """Returns None while a job may run, also while Slurm can't be asked; else how it ended, or why it won't run."""
        if job := (view.jobs() or {}).get(job_id.native):
            if job.held:
                return f"Slurm says {queue.HELD}"
            return f"Slurm says {job.state} ({job.reason})" if job.ended else None
        if not view.is_missing(job_id.native):
            return None
        if state := queue.final_state(job_id.native):
            return f"Slurm says {state}"
        # A pending element that is cancelled leaves no record, while the rest of its array is known still.
        if not started and _knows_array(job_id.native):
            return "Slurm says CANCELLED before it started"
        return "the job has left Slurm's queue"

    @classmethod
    def describe(cls, job_id: JobId, age_s: float) -> tuple[bool, str]:
        """What the queue says, or the accounts; a job that Slurm can't be asked about may still run."""
        jobs = view.jobs()
        if jobs is None:
            return True, ""
        if job := jobs.get(job_id.native):
            return not job.ended, f"{job.state} {job.node or job.reason}".strip()
        if age_s < _FRESH_S:
            return True, ""
        state = queue.final_state(job_id.native)
        return False, f"Slurm says {state}" if state else "not in Slurm's queue"

    @classmethod
    def cancel_jobs(cls, job_ids: Sequence[JobId]) -> None:
        """Cancels jobs, whoever submitted them."""
        queue.cancel([job_id.native for job_id in job_ids])

    @classmethod
    def is_stuck(cls, cause: str) -> bool:
        """Whether Slurm put the job aside, where it may stay for ever."""
        return queue.HELD in cause

    @classmethod
    def find_lost_submission(cls, token: str, index: int) -> JobId | None:
        """Returns the job of that name and place in its array; None when Slurm knows none.

        Raises:
            LookupError: Slurm won't say.
        """
        jobs = view.jobs()
        if jobs is None:
            raise LookupError("Slurm doesn't answer")
        for native, job in jobs.items():
            if job.name == token and int(native.partition("_")[2] or 0) == index:
                return JobId(cls.kind, native)
        return None

    @classmethod
    def output_beside(cls, folder: Path, token: str, job_id: JobId) -> Path:
        """Returns the file in which Slurm's own programs say why they ended a job."""
        return folder / token / f"{job_id.native}_0_log.out"

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
            # Ours come last: whatever the place sets up, the job imports the code that was launched.
            "setup": [*profile.setup, *self._exports()],
            # One process of a job that dies, or that leads and leaves, would have the others wait for hours.
            "srun_args": ["--kill-on-bad-exit=1", "--wait=60"],
            # Without it a node that goes down, or a preemption, would be the end of the job on some clusters.
            "additional_parameters": {"requeue": True, **profile.sbatch},
        }
        return {name: value for name, value in parameters.items() if value is not None}

    def _seen(self) -> dict[str, str]:
        """What sbatch, and by its default the jobs, see of this environment; the GPUs named here are this machine's."""
        passed = environment.for_jobs(os.environ, self._profile.environment)
        passed.pop("CUDA_VISIBLE_DEVICES", None)
        return environment.with_code(passed, self._code, self._threads)

    def _exports(self) -> list[str]:
        """Shell lines that let a job import what it should, even where sbatch passes no environment on."""
        needed = environment.with_code({}, self._code, self._threads)
        path = shlex.quote(needed.pop("PYTHONPATH"))
        others = [f"export {name}={shlex.quote(value)}" for name, value in needed.items()]
        return [f"export PYTHONPATH={path}${{PYTHONPATH:+:$PYTHONPATH}}", *others]


def _knows_array(native: str) -> bool:
    array = native.partition("_")[0]
    return any(other.partition("_")[0] == array for other in view.jobs() or {})


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
