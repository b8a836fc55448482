"""DualFormer's network: config errors, clip sizes, ablation switches, gradients, numerics of its options."""

import copy
import json
import math
import pickle
import re

import pytest
import torch

from dualformer import ConfigError, count_macs, create_model, load_weights
from dualformer.attention import find, letters
from dualformer.attention.patterns import option_names
from dualformer.layers import DropPath
from dualformer.model import DualFormerConfig
from dualformer.registry import model_config
from tests.helpers.planted import FREE

SMALL = {
    "num_frames": 4,
    "crop_size": 32,
    "num_classes": 5,
    "embed_dims": (8, 16, 16, 16),
    "depths": (2, 1, 2, 1),
    "num_heads": (1, 2, 2, 2),
    "drop_path_rate": 0.0,
}


def small(**changes):
    torch.manual_seed(0)
    return create_model("dualformer_tiny", **{**SMALL, **changes})


def clip_for(model, batch=2):
    return torch.randn(batch, *model.config.clip_shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("pattern", ["LG", *letters(), "".join(letters())])
def test_pattern_repeats_over_the_blocks_of_every_stage(pattern):
    depths = (3, 1, 2, len(pattern) + 1)
    model = small(attention=pattern, depths=depths)
    kinds = [[block.attn.letter for block in stage.blocks] for stage in model.stages]
    expected = [[letter for letter in (pattern * 3)[:depth]] for depth in depths]
    assert kinds == expected
    logits = model(clip_for(model))
    assert logits.shape == (2, 5)
    assert torch.isfinite(logits).all()


def test_every_stage_may_have_a_pattern_of_its_own():
    model = small(attention="LS,G,DF,L", depths=(3, 1, 2, 2))
    kinds = ["".join(block.attn.letter for block in stage.blocks) for stage in model.stages]
    assert kinds == ["LSL", "G", "DF", "LL"]
    assert torch.isfinite(model(clip_for(model))).all()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        *({"attention": letter} for letter in letters()),
        {"attention": "LS", "position": "relative"},
        {"position": "absolute"},
        {"pooling": "average", "num_frames": 8},
        {"share_kv": False, "crop_size": 64},
        {"fine_sizes": (None,) * 4, "coarse_sizes": ((2, 2, 2), None, (1, 1, 1), None)},
    ],
    ids=str,
)
def test_every_parameter_receives_a_gradient(changes):
    model = small(**changes).train()
    model(clip_for(model)).square().sum().backward()
    dead = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # A single key makes softmax constant: in the last 1x1 stages queries and keys can't matter, values do.
    assert not [name for name in dead if not name.endswith(("attn.q.weight", "attn.q.bias"))]


@pytest.mark.parametrize("num_frames", [1, 4, 5, 9])
@pytest.mark.parametrize("crop_size", [(32, 32), (33, 70)])
def test_any_clip_size_is_used_to_its_last_pixel(num_frames, crop_size):
    model = small(num_frames=num_frames, crop_size=crop_size).eval()
    clip = clip_for(model, 1).requires_grad_()
    features = model.forward_features(clip)
    t, h, w = model.config.stage_grid(3)
    assert features.shape == (1, 16, t, h, w)
    assert (t, h, w) == (math.ceil(num_frames / 2), math.ceil(crop_size[0] / 32), math.ceil(crop_size[1] / 32))
    features.square().sum().backward()
    assert (clip.grad.abs().sum(dim=1) > 0).all()


def test_samples_of_a_batch_are_independent_in_eval():
    model = small().eval()
    clip = clip_for(model, 3)
    torch.testing.assert_close(model(clip)[1], model(clip[1:2])[0])


def test_config_rebuilds_the_model():
    model = small(attention="LS", drop_path_rate=0.2)
    values = model.config.to_dict()
    assert DualFormerConfig.from_dict(values) == model.config
    name = values.pop("name")
    again = create_model(name, **values)
    assert again.config == model.config
    again.load_state_dict(model.state_dict())


