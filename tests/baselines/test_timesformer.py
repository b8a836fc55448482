"""TimeSformer: sizes, divided attention against a naive one, what space-only means, clip sizes."""

import pytest
import torch

from baselines.timesformer import DividedBlock
from baselines.vit import SelfAttention
from dualformer import ConfigError, create_model
from dualformer.checking import twin_errors
from dualformer.macs import count_macs
from dualformer.reference import num_twins

KINDS = ("divided", "joint", "space")


def tiny(kind, **changes):
    torch.manual_seed(0)
    small = {"num_frames": 4, "crop_size": (32, 48), "embed_dim": 24, "depth": 3, "num_heads": 2, "num_classes": 5}
    return create_model(f"timesformer_{kind}", **{**small, **changes})


def shaken(model):
    """All weights random, so that nothing hides behind a zero."""
    torch.manual_seed(1)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model.eval()


# Own arithmetic of the published architecture; the paper rounds to 121.4 M and leaves the head of 85.9 M out.
@pytest.mark.parametrize(("kind", "parameters"), [("divided", 121566352), ("joint", 86112400), ("space", 86106256)])
def test_parameters_are_those_of_the_published_models(kind, parameters):
    with torch.device("meta"):
        model = create_model(f"timesformer_{kind}")
    assert sum(p.numel() for p in model.parameters()) == parameters


# mmaction2@4d6c934 for 8x224x224; a third of the paper's three-crop totals for the longer and larger models.
@pytest.mark.parametrize(
    ("kind", "frames", "side", "gmacs"),
    [
        ("divided", 8, 224, 196),
        ("joint", 8, 224, 180),
        ("space", 8, 224, 141),
        ("divided", 16, 448, 5110 / 3),
        ("divided", 96, 224, 7140 / 3),
    ],
)
def test_macs_are_within_one_percent_of_the_published_ones(kind, frames, side, gmacs):
    count = count_macs(f"timesformer_{kind}", num_frames=frames, crop_size=side)
    assert count.head_included
    assert count.total / 1e9 == pytest.approx(gmacs, rel=0.01)


def test_macs_equal_a_closed_formula():
    t, n, c = 8, 196, 768
    shared = t * n * 16 * 16 * 3 * c + 400 * c
    blocks = {
        # Per block: time attention and its linear layer, attention over frames with their class tokens, the MLP.
        "divided": t * n * (5 * c * c + 2 * t * c)
        + t * (n + 1) * (4 * c * c + 2 * (n + 1) * c)
        + (t * n + 1) * 8 * c * c,
        "joint": (t * n + 1) * (12 * c * c + 2 * (t * n + 1) * c),
        "space": t * (n + 1) * (12 * c * c + 2 * (n + 1) * c),
    }
    for kind in KINDS:
        assert count_macs(f"timesformer_{kind}").matrix_work == shared + 12 * blocks[kind]


