"""What happened to a run, in order, and who is at it now: how each run is computed exactly once.

`ledger.jsonl` of a run folder takes one line for every event and is only ever appended to:

    submit     a launcher is about to start it or to call sbatch; noted first, so that a submission can't be lost
    submitted  it was accepted, under this job id
    start      a process took the run on: attempt, job, machine
    busy       a process found another one at it and left
    end        that process is through and the result is there
    found      a process found the result there already
    lost       its job ended without a result, and why
    refused    the cluster did not take the submission
    stopped    its launcher was ended (Ctrl-C) and ended it too
    cancelled  a person asked for it not to be computed
    retry      its result was put aside to compute it again

`claim` is a file lock that the process at work holds, so two never compute one run. The system frees it when the
process dies, whatever it died of.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import fcntl
import functools
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from dualformer.results import layout
from dualformer.results.files import append_line, read_lines, utc_now
from dualformer.results.result import read_result
from slurm.job_id import JobId

Event = dict[str, Any]

_CLOSING = frozenset({"busy", "end", "found", "lost", "refused", "stopped"})
_OF_A_SUBMISSION = _CLOSING | {"submit", "submitted"}


@dataclasses.dataclass(frozen=True)
class Submission:
    """What was handed to an executor for one run, by one launcher.

    Attributes:
        token: the submission's name, which it may share with other runs of one array.
        executor: kind of the one that it was to go to.
        launcher: the process that submitted; None where nobody noted it.
        host: machine of the launcher.
        index: place in the array.
        time: when it was noted, in ISO 8601.
        job_id: None until the submission was accepted.
    """

    token: str
    executor: str
    launcher: JobId | None = None
    host: str = ""
    index: int = 0
    time: str = ""
    job_id: JobId | None = None

    @property
    def age_s(self) -> float:
        """Seconds since it was noted."""
        with contextlib.suppress(ValueError):
            return time.time() - datetime.datetime.fromisoformat(self.time).timestamp()
        return float("inf")

    @property
    def kind(self) -> str:
        """Kind of the executor that has, or was to have, the job."""
        return self.job_id.kind if self.job_id else self.executor

    @property
    def is_of_this_machine(self) -> bool:
        return self.host == socket.gethostname()

    def accepted(self, job_id: JobId) -> Self:
        """Returns the submission with its job id."""
        return dataclasses.replace(self, job_id=job_id)

    @classmethod
    def of(cls, event: Mapping[str, Any]) -> Self:
        """Reads a "submit" event."""
        index = event.get("index", 0)
        return cls(
            token=event["token"],
            executor=text_of(event, "executor"),
            launcher=_job_id(event.get("launcher")),
            host=text_of(event, "host"),
            index=index if isinstance(index, int) else 0,
            time=text_of(event, "time"),
        )


def append(run_dir: Path, event: str, **facts: Any) -> Event:
    """Notes an event, and returns it as it was noted."""
    facts = {name: str(value) if isinstance(value, JobId) else value for name, value in facts.items()}
    noted = {"event": event, "time": utc_now(), "host": socket.gethostname(), **facts}
    append_line(run_dir / layout.LEDGER, noted)
    return noted


def note_submission(run_dir: Path, token: str, executor: str, launcher: JobId, index: int) -> Submission:
    """Notes the intent to submit a run, before it is carried out."""
    return Submission.of(append(run_dir, "submit", token=token, executor=executor, launcher=launcher, index=index))


def read(run_dir: Path) -> list[Event]:
    """Returns all events, the oldest first; lines that say too little to be one are passed over, with a warning."""
    path = run_dir / layout.LEDGER
    events = []
    for line in read_lines(path):
        if _is_event(line):
            events.append(line)
        else:
            _warn(path, str(line)[:80])
    return events


def open_submission(events: Sequence[Event]) -> Submission | None:
    """Returns the newest submission that isn't known to have ended, with its job id once there is one."""
    submission = None
    for event in events:
        if event["event"] == "submit":
            submission = Submission.of(event)
        elif submission and event.get("token") == submission.token:
            job_id = _job_id(event.get("job_id")) or submission.job_id
            submission = None if event["event"] in _CLOSING else dataclasses.replace(submission, job_id=job_id)
    return submission


