"""Compute runs again that are not ok.

They have the flags of their last launch.

    dualformer retry RUN ... [--status error ...]

RUN is a run's id or the beginning of one; a grid's name stands for all its runs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dualformer.arguments import parse_and_run
from dualformer.results.result import STATUSES
from sweeps.launching import commands, detached, launch_record, ledger
from sweeps.launching.find_runs import UnknownRunError, find_runs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `retry`."""
    parser.add_argument("run", nargs="+", help="run ids, beginnings of ids, or grids")
    failed = [status for status in STATUSES if status != "ok"]
    parser.add_argument(
        "--status", nargs="+", choices=STATUSES, default=failed, help="only runs of these (default: all but ok)"
    )
    commands.add_runs(parser)


def run(options: argparse.Namespace) -> int:
    """Computes finished runs again; returns 0, or 2 for an unknown name."""
    try:
        found = find_runs(options.runs, options.run)
    except UnknownRunError as error:
        return commands.fail(error)
    again: dict[str, list[Path]] = {}
    for run_dir in found:
        if (launch := _last_launch(options.runs, run_dir)) is None:
            print(f"{run_dir.name}: no launch says how to compute it; launch a grid that has it")
        elif not Path(launch["folder"]).is_dir():
            print(f"{run_dir.name}: it was launched in '{launch['folder']}', which is gone; launch its grid again")
        elif ledger.put_aside(run_dir, options.status):
            again.setdefault(json.dumps(launch), []).append(run_dir)
    print(f"{sum(map(len, again.values()))} of {len(found)} runs will be computed again")
    for launch in map(json.loads, again):
        process = detached.start(options.runs.resolve(), launch["grid"], launch["arguments"], launch["folder"])
        print(f"launcher of {launch['grid']}: process {process}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line and runs it; returns the exit status."""
    return parse_and_run(sys.modules[__name__], arguments)


def _last_launch(runs: Path, run_dir: Path) -> dict[str, Any] | None:
    """The newest launch of a run: its grid, the arguments to go on with, and where."""
    launches = [
        {"grid": record.grid, **{name: launch[name] for name in ("arguments", "folder")}}
        for record in launch_record.read_all(runs)
        for launch in record.launches
        if run_dir.name in launch["runs"]
    ]
    return launches[-1] if launches else None
