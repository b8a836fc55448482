"""Where each run of a sweep stands, by the run folders alone: finished, under way, or waiting."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dualformer.results import layout
from dualformer.results.files import write_json
from dualformer.results.result import Result, read_result
from sweeps.launching import ledger
from sweeps.launching.ledger import Submission
from sweeps.launching.planned_run import PlannedRun


class SweepState:
    """The runs of a sweep, each in exactly one of three places.

    Attributes:
        runs: folder of all run folders.
        planned: all runs by their ids.
        results: the finished ones.
        active: those that somebody was asked to compute.
        waiting: those that nobody was asked to compute yet.
    """

    def __init__(self, runs: Path, planned: Sequence[PlannedRun]) -> None:
        self.runs = runs
        self.planned = {run.run_id: run for run in planned}
        self.results: dict[str, Result] = {}
        self.active: dict[str, Submission] = {}
        self.waiting: dict[str, PlannedRun] = {}
        for run in planned:
            self.look(run)

    @property
    def done(self) -> bool:
        """Whether every run has a result."""
        return len(self.results) == len(self.planned)

    def folder(self, run_id: str) -> Path:
        """Returns the folder of a run."""
        return self.runs / run_id

    def look(self, run: PlannedRun) -> None:
        """Finds out where a run stands, and makes its folder where there is none."""
        result = read_result(self.folder(run.run_id))
        if result is not None:
            self.finish(run.run_id, result)
            return
        self.prepare(run)
        submission = ledger.open_submission(ledger.read(self.folder(run.run_id)))
        if submission:
            self.follow(run.run_id, submission)
        else:
            self.wait(run.run_id)

    def prepare(self, run: PlannedRun) -> None:
        """Makes a run's folder with its config, unless that is there."""
        folder = self.folder(run.run_id)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / layout.CONFIG).exists():
            write_json(folder / layout.CONFIG, run.config.to_dict())

    def finish(self, run_id: str, result: Result) -> None:
        """Puts a run among the finished."""
        self._leave(run_id)
        self.results[run_id] = result

    def follow(self, run_id: str, submission: Submission) -> None:
        """Puts a run among those under way."""
        self._leave(run_id)
        self.active[run_id] = submission

    def wait(self, run_id: str) -> None:
        """Puts a run among those to be submitted."""
        self._leave(run_id)
        self.waiting[run_id] = self.planned[run_id]

    def _leave(self, run_id: str) -> None:
        for place in (self.results, self.active, self.waiting):
            place.pop(run_id, None)