def test_wrong_clip_shape_names_both():
    with pytest.raises(ValueError, match=r"built for clips \[B, 3, 4, 32, 32\] and got \[1, 3, 8, 32, 32\]"):
        small()(torch.zeros(1, 3, 8, 32, 32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embed_dim": 3}, "unknown field 'embed_dim'; did you mean 'embed_dims'"),
        (
            {"fine_sizes": (None,)},
            "fine_sizes has 1 entries, embed_dims has 4 .*'G' takes a fine_size",
        ),
        (
            {"coarse_sizes": (None,) * 5, "attention": "L,L,LL,GL"},
            "coarse_sizes has 5 .*'G' takes a coarse_size",
        ),
        ({"depths": (2, 2)}, "depths has 2 entries, embed_dims has 4 stages"),
        ({"num_heads": (3, 2, 2, 2)}, "8 channels can't be split over 3 heads"),
        ({"attention": f"L{FREE}"}, f"unknown letter '{FREE}'"),
        ({"attention": "LG,LG"}, "'LG,LG' has 2 patterns for 4 stages"),
        ({"attention": "LG,,LG,F"}, "attention is empty"),
        ({"num_frames": 0}, "num_frames must be positive"),
        ({"num_frames": "8"}, "num_frames: Input should be a valid integer"),
        ({"window_size": (0, 7, 7)}, "must be positive"),
        ({"pooling": "mean"}, "'conv', 'average' or 'max'"),
        ({"position": "relative", "attention": "FF"}, "has none"),
    ],
    ids=str,
)
def test_bad_fields_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        small(**changes)


@pytest.mark.parametrize("pattern", [letter for letter in letters() if "fine_size" not in option_names(find(letter))])
def test_sizes_that_no_block_reads_are_not_asked_for(pattern):
    model = small(attention=pattern, embed_dims=(8,), depths=(2,), num_heads=(1,))
    assert len(model.config.fine_sizes) == 4
    assert torch.isfinite(model(clip_for(model))).all()
    assert count_macs(model).matrix_work == model.config.matrix_work(include_head=False)


def test_unknown_model_suggests_the_nearest():
    with pytest.raises(ConfigError, match="unknown model 'dualformer_tinny'; did you mean 'dualformer_tiny'"):
        create_model("dualformer_tinny")


def test_drop_path_is_linear_over_all_blocks_and_keeps_the_mean():
    config = model_config("dualformer_tiny", drop_path_rate=0.17)
    rates = [rate for stage in range(4) for rate in config.drop_path_rates(stage)]
    torch.testing.assert_close(torch.tensor(rates), torch.linspace(0, 0.17, 18))
    drop = DropPath(0.25).train()
    torch.manual_seed(0)
    out = drop(torch.ones(4000, 2, 3))
    assert out.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert (out[:, :1, :1] == out).all(), "a sample is dropped as a whole"
    assert abs(out.mean().item() - 1) < 0.05
    assert torch.equal(drop.eval()(out), out)


def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        model = small(gradient_checkpointing=checkpointing, dropout=0.0).train()
        model(clip_for(model)).sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, recomputed in zip(*gradients):
        torch.testing.assert_close(plain, recomputed)


def windows(model):
    return [[block.attn.options.window_size for block in stage.blocks] for stage in model.stages]


def test_options_go_from_the_letter_to_the_network_to_the_symbol():
    model = small(
        attention="L1L2",
        depths=(2, 1, 2, 1),
        window_size=(4, 4, 4),
        attention_options={"L": {"relative_bias": True, "window_size": [2, 2, 2]}, "L2": {"window_size": [1, 3, 3]}},
    )
    assert windows(model) == [[(2, 2, 2), (1, 3, 3)], [(2, 2, 2)], [(2, 2, 2), (1, 3, 3)], [(2, 2, 2)]]
    assert all(block.attn.options.relative_bias for stage in model.stages for block in stage.blocks)
    assert windows(small(attention="L", window_size=(4, 4, 4)))[0] == [(4, 4, 4)] * 2
    assert torch.isfinite(model(clip_for(model))).all()


def test_network_fields_speak_for_every_letter_that_has_the_option():
    model = small(attention="LG", depths=(2, 2, 2, 2), pooling="max", share_kv=False, position="relative")
    for stage, (local, pyramid) in enumerate([block.attn for block in stage.blocks] for stage in model.stages):
        assert local.options == type(local).Options(relative_bias=True)
        assert pyramid.options == type(pyramid).Options(
            fine_size=model.config.fine_sizes[stage],
            coarse_size=model.config.coarse_sizes[stage],
            pooling="max",
            share_kv=False,
        )


