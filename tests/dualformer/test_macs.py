"""Counting: exact against published counts, the same by four independent ways, and no trace left on the model."""

import copy
import json
import math
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import flop_registry, register_flop_formula

from dualformer.attention import letters
from dualformer.config import ConfigError
from dualformer.cross_check import fvcore_macs, ptflops_macs, torch_flops
from dualformer.macs import UncountedOperatorError, closed_form, count_macs, count_training_macs
from dualformer.model_config import ModelConfig
from dualformer.registry import create_model, list_models, model_config
from tests.helpers.small_models import reduced, small_model

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "macs.json").read_text())

SMALL_DUALFORMER = reduced("dualformer_tiny")


@pytest.mark.parametrize("name", GOLDEN)
def test_count_equals_published_count(name):
    count = count_macs(name)
    assert count.by_operator == GOLDEN[name]["by_operator"]
    assert count.total == GOLDEN[name]["total"]


@pytest.mark.parametrize("pattern", ["LG", *letters(), "".join(letters())])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_frames": 16, "crop_size": 160, "position": "none", "mlp_ratio": 3.0},
        {"num_frames": 9, "crop_size": (50, 70), "pooling": "average", "share_kv": False},
        {
            "depths": (1, 3, 2),
            "embed_dims": (32, 48, 80),
            "num_heads": (1, 3, 5),
            **dict.fromkeys(("fine_sizes", "coarse_sizes"), ((2, 3, 4),) * 3),
        },
    ],
    ids=["published", "shorter", "odd", "other"],
)
def test_closed_form_of_the_network_equals_count(pattern, changes):
    config = model_config("dualformer_tiny", attention=pattern, **changes)
    for include_head in (False, True):
        count = count_macs("dualformer_tiny", attention=pattern, include_head=include_head, **changes)
        assert closed_form(config, include_head=include_head) == count.matrix_work


@pytest.mark.parametrize("name", list_models())
def test_every_model_has_a_closed_form_equal_to_its_count(name):
    small = reduced(name)
    for changes in ({}, small, small | {"num_frames": 6, "crop_size": (48, 80), "mlp_ratio": 3.0, "num_classes": 7}):
        for include_head in (False, True):
            count = count_macs(name, include_head=include_head, **changes)
            assert closed_form(model_config(name, **changes), include_head=include_head) == count.matrix_work


def test_configurations_by_the_thousand():
    """Every count of a sweep over all models, without a network: seconds where counting would take minutes."""
    counts = {
        (name, frames, side): closed_form(model_config(name, num_frames=frames, crop_size=side))
        for name in list_models()
        for frames in range(2, 42, 4)
        for side in range(64, 224, 16)
    }
    assert len(counts) == 1000
    for name in list_models():
        assert counts[name, 2, 64] < counts[name, 2, 208] < counts[name, 38, 208]


CASES = [(name, None) for name in list_models()] + [("dualformer_tiny", 2 * letter) for letter in letters()]


@pytest.mark.parametrize(("name", "pattern"), CASES)
def test_fvcore_ptflops_and_torch_agree(name, pattern):
    """fvcore shares every convention; ptflops counts no norms, and its biases are taken off by its own formula."""
    model = small_model(name, attention=pattern).eval()
    count = count_macs(model, include_head=True)
    assert fvcore_macs(model) == count.by_operator
    assert ptflops_macs(model) == count.matrix_work
    assert torch_flops(model) == 2 * count.matrix_work


def test_cross_check_sees_uncounted_attention():
    model = small_model("dualformer_tiny").eval()
    forgetful = fvcore_macs(model, handlers={"aten::scaled_dot_product_attention": None})
    assert forgetful != count_macs(model, include_head=True).by_operator


def test_model_is_left_as_it_was():
    model = create_model("dualformer_tiny", **SMALL_DUALFORMER).train()
    model.stages[0].eval()
    calls = []
    model.stages[1].register_forward_hook(lambda *args: calls.append(args))
    model.stages[0].blocks[0].compile()
    state, training = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    attributes = [{name: id(value) for name, value in module.__dict__.items()} for module in model.modules()]
    weights = [parameter.data_ptr() for parameter in model.parameters()]

    count_macs(model)

    assert [module.training for module in model.modules()] == training
    assert [{name: id(value) for name, value in m.__dict__.items()} for m in model.modules()] == attributes
    assert [parameter.data_ptr() for parameter in model.parameters()] == weights
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not calls


def test_count_of_a_model_equals_count_by_name_even_compiled():
    model = create_model("dualformer_tiny", **SMALL_DUALFORMER)
    by_name = count_macs("dualformer_tiny", **SMALL_DUALFORMER)
    assert count_macs(model) == by_name
    assert count_macs(torch.compile(model)) == by_name


def test_count_does_not_depend_on_the_callers_context():
    model = create_model("dualformer_tiny", **SMALL_DUALFORMER)
    expected = count_macs(model), count_training_macs(model)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert (count_macs(model), count_training_macs(model)) == expected
    with torch.inference_mode():
        assert count_macs(create_model("dualformer_tiny", **SMALL_DUALFORMER)) == expected[0]


