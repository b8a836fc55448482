"""What every place to run can do and answers for; one file for each: `debug`, `local`, `slurm_array`."""

from __future__ import annotations

import abc
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

from slurm.job_id import JobId
from slurm.profile import Profile
from slurm.task import Task

_NUMBER = "stands for a number in names of files"

Resources = Mapping[str, int | float | None]
"""`nodes`, `gpus_per_node`, `mem_gib`, `time_min` of a task; None means as the profile says."""


class SubmitError(RuntimeError):
    """A submission was refused; `passing` when the same may be accepted later."""

    def __init__(self, message: str, *, passing: bool) -> None:
        super().__init__(message)
        self.passing = passing


class Executor(abc.ABC):
    """A place to run. What is asked of the class alone holds for jobs of any launcher, alive or gone.

    Attributes:
        kind: its name on the command line and in job ids.
        outlives_launcher: whether what was submitted comes to its end without a launcher.
        in_this_process: whether tasks are calls in the launcher's process, so that their output goes where its own does
            and they run the code that it has loaded.
        unfit_folder: what the path of its folder must not hold, and why.
    """

    kind: ClassVar[str]
    outlives_launcher: ClassVar[bool] = False
    in_this_process: ClassVar[bool] = False
    unfit_folder: ClassVar[Mapping[str, str]] = {
        r"%[jtAa]": _NUMBER,
        os.pathsep: "separates the places that Python imports from",
        r"[\x00-\x1f\x7f]": "ends a line, or begins an order to a terminal",
    }

    @classmethod
    @abc.abstractmethod
    def make(cls, folder: Path, profile: Profile, *, threads: int, code: Path) -> Self:
        """Returns an executor.

        Args:
            folder: takes submitit's files.
            profile: what the place offers.
            threads: CPU threads of each task.
            code: folder that tasks import from.
        """

    @classmethod
    def why_unfit(cls, folder: Path) -> str:
        """Returns why submitit's files can't lie in a folder; "" where they can."""
        for unfit, why in cls.unfit_folder.items():
            if found := re.search(unfit, str(folder.absolute())):
                return f"'{folder}' holds '{found.group()}', which {why}"
        return ""

    @property
    def may_have_gpus(self) -> bool:
        """Whether a task may find a GPU; of a cluster nobody here can tell."""
        return True

    @abc.abstractmethod
    def why_never(self, resources: Resources) -> str:
        """Returns why no task with these resources can ever run here; "" where one can."""

    @abc.abstractmethod
    def capacity(self, resources: Resources, others: Sequence[JobId] = ()) -> int:
        """Returns how many tasks could be submitted now.

        Args:
            resources: of each of them.
            others: jobs of other launchers that may take places of this one.
        """

    @abc.abstractmethod
    def submit(self, tasks: Sequence[Task], token: str, resources: Resources) -> list[JobId]:
        """Submits tasks and returns a job id for each.

        Args:
            tasks: at most `capacity` of them.
            token: a name for the submission, by which it can be found again.
            resources: of each task.

        Raises:
            SubmitError: they were not accepted.
        """

    def answers_for(self, job_id: JobId) -> bool:
        """Whether a job is of this kind of place, whoever submitted it; its own class answers for any other."""
        return job_id.kind == self.kind

    def ended(self, job_id: JobId, *, started: bool = True) -> str | None:
        """Like `job_ended`, for a job of this executor or of another launcher's of the same kind."""
        return self.job_ended(job_id, started=started)

    def cancel(self, job_ids: Sequence[JobId]) -> None:
        """Ends jobs of this kind, and lets go of what they took of this executor."""
        self.cancel_jobs(job_ids)

    @classmethod
    @abc.abstractmethod
    def job_ended(cls, job_id: JobId, *, started: bool = True) -> str | None:
        """Returns None while a job may still run; else how it ended, "" if well.

        Args:
            job_id: the job.
            started: whether it is known to have started; where it isn't, one that is gone was taken back.
        """

    @classmethod
    def describe(cls, job_id: JobId, age_s: float) -> tuple[bool, str]:
        """Returns whether a job may still run, and what there is to say of it, from one look.

        Args:
            job_id: the job.
            age_s: seconds since it was submitted.
        """
        cause = cls.job_ended(job_id)
        return cause is None, cause or ""

    @classmethod
    @abc.abstractmethod
    def cancel_jobs(cls, job_ids: Sequence[JobId]) -> None:
        """Ends jobs, whoever submitted them."""

    @classmethod
    def is_stuck(cls, cause: str) -> bool:
        """Whether a job whose cause `job_ended` gave is still held somewhere, and must be cancelled to be gone."""
        return False

    @classmethod
    def takes_places_here(cls) -> bool:
        """Whether jobs of other launchers take places of this machine."""
        return False

    @classmethod
    def find_lost_submission(cls, token: str, index: int) -> JobId | None:
        """Returns the job of a submission whose launcher died before it could note it.

        Raises:
            LookupError: nobody can tell now.
        """
        return None

    @classmethod
    def output_beside(cls, folder: Path, token: str, job_id: JobId) -> Path | None:
        """Returns the file that takes what is printed around a task, outside its own log; None where there is none."""
        return None
