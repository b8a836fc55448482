"""Runs a grid: `python sweeps/launch.py --grid ablations.yaml`.

Runs are started here or on a Slurm cluster; finished ones are skipped, so repeating the command goes on where it was
stopped. A run that fails is a row with its reason and stops no other.

Under `torchrun --nproc-per-node N sweeps/launch.py ...` the N processes, of one machine or of several that see the same
runs folder, compute the runs one after another, each run all together (see `distributed`). The first process is the one
that launches; a process that fails alone ends them all, and the same command goes on with what is left.

Exit status: 0 all runs are ok, 1 some are not, 2 the grid or a flag is wrong and nothing was started.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from dualformer.config import ConfigError
from dualformer.results.files import is_disk_full
from dualformer.results.result import STATUSES, Result
from slurm.executors import KINDS, Executor, SubmitError, make_executor
from slurm.profile import Profile, ProfileError, load_profile
from slurm.task import num_processes, on_torchrun
from sweeps import source
from sweeps.launching import dry_run as plan
from sweeps.launching import ledger, snapshot
from sweeps.launching.attempt import WORKER
from sweeps.launching.grid import Grid, load_grid
from sweeps.launching.launch_record import note_launch
from sweeps.launching.run_status import progress
from sweeps.launching.sweep import SUBMISSIONS, Sweep

_POLL_S = 0.25
_REPORT_EVERY_S = 15.0
_FULL_DISK_S = 5.0


def main(arguments: Sequence[str] | None = None, *, worker: str = WORKER) -> int:
    """Runs the command line and returns its exit status.

    Args:
        arguments: as typed; None means those of this process.
        worker: function that computes one run, as "package.module:function".
    """
    if _is_shared():
        from sweeps.launching import torchrun  # here: it brings torch along

        return torchrun.launch(lambda lead: _main(arguments, lead), worker)
    return _main(arguments, worker)


def _main(arguments: Sequence[str] | None, worker: str) -> int:
    options = _parser().parse_args(arguments)
    try:
        _check_shared(options)
        grid = load_grid(options.grid, overrides=options.set, only=options.only)
        profile = load_profile(options.profile)
        if options.dry_run:
            print("\n".join(plan.describe(grid, options.runs, profile)))
            return 0
        sweep = _open(options, grid, profile, worker)
    except (ConfigError, ProfileError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        return _launch_and_leave(sweep, options, grid) if options.no_wait else _follow(sweep)
    except SubmitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if sweep.active or sweep.results else 2


def _open(options: argparse.Namespace, grid: Grid, profile: Profile, worker: str) -> Sweep:
    """Prepares all that a sweep needs on disk, and starts nothing yet."""
    threads = max(cell.config.threads for cell in grid.cells)
    code = snapshot.take(options.runs)
    executor = _make_executor(options, profile, threads, code)
    _refuse_impossible(grid, executor)
    kept, gone = note_launch(options.runs, grid, _again(options))
    if kept:
        _say(f"{grid.name}: {kept} runs of its earlier launches are listed as well, until their folders are removed")
    if gone:
        _say(
            f"{grid.name}: {gone} runs of earlier launches are no longer listed: gone, or not what they would be today"
        )
    for cell in grid.cells:
        ledger.put_aside(options.runs / cell.run_id, options.retry)
    # The debug executor stays in this process, and with the code that it has loaded already.
    expected = "" if executor.kind == "debug" else code.name
    sweep = Sweep(options.runs, grid.cells, executor, profile, worker=worker, code=expected, announce=_say)
    _say(f"{grid.name}: {len(sweep.cells)} runs, {len(sweep.results)} finished before; {executor.kind} executor")
    _note_other_code(sweep, code.name)
    return sweep


def _make_executor(options: argparse.Namespace, profile: Profile, threads: int, code: Path) -> Executor:
    folder = options.runs / SUBMISSIONS
    if not _is_shared():
        return make_executor(options.executor, folder, profile, threads=threads, code=code)
    from sweeps.launching.torchrun import TeamRunner

    return TeamRunner(folder)


def _is_shared() -> bool:
    """Whether other processes wait for this one to launch."""
    return on_torchrun() and num_processes() > 1


def _check_shared(options: argparse.Namespace) -> None:
    """Refuses what processes that torchrun started can't do together."""
    if not _is_shared():
        return
    if options.executor not in ("auto", "debug"):
        raise ConfigError(
            f"--executor {options.executor}: the processes that torchrun started compute the runs themselves; "
            "leave the flag out, or torchrun"
        )
    if options.no_wait:
        raise ConfigError("--no-wait: torchrun ends its processes with the launcher; leave out the flag, or torchrun")


def _refuse_impossible(grid: Grid, executor: Executor) -> None:
    """Raises `ConfigError` where a run asks for more than there is here, which it would wait for in vain."""
    for cell in grid.cells:
        if reason := executor.why_never(cell.config.resources.to_dict()):
            raise ConfigError(f"{cell.name}: {reason} ({executor.kind} executor); nothing was started")


def _follow(sweep: Sweep) -> int:
    """Waits until every run is finished, telling how it goes; Ctrl-C ends local runs and keeps what is done."""
    clock = _Clock()
    try:
        with _termination_as_interrupt():
            while not sweep.done:
                for run_id in _step(sweep):
                    _say(f"[{clock}] {_row(sweep, run_id)}")
                if clock.due():
                    _say(f"[{clock}] {_counts(sweep)}")
                time.sleep(_POLL_S)
    except KeyboardInterrupt:
        _say("stopping...")
        sweep.stop()
        _say(f"stopped: {_counts(sweep)}; jobs on a cluster go on; the same command goes on from here")
        return 1
    return _summary(sweep, clock)


