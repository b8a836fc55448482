"""Groups of parameters: every one in exactly one group, and by each rule what the rule's table says."""

import pytest
import torch

from dualformer import ConfigError, create_model, list_models
from dualformer.optim import parameter_groups
from dualformer.registry import model_config
from tests.helpers.small_models import clip_for, small_model

RATE, DECAY = 1e-3, 0.05


def placed(model, rule, **changes):
    """{name: (learning rate over `RATE`, whether it is decayed)}."""
    groups = parameter_groups(model, rule, RATE, DECAY, **changes)
    assert all(group["lr"] == RATE * group["lr_factor"] for group in groups)
    assert {group["weight_decay"] for group in groups} <= {0.0, DECAY}
    named = [(name, (group["lr_factor"], group["weight_decay"] > 0)) for group in groups for name, _ in group["params"]]
    assert sorted(name for name, _ in named) == sorted(name for name, _ in model.named_parameters())
    assert all(model.get_parameter(name) is value for group in groups for name, value in group["params"])
    return dict(named)


def meta_model(name, **changes):
    with torch.device("meta"):
        return model_config(name, **changes).build()


# name -> what "released", "intended" and "plain" make of it, from section 3.2 of the recipes and the custom
DUALFORMER = {
    "head.weight": ((1, True), (1, True), (1, True)),
    "head.bias": ((1, True), (1, True), (1, False)),
    "norm.weight": ((0.1, True), (0.1, False), (1, False)),
    "stages.0.embed.proj.weight": ((0.1, True), (0.1, True), (1, True)),
    "stages.0.embed.proj.bias": ((0.1, True), (0.1, True), (1, False)),
    "stages.1.embed.norm.bias": ((0.1, True), (0.1, False), (1, False)),
    "stages.2.peg.conv.weight": ((1, False), (0.1, False), (1, True)),
    "stages.2.peg.conv.bias": ((1, False), (0.1, False), (1, False)),
    "stages.0.blocks.1.norm1.weight": ((0.1, True), (0.1, False), (1, False)),
    "stages.0.blocks.1.attn.norms.0.weight": ((0.1, True), (0.1, False), (1, False)),
    "stages.0.blocks.1.attn.levels.fine.pool.weight": ((0.1, True), (0.1, True), (1, True)),
    "stages.0.blocks.1.attn.levels.coarse.pool.1.weight": ((0.1, True), (0.1, True), (1, False)),
    "stages.0.blocks.0.attn.qkv.weight": ((0.1, True), (0.1, True), (1, True)),
    "stages.0.blocks.0.mlp.fc1.bias": ((0.1, True), (0.1, True), (1, False)),
}
VIDEO_SWIN = {
    "head.weight": ((1, True), (1, True), (1, True)),
    "patch_embed.norm.weight": ((0.1, True), (0.1, False), (1, False)),
    "layers.0.downsample.norm.weight": ((0.1, True), (0.1, False), (1, False)),
    "layers.0.downsample.reduction.weight": ((0.1, True), (0.1, True), (1, True)),
    "layers.3.blocks.1.attn.relative_position_bias_table": ((1, False), (0.1, False), (1, False)),
    "layers.3.blocks.1.norm2.bias": ((0.1, True), (0.1, False), (1, False)),
}


@pytest.mark.parametrize(("name", "expected"), [("dualformer_tiny", DUALFORMER), ("video_swin_tiny", VIDEO_SWIN)])
@pytest.mark.parametrize("column", [0, 1, 2], ids=["released", "intended", "plain"])
def test_rules_follow_the_recipe_name_by_name(name, expected, column):
    groups = placed(meta_model(name), ("released", "intended", "plain")[column])
    assert {parameter: groups[parameter] for parameter in expected} == {
        parameter: columns[column] for parameter, columns in expected.items()
    }


def longest_keyword(upstream_name):
    """The released rule as the library states it, on upstream's own names: the longest keyword that occurs wins."""
    keywords = {"pos_block": (1, False), "norm": (1, False), "backbone": (0.1, True)}
    for keyword in sorted(keywords, key=len, reverse=True):
        if keyword in upstream_name:
            return keywords[keyword]
    return 1, True


def all_keywords(upstream_name):
    """The intended rule: the factors of every keyword that occurs."""
    backbone = "backbone" in upstream_name
    return (0.1 if backbone else 1), not ("norm" in upstream_name or "pos_block" in upstream_name)


def upstream_name(name):
    """A parameter of DualFormer as released checkpoints call it."""
    if name.startswith("head."):
        return name.replace("head.", "cls_head.fc_cls.")
    stage, _, rest = name.removeprefix("stages.").partition(".")
    rest = (
        rest.replace(".norms.0.", ".norm.")
        .replace(".levels.fine.pool.", ".sr.")
        .replace(".levels.coarse.pool.", ".lr.")
    )
    for own, theirs in (("embed.", "patch_embeds"), ("blocks.", "blocks"), ("peg.conv.", "pos_block")):
        if rest.startswith(own):
            return f"backbone.{theirs}.{stage}.{rest.removeprefix(own)}"
    return f"backbone.{name}"


@pytest.mark.parametrize("name", list_models("dualformer_*"))
@pytest.mark.parametrize(("rule", "literal"), [("released", longest_keyword), ("intended", all_keywords)])
def test_rules_equal_the_keyword_rules_on_released_names(name, rule, literal):
    model = meta_model(name)
    assert placed(model, rule) == {
        parameter: literal(upstream_name(parameter)) for parameter in dict(model.named_parameters())
    }


@pytest.mark.parametrize("name", list_models())
def test_plain_decays_matrices_and_kernels_alone(name):
    model = meta_model(name)
    for parameter, (factor, decayed) in placed(model, "plain").items():
        is_table = parameter.rpartition(".")[2] not in ("weight", "bias")
        assert factor == 1
        assert decayed == (model.get_parameter(parameter).ndim >= 2 and not is_table), parameter


@pytest.mark.parametrize("name", list_models("timesformer_*"))
def test_uniform_is_one_group(name):
    assert set(placed(meta_model(name), "uniform").values()) == {(1, True)}


def test_tables_alone_escape_the_decay():
    groups = placed(meta_model("timesformer_divided"), "tables")
    kept = {name for name, (_, decayed) in groups.items() if not decayed}
    assert kept == {"cls_token", "pos_embed", "time_embed"} and {factor for factor, _ in groups.values()} == {1}


def test_position_tables_of_ablations_are_not_decayed():
    absolute = placed(create_model("dualformer_tiny", position="absolute"), "released")
    assert absolute["stages.0.absolute_position"] == (1, False)
    relative = placed(create_model("dualformer_tiny", position="relative"), "intended", backbone_factor=0.5)
    assert relative["stages.0.blocks.0.attn.bias_table"] == (0.5, False)


def test_an_optimiser_takes_the_groups_and_moves_the_backbone_a_tenth_as_far():
    model = small_model("dualformer_tiny", drop_path_rate=0.0).eval()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(parameter_groups(model, "released", RATE, weight_decay=0.0))
    model(clip_for(model)).square().sum().backward()
    optimizer.step()
    moved = {name: (p - before[name]).abs().max().item() for name, p in model.named_parameters()}
    for name, factor in (("head.weight", 1), ("stages.0.peg.conv.weight", 1), ("stages.0.blocks.0.norm1.bias", 0.1)):
        assert moved[name] == pytest.approx(RATE * factor, rel=0.01)  # the first step of Adam is the learning rate


def test_unknown_rule_suggests_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown rule 'relased' .*did you mean 'released'"):
        parameter_groups(small_model("vivit_base"), "relased", RATE, DECAY)
