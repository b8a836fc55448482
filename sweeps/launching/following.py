"""Follows a sweep to its end and tells how it goes, or leaves it to itself."""

from __future__ import annotations

import argparse
import contextlib
import signal
import time
from collections import Counter
from collections.abc import Iterator
from typing import NoReturn

from dualformer.results import layout
from dualformer.results.disturbance import MARK, disturbances
from dualformer.results.files import is_disk_full
from dualformer.results.result import STATUSES, Result
from slurm.executor import SubmitError
from sweeps.launching import commands, detached
from sweeps.launching.grid import Grid
from sweeps.launching.opening import say
from sweeps.launching.run_status import activity
from sweeps.launching.sweep import Sweep

_POLL_S = 0.25
_REPORT_EVERY_S = 15.0
_FULL_DISK_S = 5.0
_SHOWN = 4


def follow(sweep: Sweep) -> int:
    """Waits until every run is finished; Ctrl-C ends local runs and keeps what is done.

    Returns:
        The exit status. Whatever ends the launcher, what needs it ends with it.
    """
    clock = _Clock()
    try:
        with _termination_as_interrupt():
            _follow(sweep, clock)
    except KeyboardInterrupt:
        say("stopping...")
        sweep.stop()
        say(f"stopped: {_counts(sweep)}; jobs on a cluster go on; the same command goes on from here")
        return 1
    except (SubmitError, OSError) as error:
        return _give_up(sweep, error)
    except BaseException:
        sweep.stop()
        raise
    return _summary(sweep, clock)


def leave(sweep: Sweep, options: argparse.Namespace, grid: Grid) -> int:
    """Submits what a cluster takes now; the rest, and all local runs, are left to a detached launcher."""
    try:
        if sweep.executor.outlives_launcher:
            sweep.step()
    except (SubmitError, OSError) as error:
        return _give_up(sweep, error)
    state = sweep.state
    if state.waiting:
        process = detached.start(options.runs, grid.name, detached.arguments_to_go_on(options))
        log = detached.log_path(options.runs, grid.name)
        say(f"the rest is in the hands of process {process}, which writes {log}")
    say(f"{_counts(sweep)}; see dualformer status --runs {state.runs}")
    return 0 if all(result.status == "ok" for result in state.results.values()) else 1


def _follow(sweep: Sweep, clock: _Clock) -> None:
    while not sweep.state.done:
        for run_id in _step(sweep):
            say(f"[{clock}] {_row(sweep, run_id)}")
        if clock.due():
            say(f"[{clock}] {_counts(sweep)}")
        time.sleep(_POLL_S)


def _step(sweep: Sweep) -> list[str]:
    """One step, after waiting for room on a full disk."""
    while True:
        try:
            return sweep.step()
        except OSError as error:
            if not is_disk_full(error):
                raise
            say(f"{error}; trying again in {_FULL_DISK_S:.0f} s")
            time.sleep(_FULL_DISK_S)


def _give_up(sweep: Sweep, error: Exception) -> int:
    """Ends what needs this launcher; status 2 where nothing had been started."""
    sweep.stop()
    refused = commands.fail(error)
    return 1 if sweep.is_under_way else refused


def _summary(sweep: Sweep, clock: _Clock) -> int:
    results = sweep.state.results
    failed = {run_id: result for run_id, result in results.items() if result.status != "ok"}
    for run_id, result in failed.items():
        say(f"{run_id} {result.status}: {result.reason}")
    say(f"[{clock}] {_counts(sweep)}; results are in {sweep.state.runs}/<run id>/{layout.RESULT}")
    if failed:
        statuses = [status for status in STATUSES if any(result.status == status for result in failed.values())]
        say(f"the same command with --retry {' '.join(statuses)} computes the {len(failed)} that failed again")
    return 1 if failed else 0


def _counts(sweep: Sweep) -> str:
    state = sweep.state
    counts: Counter[str] = Counter(result.status for result in state.results.values())
    parts = [f"{len(state.results)} of {len(state.planned)} finished"]
    parts += [f"{counts[status]} {status}" for status in STATUSES if counts[status] and status != "ok"]
    if state.active or state.waiting:
        parts.append(f"{len(state.active)} under way, {len(state.waiting)} waiting")
    working = [f"{run_id} {activity(state.folder(run_id))}" for run_id in list(state.active)[:_SHOWN]]
    return "; ".join([", ".join(parts), *working])


def _row(sweep: Sweep, run_id: str) -> str:
    result = sweep.state.results[run_id]
    return f"{run_id} {result.status}  {sweep.state.planned[run_id].label}  {_figures(result)}"


def _figures(result: Result) -> str:
    if result.status != "ok":
        return (result.reason.splitlines() or [""])[0][:160]
    shown = []
    if result.top1 is not None:
        shown.append(f"top-1 {result.top1:.3f}")
    if result.gmacs_per_view is not None:
        shown.append(f"{result.gmacs_per_view:.3g} GMACs")
    against = "; ".join(disturbances(result.to_dict()))
    if result.latency_ms_p50 is not None:
        shown.append(f"{result.latency_ms_p50:.1f} ms" + (f"{MARK} ({against})" if against else ""))
    elif against:
        shown.append(against)
    return ", ".join(shown)


class _Clock:
    """Time since the start, and whether it is time for another report."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._next = self._start + _REPORT_EVERY_S

    def __str__(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self._start), 60)
        return f"{minutes:d}:{seconds:02d}"

    def due(self) -> bool:
        if time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + _REPORT_EVERY_S
        return True


@contextlib.contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """Being told to end, or losing the terminal, is like Ctrl-C, unless `nohup` asked to ignore it."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