def _note_other_code(sweep: Sweep, code: str) -> None:
    """Says so where finished runs and those to come would not be of one code; which of them to keep is up to people."""
    codes = Counter()
    for run_id in sweep.results:
        with contextlib.suppress(OSError, ValueError):
            codes[json.loads((sweep.runs / run_id / "provenance.json").read_text()).get("code")] += 1
    if others := {found: count for found, count in codes.items() if found != code}:
        told = ", ".join(f"{count} by {found}" for found, count in others.items())
        _say(
            f"note: this is code {code}, and finished runs were computed by other code ({told}); --retry ok redoes them"
        )


def _step(sweep: Sweep) -> list[str]:
    """One step, after waiting for room on a full disk."""
    while True:
        try:
            return sweep.step()
        except OSError as error:
            if not is_disk_full(error):
                raise
            _say(f"{error}; trying again in {_FULL_DISK_S:.0f} s")
            time.sleep(_FULL_DISK_S)


def _launch_and_leave(sweep: Sweep, options: argparse.Namespace, grid: Grid) -> int:
    """Submits what a cluster takes now; the rest, and all local runs, are left to a detached launcher."""
    if sweep.outlives_launcher:
        sweep.step()
    if sweep.num_waiting:
        process = start_detached(options.runs, grid.name, _again(options))
        _say(f"the rest is in the hands of process {process}, which writes {options.runs / _log_name(grid.name)}")
    _say(f"{_counts(sweep)}; see python sweeps/status.py --runs {sweep.runs}")
    return 0 if all(result.status == "ok" for result in sweep.results.values()) else 1


def start_detached(runs: Path, grid: str, arguments: Sequence[str], cwd: str | None = None) -> int:
    """Starts a launcher that needs no shell, and returns the number of its process."""
    command = [sys.executable, str(source.ROOT / "sweeps" / "launch.py"), *arguments]
    with open(runs / _log_name(grid), "ab") as log:
        streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
        return subprocess.Popen(command, **streams, cwd=cwd, start_new_session=True).pid


def _log_name(grid: str) -> str:
    return f"{grid}.launch.log"


def _again(options: argparse.Namespace) -> list[str]:
    """The arguments that go on with this launch, without those that were for once."""
    arguments = ["--grid", options.grid, "--executor", options.executor, "--runs", str(options.runs)]
    arguments += ["--profile", options.profile] if options.profile else []
    arguments += ["--set", *options.set] if options.set else []
    return arguments + (["--only", *options.only] if options.only else [])


def _summary(sweep: Sweep, clock: _Clock) -> int:
    failed = {run_id: result for run_id, result in sweep.results.items() if result.status != "ok"}
    for run_id, result in failed.items():
        _say(f"{run_id} {result.status}: {result.reason}")
    _say(f"[{clock}] {_counts(sweep)}; results are in {sweep.runs}/<run id>/result.json")
    return 1 if failed else 0


def _counts(sweep: Sweep) -> str:
    counts = Counter(result.status for result in sweep.results.values())
    parts = [f"{len(sweep.results)} of {len(sweep.cells)} finished"]
    parts += [f"{counts[status]} {status}" for status in STATUSES if counts[status] and status != "ok"]
    if sweep.active or sweep.num_waiting:
        parts.append(f"{len(sweep.active)} under way, {sweep.num_waiting} waiting")
    working = [f"{run_id} {step}" for run_id in sweep.active if (step := progress(sweep.runs / run_id))]
    return ", ".join(parts) + (f"; {', '.join(working[:4])}" if working else "")


def _row(sweep: Sweep, run_id: str) -> str:
    result, cell = sweep.results[run_id], sweep.cells[run_id]
    return f"{run_id} {result.status}  {cell.label}  {_figures(result)}"


def _figures(result: Result) -> str:
    if result.status != "ok":
        return result.reason.splitlines()[0][:160]
    shown = []
    if result.top1 is not None:
        shown.append(f"top-1 {result.top1:.3f}")
    if result.gmacs_per_view is not None:
        shown.append(f"{result.gmacs_per_view:.3g} GMACs")
    if result.latency_ms_p50 is not None:
        shown.append(f"{result.latency_ms_p50:.1f} ms")
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


def _say(message: str) -> None:
    print(message, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    fields = {"nargs": "+", "action": "extend", "default": [], "metavar": "FIELD=VALUE"}
    parser.add_argument("--grid", required=True, help="a grid file, or the name of one of the project's grids")
    parser.add_argument(
        "--executor", choices=KINDS, default="auto", help="where runs run (auto: Slurm if there is one)"
    )
    parser.add_argument("--profile", help="what the place to run offers: a file, or a name in slurm/profiles")
    parser.add_argument("--set", **fields, help="a value for every run, whatever the grid says")
    parser.add_argument("--only", **fields, help="keep the runs that have this value")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where run folders are (default: runs)")
    parser.add_argument(
        "--retry",
        nargs="+",
        action="extend",
        default=[],
        choices=STATUSES,
        help="compute finished runs of a status again",
    )
    parser.add_argument("--dry-run", action="store_true", help="print every run with its id and start nothing")
    parser.add_argument("--no-wait", action="store_true", help="return at once and leave the runs to themselves")
    return parser
