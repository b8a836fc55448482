"""Quiet measuring: runs of one machine train side by side, but a timing has the machine to itself.

A training step runs under `shared`, a timing under `exclusive`. An exclusive holder waits for the steps that are under
way and keeps new ones waiting, so a neighbour's training shows in nobody's latency. Both are advisory file locks, so a
killed process gives them up by dying.

Two files make the pair fair: everyone passes a turnstile on the way to the machine lock, and a waiting timing stays in
the turnstile, so a stream of steps can't keep it out. A third kind of file is for people: whoever holds the machine
leaves a note of who it is, and who waits for long reads them out.

The files lie in a folder of this user on this machine. A folder that others made or can write to is not trusted, and
another one is taken.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import shlex
import socket
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import psutil

PATIENCE_S = 10.0
"""How long to wait without a word, the first time."""
REPEAT_S = 10.0
"""How long until the next one."""

_NOTE = "holder-"
_MOST_CHARACTERS = 200  # of a command in a note

Purpose = Literal["train", "time"]

_thread = threading.local()
_open_files: set[int] = set()


def shared() -> contextlib.AbstractContextManager[None]:
    """Holds the machine together with every other `shared` holder; costs microseconds while nobody is timing."""
    return _hold(fcntl.LOCK_SH, "train")


def exclusive() -> contextlib.AbstractContextManager[None]:
    """Holds the machine alone; waits for steps under way on this machine, of whatever sweep of this user.

    A process that was stopped in the middle of a step holds it all the same, so who waits for long says so.
    """
    return _hold(fcntl.LOCK_EX, "time")


@dataclasses.dataclass(frozen=True)
class Holder:
    """Who holds the machine.

    Attributes:
        pid: its process.
        began: when that process was started, in seconds since 1970; tells it from a later one of the same number.
        command: its command line.
        purpose: what it holds the machine for.
        since: when it got it, in seconds since 1970.
    """

    pid: int
    began: float
    command: str
    purpose: Purpose
    since: float

    def __str__(self) -> str:
        held_s = max(0.0, time.time() - self.since)
        clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        doing = "timing" if self.purpose == "time" else "in a training step"
        state = " and is stopped" if _is_stopped(self.pid) else ""
        return f"process {self.pid} has been {doing} since {clock} ({held_s:.0f} s){state}: {self.command}"


def holders() -> list[Holder]:
    """Returns who holds the machine now; processes that are gone don't count, and their notes are removed."""
    with _place() as (folder, _, _):
        found = [_read_note(folder, name) for name in os.listdir(folder) if name.startswith(_NOTE)]
    return sorted((holder for holder in found if holder is not None), key=lambda holder: holder.since)


@contextlib.contextmanager
def _hold(mode: int, purpose: Purpose) -> Iterator[None]:
    if getattr(_thread, "holds", False):
        raise RuntimeError("this thread holds the machine already: shared() and exclusive() don't nest")
    with _place() as (folder, turnstile, machine):
        _wait(turnstile, fcntl.LOCK_EX, purpose)
        try:
            _wait(machine, mode, purpose)
        finally:
            fcntl.flock(turnstile, fcntl.LOCK_UN)
        _thread.holds = True
        try:
            with _note(folder, purpose):
                yield
        finally:
            _thread.holds = False
            if machine in _open_files:
                fcntl.flock(machine, fcntl.LOCK_UN)