@torch.inference_mode()
def test_divided_attention_equals_a_naive_one():
    model = shaken(tiny("divided"))
    block: DividedBlock = model.blocks[0]
    t, n = 4, 6
    x = torch.randn(1, 1 + t * n, 24)
    cls, patches = x[0, :1], x[0, 1:].reshape(t, n, 24)

    stepped = patches.clone()
    for place in range(n):
        tube = block.temporal_attn(block.temporal_norm1(patches[:, place][None]))[0]
        stepped[:, place] += block.temporal_fc(tube)
    gathered, seen = [], stepped.clone()
    for frame in range(t):
        out = block.attn(block.norm1(torch.cat([cls, stepped[frame]])[None]))[0]
        gathered.append(out[0])
        seen[frame] += out[1:]
    tokens = torch.cat([cls + sum(gathered) / t, seen.flatten(0, 1)])
    expected = tokens + block.mlp(block.norm2(tokens))
    torch.testing.assert_close(block(x)[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("places", [1, 5, 6])
def test_divided_block_equals_its_naive_twin(places):
    block = shaken(tiny("divided", num_frames=3)).blocks[0].double()
    errors = twin_errors(block, torch.randn(2, 1 + 3 * places, 24, dtype=torch.float64))
    assert {name: error for name, error in errors.items() if not error <= 1e-9} == {}


@pytest.mark.parametrize("length", [1, 2, 7])
def test_self_attention_equals_its_naive_twin(length):
    torch.manual_seed(0)
    module = SelfAttention(24, 3).double()
    errors = twin_errors(module, torch.randn(2, length, 24, dtype=torch.float64))
    assert {name: error for name, error in errors.items() if not error <= 1e-9} == {}


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_model_equals_its_twins(kind):
    model = shaken(tiny(kind, num_frames=3)).double()
    assert num_twins(model) == (9 if kind == "divided" else 3)
    errors = twin_errors(model, torch.randn(2, *model.config.clip_shape, dtype=torch.float64))
    assert {name: error for name, error in errors.items() if not error <= 1e-9} == {}


@torch.inference_mode()
def test_space_only_averages_the_class_tokens_of_independent_frames():
    model = shaken(tiny("space"))
    image = shaken(tiny("space", num_frames=1))
    clip = torch.randn(2, 3, 4, 32, 48)
    before_norm = []
    image.norm.register_forward_pre_hook(lambda _, args: before_norm.append(args[0]))
    for frame in range(4):
        image(clip[:, :, frame : frame + 1])
    tokens = torch.stack([tokens for tokens in before_norm if tokens.ndim == 2])
    torch.testing.assert_close(model(clip), model.head(model.norm(tokens.mean(dim=0))), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(clip), model(clip.flip(2)), rtol=1e-4, atol=1e-5)  # blind to the order of frames


@pytest.mark.parametrize("kind", ["divided", "joint"])
@torch.inference_mode()
def test_time_matters_where_there_is_a_time_embedding(kind):
    model = shaken(tiny(kind))
    clip = torch.randn(1, 3, 4, 32, 48)
    assert not torch.allclose(model(clip), model(clip.flip(2)), rtol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_features_are_the_patch_tokens_as_a_map(kind):
    model = shaken(tiny(kind))
    clip = torch.randn(2, *model.config.clip_shape)
    tokens = []
    model.blocks[-1].register_forward_hook(lambda block, inputs, output: tokens.append(output))
    features = model.forward_features(clip)
    assert features.shape == (2, 24, 4, 2, 3)
    patches = tokens[0].view(8, 7, 24)[:, 1:] if kind == "space" else tokens[0][:, 1:]
    expected = model.norm(patches.reshape(2, 4, 6, 24)[1, 2, 3])
    torch.testing.assert_close(features[1, :, 2, 1, 0], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_receives_a_gradient(kind):
    model = shaken(tiny(kind, drop_path_rate=0.0)).train()
    model(torch.randn(2, *model.config.clip_shape)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_checkpointing_changes_no_gradient(kind):
    gradients = []
    for checkpointing in (False, True):
        model = tiny(kind, gradient_checkpointing=checkpointing).train()
        torch.manual_seed(1)
        model(torch.ones(2, *model.config.clip_shape)).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(*gradients)


def test_initialisation_is_the_published_one():
    model = tiny("divided")
    assert [bool(block.temporal_fc.weight.any()) for block in model.blocks] == [True, False, False]
    assert not model.time_embed.any()
    assert model.pos_embed.std().item() == pytest.approx(0.02, rel=0.2)
    rates = [block.drop_path.rate for block in tiny("joint", drop_path_rate=0.2).blocks]
    assert rates == pytest.approx([0, 0.1, 0.2])


def test_a_clip_of_another_shape_is_refused_by_name():
    with pytest.raises(
        ValueError, match=r"timesformer_joint was built for clips \[B, 3, 4, 32, 48\] and got \[3, 4, 32"
    ):
        tiny("joint")(torch.randn(3, 4, 32, 48))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop_size": (32, 50)}, "crop_size 50 is not a multiple of patch_size 16; try 48 or 64"),
        ({"crop_size": 10}, "crop_size 10 is not a multiple of patch_size 16; try 16"),
        ({"num_heads": 5}, "24 channels can't be split over 5 heads"),
        ({"attention": "LG"}, "unknown field 'attention'"),
        ({"attention_type": "full"}, "attention_type: Input should be 'divided', 'joint' or 'space'"),
    ],
)
def test_illegal_configs_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        tiny("joint", **changes)
