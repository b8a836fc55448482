"""Quiet measuring: runs of one machine train side by side, but a timing has the machine to itself.

A training step runs under `shared`, a timing under `exclusive`. An exclusive holder waits for the steps that are under
way and keeps new ones waiting, so a neighbour's training shows in nobody's latency. Both are advisory file locks, so a
killed process gives them up by dying.

Two files make the pair fair: everyone passes a turnstile on the way to the machine lock, and a waiting timing stays in
the turnstile, so a stream of steps can't keep it out.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

PATIENCE_S = 60.0

_thread = threading.local()


def shared() -> contextlib.AbstractContextManager[None]:
    """Holds the machine together with every other `shared` holder; costs microseconds while nobody is timing."""
    return _hold(fcntl.LOCK_SH)


def exclusive() -> contextlib.AbstractContextManager[None]:
    """Holds the machine alone; waits for steps under way on this machine, of whatever sweep of this user.

    A process that was stopped in the middle of a step holds it all the same, so who waits for long says so.
    """
    return _hold(fcntl.LOCK_EX)


@contextlib.contextmanager
def _hold(mode: int) -> Iterator[None]:
    if getattr(_thread, "holds", False):
        raise RuntimeError("this thread holds the machine already: shared() and exclusive() don't nest")
    with _lock_file("turnstile") as turnstile, _lock_file("machine") as machine:
        fcntl.flock(turnstile, fcntl.LOCK_EX)
        try:
            with _complaint() if mode == fcntl.LOCK_EX else contextlib.nullcontext():
                fcntl.flock(machine, mode)
        finally:
            fcntl.flock(turnstile, fcntl.LOCK_UN)
        _thread.holds = True
        try:
            yield
        finally:
            _thread.holds = False
            # Closing would not do: a data loader forked in the meantime shares the open file and with it the lock.
            fcntl.flock(machine, fcntl.LOCK_UN)


@contextlib.contextmanager
def _complaint() -> Iterator[None]:
    """Tells on stderr that something takes long, if it does."""
    message = (
        f"waiting to time: for {PATIENCE_S:g} s a run of this machine has been in a training step, or stopped in one"
    )
    timer = threading.Timer(PATIENCE_S, print, args=(message,), kwargs={"file": sys.stderr, "flush": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def _lock_file(name: str) -> Iterator[int]:
    folder = Path(tempfile.gettempdir(), f"dualformer-{os.getuid()}")
    try:
        file = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o600)
    except FileNotFoundError:
        folder.mkdir(mode=0o700, exist_ok=True)
        file = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield file
    finally:
        os.close(file)
