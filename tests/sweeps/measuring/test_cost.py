"""Costs by arithmetic, and one published training time as a check of plausibility."""

import pytest

from dualformer.macs import count_training_macs
from sweeps.measuring import cost


def test_arithmetic():
    planned = cost.training_cost(clips=7200, clips_per_s=2, joules_per_clip=500)
    assert (planned.device_hours, planned.energy_kwh) == (1, 1)
    assert cost.training_cost(clips=7200, clips_per_s=2, watts=400).energy_kwh == pytest.approx(0.4)
    assert cost.training_cost(clips=7200, clips_per_s=2).energy_kwh is None


def test_wall_time_is_that_of_the_longest_queue():
    assert cost.wall_hours([3, 1, 1, 1], devices=1) == 6
    assert cost.wall_hours([3, 1, 1, 1], devices=2) == 3
    assert cost.wall_hours([3, 1, 1, 1], devices=8) == 3
    assert cost.wall_hours([], devices=8) == 0


def test_published_training_time_is_plausible():
    """DualFormer-T on Kinetics-400: about 31 h on 8 A100, 30 epochs, one clip of 32x224x224 a video each.

    Assumed: 240,000 videos (the set has lost some over the years), reading keeps up, no time for validation. The time
    then stands for 8 clips a second and GPU. By our count of a training step that is 3 TFLOP/s, a sixth of the 19.5
    that an A100 does in float32 without tensor cores: quick enough to be real, and not quicker than the device.
    """
    clips, gpus, published_h = 30 * 240_000, 8, 31
    clips_per_s = clips / (published_h * 3600 * gpus)
    planned = cost.training_cost(clips, clips_per_s)
    assert planned.device_hours / gpus == pytest.approx(published_h)
    gflops = 2 * count_training_macs("dualformer_tiny").total / 1e9
    reached = gflops * clips_per_s / 19_500
    assert 0.05 < reached < 0.5
