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
import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dualformer.results.files import append_line, read_lines, utc_now
from dualformer.results.result import read_result

Event = dict[str, Any]

_FILE = "ledger.jsonl"


_CLOSING = frozenset({"busy", "end", "found", "lost", "refused", "stopped"})


def append(run_dir: Path, event: str, **facts: Any) -> None:
    """Notes an event."""
    append_line(run_dir / _FILE, {"event": event, "time": utc_now(), "host": socket.gethostname(), **facts})


def read(run_dir: Path) -> list[Event]:
    """Returns all events, the oldest first."""
    return [event for event in read_lines(run_dir / _FILE) if isinstance(event, dict) and "event" in event]


def open_submission(events: list[Event]) -> Event | None:
    """Returns the newest submission that isn't known to have ended, with its `job_id` once there is one."""
    submission = None
    for event in events:
        if event["event"] == "submit":
            submission = event
        elif submission and event.get("token") == submission["token"]:
            closed = event["event"] in _CLOSING
            submission = None if closed else {**submission, "job_id": event.get("job_id", submission.get("job_id"))}
    return submission


def is_cancelled(events: list[Event]) -> bool:
    """Whether somebody asked for the run not to be computed, and nobody for it afresh since."""
    asked = [event["event"] for event in events if event["event"] in ("cancelled", "retry")]
    return asked[-1:] == ["cancelled"]


def num_lost(events: list[Event]) -> int:
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
    number = len(list(run_dir.glob("result.*.json"))) + 1
    append(run_dir, "retry", status=result.status)
    os.replace(run_dir / "result.json", run_dir / f"result.{number}.json")
    return True


@contextlib.contextmanager
def claim(run_dir: Path, *, wait_s: float = 0.0) -> Iterator[bool]:
    """Takes a run on for the time of the block; yields whether that worked.

    The lock belongs to the process: it isn't inherited by forked children, which may outlive a killed parent.

    Args:
        wait_s: how long to wait for another process to let go.
    """
    with _locked(run_dir / "claim", wait_s) as taken:
        yield taken


@contextlib.contextmanager
def submitting(runs: Path) -> Iterator[None]:
    """Only one launcher at a time decides what to submit."""
    with _locked(runs / ".submitting", float("inf")):
        yield


@contextlib.contextmanager
def _locked(path: Path, wait_s: float) -> Iterator[bool]:
    deadline = time.monotonic() + wait_s
    with open(path, "ab") as file:
        while not (taken := _try_lock(file.fileno(), fcntl.LOCK_EX)) and time.monotonic() < deadline:
            time.sleep(0.2)
        yield taken


def is_claimed(run_dir: Path) -> bool:
    """Whether another process is at the run."""
    try:
        with open(run_dir / "claim", "rb") as file:
            return not _try_lock(file.fileno(), fcntl.LOCK_SH)
    except FileNotFoundError:
        return False


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
