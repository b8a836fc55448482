"""Calls commands as a hostile user would, within bounds: no traceback, seconds of work at most, little memory."""

from __future__ import annotations

import contextlib
import io
import resource
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from hypothesis import HealthCheck, settings

MOST_S = 2.0
"""Of a core's time: what a command may take to refuse something, or to accept it."""
STUCK_S = 30.0
"""Of anybody's time, in which a command that waits for something would have had it."""
MOST_BYTES = 200 << 20
MOST_CHARACTERS = 4000


def fuzzed(examples: int) -> settings:
    """Settings of a property-based test: the same examples each time, however slow the machine, and no files."""
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def call(main: Callable[[Sequence[str]], int], *arguments: str, statuses: Sequence[int] = (0, 2)) -> tuple[int, str]:
    """Runs a command within bounds and returns its status and all that it printed.

    What it raises is raised. A status of 2 must come with a word on stderr.
    """
    out, err = io.StringIO(), io.StringIO()
    with within_bounds(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(arguments)
        except SystemExit as left:  # argparse's way to refuse a flag
            status = left.code if isinstance(left.code, int) else 2
    said = err.getvalue()
    assert status in statuses, f"status {status}: {out.getvalue()}{said}"
    assert "Traceback" not in out.getvalue() + said
    if status == 2:
        assert said.strip() and len(said) < MOST_CHARACTERS, said
    return status, out.getvalue() + said


@contextlib.contextmanager
def within_bounds() -> Iterator[None]:
    """Raises where the block takes more time or memory than looking at a text can be worth."""
    before_peak = resource.getrlimit(resource.RLIMIT_AS)
    taken = _status_kib("VmSize") << 10
    resource.setrlimit(resource.RLIMIT_AS, (taken + 5 * MOST_BYTES, before_peak[1]))  # so that the machine survives
    Path("/proc/self/clear_refs").write_text("5")  # the peak is the present from here on
    resident = _status_kib("VmRSS")
    try:
        with _alarm(signal.SIGPROF, signal.ITIMER_PROF, MOST_S), _alarm(signal.SIGALRM, signal.ITIMER_REAL, STUCK_S):
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before_peak)
    grown = (_status_kib("VmHWM") - resident) << 10
    assert grown < MOST_BYTES, f"took {grown >> 20} MiB more"


@contextlib.contextmanager
def _alarm(number: signal.Signals, timer: int, seconds: float) -> Iterator[None]:
    def ring(*_: object) -> NoReturn:
        raise TimeoutError(f"no end within {seconds} s")

    before = signal.signal(number, ring)
    signal.setitimer(timer, seconds)  # type: ignore[arg-type]
    try:
        yield
    finally:
        signal.setitimer(timer, 0)  # type: ignore[arg-type]
        signal.signal(number, before)


def _status_kib(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1])
