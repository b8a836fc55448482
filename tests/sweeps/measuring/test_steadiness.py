"""Machines that are not steady, in simulated time: more warm-up, or words; never a number alone."""

import numpy as np
import pytest
import torch

from sweeps.measuring import steadiness, timing
from sweeps.measuring.measurement import time_flags
from sweeps.run_config import MeasureConfig

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class Machine(timing.Clock):
    """A CPU in simulated time whose passes take what a function of their number says, in ms."""

    def __init__(self, pass_ms):
        self.pass_ms, self.passes, self.time = pass_ms, 0, 0.0

    def now_ms(self):
        return self.time

    def step(self):
        self.time += self.pass_ms(self.passes)
        self.passes += 1


def ramp(start, end, passes):
    return lambda number: start + (end - start) * min(1.0, number / passes)


def timed(pass_ms, **config):
    machine = Machine(pass_ms)
    times = timing.time_passes(machine.step, machine, MeasureConfig(**config))
    flags = time_flags(times, CPU) + ([times.doubt] if times.doubt else [])
    return float(np.median(times.samples_ms)), flags


@pytest.mark.parametrize("passes", [30, 77, 119, 222, 300, 500, 1000])
@pytest.mark.parametrize(("start", "end"), [(20, 10), (15, 10), (10, 20), (12, 10)])
def test_a_ramp_is_waited_for_or_told(start, end, passes):
    if abs(end - start) / start / passes < 0.0003:
        pytest.skip("too slow to be seen in the seconds that a timing takes")
    p50, flags = timed(ramp(start, end, passes))
    assert p50 == pytest.approx(end, rel=0.05) or any("times drifted: by" in flag for flag in flags)
    if passes <= 222:
        assert p50 == pytest.approx(end, rel=0.03) and flags == []


def test_a_ramp_without_end_is_told_with_its_size():
    _, flags = timed(lambda number: 10 + 0.05 * number)
    (flag,) = (flag for flag in flags if flag.startswith("times drifted"))
    assert flag.startswith("times drifted: by +") and "while they were taken, around" in flag


@pytest.mark.parametrize("pattern", [(10, 20), (10, 10, 20), (10, 20, 20), (10,) * 5 + (20,) * 5, (10, 14)])
def test_two_speeds_are_told(pattern):
    _, flags = timed(lambda number: pattern[number % len(pattern)])
    assert flags


def test_a_throttle_after_the_samples_is_told():
    machine = Machine(lambda number: 10.0)
    times = timing.time_passes(machine.step, machine, MeasureConfig())
    assert time_flags(times, CPU) == []
    begin = machine.passes - 5 - 5 - 20  # of the passes that are timed at their ends only
    assert any("times changed" in flag for flag in timed(lambda number: 10.0 if number < begin else 20.0)[1])


@pytest.mark.parametrize("seed", range(5))
def test_noise_around_a_steady_time_is_none_of_these(seed):
    noise = np.random.default_rng(seed).normal(10, 0.3, 100_000)
    p50, flags = timed(lambda number: noise[number])
    assert flags == [] and p50 == pytest.approx(10, rel=0.05)


def test_a_few_slow_passes_make_no_trend():
    assert steadiness.drift([[10.0, 10.1, 9.9, 10.0, 10.1, 10.0, 9.9, 10.1, 30.0, 40.0]]) == 0
    assert steadiness.drift([[10.0] * 20]) == 0 == steadiness.drift([[1.0, 2.0]])


def test_a_drift_is_the_change_along_its_trend():
    assert steadiness.drift([np.linspace(9, 11, 20)]) == pytest.approx(0.2)
    assert steadiness.drift([np.linspace(11, 9, 20)]) == pytest.approx(-0.2)
    assert steadiness.drift([np.linspace(9, 10, 10, endpoint=False), np.linspace(10, 11, 10)]) == pytest.approx(
        0.2, 0.1
    )


def test_a_drift_counts_the_passes_between():
    """1 ms more a pass: passes 0, 3, 6, 9, then 20 to 24."""
    found = steadiness.drift([[100, 103, 106, 109], [120, 121, 122, 123, 124]], starts=[0, 20], strides=[3, 1])
    assert found == pytest.approx(24 / 120)


def test_a_gpu_may_take_less_where_starting_overlaps_and_no_more():
    samples = [10.0 + 0.01 * (n % 3) for n in range(20)]
    assert steadiness.complaints(samples, 7.0, 0.0, overlaps=True) == []
    assert "times changed" in steadiness.complaints(samples, 7.0, 0.0, overlaps=False)[0]
    assert "times changed" in steadiness.complaints(samples, 13.0, 0.0, overlaps=True)[0]


@pytest.mark.parametrize("pass_ms", [0.01, 1.0, 40.0, 400.0])
def test_a_warm_up_takes_half_a_second_at_least(pass_ms):
    machine = Machine(lambda number: pass_ms)
    timing.warm_up(machine.step, machine, MeasureConfig())
    assert machine.time >= 500 or machine.passes == timing.MOST_WARMUP
    assert machine.time <= max(501, 6 * pass_ms) + pass_ms


def test_a_clock_that_stands_still_ends_the_warm_up_all_the_same():
    machine = Machine(lambda number: 0.0)
    times, _ = timing.warm_up(machine.step, machine, MeasureConfig())
    assert len(times) == timing.MOST_WARMUP


def test_patience_has_an_end():
    """A pass of ten seconds that gets slower for ever is not timed for an hour."""
    machine = Machine(lambda number: 10_000 * 1.01**number)
    times = timing.time_passes(machine.step, machine, MeasureConfig())
    assert any("times drifted" in flag for flag in time_flags(times, CPU))
    assert machine.passes < 85