def text_of(event: Mapping[str, Any], name: str) -> str:
    """Returns what an event says under a name, "" where that is no text."""
    value = event.get(name)
    return value if isinstance(value, str) else ""


def has_started(events: Sequence[Event], token: str) -> bool:
    """Whether a process of a submission took the run on."""
    return any(event["event"] == "start" and event.get("token") == token for event in events)


def is_cancelled(events: Sequence[Event]) -> bool:
    """Whether somebody asked for the run not to be computed, and nobody for it afresh since."""
    asked = [event["event"] for event in events if event["event"] in ("cancelled", "retry")]
    return asked[-1:] == ["cancelled"]


def num_lost(events: Sequence[Event]) -> int:
    """Returns how many attempts ended without a result since the run was last asked for afresh."""
    names = [event["event"] for event in events]
    afresh = max((index for index, name in enumerate(names) if name == "retry"), default=-1)
    return names[afresh + 1 :].count("lost")


def put_aside(run_dir: Path, statuses: Sequence[str]) -> bool:
    """Makes a finished run of one of these statuses unfinished; its result stays beside as `result.<n>.json`.

    Returns:
        Whether it was such a run.
    """
    result = read_result(run_dir)
    if result is None or result.status not in statuses:
        return False
    number = len(list(run_dir.glob(layout.RESULT_PUT_ASIDE.format("*")))) + 1
    append(run_dir, "retry", status=result.status)
    os.replace(run_dir / layout.RESULT, run_dir / layout.RESULT_PUT_ASIDE.format(number))
    return True


@contextlib.contextmanager
def claim(run_dir: Path, *, wait_s: float = 0.0) -> Iterator[bool]:
    """Takes a run on for the time of the block; yields whether that worked.

    The lock belongs to the process: it isn't inherited by forked children, which may outlive a killed parent.

    Args:
        run_dir: the run's folder.
        wait_s: how long to wait for another process to let go.
    """
    with _locked(run_dir / layout.CLAIM, wait_s) as taken:
        yield taken


@contextlib.contextmanager
def submitting(runs: Path) -> Iterator[None]:
    """Only one launcher at a time decides what to submit."""
    runs.mkdir(parents=True, exist_ok=True)
    with _locked(runs / layout.SUBMITTING, float("inf")):
        yield


def is_claimed(run_dir: Path) -> bool:
    """Whether another process is at the run."""
    try:
        with open(run_dir / layout.CLAIM, "rb") as file:
            return not _try_lock(file.fileno(), fcntl.LOCK_SH)
    except FileNotFoundError:
        return False


def _is_event(line: object) -> bool:
    if not isinstance(line, dict) or not all(isinstance(line.get(name), str) for name in ("event", "time")):
        return False
    try:
        if datetime.datetime.fromisoformat(line["time"]).tzinfo is None:
            return False
    except ValueError:
        return False
    return line["event"] not in _OF_A_SUBMISSION or isinstance(line.get("token"), str)


@functools.cache
def _warn(path: Path, line: str) -> None:
    print(f"{path}: passed over a line that is no event: {line}", file=sys.stderr)


def _job_id(text: object) -> JobId | None:
    with contextlib.suppress(ValueError):
        return JobId.parse(text) if isinstance(text, str) else None
    return None


@contextlib.contextmanager
def _locked(path: Path, wait_s: float) -> Iterator[bool]:
    deadline = time.monotonic() + wait_s
    with open(path, "ab") as file:
        while not (taken := _try_lock(file.fileno(), fcntl.LOCK_EX)) and time.monotonic() < deadline:
            time.sleep(0.2)
        yield taken


def _try_lock(descriptor: int, mode: int) -> bool:
    try:
        fcntl.lockf(descriptor, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOTSUP):
            message = "the file system of the runs folder has no file locks; put --runs elsewhere"
            raise OSError(error.errno, message) from None
        raise
    return True