def test_head_and_modules_add_up():
    model = create_model("dualformer_tiny", num_classes=7, **SMALL_DUALFORMER)
    without, with_head = count_macs(model), count_macs(model, include_head=True)
    assert not without.head_included and with_head.head_included
    assert with_head.total - without.total == with_head.by_module["head"] == 64 * 7
    assert "head" not in without.by_module
    assert (
        without.by_module[""]
        == without.total
        == sum(without.by_module[part] for part in ("stages.0", "stages.1", "norm"))
    )


def test_linear_is_linear_whatever_the_memory_layout():
    class Transposed(nn.Module):
        config = ModelConfig(name="transposed", num_frames=4, crop_size=(5, 6))

        def __init__(self):
            super().__init__()
            self.with_bias, self.without_bias = nn.Linear(3, 8), nn.Linear(3, 8, bias=False)

        def forward(self, clip):
            x = clip.movedim(1, -1)
            return self.with_bias(x) + self.without_bias(x)

    assert count_macs(Transposed()).by_operator == {"linear": 2 * 4 * 5 * 6 * 3 * 8}


@torch.library.custom_op("dualformer_test::product", mutates_args=())
def hidden_product(x: torch.Tensor) -> torch.Tensor:
    return x @ x.mT


@hidden_product.register_fake
def _(x):
    return x.new_empty(*x.shape[:-1], x.shape[-2])


class Hidden(nn.Module):
    config = ModelConfig(name="hidden", num_frames=2, crop_size=(4, 5))

    def forward(self, clip):
        return hidden_product(functional.relu(clip))


def test_operator_of_unknown_cost_is_an_error():
    with pytest.raises(UncountedOperatorError, match=r"dualformer_test\.product"):
        count_macs(Hidden())


def test_operator_with_a_stated_cost_is_counted():
    @register_flop_formula(torch.ops.dualformer_test.product)
    def product_flops(x_shape, out_shape=None, **kwargs):
        return 2 * math.prod(out_shape) * x_shape[-1]

    try:
        assert count_macs(Hidden()).by_operator == {"matmul": 3 * 2 * 4 * 4 * 5}
    finally:
        del flop_registry[torch.ops.dualformer_test.product]


@pytest.mark.parametrize("name", list_models())
def test_backward_costs_two_forwards_less_the_gradient_of_the_clip(name):
    """Every product has two factors and a gradient each; the first convolution needs none of its input."""
    count = count_training_macs(name, **reduced(name))
    stem = count_macs(name, include_head=True, **reduced(name))
    first_conv = next(macs for module, macs in stem.by_module.items() if re.search(r"embed\.proj$", module))
    assert count.forward == stem.matrix_work
    assert count.backward == 2 * count.forward - first_conv
    assert count.recomputation == 0


@pytest.mark.parametrize("pooling", ["conv", "average", "max"])
@pytest.mark.parametrize("attention", letters())
def test_every_switch_of_training_is_counted(pooling, attention):
    """Dropout, pooling and padding have backward operators of their own, and an unknown one is an error."""
    changes = {"pooling": pooling, "attention": attention, "num_frames": 5, "crop_size": (36, 52)}
    changes["depths"] = (1, 1)
    dropped = {"attention_dropout": 0.1, "projection_dropout": 0.1, "drop_path_rate": 0.1}
    count = count_training_macs("dualformer_tiny", **{**SMALL_DUALFORMER, **changes, **dropped})
    assert count.backward > count.forward > 0


def test_recomputation_repeats_the_blocks_at_most_once():
    plain = count_training_macs("dualformer_tiny", **SMALL_DUALFORMER)
    checkpointed = count_training_macs("dualformer_tiny", gradient_checkpointing=True, **SMALL_DUALFORMER)
    blocks = sum(
        macs
        for module, macs in count_macs("dualformer_tiny", **SMALL_DUALFORMER).by_module.items()
        if re.fullmatch(r"stages\.\d\.blocks\.\d", module)
    )
    assert (checkpointed.forward, checkpointed.backward) == (plain.forward, plain.backward)
    assert 0.5 * blocks < checkpointed.recomputation <= blocks
    assert checkpointed.total == checkpointed.forward + checkpointed.backward + checkpointed.recomputation


def test_changed_clip_of_a_built_model():
    model = create_model("dualformer_tiny", attention="LL", **SMALL_DUALFORMER)
    longer = count_macs(model, num_frames=16, crop_size=64)
    assert longer == count_macs(
        "dualformer_tiny", attention="LL", **{**SMALL_DUALFORMER, "num_frames": 16, "crop_size": 64}
    )
    assert longer.total > count_macs(model).total


def test_what_cannot_be_counted_is_named():
    with pytest.raises(ConfigError, match="did you mean 'dualformer_tiny'"):
        count_macs("dualformer_tin")
    with pytest.raises(ConfigError, match="did you mean 'num_frames'"):
        count_macs("dualformer_tiny", num_frame=3)
    with pytest.raises(TypeError, match="no config"):
        count_macs(nn.Linear(2, 2))


def test_head_that_is_not_there_cannot_be_left_out():
    class Headless(nn.Module):
        config = ModelConfig(name="headless", num_frames=1, crop_size=(2, 2))
        forward = staticmethod(functional.relu)

    with pytest.raises(ValueError, match="headless has no head, so leaving the head out"):
        count_macs(Headless(), include_head=False)
