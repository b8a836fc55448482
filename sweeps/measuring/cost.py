"""What training would cost, by rates that were measured: the arithmetic of device-hours, wall time and energy.

A rate is taken from a run that trained the same network on the same data with the same batch size, threads and device,
whatever its seed and steps. Where none did, it is a third of the forward throughput of the same network: backward does
twice the multiply-accumulates of forward (`dualformer.macs.count_training_macs`). That leaves out reading data and the
optimiser, and is said to be a guess. Evaluating, timing and starting are left out everywhere. What no finished run
tells is unknown, and never nothing.
"""

from __future__ import annotations

import dataclasses
import heapq
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

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


class Rates:
    """What finished runs tell of how quickly networks are trained.

    Args:
        rows: finished runs.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self._alike: dict[Alike, list[Row]] = {}
        for row in rows:
            self._alike.setdefault(_alike(row, NETWORK), []).append(row)

    def cost(self, config: Row, clips: int, watts: float | None = None) -> Cost | None:
        """Cost of passing clips through training; None where no finished run tells.

        Args:
            config: of the run, dotted.
            clips: how many.
            watts: average power of one device, in place of what meters said.
        """
        if clips == 0:
            return Cost(0.0, 0.0, "trains nothing")
        rate = _rate(config, self._alike.get(_alike(config, NETWORK), []))
        return training_cost(clips, watts=watts, **rate) if rate else None


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
