"""What decides a training result but not an inference: initialisation, dropout, stochastic depth, batch statistics.

The rules for DualFormer are those of sail-sg/dualformer@058c10c: the backbone's `init_weights`, the classification
head of its configs, and the framework's defaults for what neither mentions.
"""

import math

import pytest
import torch
from torch import nn

from dualformer import create_model, list_models
from dualformer.attention import letters
from dualformer.layers import DropPath
from tests.helpers.small_models import clip_for, small_config, small_model

DROP_PATH = {  # architectures of the released configs; DualFormer T/S/B, Video Swin T/S/B, TimeSformer, ViViT
    "dualformer_tiny": 0.1,
    "dualformer_small": 0.2,
    "dualformer_base": 0.3,
    "video_swin_tiny": 0.1,
    "video_swin_small": 0.1,
    "video_swin_base": 0.3,
    "timesformer_divided": 0.1,
    "timesformer_joint": 0.1,
    "timesformer_space": 0.1,
    "vivit_base": 0.0,
}


def drop_paths(model):
    """Rate of every block, in order."""
    return [module.rate for module in model.modules() if isinstance(module, DropPath)]


@pytest.mark.parametrize("name", list_models())
def test_stochastic_depth_is_linear_over_all_blocks_up_to_the_released_rate(name):
    with torch.device("meta"):
        rates = drop_paths(create_model(name))
    assert rates[0] == 0
    assert rates[-1] == pytest.approx(DROP_PATH[name])
    torch.testing.assert_close(torch.tensor(rates), torch.linspace(0, DROP_PATH[name], len(rates)))


def test_initialisation_of_every_kind_of_weight():
    torch.manual_seed(0)
    model = create_model("dualformer_tiny", embed_dims=(64, 64, 64, 64), depths=(2, 2, 2, 2), num_frames=16)
    seen = set()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            std = 0.01 if name == "head" else 0.02
            assert module.weight.std().item() == pytest.approx(std, rel=0.05), name
            assert not module.bias.any(), name
        elif isinstance(module, nn.LayerNorm | nn.BatchNorm3d):
            assert (module.weight == 1).all() and not module.bias.any(), name
            assert module.eps == 1e-5
        elif isinstance(module, nn.Conv3d):  # torch's own default: uniform, bounded by the fan-in
            bound = 1 / math.sqrt(module.weight[0].numel())
            for value in (module.weight, module.bias):
                assert value.abs().max() <= bound, name
                assert value.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.35), name
        else:
            continue
        seen.add(type(module))
    assert seen == {nn.Linear, nn.LayerNorm, nn.BatchNorm3d, nn.Conv3d}


def test_batch_norms_are_in_coarse_levels_alone_and_follow_the_batches():
    model = small_model("dualformer_tiny").train()
    norms = {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm3d)}
    assert list(norms) == ["stages.0.blocks.1.attn.levels.coarse.pool.1"]
    (norm,) = norms.values()
    seen = []
    norm.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].detach()))
    model(clip_for(model))
    mean, var = seen[0].mean(dim=(0, 2, 3, 4)), seen[0].var(dim=(0, 2, 3, 4))
    torch.testing.assert_close(norm.running_mean, 0.1 * mean)
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * var)
    before = norm.running_mean.clone()
    model.eval()(clip_for(model))
    assert torch.equal(norm.running_mean, before)


def masked(model, clip, modules):
    """Shares of zeros in all that each module named in `modules` puts out in one training pass."""
    shares = {name: [] for name in modules}

    def hook(name):
        return lambda module, inputs, output: shares[name].append((output == 0).float().mean().item())

    for name in modules:
        model.get_submodule(name).register_forward_hook(hook(name))
    model.train()(clip)
    return shares


def test_dropout_stands_where_it_is_published():
    """Before the head; after each patch embedding, each projection of attention, and both layers of an MLP."""
    model = small_model("dualformer_tiny", dropout=0.5, projection_dropout=0.25, drop_path_rate=0.0)
    places = {"dropout": [0.5]}
    for stage in range(2):
        places[f"stages.{stage}.drop"] = [0.25]
        for block in range(2):
            places[f"stages.{stage}.blocks.{block}.attn.proj_drop"] = [0.25]
            places[f"stages.{stage}.blocks.{block}.mlp.drop"] = [0.25, 0.25]
    assert {name for name, module in model.named_modules() if isinstance(module, nn.Dropout)} == set(places)
    torch.manual_seed(0)
    shares = masked(model, clip_for(model, batch=8), places)
    assert shares == {name: [pytest.approx(rate, abs=0.06) for rate in rates] for name, rates in places.items()}


@pytest.mark.parametrize("letter", letters())
def test_attention_dropout_reaches_every_attention_in_training_alone(letter):
    model = small_model("dualformer_tiny", attention=letter, attention_dropout=0.5, drop_path_rate=0.0, dropout=0.0)
    clip = clip_for(model)
    assert torch.equal(model.eval()(clip), model(clip))
    model.train()
    assert not torch.equal(model(clip), model(clip))


@pytest.mark.parametrize("name", list_models())
def test_only_chance_tells_training_passes_apart(name):
    """Without dropout and stochastic depth, training mode repeats itself: no other source of chance is hidden."""
    config = small_config(
        name, drop_path_rate=0.0, **({"dropout": 0.0} if hasattr(small_config(name), "dropout") else {})
    )
    model = config.build().train()
    clip = clip_for(model)
    assert torch.equal(model(clip), model(clip))
