"""Looks after a sweep from any shell, its launcher alive or gone.

    python -m sweeps logs RUN           what the run printed; --follow goes on printing
    python -m sweeps cancel RUN ...     ends runs, or keeps them from starting; each gets a row that says so
    python -m sweeps retry RUN ...      computes runs again that aren't ok, with the flags of their last launch

RUN is a run's id or the beginning of one; a grid's name stands for all its runs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dualformer.results.result import STATUSES, read_result
from slurm import executors
from sweeps.launching import ledger
from sweeps.launching.sweep import CANCELLED, write_final

_FOLLOW_EVERY_S = 0.5
_WAIT_FOR_END_S = 30.0


class UnknownRunError(ValueError):
    """No run goes by this name, or more than one."""


def find_runs(runs: Path, names: Sequence[str]) -> list[Path]:
    """Returns the folders of the runs that ids, beginnings of ids and names of grids stand for.

    Raises:
        UnknownRunError: a name stands for nothing, or the beginning of an id for several runs.
    """
    found: dict[Path, None] = {}
    for name in names:
        found.update(dict.fromkeys(_members(runs, name) or [_by_prefix(runs, name)]))
    return list(found)


def logs(arguments: Sequence[str] | None = None) -> int:
    """Prints a run's log; returns 0, or 2 where there is none."""
    parser = _parser("Prints what a run printed.", "logs")
    parser.add_argument("run", help="a run id, or the beginning of one")
    parser.add_argument("--follow", action="store_true", help="go on until the run is finished")
    options = parser.parse_args(arguments)
    try:
        run_dir = _by_prefix(options.runs, options.run)
        with open(run_dir / "log", errors="replace") as log:
            sys.stdout.write(log.read())
            while options.follow and read_result(run_dir) is None:
                time.sleep(_FOLLOW_EVERY_S)
                print(log.read(), end="", flush=True)
            sys.stdout.write(log.read())
    except (UnknownRunError, FileNotFoundError) as error:
        return _fail(error)
    return 0


def cancel(arguments: Sequence[str] | None = None) -> int:
    """Ends runs; returns 0, 1 where one would not end, or 2 for an unknown name."""
    parser = _parser("Ends runs, or keeps them from starting.", "cancel")
    parser.add_argument("run", nargs="+", help="run ids, beginnings of ids, or grids")
    options = parser.parse_args(arguments)
    try:
        found = [run_dir for run_dir in find_runs(options.runs, options.run) if read_result(run_dir) is None]
    except UnknownRunError as error:
        return _fail(error)
    ended = [_cancel(run_dir) for run_dir in found]
    print(f"{sum(ended)} of {len(found)} unfinished runs cancelled")
    return 0 if all(ended) else 1


def retry(arguments: Sequence[str] | None = None) -> int:
    """Computes finished runs again; returns 0, or 2 for an unknown name."""
    parser = _parser("Computes runs again, with the flags of their last launch.", "retry")
    parser.add_argument("run", nargs="+", help="run ids, beginnings of ids, or grids")
    failed = [status for status in STATUSES if status != "ok"]
    parser.add_argument("--status", nargs="+", choices=STATUSES, default=failed, help="only these (all but ok)")
    options = parser.parse_args(arguments)
    try:
        found = find_runs(options.runs, options.run)
    except UnknownRunError as error:
        return _fail(error)
    again: dict[str, list[Path]] = {}
    for run_dir in found:
        if (launch := _last_launch(options.runs, run_dir)) is None:
            print(f"{run_dir.name}: no launch says how to compute it; launch a grid that has it")
        elif ledger.put_aside(run_dir, options.status):
            again.setdefault(json.dumps(launch), []).append(run_dir)
    print(f"{sum(map(len, again.values()))} of {len(found)} runs will be computed again")
    for launch in map(json.loads, again):
        print(f"launcher of {launch['grid']}: process {_relaunch(options.runs, launch)}")
    return 0


def _cancel(run_dir: Path) -> bool:
    submission = ledger.open_submission(ledger.read(run_dir))
    ledger.append(run_dir, "cancelled")
    if submission and submission.get("job_id"):
        executors.cancel([submission["job_id"]])
    result = write_final(run_dir, "skipped", CANCELLED, wait_s=_WAIT_FOR_END_S)
    print(f"{run_dir.name}: {result.status if result else 'still running'}")
    return result is not None


def _last_launch(runs: Path, run_dir: Path) -> dict[str, Any] | None:
    """The newest launch of a run: its grid, the arguments to go on with, and where."""
    launches = [
        {"grid": path.name.removesuffix(".grid.json"), **{name: launch[name] for name in ("arguments", "folder")}}
        for path in sorted(runs.glob("*.grid.json"))
        for launch in json.loads(path.read_text(encoding="utf-8")).get("launches", [])
        if run_dir.name in launch["runs"]
    ]
    return launches[-1] if launches else None


def _relaunch(runs: Path, launch: Mapping[str, Any]) -> int:
    from sweeps.launching.launcher import (
        start_detached,  # here, since it brings torch along, which the rest can do without
    )

    return start_detached(runs.resolve(), launch["grid"], launch["arguments"], launch["folder"])


def _members(runs: Path, grid: str) -> list[Path]:
    path = runs / f"{Path(grid).name.removesuffix('.yaml')}.grid.json"
    if not path.is_file():
        return []
    rows = json.loads(path.read_text(encoding="utf-8"))["runs"]
    return [runs / row["run_id"] for row in rows if (runs / row["run_id"]).is_dir()]


def _by_prefix(runs: Path, name: str) -> Path:
    found = [path.parent for path in runs.glob(f"{name}*/config.json")]
    if len(found) != 1:
        raise UnknownRunError(f"{'no run' if not found else f'{len(found)} runs'} in '{runs}' called '{name}'")
    return found[0]


def _parser(description: str, command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m sweeps {command}", description=description, allow_abbrev=False)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where run folders are (default: runs)")
    return parser


def _fail(error: Exception) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 2
