"""What becomes of a run whose job ended without a result: another attempt, or a row with the reason."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from dualformer.results import layout
from dualformer.results.result import Result, Status, read_result, write_result
from slurm import places
from sweeps.launching import ledger
from sweeps.launching.attempt import LOG_HEADER
from sweeps.launching.ledger import Submission

CANCELLED = "cancelled on request"
"""Reason of a run that somebody asked not to be computed."""

_REASON_LINES = 6
_REASON_LENGTH = 600


class LossHandler:
    """Decides on lost attempts.

    Args:
        runs: folder of all run folders.
        max_attempts: how often a run may be lost before that is its result.
        announce: takes every message for people.
    """

    def __init__(self, runs: Path, max_attempts: int, announce: Callable[[str], None]) -> None:
        self._runs = runs
        self._max_attempts = max_attempts
        self._announce = announce

    def settle(self, run_id: str, submission: Submission, cause: str) -> Result | None:
        """Notes a loss, and returns the result that it comes to; None for another attempt."""
        folder = self._runs / run_id
        events = ledger.read(folder)
        latest = ledger.open_submission(events)
        if latest is None or latest.token != submission.token:
            return None  # the process or another launcher noted already how it went
        if ledger.is_cancelled(events):
            return write_final(folder, "skipped", CANCELLED)
        ledger.append(folder, "lost", token=submission.token, reason=cause)
        # Cancelled only once that is noted: another launcher must not take it for the wish of a person.
        if submission.job_id and places.executor_class(submission.kind).is_stuck(cause):
            places.cancel([submission.job_id])
        tail = self._last_words(folder, submission)
        status, final = classify(cause, tail)
        lost = ledger.num_lost(events) + 1
        if not final and lost < self._max_attempts:
            self._announce(f"{run_id}: attempt {lost} of {self._max_attempts} was lost: {cause}")
            return None
        reason = f"{cause}; {'its log ends: ' + tail if tail else 'it left no log'} (attempt {lost})"
        return write_final(folder, status, reason)

    def has_started(self, run_id: str, submission: Submission) -> bool:
        """Whether anything is known of a job's processes: an event, or a line that was printed."""
        beside = self._output_beside(submission)
        return ledger.has_started(ledger.read(self._runs / run_id), submission.token) or bool(
            beside and beside.exists()
        )

    def _last_words(self, folder: Path, submission: Submission) -> str:
        """End of what the last attempt printed, and of what was printed around it, outside the run's log."""
        beside = self._output_beside(submission)
        lines = [*_tail(folder / layout.LOG), *(_tail(beside) if beside else ())]
        return " | ".join(lines)[-_REASON_LENGTH:]

    def _output_beside(self, submission: Submission) -> Path | None:
        if submission.job_id is None:
            return None
        executor = places.executor_class(submission.kind)
        return executor.output_beside(self._runs / layout.SUBMISSIONS, submission.token, submission.job_id)


def write_final(run_dir: Path, status: Status, reason: str, *, wait_s: float = 5.0) -> Result | None:
    """Makes a result of a run that has none and that no process is at; returns the result there is then."""
    with ledger.claim(run_dir, wait_s=wait_s) as taken:
        if taken and read_result(run_dir) is None:
            write_result(run_dir, Result(run_id=run_dir.name, status=status, reason=reason))
    return read_result(run_dir)


def classify(cause: str, log_tail: str) -> tuple[Status, bool]:
    """Returns the status of a run that died and whether that is final, that is, more attempts would be in vain."""
    if "CANCELLED" in cause and "preempt" not in cause.lower():
        return "skipped", True
    text = f"{cause}\n{log_tail}"
    if "timed-out too many times" in text:
        return "timeout", True
    if re.search(r"TIMEOUT|DUE TO TIME LIMIT", text):
        return "timeout", False
    if re.search(r"OUT_OF_MEMORY|oom[-_ ]kill|exceeded memory limit|out of memory", text, re.IGNORECASE):
        return "oom", False
    return "error", False


def _tail(path: Path) -> list[str]:
    """The last lines of a log, of its last attempt only."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return []
    lines = [line.strip() for line in text.rpartition(LOG_HEADER)[2].splitlines() if line.strip()]
    return lines[-_REASON_LINES:]
