"""Comparing networks: taking turns, only right ones, and no difference where there is none."""

import numpy as np
import pytest

from dualformer.attention.global_pyramid import GlobalPyramidAttention
from dualformer.registry import create_model
from dualformer.results.statistics import median_ratio
from sweeps.measuring import side_by_side
from sweeps.measuring.gate import WrongLogitsError
from sweeps.run_config import MeasureConfig

SMALL = {
    "num_classes": 4,
    "embed_dims": (16,),
    "depths": (2,),
    "num_heads": (1,),
    "fine_sizes": ((2, 2, 2),),
    "coarse_sizes": (None,),
    "num_frames": 4,
    "crop_size": 16,
}
CONFIG = MeasureConfig(samples=5, settled=1.0)


def models(*patterns):
    return {pattern: create_model("dualformer_tiny", attention=pattern, **SMALL) for pattern in patterns}


def test_every_network_is_timed_as_often():
    times, _ = side_by_side.side_by_side(models("LG", "FF"), CONFIG, device="cpu", threads=1)
    assert {name: len(samples) for name, samples in times.items()} == {"LG": 5, "FF": 5}
    assert len(side_by_side.table(times).splitlines()) == 3


def test_wrong_network_is_named_and_nothing_is_timed(monkeypatch):
    forward = GlobalPyramidAttention.forward
    monkeypatch.setattr(GlobalPyramidAttention, "forward", lambda *args: 1.1 * forward(*args))
    with pytest.raises(WrongLogitsError, match="LG: logits differ"):
        side_by_side.side_by_side(models("FF", "LG"), CONFIG, device="cpu", threads=1)


def samples(scale, seed):
    return scale * np.random.default_rng(seed).normal(10, 0.3, 60)


def test_same_work_shows_no_difference():
    ratio, low, high = median_ratio(samples(1.0, seed=1), samples(1.0, seed=2))
    assert low <= 1 <= high and low <= ratio <= high
    assert "no difference seen" in side_by_side.table({"a": samples(1.0, seed=1), "b": samples(1.0, seed=2)})


def test_slower_work_is_seen_as_slower():
    ratio, low, high = median_ratio(samples(1.1, seed=1), samples(1.0, seed=2))
    assert 1 < low < 1.1 < high
    assert ratio == pytest.approx(1.1, abs=0.03)
