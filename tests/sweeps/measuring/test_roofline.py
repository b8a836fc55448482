"""The bound is a bound: its parts are the whole network's work, and no traffic or arithmetic is counted twice."""

import pytest
import torch

from dualformer import adapt
from dualformer.attention.global_pyramid import GlobalPyramidAttention
from dualformer.macs import count_macs
from dualformer.registry import create_model
from sweeps.measuring import bounds as roofline
from sweeps.measuring.gate import WrongLogitsError
from sweeps.run_config import MeasureConfig
from tests.helpers.other_networks import CLIP_SHAPE, ConvNet

CONFIG = MeasureConfig(batch_size=2, samples=1, settled=1.0)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(roofline, "COPY_BYTES", {"cpu": 2**20})
    monkeypatch.setattr(roofline, "MATRIX_SIZE", {"cpu": 64})
    sizes = {"embed_dims": (16, 32), "depths": (2, 3), "num_heads": (1, 2), "num_frames": 4, "crop_size": 16}
    return create_model("dualformer_tiny", fine_sizes=(None, None), coarse_sizes=(None, None), **sizes)


def test_parts_are_the_whole_network(small):
    found = roofline.roofline(small, CONFIG, device="cpu", threads=1)
    whole = 2 * count_macs(small, include_head=True).matrix_work
    assert sum(part.count * part.gmacs for part in found.parts) == pytest.approx(whole / 1e9)
    assert [(part.kind, part.count) for part in found.parts] == [
        ("LocalWindowAttention 2x4x4x16", 1),
        ("GlobalPyramidAttention 2x4x4x16", 1),
        ("LocalWindowAttention 2x2x2x32", 2),
        ("GlobalPyramidAttention 2x2x2x32", 1),
        ("outside the blocks", 1),
    ]
    weights = sum(parameter.numel() for parameter in small.parameters())
    maps = 2 * 2 * (2 * 2 * 4 * 4 * 16 + 3 * 2 * 2 * 2 * 32)  # clips x (in, out) x (blocks x map)
    clip = 2 * 3 * 4 * 16 * 16
    assert sum(part.count * part.mib for part in found.parts) == pytest.approx(4 * (weights + maps + clip) / 2**20)
    assert found.bound_ms == pytest.approx(sum(part.count * part.bound_ms for part in found.parts))


def test_a_wrong_network_is_named_and_nothing_is_timed(small, monkeypatch):
    forward = GlobalPyramidAttention.forward
    monkeypatch.setattr(GlobalPyramidAttention, "forward", lambda *args: 1.1 * forward(*args))
    monkeypatch.setattr(roofline, "_samples_ms", None)
    with pytest.raises(WrongLogitsError, match="dualformer_tiny: logits differ"):
        roofline.roofline(small, CONFIG, device="cpu", threads=1)


def test_the_gate_that_a_network_passed_is_told(small):
    found = roofline.roofline(small, CONFIG, device="cpu", threads=1)
    assert (found.gate.compared_with, found.gate.num_twins) == ("twins", 5)
    assert "gate twins: compared with 5 naive twins" in roofline.table(found)
    other = roofline.roofline(adapt(ConvNet(), CLIP_SHAPE), CONFIG, device="cpu", threads=1)
    assert other.gate.compared_with == "self" and "gate self: compared with itself" in roofline.table(other)


def test_bound_is_the_larger_of_arithmetic_and_traffic():
    ceilings = roofline.Ceilings(gmacs_per_s=100.0, gib_per_s=10.0)
    assert ceilings.bound_ms(macs=10**9, num_bytes=0) == pytest.approx(10)
    assert ceilings.bound_ms(macs=10**9, num_bytes=2**30) == pytest.approx(100)


def test_model_is_left_without_hooks_and_in_its_mode(small):
    small.train()
    roofline.roofline(small, CONFIG, device="cpu", threads=1)
    assert all(module.training and not module._forward_hooks for module in small.modules())


def test_lower_bound_is_that_of_the_parts_and_times_no_part(small, monkeypatch):
    monkeypatch.setattr(roofline, "measure_ceilings", lambda *args: roofline.Ceilings(100.0, 10.0))
    found = roofline.roofline(small, CONFIG, device="cpu", threads=1)
    monkeypatch.setattr(roofline, "_median_ms", None)
    assert roofline.lower_bound_ms(small, CONFIG, device="cpu", threads=1) == found.bound_ms


def test_no_blocks_no_bound(small):
    del small.stages[1].blocks, small.stages[0].blocks
    assert roofline.lower_bound_ms(small, CONFIG, device="cpu", threads=1) is None


def test_table_shows_every_part(small):
    text = roofline.table(roofline.roofline(small, CONFIG, device=torch.device("cpu"), threads=1))
    assert text.count("PyramidAttention") == 2 and "outside the blocks" in text and "whole network" in text
