"""Takes the runs of a grid to their results: submits what is missing, follows what runs, makes a row of what died.

All it knows lies in the run folders, so it can be killed at any moment and started again, also twice at once.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from dualformer.results.result import read_result
from slurm import places
from slurm.executor import Executor
from slurm.job_id import JobId
from slurm.processes import process_ended, process_id
from slurm.profile import Profile
from sweeps.launching import ledger
from sweeps.launching.attempt import WORKER
from sweeps.launching.ledger import Submission
from sweeps.launching.losses import LossHandler
from sweeps.launching.planned_run import PlannedRun
from sweeps.launching.submitter import Submitter
from sweeps.launching.sweep_state import SweepState

UNNOTED_S = 60.0


class Sweep:
    """The runs of one grid on their way.

    Args:
        runs: folder of all run folders.
        planned: what to compute.
        executor: where.
        profile: of that place; `max_attempts` bounds how often a run may die.
        worker: function that computes a run, given its folder.
        code: copy of the code that jobs must run; None for any.
        announce: takes every message for people.

    Attributes:
        state: where each run stands.
        executor: as given.
    """

    def __init__(
        self,
        runs: Path,
        planned: Sequence[PlannedRun],
        executor: Executor,
        profile: Profile,
        *,
        worker: str = WORKER,
        code: Path | None = None,
        announce: Callable[[str], None] = print,
    ) -> None:
        self.state = SweepState(runs, planned)
        self.executor = executor
        self._announce = announce
        self._launcher = process_id(os.getpid())
        self._losses = LossHandler(runs, profile.max_attempts, announce)
        self._submitter = Submitter(self.state, executor, self._launcher, worker=worker, code=code, announce=announce)

    @property
    def is_under_way(self) -> bool:
        """Whether anything was started, by this launcher or another one."""
        return self._submitter.has_submitted or bool(self.state.active or self.state.results)

    def step(self) -> list[str]:
        """Looks what has changed and submits what may be submitted; returns the runs finished since the last step.

        Raises:
            SubmitError: the submission was refused for good.
        """
        finished = [run_id for run_id in list(self.state.active) if self._look(run_id)]
        self._submitter.submit()
        return finished

    def stop(self) -> None:
        """Ends what needs this launcher, or none that is alive; its state stays, and a later sweep goes on from there.

        Jobs that outlive their launcher are left alone, as is what another launcher looks after.
        """
        ours = {run_id: each for run_id, each in self.state.active.items() if self._is_ours_to_end(each)}
        self._cancel([each.job_id for each in ours.values() if each.job_id])
        for run_id, submission in ours.items():
            folder = self.state.folder(run_id)
            with contextlib.suppress(OSError):
                if read_result(folder) is None:
                    ledger.append(folder, "stopped", token=submission.token)

    def _cancel(self, job_ids: Sequence[JobId]) -> None:
        self.executor.cancel([job_id for job_id in job_ids if self.executor.answers_for(job_id)])
        places.cancel(job_id for job_id in job_ids if not self.executor.answers_for(job_id))

    def _is_ours_to_end(self, submission: Submission) -> bool:
        if places.executor_class(submission.kind).outlives_launcher or not submission.is_of_this_machine:
            return False
        launcher = submission.launcher
        return launcher is None or launcher == self._launcher or process_ended(launcher) is not None

    def _look(self, run_id: str) -> bool:
        """Returns whether a submitted run is finished; one whose folder was removed starts anew."""
        try:
            if self.state.folder(run_id).is_dir():
                return self._follow(run_id)
        except FileNotFoundError:
            if self.state.folder(run_id).is_dir():
                raise
        self._start_anew(run_id)
        return False

    def _start_anew(self, run_id: str) -> None:
        self._announce(f"{run_id}: its folder was removed; the run starts anew")
        if job_id := self.state.active[run_id].job_id:
            self._cancel([job_id])
        self.state.wait(run_id)

    def _follow(self, run_id: str) -> bool:
        """Returns whether a submitted run is finished; puts it back among the waiting where it must start again."""
        folder, submission = self.state.folder(run_id), self.state.active[run_id]
        cause = self._ended(submission, run_id)
        result = read_result(folder)
        if cause is None and (result is None or not self._class_of(submission).outlives_launcher):
            return False
        if result is None and ledger.is_claimed(folder):
            return False
        result = result or self._losses.settle(run_id, submission, cause or "the job has ended")
        if result is None:
            self.state.wait(run_id)
            return False
        self.state.finish(run_id, result)
        return True

    def _ended(self, submission: Submission, run_id: str) -> str | None:
        if submission.job_id is None:
            return self._adopt(submission, run_id)
        started = self._losses.has_started(run_id, submission)
        if self.executor.answers_for(submission.job_id):
            return self.executor.ended(submission.job_id, started=started)
        return self._class_of(submission).job_ended(submission.job_id, started=started)

    def _adopt(self, submission: Submission, run_id: str) -> str | None:
        """Finds the job of a submission whose launcher noted its intent and not yet the outcome."""
        noted = ledger.open_submission(ledger.read(self.state.folder(run_id)))
        if noted is None or noted.token != submission.token or noted.job_id:
            if noted:
                self.state.follow(run_id, noted)
            return None if noted else "the submission was withdrawn"
        if submission.is_of_this_machine and submission.launcher and process_ended(submission.launcher) is None:
            return None
        executor = self._class_of(submission)
        try:
            job_id = executor.find_lost_submission(submission.token, submission.index)
        except LookupError:
            return None
        if job_id is not None:
            ledger.append(self.state.folder(run_id), "submitted", token=submission.token, job_id=job_id)
            self.state.follow(run_id, submission.accepted(job_id))
            return None
        if executor.outlives_launcher and submission.age_s <= UNNOTED_S:
            return None
        return "the launcher died before it could submit the run"

    @staticmethod
    def _class_of(submission: Submission) -> type[Executor]:
        return places.executor_class(submission.kind)
