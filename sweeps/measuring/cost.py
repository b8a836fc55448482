"""What training would cost, by rates that were measured: device-hours, wall time, energy.

    dualformer cost --grid ablations.yaml --results analysis/results --devices 2
    dualformer cost --clips-per-s 8.1 --epochs 30 --videos 240000 --devices 8 --watts 400

The first form plans a grid from runs that are finished (a folder of runs, a table, or a folder of tables), the second
a recipe at a given rate of one device. A rate is taken from a run that trained the same network on the same data with
the same batch size, threads and device, whatever its seed and steps. Where none did, it is a third of the
forward throughput of the same network: backward does twice the multiply-accumulates of forward
(`dualformer.macs.count_training_macs`). That leaves out reading data and the optimiser, and is said to be a guess.
Evaluating, timing and starting are left out everywhere. What no finished run tells is unknown, and never nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import heapq
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dualformer.arguments import parse_and_run, positive, positive_number, program
from dualformer.config import ConfigError, flatten
from dualformer.data.config import DataConfig
from dualformer.results import result_set
from dualformer.results.result_set import ResultSetError
from sweeps.launching.planned_run import PlannedRun
from sweeps.measuring.options import ended
from sweeps.run_config import RunConfig
from sweeps.training.schedule import Schedule

TRAINING_OVER_FORWARD = 3
NETWORK = ("device", "threads", "model.")
TRAINING = (
    *NETWORK,
    "data.",
    "train.batch_size",
    "train.micro_steps",
    "train.precision",
    "train.token_labels.",
    "train.num_workers",
)
"""Fields, or their beginnings, that decide how quickly a clip passes forward, and in training."""

FILES_OF_WEIGHTS = ("model.weights", "train.token_labels.weights")
"""Fields among those that don't."""

Row = Mapping[str, Any]
"""Fields of a finished run, dotted: its config and its result."""

Alike = frozenset[tuple[str, Any]]


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one training costs.

    Attributes:
        device_hours: hours of one device.
        energy_kwh: above idling where a meter was read, all of it where watts were given; None where neither is.
        ground: where the rate comes from.
    """

    device_hours: float
    energy_kwh: float | None
    ground: str


def training_cost(
    clips: float,
    clips_per_s: float,
    *,
    joules_per_clip: float | None = None,
    watts: float | None = None,
    ground: str = "given",
) -> Cost:
    """Cost of passing `clips` through training.

    Args:
        clips: epochs x videos, or steps x batch size.
        clips_per_s: rate of one device.
        joules_per_clip: of a clip in training.
        watts: average power of one device, in place of a meter.
        ground: where the rate comes from.
    """
    hours = clips / clips_per_s / 3600
    if watts is not None:
        return Cost(hours, hours * watts / 1e3, ground)
    return Cost(hours, None if joules_per_clip is None else clips * joules_per_clip / 3.6e6, ground)


def wall_hours(hours: Sequence[float], devices: int) -> float:
    """Hours until runs of one device each are through, started in order as devices become free."""
    free = [0.0] * min(devices, max(1, len(hours)))
    for taken in hours:
        heapq.heapreplace(free, free[0] + taken)
    return max(free)


def estimate(planned: Iterable[PlannedRun], rows: Iterable[Row], *, watts: float | None = None) -> dict[str, Cost]:
    """Costs of the runs of a grid whose rate is known, by run id; runs that train nothing cost nothing.

    Args:
        planned: the runs to plan.
        rows: finished runs.
        watts: average power of one device, in place of what meters said.
    """
    alike: dict[Alike, list[Row]] = {}
    for row in rows:
        alike.setdefault(_alike(row, NETWORK), []).append(row)
    costs = {}
    for run in planned:
        config, clips = flatten(run.config.to_dict()), training_clips(run.config)
        if clips == 0:
            costs[run.run_id] = Cost(0.0, 0.0, "trains nothing")
        elif clips is not None and (rate := _rate(config, alike.get(_alike(config, NETWORK), []))):
            costs[run.run_id] = training_cost(clips, watts=watts, **rate)
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


def describe(cost: Cost | None) -> str:
    """One cost in words."""
    if cost is None:
        return "rate unknown"
    if not cost.device_hours:
        return cost.ground
    energy = "" if cost.energy_kwh is None else f", {cost.energy_kwh:.2g} kWh"
    return f"about {duration(cost.device_hours)}{energy} ({cost.ground})"


def duration(hours: float) -> str:
    """Hours as text, in minutes where they are few."""
    return f"{hours:.3g} h" if hours >= 1 else f"{60 * hours:.2g} min"


def summary(costs: Sequence[Cost], num_unknown: int, devices: int) -> str:
    """The sum of costs in words, and what it leaves out."""
    if num_unknown and not any(cost.device_hours for cost in costs):
        return f"time and energy unknown: no measured rate for {num_unknown} runs that train"
    hours = [cost.device_hours for cost in costs]
    energies = [cost.energy_kwh for cost in costs if cost.energy_kwh is not None]
    energy = f"{sum(energies):.3g} kWh" if len(energies) == len(costs) else "energy unknown"
    wall = duration(wall_hours(hours, devices))
    text = f"{duration(sum(hours))} of devices, {wall} on {devices} of them, {energy}"
    return text + (f"; {num_unknown} more runs have no measured rate" if num_unknown else "")


def _rate(config: Row, alike: Sequence[Row]) -> dict[str, Any] | None:
    """Arguments of `training_cost` by what finished runs of a network took; None where none says."""
    joules = _median(row.get("energy_j_per_clip") for row in alike)
    energy = {"joules_per_clip": None if joules is None else TRAINING_OVER_FORWARD * joules}
    wanted = _alike(config, TRAINING)
    trained = _median(row.get("train_clips_per_s") for row in alike if _alike(row, TRAINING) == wanted)
    if trained:
        return {"clips_per_s": trained, "ground": f"{trained:.3g} clips/s measured in training", **energy}
    forward = _median(row.get("throughput_clips_per_s") for row in alike)
    if forward:
        guess = forward / TRAINING_OVER_FORWARD
        return {"clips_per_s": guess, "ground": f"a guess: a third of {forward:.3g} clips/s forward", **energy}
    return None


def _alike(row: Row, fields: tuple[str, ...]) -> Alike:
    """What is equal in rows that agree in some fields; tables don't tell null or {} from absent."""
    kept = (
        (name, value)
        for name, value in row.items()
        if name.startswith(fields) and name not in FILES_OF_WEIGHTS and value not in (None, {})
    )
    return frozenset((name, _frozen(value)) for name, value in kept)


def _frozen(value: Any) -> Any:
    """A value that can be a key, and 1 the same as 1.0."""
    if isinstance(value, (list, tuple)):
        return tuple(map(_frozen, value))
    return repr(value) if isinstance(value, dict) else value


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value]
    return statistics.median(known) if known else None


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
