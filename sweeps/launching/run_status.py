"""Where one run stands, by its files alone; what an executor says of its job is a hint."""

from __future__ import annotations

import dataclasses
import datetime
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dualformer.results import layout
from dualformer.results.files import read_lines, read_object
from dualformer.results.result import STATUSES, read_result
from slurm import places
from slurm.processes import process_ended
from sweeps.launching import ledger
from sweeps.launching.attempt import LOG_HEADER
from sweeps.launching.ledger import Event, Submission

_TAIL_BYTES = 4096
_MOST_CHARACTERS = 160


@dataclasses.dataclass(frozen=True)
class RunStatus:
    """Where one run stands.

    Attributes:
        run_id: the run.
        state: the result's status once there is one; before that running, queued, lost (and not tried again yet), or
            waiting.
        attempt: how many processes took the run on.
        progress: training steps done, of all.
        left: estimated time until training is through, as h:mm:ss.
        node: machine of the last attempt.
        differs: what tells the run from the others of its grid.
        note: figures, the reason of a failure, or the job and what is known of it.
    """

    run_id: str
    state: str
    attempt: int = 0
    progress: str = ""
    left: str = ""
    node: str = ""
    differs: str = ""
    note: str = ""

    @property
    def finished(self) -> bool:
        """Whether there is a result."""
        return self.state in STATUSES


def run_status(run_dir: Path, differs: str = "") -> RunStatus:
    """Returns where a run stands."""
    events = ledger.read(run_dir)
    starts = [event for event in events if event["event"] == "start"]
    node = ledger.text_of(starts[-1], "node") if starts else ""
    known = RunStatus(run_dir.name, "waiting", len(starts), node=node, differs=differs)
    result = read_result(run_dir)
    if result is not None:
        figures = "" if result.top1 is None else f"top-1 {result.top1:.3f}"
        return dataclasses.replace(known, state=result.status, note=" ".join((result.reason or figures).split()))
    known = dataclasses.replace(known, progress=progress(run_dir))
    if ledger.is_claimed(run_dir):
        return dataclasses.replace(known, state="running", left=_time_left(run_dir), note=_last_words(run_dir))
    state, note = _unfinished(events)
    return dataclasses.replace(known, state=state, note=note)


def progress(run_dir: Path) -> str:
    """Returns the training steps done, of all, as "40/500"; "" before the first logged one."""
    steps = _steps(run_dir)
    return f"{steps[-1]['step']}/{steps[-1].get('steps', '?')}" if steps else ""


def activity(run_dir: Path) -> str:
    """Returns what an unfinished run does, or is waiting for, in a few words."""
    found = run_status(run_dir)
    steps = "" if found.state != "running" else found.progress
    return " ".join(filter(None, (steps or found.state, found.note)))


def _last_words(run_dir: Path) -> str:
    """The last line of a run's log, which tells what it waits for; "" where that is of a step, as `progress` is."""
    try:
        with open(run_dir / layout.LOG, "rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - _TAIL_BYTES))
            lines = log.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return "" if not lines or lines[-1].startswith((LOG_HEADER, "step ")) else lines[-1].strip()[:_MOST_CHARACTERS]


def _unfinished(events: Sequence[Event]) -> tuple[str, str]:
    """State and note of a run without a result that no process is at."""
    if (submission := ledger.open_submission(events)) is not None:
        may_run, note = _job(submission)
        return ("queued" if may_run else "lost"), note
    lost = [ledger.text_of(event, "reason") for event in events if event["event"] == "lost"]
    return ("lost", lost[-1]) if lost else ("waiting", "")


def _job(submission: Submission) -> tuple[bool, str]:
    """Whether a submission may still come to something, and what is known of its job."""
    if submission.job_id is not None:
        executor = places.executor_class(submission.kind)
        if executor.takes_places_here() and not submission.is_of_this_machine:
            return True, f"{submission.job_id} on {submission.host}"
        may_run, said = executor.describe(submission.job_id, submission.age_s)
        return may_run, f"{submission.job_id} {said}".strip()
    launcher = submission.launcher
    if submission.is_of_this_machine and launcher and process_ended(launcher) is not None:
        return False, "its launcher died while submitting it"
    return True, "being submitted"


def _steps(run_dir: Path) -> list[dict[str, Any]]:
    return [line for line in read_lines(run_dir / layout.METRICS) if isinstance(line, dict) and "step" in line]


def _time_left(run_dir: Path) -> str:
    """By the pace of the last logged steps; evaluation comes on top."""
    steps = [line for line in _steps(run_dir) if line.get("clips_per_s") and "steps" in line]
    if not steps:
        return ""
    try:
        batch_size = read_object(run_dir / layout.CONFIG)["train"]["batch_size"]
        seconds = (steps[-1]["steps"] - steps[-1]["step"]) * batch_size / steps[-1]["clips_per_s"]
        return str(datetime.timedelta(seconds=round(seconds)))
    except (OSError, ValueError, LookupError, TypeError, ArithmeticError):  # what isn't there, or says no number
        return ""
