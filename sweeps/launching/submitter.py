"""Submits what waits, as much at once as the place takes: each run by one launcher only, and noted beforehand."""

from __future__ import annotations

import contextlib
import itertools
import json
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from dualformer.results import layout
from dualformer.results.result import read_result
from slurm import places
from slurm.executor import Executor, SubmitError
from slurm.job_id import JobId
from slurm.task import Task
from sweeps.launching import ledger
from sweeps.launching.ledger import Submission
from sweeps.launching.planned_run import PlannedRun
from sweeps.launching.sweep_state import SweepState

RETRY_REFUSED_S = 15.0


class Submitter:
    """Hands waiting runs to an executor.

    Args:
        state: of the sweep; what is submitted moves in it from waiting to active.
        executor: where to.
        launcher: this process.
        worker: function that computes a run, given its folder, as "package.module:function".
        code: copy of the code that jobs import; None where they run what this process has loaded.
        announce: takes every message for people.

    Attributes:
        has_submitted: whether any submission of this launcher was accepted.
    """

    def __init__(
        self,
        state: SweepState,
        executor: Executor,
        launcher: JobId,
        *,
        worker: str,
        code: Path | None,
        announce: Callable[[str], None],
    ) -> None:
        self._state = state
        self._executor = executor
        self._launcher = launcher
        self._worker = worker
        self._code = code
        self._announce = announce
        self._not_before = float("-inf")
        self.has_submitted = False

    def submit(self) -> None:
        """Submits what may be submitted now.

        Raises:
            SubmitError: the submission was refused for good.
        """
        if not self._state.waiting or time.monotonic() < self._not_before:
            return
        for _, group in itertools.groupby(self._ordered(), key=lambda run: run.resources):
            runs = list(group)
            while runs:
                # The next group waits as well: runs that need little would keep one that needs much from ever starting.
                if (room := self._room(runs[0])) <= 0:
                    return
                chunk, runs = runs[:room], runs[room:]
                if not self._submit_together(chunk):
                    return

    def _ordered(self) -> list[PlannedRun]:
        """Waiting runs, those of equal needs beside each other and otherwise in the order of the grid."""
        order = {run_id: number for number, run_id in enumerate(self._state.planned)}
        waiting = sorted(self._state.waiting.values(), key=lambda run: order[run.run_id])
        return sorted(waiting, key=lambda run: json.dumps(run.resources))

    def _room(self, run: PlannedRun) -> int:
        """How many runs like this may be started now; those of other launchers may take their place as well."""
        others = [submission for submission in self._state.active.values() if self._takes_our_places(submission)]
        started = [submission.job_id for submission in others if submission.job_id]
        return self._executor.capacity(run.resources, started) - (len(others) - len(started))

    def _takes_our_places(self, submission: Submission) -> bool:
        here = submission.is_of_this_machine and places.executor_class(submission.kind).takes_places_here()
        return here and submission.launcher != self._launcher

    def _submit_together(self, runs: Sequence[PlannedRun]) -> bool:
        """Submits runs as one array; returns False when the cluster wants us to come back later."""
        self._refuse_lost_code()
        chosen = self._note(f"dualformer-{secrets.token_hex(6)}", runs)
        if not chosen:
            return True
        planned = [self._state.planned[run_id] for run_id in chosen]
        token = next(iter(chosen.values())).token
        try:
            job_ids = self._executor.submit(
                [self._task(run_id, token) for run_id in chosen], token, planned[0].resources
            )
        except SubmitError as error:
            self._take_back(chosen, str(error))
            if not error.passing:
                raise
            self._announce(f"{error}; trying again in {RETRY_REFUSED_S:.0f} s")
            self._not_before = time.monotonic() + RETRY_REFUSED_S
            return False
        except Exception as error:
            self._take_back(chosen, f"{type(error).__name__}: {error}")
            raise
        self.has_submitted = True
        for (run_id, submission), job_id in zip(chosen.items(), job_ids, strict=True):
            self._state.follow(run_id, submission.accepted(job_id))
        for (run_id, submission), job_id in zip(chosen.items(), job_ids, strict=True):
            with contextlib.suppress(FileNotFoundError):  # the folder was removed meanwhile, which the next look finds
                ledger.append(self._state.folder(run_id), "submitted", token=submission.token, job_id=job_id)
        return True

    def _note(self, token: str, runs: Sequence[PlannedRun]) -> dict[str, Submission]:
        """Notes the intent to submit the runs that still wait, and returns these submissions by run id."""
        noted: dict[str, Submission] = {}
        with ledger.submitting(self._state.runs):
            for run in runs:
                if self._still_waits(run):
                    folder = self._state.folder(run.run_id)
                    noted[run.run_id] = ledger.note_submission(
                        folder, token, self._executor.kind, self._launcher, len(noted)
                    )
        return noted

    def _still_waits(self, run: PlannedRun) -> bool:
        """Whether a waiting run still is: another launcher may have been faster."""
        self._state.prepare(run)
        folder = self._state.folder(run.run_id)
        result, submission = read_result(folder), ledger.open_submission(ledger.read(folder))
        if result is not None:
            self._state.finish(run.run_id, result)
            return False
        # Our own was noted before a full disk stopped us from carrying it out.
        if submission is None or submission.launcher == self._launcher:
            return True
        self._state.follow(run.run_id, submission)
        return False

    def _take_back(self, noted: dict[str, Submission], reason: str) -> None:
        for run_id, submission in noted.items():
            with contextlib.suppress(FileNotFoundError):
                ledger.append(self._state.folder(run_id), "refused", token=submission.token, reason=reason)

    def _refuse_lost_code(self) -> None:
        """Without the copy of the code every job would fail, one after the other."""
        if self._code is not None and not self._code.is_dir():
            reason = f"the copy of the code, {self._code}, is gone; the same command makes another and goes on"
            raise SubmitError(reason, passing=False)

    def _task(self, run_id: str, token: str) -> Task:
        folder = self._state.folder(run_id).resolve()
        log = "" if self._executor.in_this_process else str(folder / layout.LOG)
        code = self._code.name if self._code else ""
        return Task("sweeps.launching.attempt:attempt", (str(folder), token, self._worker, code), log)
