"""Tell hours and energy of a grid beforehand.

By rates that were measured: device-hours, wall time, energy.

    dualformer cost --grid ablations.yaml --results analysis/results --devices 2
    dualformer cost --clips-per-s 8.1 --epochs 30 --videos 240000 --devices 8 --watts 400

The first form plans a grid from runs that are finished (a folder of runs, a table, or a folder of tables), the second
a recipe at a given rate of one device. A rate is taken from a run that trained the same network on the same data with
the same batch size, threads and device, whatever its seed and steps. Where none did, it is a third of the
forward throughput of the same network, and said to be a guess. Evaluating, timing and starting are left out everywhere.
What no finished run tells is unknown, and never nothing.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from dualformer.arguments import parse_and_run, positive, positive_number, program
from dualformer.config import ConfigError, flatten
from dualformer.data.config import DataConfig
from dualformer.results import result_set
from dualformer.results.result_set import ResultSetError
from sweeps.launching.planned_run import PlannedRun
from sweeps.measuring.cost import Cost, Rates, Row, describe, summary, training_cost
from sweeps.measuring.options import ended
from sweeps.run_config import RunConfig
from sweeps.training.schedule import Schedule


def estimate(planned: Iterable[PlannedRun], rows: Iterable[Row], *, watts: float | None = None) -> dict[str, Cost]:
    """Costs of the runs of a grid whose rate is known, by run id; runs that train nothing cost nothing.

    Args:
        planned: the runs to plan.
        rows: finished runs.
        watts: average power of one device, in place of what meters said.
    """
    rates, costs = Rates(rows), {}
    for run in planned:
        clips = training_clips(run.config)
        cost = None if clips is None else rates.cost(flatten(run.config.to_dict()), clips, watts)
        if cost is not None:
            costs[run.run_id] = cost
    return costs


def training_clips(config: RunConfig) -> int | None:
    """Clips that a run passes through training; None where that takes a data set that can't be read."""
    videos = 0 if config.train.epochs is None else _training_videos(config.data)
    return None if videos is None else Schedule.of(config.train, videos).end * config.train.batch_size


@functools.cache
def _training_videos(config: DataConfig) -> int | None:
    if config.root == "embedded":  # its size is known without drawing it
        return config.embedded.num_train
    from dualformer.data.dataset import load_manifest  # here: it needs the decoders of videos, and nothing else does
    from dualformer.data.files import DataError

    try:
        return len(load_manifest(config).split("train", config.holdout, config.fold))
    except (DataError, OSError):
        return None


def read_rows(path: Path) -> list[Row]:
    """Finished runs of a folder of runs, of a table, or of all tables below a folder; none where there is nothing."""
    try:
        return [row for found in result_set.read(path) for row in found.rows]
    except ResultSetError:
        return []


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    of_grid = parser.add_argument_group("cost of a grid, by finished runs")
    of_grid.add_argument("--grid", help="a grid file, or the name of one of the project's grids (no default)")
    of_grid.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="FIELD=VALUE",
        help="changes a field of every run (default: nothing)",
    )
    of_grid.add_argument(
        "--results",
        type=Path,
        default=Path("runs"),
        help="a folder of finished runs, a table, or a folder of tables (default: runs)",
    )
    of_recipe = parser.add_argument_group("cost of a recipe, at a given rate")
    of_recipe.add_argument(
        "--clips-per-s", type=positive_number, metavar="X", help="clips a second that one device trains (no default)"
    )
    of_recipe.add_argument("--epochs", type=positive_number, metavar="X", help="passes over all videos (no default)")
    of_recipe.add_argument(
        "--videos", type=positive_number, metavar="X", help="of an epoch, one clip of each (no default)"
    )
    parser.add_argument("--devices", type=positive, default=1, metavar="N", help="how many there are (default: 1)")
    parser.add_argument(
        "--watts", type=positive_number, metavar="X", help="average power of one device (default: what meters said)"
    )


def run(options: argparse.Namespace) -> int:
    """Prints what is asked for; returns the exit status."""
    return ended("cost", lambda: _cost_of_grid(options) if options.grid else _cost_of_recipe(options))


def _cost_of_recipe(options: argparse.Namespace) -> int:
    if not (options.clips_per_s and options.epochs and options.videos):
        raise ConfigError("give --grid and --results, or --clips-per-s, --epochs and --videos")
    cost = training_cost(options.epochs * options.videos, options.clips_per_s, watts=options.watts)
    # One training shared by all devices, as quick as if each did its part alone.
    wall, energy = cost.device_hours / options.devices, cost.energy_kwh
    said = "energy unknown" if energy is None else f"{energy:.3g} kWh"
    print(f"{cost.device_hours:.4g} device-hours, {wall:.3g} h on {options.devices} devices, {said}")
    return 0


def _cost_of_grid(options: argparse.Namespace) -> int:
    from sweeps.launching.grid import load_grid  # here: checking a grid builds its networks

    grid = load_grid(options.grid, overrides=options.set)
    rows = read_rows(options.results)
    if not rows:
        print(f"{program('cost')}: no finished runs in {options.results}, so no rate is known", file=sys.stderr)
    costs = estimate(grid.runs, rows, watts=options.watts)
    for planned in grid.runs:
        print(f"{planned.run_id}  {planned.label}  {describe(costs.get(planned.run_id))}")
    print(f"{grid.name}: {summary(list(costs.values()), len(grid.runs) - len(costs), options.devices)}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line and runs it; returns the exit status."""
    return parse_and_run(sys.modules[__name__], arguments, prog="cost")


if __name__ == "__main__":
    sys.exit(main())
