"""Show where the runs of a sweep stand.

From any shell: `dualformer status [--grid NAME] [--runs DIR]`.

On a terminal the table stays and is kept up to date until all runs are finished or Ctrl-C; elsewhere it is printed
once. It comes from files alone, so it answers at once, also when the launcher is gone; what Slurm says is a hint.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from dualformer.arguments import one_line, parse_and_run
from sweeps.launching import commands, launch_record
from sweeps.launching.run_status import RunStatus, run_status

_REFRESH_S = 2.0
_COLUMNS = ("run", "state", "try", "progress", "left", "node", "differs", "note")

Tables = dict[str, list[RunStatus]]
"""Where the runs of each grid stand, in the grid's order."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `status`."""
    parser.add_argument("--grid", help="only this grid, by name or file (default: all that were launched)")
    commands.add_runs(parser)
    parser.add_argument("--once", action="store_true", help="print the table once, on a terminal too (default: off)")


def run(options: argparse.Namespace) -> int:
    """Prints the tables; returns 0, or 2 where there is nothing to show."""
    if not launch_record.read_all(options.runs, options.grid):
        return commands.fail(f"no grid '{options.grid or '*'}' was launched into '{options.runs}'")
    tables = read_tables(options.runs, options.grid)
    if not sys.stdout.isatty() or options.once:
        print("\n".join(_lines(tables)))
        return 0
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            _redraw(_lines(tables))
            if all(status.finished for statuses in tables.values() for status in statuses):
                break
            time.sleep(_REFRESH_S)
            tables = read_tables(options.runs, options.grid)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line and runs it; returns the exit status."""
    return parse_and_run(sys.modules[__name__], arguments)


def read_tables(runs: Path, grid: str | None = None) -> Tables:
    """Returns where all runs stand that were launched into a folder, by grid."""
    tables: Tables = {}
    for record in launch_record.read_all(runs, grid):
        for listed in record.runs:
            differs = " ".join(f"{field}={value}" for field, value in (listed.get("differs") or {}).items())
            tables.setdefault(record.grid, []).append(_look(runs / listed["run_id"], differs))
    return tables


def _look(run_dir: Path, differs: str) -> RunStatus:
    try:
        return run_status(run_dir, differs)
    except OSError as error:
        return RunStatus(run_dir.name, "unreadable", differs=differs, note=str(error))


def _lines(tables: Tables) -> list[str]:
    lines = []
    for grid, statuses in tables.items():
        texts = [_COLUMNS, *(tuple(one_line(value) for value in dataclasses.astuple(status)) for status in statuses)]
        used = [index for index in range(len(_COLUMNS)) if any(text[index] for text in texts[1:])]
        widths = {index: max(len(text[index]) for text in texts) for index in used}
        lines += ["  ".join(f"{text[index]:{widths[index]}}" for index in used).rstrip() for text in texts]
        counts = Counter(status.state for status in statuses)
        states = ", ".join(f"{count} {state}" for state, count in counts.items())
        lines.append(f"{one_line(grid)}: {len(statuses)} runs, {states}")
    return lines


def _redraw(lines: Sequence[str]) -> None:
    """Draws over the last table; more runs than the terminal has lines leave the first ones out."""
    columns, height = shutil.get_terminal_size()
    shown = [line[:columns] for line in lines[-(height - 1) :]]
    print("\033[H\033[J" + "\n".join(shown), flush=True)
