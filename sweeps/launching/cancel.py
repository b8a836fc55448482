"""End runs, or keep them from starting.

Each gets a row that says so.

    dualformer cancel RUN ...

RUN is a run's id or the beginning of one; a grid's name stands for all its runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dualformer.arguments import parse_and_run
from dualformer.results.result import read_result
from slurm import places
from sweeps.launching import commands, ledger
from sweeps.launching.find_runs import UnknownRunError, find_runs
from sweeps.launching.losses import CANCELLED, write_final

_WAIT_FOR_END_S = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `cancel`."""
    parser.add_argument("run", nargs="+", help="run ids, beginnings of ids, or grids")
    commands.add_runs(parser)


def run(options: argparse.Namespace) -> int:
    """Ends runs; returns 0, 1 where one would not end, or 2 for an unknown name."""
    try:
        found = [run_dir for run_dir in find_runs(options.runs, options.run) if read_result(run_dir) is None]
    except UnknownRunError as error:
        return commands.fail(error)
    ended = [_cancel(run_dir) for run_dir in found]
    print(f"{sum(ended)} of {len(found)} unfinished runs cancelled")
    return 0 if all(ended) else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line and runs it; returns the exit status."""
    return parse_and_run(sys.modules[__name__], arguments)


def _cancel(run_dir: Path) -> bool:
    submission = ledger.open_submission(ledger.read(run_dir))
    ledger.append(run_dir, "cancelled")
    if submission and submission.job_id:
        places.cancel([submission.job_id])
    result = write_final(run_dir, "skipped", CANCELLED, wait_s=_WAIT_FOR_END_S)
    print(f"{run_dir.name}: {result.status if result else 'still running'}")
    return result is not None
