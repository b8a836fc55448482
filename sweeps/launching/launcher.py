"""Run a grid, here or on a cluster.

    dualformer launch --grid ablations.yaml

Runs are started here or on a Slurm cluster; finished ones are skipped, so repeating the command goes on where it was
stopped. A run that fails is a row with its reason and stops no other.

Under `torchrun --nproc-per-node N sweeps/launch.py ...` the N processes, of one machine or of several that see the same
runs folder, compute the runs one after another, each run all together (see `torchrun`). The first process is the one
that launches; a process that fails alone ends them all, and the same command goes on with what is left.

Exit status: 0 all runs are ok, 1 some are not, 2 the grid or a flag is wrong and nothing was started.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dualformer.arguments import parse_and_run, positive
from dualformer.config import ConfigError
from dualformer.results.result import STATUSES
from slurm.places import AUTO, KINDS, may_be_in_this_process
from slurm.task import is_shared
from sweeps.launching import commands
from sweeps.launching.attempt import WORKER

if TYPE_CHECKING:
    from slurm.profile import Profile
    from sweeps.launching.grid import Grid
    from sweeps.launching.planned_run import PlannedRun


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `launch`."""
    fields: dict[str, Any] = {"nargs": "+", "action": "extend", "default": []}
    parser.add_argument("--grid", required=True, help="a grid file, or the name of one of the project's grids")
    parser.add_argument(
        "--executor", choices=KINDS, default=AUTO, help="where runs run (default: auto, Slurm if there is one)"
    )
    parser.add_argument(
        "--profile", help="what the place to run offers: a file, or a name in slurm/profiles (default: none)"
    )
    parser.add_argument(
        "--set", **fields, metavar="FIELD=VALUE", help="a value for every run, whatever the grid says (default: none)"
    )
    parser.add_argument(
        "--axis",
        **fields,
        metavar="FIELD=V1,V2",
        help="values to try, in place of the grid's axis of that field if any (default: the grid's axes)",
    )
    parser.add_argument(
        "--only", **fields, metavar="FIELD=VALUE", help="keep the runs that have this value (default: all)"
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="keep the first N of these runs (default: all)")
    commands.add_runs(parser)
    parser.add_argument(
        "--retry", nargs="+", action="extend", default=[], choices=STATUSES,
        help="compute finished runs of these statuses again (default: none)",
    )  # fmt: skip
    parser.add_argument(
        "--dry-run", action="store_true", help="print every run with its id and start nothing (default: off)"
    )
    parser.add_argument(
        "--no-wait", action="store_true", help="return at once and leave the runs to themselves (default: off)"
    )


def run(options: argparse.Namespace, *, worker: str = WORKER) -> int:
    """Launches a grid and returns the exit status.

    Args:
        options: of `add_arguments`.
        worker: function that computes one run, as "package.module:function".
    """
    if is_shared():
        from sweeps.launching import torchrun  # here: it brings torch along

        return torchrun.launch(lambda lead: _launch(options, lead), worker)
    return _launch(options, worker)


def main(arguments: Sequence[str] | None = None, *, worker: str = WORKER) -> int:
    """Runs the command line and returns its exit status; `worker` as in `run`."""
    if not is_shared():
        return parse_and_run(sys.modules[__name__], arguments, run=lambda options: run(options, worker=worker))
    from sweeps.launching import torchrun

    # The first process parses alone, and tells the others the status of a wrong flag too.
    return torchrun.launch(
        lambda lead: parse_and_run(sys.modules[__name__], arguments, run=lambda options: _launch(options, lead)), worker
    )


def _launch(options: argparse.Namespace, worker: str) -> int:
    from slurm.profile import ProfileError, load_profile
    from sweeps.launching import dry_run, following
    from sweeps.launching.opening import open_sweep, refuse_impossible

    try:
        _check_shared(options)
        profile = load_profile(options.profile)
        grid = _load(options, profile)
        if options.dry_run:
            _try_place(options, grid, profile)
            print("\n".join(dry_run.describe(grid, options.runs, profile)))
            return 0
        refuse_impossible(options, grid, profile)
        sweep = open_sweep(options, grid, profile, worker)
    except (ConfigError, ProfileError, OSError) as error:
        return commands.fail(error)
    return following.leave(sweep, options, grid) if options.no_wait else following.follow(sweep)


def _try_place(options: argparse.Namespace, grid: Grid, profile: Profile) -> None:
    """Refuses what the place that was named can't give; where none was, says so, since the runs may be for another."""
    from slurm.profile import ProfileError
    from sweeps.launching.opening import refuse_impossible

    try:
        refuse_impossible(options, grid, profile)
    except (ConfigError, ProfileError) as error:
        if options.executor != AUTO:
            raise
        print(f"note: here a launch would be refused: {error}", file=sys.stderr)


def _load(options: argparse.Namespace, profile: Profile) -> Grid:
    """Reads the grid and refuses what no run of it could get by."""
    from slurm.profile import ProfileError
    from sweeps.launching.grid import load_grid
    from sweeps.launching.grid_check import check_startable

    def fits(planned: PlannedRun) -> None:
        try:
            profile.changed(**planned.resources)
        except ProfileError as error:
            raise ConfigError(f"resources: {error}") from None

    grid = load_grid(options.grid, overrides=options.set, axes=options.axis, only=options.only, limit=options.limit)
    check_startable(grid.name, grid.runs, fits)
    return grid


def _check_shared(options: argparse.Namespace) -> None:
    """Refuses what processes that torchrun started can't do together."""
    if not is_shared():
        return
    if not may_be_in_this_process(options.executor):
        raise ConfigError(
            f"--executor {options.executor}: the processes that torchrun started compute the runs themselves; "
            "leave the flag out, or torchrun"
        )
    if options.no_wait:
        raise ConfigError("--no-wait: torchrun ends its processes with the launcher; leave out the flag, or torchrun")