def _wait(file: int, mode: int, purpose: Purpose) -> None:
    """Takes a lock, and says whom it waits for if that takes long."""
    try:
        fcntl.flock(file, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        with _complaints(purpose):
            fcntl.flock(file, mode)


@contextlib.contextmanager
def _complaints(purpose: Purpose) -> Iterator[None]:
    """Tells on stderr who holds the machine for long, again and again, until the context ends."""
    done, began = threading.Event(), time.monotonic()

    def complain() -> None:
        pause = PATIENCE_S
        while not done.wait(pause):
            _tell(purpose, time.monotonic() - began)
            pause = REPEAT_S

    thread = threading.Thread(target=complain, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _tell(purpose: Purpose, waited_s: float) -> None:
    try:
        found = (
            "; ".join(map(str, holders()))
            or "nobody says so who has it; another process may be waiting before this one"
        )
    except OSError as error:
        found = f"who holds it can't be read ({error})"
    print(f"waiting to {purpose} for {waited_s:.0f} s: {found}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _note(folder: int, purpose: Purpose) -> Iterator[None]:
    """Leaves a note of who holds the machine; a full disk costs the note and nothing else."""
    name = f"{_NOTE}{os.getpid()}-{threading.get_native_id()}"
    note = Holder(os.getpid(), _began(), _command(), purpose, time.time())
    with contextlib.suppress(OSError):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(name, flags, 0o600, dir_fd=folder)
        try:
            os.write(file, json.dumps(dataclasses.asdict(note)).encode())
        finally:
            os.close(file)
    try:
        yield
    finally:
        if os.getpid() == note.pid:  # and not a process that was forked inside
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=folder)


def _read_note(folder: int, name: str) -> Holder | None:
    """The holder that a note is of; None where it is gone, or the note is being written or removed."""
    try:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        with open(file, encoding="utf-8") as text:
            holder = Holder(**json.load(text))
        if psutil.Process(holder.pid).create_time() == holder.began:
            return holder
    except psutil.NoSuchProcess:
        pass
    except (OSError, ValueError, TypeError):
        return None
    with contextlib.suppress(OSError):
        os.unlink(name, dir_fd=folder)
    return None


def _command() -> str:
    """This process' command on one line, cut in the middle where it is long."""
    text = " ".join(shlex.join(sys.orig_argv).split())
    return (
        text
        if len(text) <= _MOST_CHARACTERS
        else f"{text[: _MOST_CHARACTERS // 2]} ... {text[-_MOST_CHARACTERS // 2 :]}"
    )


def _began() -> float:
    """When this process was started."""
    known: tuple[int, float] | None = getattr(_thread, "began", None)
    if known is None or known[0] != os.getpid():
        known = _thread.began = (os.getpid(), psutil.Process().create_time())
    return known[1]


def _is_stopped(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_STOPPED
    except psutil.Error:
        return False


@contextlib.contextmanager
def _place() -> Iterator[tuple[int, int, int]]:
    """The folder, the turnstile and the machine's lock, open, of the first place that is this user's own.

    Raises:
        OSError: there is no such place, nor can one be made.
    """
    refused = []
    for path in _places():
        try:
            files = _open_place(path)
        except OSError as error:
            refused.append(f"{path}: {error.strerror}")
            continue
        _open_files.update(files)
        try:
            yield files
        finally:
            for file in files:
                if file in _open_files:
                    _open_files.remove(file)
                    os.close(file)
        return
    raise OSError(errno.EACCES, f"no folder for the lock of this machine ({'; '.join(refused)}); TMPDIR may name one")


def _places() -> Iterator[Path]:
    """Where the folder may lie, best first; the same for all processes of this user, whoever else was there first."""
    name = f"dualformer-{os.getuid()}"
    yield Path(tempfile.gettempdir(), name)
    yield from (Path(tempfile.gettempdir(), f"{name}-{number}") for number in range(1, 4))
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        yield Path(runtime, name)
    yield Path("/dev/shm", name)
    with contextlib.suppress(RuntimeError):  # no home
        yield Path.home() / ".cache" / f"{name}-{socket.gethostname()}"


def _open_place(path: Path) -> tuple[int, int, int]:
    """Opens a folder that is this user's and nobody else can write to, and its lock files; makes what isn't there.

    Raises:
        OSError: the folder is a link or none, another's, or open to others; or a lock file is a link.
    """
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, mode=0o700)
    opened = [os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)]
    try:
        about = os.fstat(opened[0])
        if about.st_uid != os.getuid():
            raise PermissionError(errno.EPERM, f"it belongs to user {about.st_uid}")
        if about.st_mode & 0o022:
            raise PermissionError(errno.EPERM, f"others can write to it (mode {stat.S_IMODE(about.st_mode):o})")
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        for name in ("turnstile", "machine"):
            opened.append(os.open(name, flags, 0o600, dir_fd=opened[0]))
    except OSError:
        for file in opened:
            os.close(file)
        raise
    folder, turnstile, machine = opened
    return folder, turnstile, machine


def _let_go_in_child() -> None:
    """Closes what a forked process, such as a loader of videos, would share: open files, and with them the locks.

    It may outlive its parent, and would then hold the machine in its place.
    """
    while _open_files:
        os.close(_open_files.pop())
    _thread.holds = False


os.register_at_fork(after_in_child=_let_go_in_child)
