"""Print what a run printed.

    dualformer logs RUN [--follow]

RUN is a run's id or the beginning of one.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from dualformer.arguments import parse_and_run
from dualformer.results import layout
from dualformer.results.result import read_result
from sweeps.launching import commands
from sweeps.launching.find_runs import UnknownRunError, find_run

_FOLLOW_EVERY_S = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `logs`."""
    parser.add_argument("run", help="a run id, or the beginning of one")
    parser.add_argument("--follow", action="store_true", help="go on until the run is finished (default: off)")
    commands.add_runs(parser)


def run(options: argparse.Namespace) -> int:
    """Prints a run's log; returns 0, or 2 where there is none."""
    try:
        run_dir = find_run(options.runs, options.run)
        with open(run_dir / layout.LOG, errors="replace") as log:
            sys.stdout.write(log.read())
            while options.follow and read_result(run_dir) is None:
                time.sleep(_FOLLOW_EVERY_S)
                print(log.read(), end="", flush=True)
            sys.stdout.write(log.read())
    except (UnknownRunError, OSError) as error:
        return commands.fail(error)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line and runs it; returns the exit status."""
    return parse_and_run(sys.modules[__name__], arguments)
