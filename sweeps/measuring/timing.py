"""Timing a piece of work so that the number can be believed; knows neither networks nor configs of runs.

A clock is never trusted on its word. The same work twice must take twice as long as once, and a pass that is waited
for can't be quicker than one of many that are timed at their ends only. Nor is a machine that is still getting quicker
or slower: what is timed while it does is warm-up, as long as there is patience for that.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

from dualformer.results.disturbance import WITHHELD
from sweeps.measuring.steadiness import DRIFT, drift
from sweeps.run_config import MeasureConfig

CANARY_RANGE = (1.8, 2.2)
ASYNCHRONOUS = 2.0
"""Above this ratio of unsynchronised to synchronised time of a pass the synchronised clock did not wait."""
ATTEMPTS = 5
"""How often times are taken again when something speaks against them."""
LEAST_WARMUP_MS = 500.0
"""Warm-up takes at least this long: a GPU's clocks and a CPU's governor take their time, however short a pass is."""
MOST_WARMUP = 10_000
"""Passes of a warm-up that end it, whatever the clock says."""
PATIENCE_MS = 60_000.0
"""How long times that drift are taken again for; then they are reported, and that they drifted."""


class Clock:
    """Times work on a CPU, whose operations return when they are done."""

    def now_ms(self) -> float:
        """Time of the host."""
        return time.perf_counter_ns() / 1e6

    def synchronize(self) -> None:
        """Waits until everything that was started is done."""

    def time_ms(self, work: Callable[[], object]) -> float:
        """Runs `work` and returns the milliseconds until its last operation is done."""
        begin = self.now_ms()
        work()
        return self.now_ms() - begin


class CudaClock(Clock):
    """Times work on a GPU by CUDA events around it, which are waited for."""

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def time_ms(self, work: Callable[[], object]) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end)


def clock_of(device: torch.device) -> Clock:
    """The clock of a device."""
    return CudaClock() if device.type == "cuda" else Clock()


@dataclasses.dataclass(frozen=True)
class Times:
    """All that was timed of one network, in milliseconds of one forward pass.

    Attributes:
        warmup_ms: synchronised passes before the times settled.
        settled: whether they did within the limit.
        samples_ms: synchronised passes.
        pass_ms: one pass of many without synchronising between them.
        start_ms: until a pass has been started, median; on a CPU that is all of it.
        canary_ratio: time of two passes over time of one.
        drift: relative change of synchronised passes from the first after the warm-up to the last; 0 where chance would
            do.
        doubt: why these times must not be believed; "" where nothing speaks against them.
    """

    warmup_ms: Sequence[float]
    settled: bool
    samples_ms: Sequence[float]
    pass_ms: float
    start_ms: float
    canary_ratio: float
    drift: float
    doubt: str


def quantiles(samples: Sequence[float], levels: Sequence[float]) -> list[float]:
    """Quantiles by linear interpolation between the samples."""
    return torch.tensor(samples, dtype=torch.float64).quantile(torch.tensor(levels, dtype=torch.float64)).tolist()


def time_passes(step: Callable[[], object], clock: Clock, config: MeasureConfig) -> Times:
    """Warms up, then times `config.samples` passes each way; again where something speaks against clock or machine."""
    began_ms = clock.now_ms()
    few = max(5, config.samples // 4)
    warmup_ms, settled = warm_up(step, clock, config)
    for _ in range(ATTEMPTS):
        canary_ratio, first_ms = canary(step, clock, few)
        samples_ms = [clock.time_ms(step) for _ in range(config.samples)]
        pass_ms = unsynchronised_ms(step, clock, config.samples)
        last_ms = [clock.time_ms(step) for _ in range(few)]
        trend = drift(
            [first_ms, samples_ms, last_ms], starts=[0, 3 * few, 3 * few + 2 * config.samples], strides=[3, 1, 1]
        )
        doubt = clock_doubt(statistics.median(samples_ms), pass_ms, canary_ratio)
        patient = clock.now_ms() - began_ms < PATIENCE_MS
        if not doubt and not (abs(trend) > DRIFT and patient):
            break
    start_ms = time_to_start_ms(step, clock, few)
    return Times(warmup_ms, settled, samples_ms, pass_ms, start_ms, canary_ratio, trend, doubt)


def warm_up(
    step: Callable[[], object], clock: Clock, config: MeasureConfig, least_ms: float = LEAST_WARMUP_MS
) -> tuple[list[float], bool]:
    """Runs `step` for `least_ms` and until its times settle, by the rule of `MeasureConfig`.

    Returns:
        The times, and whether they settled.
    """
    times: list[float] = []
    began_ms, took_ms = clock.now_ms(), 0.0
    while (len(times) < config.warmup_limit or took_ms < least_ms) and len(times) < MOST_WARMUP:
        times.append(clock.time_ms(step))
        took_ms = clock.now_ms() - began_ms
        if len(times) >= config.warmup and took_ms >= least_ms:
            last, earlier = statistics.median(times[-3:]), statistics.median(times[-6:-3])
            if abs(last - earlier) <= config.settled * earlier:
                return times, True
    return times, False


def canary(step: Callable[[], object], clock: Clock, samples: int) -> tuple[float, list[float]]:
    """How many times as long two passes take as one, by medians, and the times of one; an honest clock says two."""
    times = interleave({"once": step, "twice": lambda: (step(), step())}, clock, samples)
    return statistics.median(times["twice"]) / statistics.median(times["once"]), times["once"]


def interleave(variants: Mapping[str, Callable[[], object]], clock: Clock, samples: int) -> dict[str, list[float]]:
    """Times several variants in turns, so that drift of the machine hits all alike.

    Args:
        variants: name -> work, already warmed up.
        clock: of the device they run on.
        samples: of each variant; every round starts with another one.

    Returns:
        Milliseconds of each variant, in the order in which they were taken.
    """
    names = list(variants)
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(samples):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(clock.time_ms(variants[name]))
    return times


def unsynchronised_ms(step: Callable[[], object], clock: Clock, passes: int) -> float:
    """Milliseconds of one of many passes, by the host's time, waiting only at both ends."""
    clock.synchronize()
    begin = clock.now_ms()
    for _ in range(passes):
        step()
    clock.synchronize()
    return (clock.now_ms() - begin) / passes


def time_to_start_ms(step: Callable[[], object], clock: Clock, passes: int) -> float:
    """Median milliseconds that the host needs to start a pass, the device being idle; nobody waits for its end."""
    times = []
    for _ in range(passes):
        clock.synchronize()
        begin = clock.now_ms()
        step()
        times.append(clock.now_ms() - begin)
    clock.synchronize()
    return statistics.median(times)


def clock_doubt(latency_ms: float, pass_ms: float, canary_ratio: float) -> str:
    """Why a clock must not be believed; "" where nothing speaks against it.

    A clock that doesn't wait sees the start of the work and not the work: its latency is far below what a pass takes
    when many are timed at the ends only, which is the one thing that waiting can't make longer.
    """
    low, high = CANARY_RANGE
    if not low <= canary_ratio <= high:
        return f"{WITHHELD}: two passes took {canary_ratio:.2f} times as long as one, not {low} to {high} times"
    if pass_ms > ASYNCHRONOUS * latency_ms:
        return f"{WITHHELD}: a pass takes {pass_ms:.3g} ms, a synchronised one {latency_ms:.3g} ms: nobody waited"
    return ""