def test_a_config_with_options_is_frozen_hashable_and_rebuilds_the_model():
    options = {"L2": {"window_size": [1, 3, 3]}, "G": {"pooling": "max"}}
    model = small(attention="L1L2G", depths=(3, 3, 3, 3), attention_options=options)
    config = model.config
    fields = json.loads(json.dumps(config.to_dict()))
    assert fields["attention_options"] == options
    again = create_model(**fields)
    assert again.config == config and hash(again.config) == hash(config)
    assert {config: 1}[DualFormerConfig.from_dict(fields)] == 1
    assert copy.deepcopy(config) == pickle.loads(pickle.dumps(config)) == config
    assert config != config.changed(attention_options={"G": {"pooling": "average"}})
    with pytest.raises(TypeError):
        config.attention_options["L2"]["window_size"] = (1, 1, 1)
    again.load_state_dict(model.state_dict())


def test_cost_follows_the_options():
    plain = model_config("dualformer_tiny", attention="L1L2")
    wider = plain.changed(attention_options={"L2": {"window_size": (8, 14, 14)}})
    whole = plain.changed(window_size=(8, 14, 14))
    costs = [config.matrix_work(include_head=False) for config in (plain, wider, whole)]
    assert costs == sorted(set(costs))
    for config, cost in zip((plain, wider, whole), costs):
        assert count_macs(config.build()).matrix_work == cost


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"F": {}}, "attention_options: no block uses 'F'; valid: G, L"),
        ({"L1": {}}, "attention_options: no block uses 'L1'; did you mean 'L'"),
        ({"L": {"window": 3}}, "attention_options.L: window attention has no option 'window'; did you mean 'window_si"),
        ({"L": {"window_size": 3}}, "attention_options.L.window_size: Input should be a valid array"),
        ({"L": {"window_size": [3, "3", 3]}}, "attention_options.L.window_size.1: Input should be a valid integer"),
        ({"L": {"window_size": [0, 3, 3]}}, "attention_options.L: window_size must be positive, got (0, 3, 3)"),
        ({"G": {"pooling": "mean"}}, "attention_options.G.pooling: Input should be 'conv', 'average' or 'max'"),
        ({"L": 3}, "attention_options.L: Input should be an object (got 3)"),
        (3, "attention_options: Input should be an object (got 3)"),
    ],
    ids=str,
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        small(depths=(2, 2, 2, 2), attention_options=options)


def test_a_letter_without_options_says_so():
    with pytest.raises(ConfigError, match=r"attention_options\.F: full attention has no option 'size'; it has none"):
        small(attention="F", attention_options={"F": {"size": 3}})


FIVE = {
    "embed_dims": (8, 8, 8, 16, 16),
    "depths": (2, 1, 1, 1, 2),
    "num_heads": (1, 1, 2, 2, 2),
    "fine_sizes": (*((2, 3, 3),) * 4, (1, 1, 1)),
    "coarse_sizes": ((1, 2, 2), None, None, None, None),
    "window_size": (2, 2, 2),
    "position": "relative",
    "attention": "LG,L,G,LG,GL",
}


def test_any_number_of_stages_is_built_counted_and_interpolated():
    trained = small(**FIVE, crop_size=(96, 160), num_frames=8)
    assert trained(clip_for(trained)).shape == (2, 5)
    count = count_macs(trained)
    assert count.matrix_work == trained.config.matrix_work(include_head=False)
    longer = small(**FIVE, crop_size=(96, 96), num_frames=2)
    names = {name for name, value in longer.state_dict().items() if value.shape != trained.state_dict()[name].shape}
    assert any(name.startswith("stages.4.") and name.endswith("bias_table") for name in names)
    report = load_weights(longer, trained.state_dict(), interpolate={"crop_size": (96, 160), "num_frames": 8})
    assert {note.split()[0] for note in report.notes} == names
    assert torch.isfinite(longer(clip_for(longer))).all()


def test_tables_of_one_letter_with_two_windows_are_interpolated_each_by_its_own():
    fields = {
        "attention": "L1L2",
        "depths": (2, 2, 2, 2),
        "attention_options": {"L": {"relative_bias": True}, "L1": {"window_size": (2, 2, 2)}},
    }
    trained, shorter = small(**fields, num_frames=8), small(**fields, num_frames=2)
    with torch.no_grad():
        for name, value in trained.named_parameters():
            if name.endswith("bias_table"):
                value.copy_(torch.full_like(value, 0.7))
    load_weights(shorter, trained.state_dict(), interpolate={"num_frames": 8})
    tables = [value for name, value in shorter.named_parameters() if name.endswith("bias_table")]
    assert len({len(table) for table in tables}) > 1
    assert all(torch.allclose(table, torch.full_like(table, 0.7)) for table in tables)
