"""Video Swin: sizes, the window rule against a naive one, and clip sizes the paper doesn't have."""

import re

import pytest
import torch

from baselines.video_swin import WindowAttention
from dualformer import ConfigError, create_model, load_weights
from dualformer.checking import twin_errors
from dualformer.macs import count_macs
from dualformer.reference import num_twins

TINY = {"embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "num_classes": 5, "window_size": (4, 3, 3)}


def tiny(**changes):
    torch.manual_seed(0)
    return create_model("video_swin_tiny", **{**TINY, "num_frames": 16, "crop_size": 32, **changes})


# Parameters with 400 classes as torchvision states them for swin3d_t, swin3d_s and swin3d_b.
@pytest.mark.parametrize(("size", "parameters"), [("tiny", 28158070), ("small", 49816678), ("base", 88048984)])
def test_parameters_are_those_of_the_published_sizes(size, parameters):
    with torch.device("meta"):
        model = create_model(f"video_swin_{size}")
    assert sum(p.numel() for p in model.parameters()) == parameters


# README of the upstream repository, per view of 32x224x224; torchvision's own column, which is for 16 frames.
@pytest.mark.parametrize(
    ("size", "frames", "gmacs"),
    [
        ("tiny", 32, 87.9),
        ("small", 32, 165.9),
        ("base", 32, 281.6),
        ("tiny", 16, 43.882),
        ("small", 16, 82.841),
        ("base", 16, 140.667),
    ],
)
def test_macs_are_within_one_percent_of_the_published_ones(size, frames, gmacs):
    assert count_macs(f"video_swin_{size}", num_frames=frames).total / 1e9 == pytest.approx(gmacs, rel=0.01)


def test_macs_with_the_long_window_of_something_something():
    count = count_macs("video_swin_base", window_size=(16, 7, 7))
    assert count.total / 1e9 == pytest.approx(320.6, rel=0.002)


GRIDS = [(4, 6, 3), (4, 6, 6), (3, 5, 7), (1, 2, 9), (5, 4, 4), (1, 1, 1)]


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_window_attention_equals_its_naive_twin(grid, shifted):
    torch.manual_seed(0)
    module = WindowAttention(8, 2, grid=grid, window_size=(2, 3, 3), shifted=shifted).double()
    torch.nn.init.normal_(module.relative_position_bias_table)
    errors = twin_errors(module, torch.randn(2, *grid, 8, dtype=torch.float64))
    assert {name: error for name, error in errors.items() if not error <= 1e-9} == {}


@torch.inference_mode()
def test_shifted_windows_are_boxes_half_a_window_later_and_those_at_the_border_smaller():
    """Strangers are masked by -100, so that they see each other by exp(-100) at most: nothing in float32."""
    torch.manual_seed(0)
    module = WindowAttention(8, 2, grid=(4, 6, 3), window_size=(2, 3, 3), shifted=True)
    assert module.layout.shift == (1, 1, 0)
    x = torch.randn(1, 4, 6, 3, 8)
    changed = x.clone()
    changed[0, 0, 0, 0] += 1.0
    moved = (module(x) != module(changed)).any(dim=-1)[0]
    assert moved[:1, :1].all() and moved.sum() == 3


def test_a_whole_model_equals_its_twins():
    model = tiny(num_frames=5, crop_size=(50, 90)).double()
    assert num_twins(model) == 4
    errors = twin_errors(model, torch.randn(2, 3, 5, 50, 90, dtype=torch.float64))
    assert {name: error for name, error in errors.items() if not error <= 1e-9} == {}


FIVE = {"depths": (1, 1, 1, 1, 2), "num_heads": (1, 1, 1, 1, 2), "embed_dim": 4}


def test_any_number_of_stages_is_built_counted_and_loaded():
    model, other = tiny(**FIVE, crop_size=70), tiny(**FIVE, crop_size=70)
    clip = torch.randn(1, *model.config.clip_shape)
    assert model(clip).shape == (1, 5)
    assert count_macs(model).matrix_work == model.config.matrix_work(include_head=False)
    torchvision = {}
    for name, value in model.state_dict().items():
        name = re.sub(r"layers\.(\d)\.blocks\.", lambda m: f"features.{2 * int(m[1])}.", name)
        name = re.sub(r"layers\.(\d)\.downsample\.", lambda m: f"features.{2 * int(m[1]) + 1}.", name)
        torchvision[name.replace(".mlp.fc1.", ".mlp.0.").replace(".mlp.fc2.", ".mlp.3.")] = value + 1
    report = load_weights(other, torchvision)
    assert report.layout == "torchvision_swin3d" and not report.missing and not report.unexpected
    assert torch.equal(other.layers[4].blocks[1].mlp.fc2.weight, model.layers[4].blocks[1].mlp.fc2.weight + 1)


@pytest.mark.parametrize("grid", [(4, 6, 6), (3, 5, 7), (1, 2, 9), (8, 3, 3)])
def test_counted_attention_equals_its_closed_formula(grid):
    model = tiny(num_frames=2 * grid[0], crop_size=(4 * grid[1], 4 * grid[2]))
    counted = count_macs(model).by_module
    for stage in range(2):
        for block in range(2):
            name = f"layers.{stage}.blocks.{block}.attn"
            assert counted[name] == model.get_submodule(name).macs()


@pytest.mark.parametrize("clip", [(4, 64, 64), (5, 50, 90), (1, 16, 16), (33, 36, 20), (7, 3, 5)])
def test_any_clip_size(clip):
    model = tiny(num_frames=clip[0], crop_size=clip[1:]).eval()
    x = torch.randn(2, 3, *clip)
    features = model.forward_features(x)
    assert features.shape == (2, 16, *model.config.stage_grid(1))
    torch.testing.assert_close(model(x)[1:], model(x[1:]))


def test_border_pixels_of_a_ragged_clip_count():
    model = tiny(num_frames=5, crop_size=(18, 19)).eval()
    clip = torch.randn(1, 3, 5, 18, 19)
    changed = clip.clone()
    changed[..., -1, -1, -1] += 10
    assert not torch.allclose(model(clip), model(changed))


def test_every_parameter_receives_a_gradient():
    model = tiny(drop_path_rate=0.0).train()
    model(torch.randn(2, *model.config.clip_shape)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        model = tiny(gradient_checkpointing=checkpointing, dropout=0.0).train()
        torch.manual_seed(1)
        model(torch.ones(2, *model.config.clip_shape)).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(*gradients)


def test_stochastic_depth_is_linear_over_all_blocks():
    model = tiny(depths=(2, 3), drop_path_rate=0.4)
    rates = [block.drop_path.rate for layer in model.layers for block in layer.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_initialisation_is_the_published_one():
    model = tiny()
    assert model.head.weight.std().item() == pytest.approx(0.01, rel=0.3)
    assert model.layers[1].blocks[0].mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not model.layers[0].blocks[0].attn.qkv.bias.any()


def test_a_clip_of_another_shape_is_refused_by_name():
    with pytest.raises(
        ValueError, match=r"video_swin_tiny was built for clips \[B, 3, 16, 32, 32\] and got \[2, 3, 16"
    ):
        tiny()(torch.randn(2, 3, 16, 32, 33))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": (1, 3)}, "16 channels can't be split over 3 heads"),
        ({"depths": (2,)}, "depths has 1 stages, num_heads has 2"),
        ({"window": (8, 7, 7)}, "unknown field 'window'; did you mean 'window_size'"),
        ({"window_size": (0, 7, 7)}, "must be positive"),
    ],
)
def test_illegal_configs_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        tiny(**changes)
