"""Takes the runs of a grid to their results: submits what is missing, follows what runs, makes a row of what died.

All it knows lies in the run folders, so it can be killed at any moment and started again, also twice at once.
"""

from __future__ import annotations

import datetime
import itertools
import json
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualformer.results.files import write_json
from dualformer.results.result import Result, Status, read_result, write_result
from slurm.executors import Executor, SubmitError, cancel, find_submission, job_ended
from slurm.local import process_ended, process_id
from slurm.profile import Profile
from slurm.queue import HELD
from slurm.task import Task
from sweeps.launching import ledger
from sweeps.launching.attempt import LOG_HEADER, WORKER

if TYPE_CHECKING:  # it brings torch along, which looking after a sweep can do without
    from sweeps.launching.grid import Cell

CANCELLED = "cancelled on request"
"""Reason of a run that `python -m sweeps cancel` ended."""

SUBMISSIONS = ".submissions"
"""Folder in the runs folder that takes submitit's files."""

_REASON_LINES = 6
_REASON_LENGTH = 600
_RETRY_REFUSED_S = 15.0
_UNNOTED_S = 60.0


class Sweep:
    """The runs of one grid on their way.

    Args:
        runs: folder of all run folders.
        cells: what to compute.
        executor: where.
        profile: of that place; `max_attempts` bounds how often a run may die.
        worker: function that computes a run, given its folder.
        code: hash of the code that jobs must run; "" for any.
        announce: takes every message for people.

    Attributes:
        results: finished runs by run id.
    """

    def __init__(
        self,
        runs: Path,
        cells: Sequence[Cell],
        executor: Executor,
        profile: Profile,
        *,
        worker: str = WORKER,
        code: str = "",
        announce: Callable[[str], None] = print,
    ) -> None:
        self.runs = runs
        self.cells = {cell.run_id: cell for cell in cells}
        self.results: dict[str, Result] = {}
        self._executor = executor
        self._profile = profile
        self._worker = worker
        self._code = code
        self._announce = announce
        self._waiting: dict[str, Cell] = {}
        self._active: dict[str, ledger.Event] = {}
        self._launcher = process_id(os.getpid())
        self._not_before = float("-inf")
        for cell in cells:
            self._prepare(cell)

    @property
    def done(self) -> bool:
        return len(self.results) == len(self.cells)

    @property
    def outlives_launcher(self) -> bool:
        """Whether submitted runs need no launcher to come to their end."""
        return self._executor.kind == "slurm"

    @property
    def num_waiting(self) -> int:
        """Runs that nobody was asked to compute yet."""
        return len(self._waiting)

    @property
    def active(self) -> list[str]:
        """Ids of the runs that were submitted and have no result yet."""
        return list(self._active)

    def step(self) -> list[str]:
        """Looks what has changed and submits what may be submitted; returns the runs finished since the last step.

        Raises:
            SubmitError: the cluster refuses the submission for good.
        """
        finished = [run_id for run_id in list(self._active) if self._follow(run_id)]
        if self._waiting and time.monotonic() >= self._not_before:
            self._submit()
        return finished

    def stop(self) -> None:
        """Ends what this launcher's machine computes for it; their state stays, and a later sweep goes on from there.

        Jobs on a cluster are left alone: they need no launcher.
        """
        here = {run_id: event for run_id, event in self._active.items() if event["executor"] == "local"}
        jobs = [event["job_id"] for event in here.values() if event.get("job_id")]
        self._executor.cancel(jobs if self._executor.kind == "local" else [])
        for run_id, event in here.items():
            if read_result(self.runs / run_id) is None:
                ledger.append(self.runs / run_id, "stopped", token=event["token"])

    def _prepare(self, cell: Cell) -> None:
        folder = self.runs / cell.run_id
        result = read_result(folder)
        if result is not None:
            self.results[cell.run_id] = result
            return
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "config.json").exists():
            write_json(folder / "config.json", cell.config.to_dict())
        submission = ledger.open_submission(ledger.read(folder))
        if submission:
            self._active[cell.run_id] = submission
        else:
            self._waiting[cell.run_id] = cell

    def _follow(self, run_id: str) -> bool:
        """Returns whether a submitted run is finished; puts it back among the waiting where it must start again."""
        folder, submission = self.runs / run_id, self._active[run_id]
        cause = self._ended(submission, run_id)
        result = read_result(folder)
        if cause is None and (result is None or submission["executor"] == "local"):
            return False
        if result is None and ledger.is_claimed(folder):
            return False
        result = result or self._after_loss(run_id, submission, cause or "the job has ended")
        del self._active[run_id]
        if result is None:
            self._waiting[run_id] = self.cells[run_id]
            return False
        self.results[run_id] = result
        return True

    def _ended(self, submission: ledger.Event, run_id: str) -> str | None:
        job_id = submission.get("job_id")
        if job_id is None:
            return self._adopt(submission, run_id)
        ours = job_id.partition(":")[0] == self._executor.kind
        return self._executor.ended(job_id) if ours else job_ended(job_id)

    def _adopt(self, submission: ledger.Event, run_id: str) -> str | None:
        """Finds the job of a submission whose launcher noted its intent and not yet the outcome."""
        noted = ledger.open_submission(ledger.read(self.runs / run_id))
        if noted is None or noted["token"] != submission["token"] or noted.get("job_id"):
            self._active[run_id] = noted or submission
            return None if noted else "the submission was withdrawn"
        if submission["host"] == socket.gethostname() and process_ended(submission["launcher"]) is None:
            return None
        if submission["executor"] != "slurm":
            return "the launcher died before it could start the run"
        found = find_submission(submission["token"])
        if found and submission["index"] in found:
            job_id = found[submission["index"]]
            ledger.append(self.runs / run_id, "submitted", token=submission["token"], job_id=job_id)
            self._active[run_id] = {**submission, "job_id": job_id}
            return None
        age = time.time() - _timestamp(submission["time"])
        return "the launcher died before it could submit the run" if found is not None and age > _UNNOTED_S else None

    def _after_loss(self, run_id: str, submission: ledger.Event, cause: str) -> Result | None:
        """Decides on a run whose job ended without a result: a row with the reason, or None for another attempt."""
        folder = self.runs / run_id
        events = ledger.read(folder)
        latest = ledger.open_submission(events)
        if latest is None or latest["token"] != submission["token"]:
            return None  # the process or another launcher noted already how it went
        if ledger.is_cancelled(events):
            return write_final(folder, "skipped", CANCELLED)
        ledger.append(folder, "lost", token=submission["token"], reason=cause)
        # Cancelled only once that is noted: another launcher must not take it for the wish of a person.
        if HELD in cause:
            cancel([submission["job_id"]])
        tail = self._last_words(folder, submission)
        status, final = classify(cause, tail)
        lost = ledger.num_lost(events) + 1
        if not final and lost < self._profile.max_attempts:
            self._announce(f"{run_id}: attempt {lost} of {self._profile.max_attempts} was lost: {cause}")
            return None
        reason = f"{cause}; {'its log ends: ' + tail if tail else 'it left no log'} (attempt {lost})"
        return write_final(folder, status, reason)

    def _last_words(self, folder: Path, submission: ledger.Event) -> str:
        """End of what the last attempt printed, and of what Slurm's own programs added outside the run's log."""
        job = submission.get("job_id", "").partition(":")[2]
        beside = self.runs / SUBMISSIONS / submission["token"] / f"{job}_0_log.out"
        return " | ".join([*_tail(folder / "log"), *_tail(beside)])[-_REASON_LENGTH:]

    def _submit(self) -> None:
        for _, group in itertools.groupby(self._ordered(), key=_resources):
            cells = list(group)
            while cells:
                # The next group waits as well: runs that need little would keep one that needs much from ever starting.
                if (room := self._room(cells[0])) <= 0:
                    return
                chunk, cells = cells[:room], cells[room:]
                if not self._submit_chunk(chunk):
                    return

    def _ordered(self) -> list[Cell]:
        """Waiting cells, those of equal needs beside each other and otherwise in the order of the grid."""
        return sorted(self._waiting.values(), key=lambda cell: json.dumps(_resources(cell)))

    def _room(self, cell: Cell) -> int:
        """How many runs like this may be started now; local ones of other launchers take their place as well."""
        others = [event for event in self._active.values() if self._is_orphan(event)]
        started = [event["job_id"] for event in others if event.get("job_id")]
        return self._executor.capacity(_resources(cell), started) - (len(others) - len(started))

    def _is_orphan(self, event: ledger.Event) -> bool:
        here = event.get("host") == socket.gethostname()
        return here and event["executor"] == "local" and event["launcher"] != self._launcher

    def _submit_chunk(self, cells: Sequence[Cell]) -> bool:
        """Submits runs as one array; returns False when the cluster wants us to come back later."""
        token = f"dualformer-{secrets.token_hex(6)}"
        facts = {"token": token, "executor": self._executor.kind, "launcher": self._launcher}
        with ledger.submitting(self.runs):
            chosen = [cell for cell in cells if self._still_missing(cell)]
            for index, cell in enumerate(chosen):
                ledger.append(self.runs / cell.run_id, "submit", index=index, **facts)
        if not chosen:
            return True
        try:
            job_ids = self._executor.submit([self._task(cell, token) for cell in chosen], token, _resources(chosen[0]))
        except SubmitError as error:
            for cell in chosen:
                ledger.append(self.runs / cell.run_id, "refused", token=token, reason=str(error))
            if not error.passing:
                raise
            self._announce(f"{error}; trying again in {_RETRY_REFUSED_S:.0f} s")
            self._not_before = time.monotonic() + _RETRY_REFUSED_S
            return False
        for index, (cell, job_id) in enumerate(zip(chosen, job_ids, strict=True)):
            self._active[cell.run_id] = {**facts, "index": index, "job_id": job_id}
            del self._waiting[cell.run_id]
        for cell, job_id in zip(chosen, job_ids, strict=True):
            ledger.append(self.runs / cell.run_id, "submitted", token=token, job_id=job_id)
        return True

    def _still_missing(self, cell: Cell) -> bool:
        """Whether a waiting run still is: another launcher may have been faster."""
        folder = self.runs / cell.run_id
        result, submission = read_result(folder), ledger.open_submission(ledger.read(folder))
        if submission and submission["launcher"] == self._launcher:
            submission = None  # our own, noted before a full disk stopped us from carrying it out
        if result is None and submission is None:
            return True
        del self._waiting[cell.run_id]
        if result is not None:
            self.results[cell.run_id] = result
        else:
            self._active[cell.run_id] = submission
        return False

    def _task(self, cell: Cell, token: str) -> Task:
        folder = (self.runs / cell.run_id).resolve()
        log = "" if self._executor.kind == "debug" else str(folder / "log")
        return Task("sweeps.launching.attempt:attempt", (str(folder), token, self._worker, self._code), log)


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


def _resources(cell: Cell) -> dict[str, Any]:
    return cell.config.resources.to_dict()


def _tail(path: Path) -> list[str]:
    """The last lines of a log, of its last attempt only."""
    try:
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        return []
    lines = [line.strip() for line in text.rpartition(LOG_HEADER)[2].splitlines() if line.strip()]
    return lines[-_REASON_LINES:]


def _timestamp(text: str) -> float:
    return datetime.datetime.fromisoformat(text).timestamp()
