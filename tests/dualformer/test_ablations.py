"""Every ablation switch of DualFormer is a config field, does what it says, and costs exactly what a formula says."""

import math
import random

import pytest
import torch

from dualformer import count_macs, create_model
from dualformer.attention import find, letters
from dualformer.attention.patterns import option_names
from dualformer.checking import counted_macs
from dualformer.registry import model_config

# The published pattern, every letter alone, all of them in one stage, and other ones in each stage.
PATTERNS = ["LG", *letters(), "".join(letters()), ",".join([*letters(), *letters()][:4]), f"LG,L,{letters()[-1]}G,F"]
POSITIONS = ["peg", "none", "absolute", "relative"]


def random_size(draw, largest):
    return tuple(draw.randint(1, most) for most in largest)


def random_choices(seed):
    """Fields of a four-stage network, every switch drawn at random."""
    draw = random.Random(seed)
    heads = tuple(draw.choice((1, 2)) for _ in range(4))
    pattern = PATTERNS[seed % len(PATTERNS)]
    biased = any("relative_bias" in option_names(find(letter)) for letter in pattern.replace(",", ""))
    positions = POSITIONS if biased else POSITIONS[:3]
    return {
        "num_frames": draw.randint(1, 12),
        "crop_size": (draw.randint(16, 90), draw.randint(16, 90)),
        "attention": pattern,
        "embed_dims": tuple(4 * number * draw.randint(1, 3) for number in heads),
        "num_heads": heads,
        "depths": (*(draw.randint(1, 3) for _ in range(3)), max(map(len, pattern.split(",")))),  # every letter
        "mlp_ratio": draw.choice((2.0, 4.0)),
        "qkv_bias": draw.random() < 0.5,
        "window_size": random_size(draw, (4, 7, 7)),
        "fine_sizes": tuple(draw.choice((None, random_size(draw, (4, 4, 4)))) for _ in range(4)),
        "coarse_sizes": tuple(draw.choice((None, random_size(draw, (2, 3, 3)))) for _ in range(4)),
        "pooling": draw.choice(("conv", "average", "max")),
        "share_kv": draw.random() < 0.5,
        "position": draw.choice(positions),
    }


def up(size, step):
    return tuple(-(-a // b) for a, b in zip(size, step))


def closed_form(fields):
    """Matrix work of the backbone by operator, from the fields alone."""
    conv = linear = matmul = 0
    grid, channels = (fields["num_frames"], *fields["crop_size"]), 3
    patterns = fields["attention"].split(",")
    for stage, dim in enumerate(fields["embed_dims"]):
        patch = (2, 4, 4) if stage == 0 else (1, 2, 2)
        grid = up(grid, patch)
        n = math.prod(grid)
        conv += n * math.prod(patch) * channels * dim
        channels = dim
        conv += 27 * n * dim if fields["position"] == "peg" else 0
        pattern = patterns[stage % len(patterns)]
        for number in range(fields["depths"][stage]):
            costs = attention_costs(pattern[number % len(pattern)], grid, dim, stage, fields)
            conv, linear, matmul = conv + costs[0], linear + costs[1], matmul + costs[2]
            linear += int(2 * n * dim * int(dim * fields["mlp_ratio"]))
    return {name: cost for name, cost in (("conv", conv), ("linear", linear), ("matmul", matmul)) if cost}


def attention_costs(letter, grid, dim, stage, fields):
    """Convolutions, products with weights and attention products of one attention; what has no formula is counted."""
    if letter in FORMULAS:
        return FORMULAS[letter](grid, dim, stage, fields)
    config = model_config("dualformer_tiny", **{**fields, "attention": letter})
    with torch.device("meta"):
        return 0, 0, counted_macs(find(letter)(config.stage_place(stage), config.block_options(stage, letter)))


def full_costs(grid, dim, stage, fields):
    n = math.prod(grid)
    return 0, 4 * n * dim**2, 2 * n * n * dim


def divided_costs(grid, dim, stage, fields):
    n = math.prod(grid)
    return 0, 8 * n * dim**2, 2 * n * (grid[0] + grid[1] * grid[2]) * dim


def window_costs(grid, dim, stage, fields):
    counts = up(grid, fields["window_size"])
    tokens = math.prod(up(grid, counts))
    return 0, 4 * math.prod(grid) * dim**2, 2 * math.prod(counts) * tokens**2 * dim


def global_costs(grid, dim, stage, fields):
    n = math.prod(grid)
    conv, pooled = pyramid_costs(grid, dim, fields["fine_sizes"][stage], fields["coarse_sizes"][stage])
    conv = conv if fields["pooling"] == "conv" else 0
    if fields["pooling"] != "conv" and pooled != n:
        sizes = (fields["fine_sizes"][stage], fields["coarse_sizes"][stage])
        pooled = sum(math.prod(up(grid, up(grid, size))) for size in sizes if size)
    return conv, 2 * n * dim**2 + 2 * pooled * dim**2, 2 * n * pooled * dim


def pyramid_costs(grid, dim, fine, coarse):
    """Depth-wise convolutions of both levels, and how many tokens they leave."""
    cells = [up(grid, size) for size in (fine, coarse) if size]
    if not cells or (1, 1, 1) in cells:
        return 0, math.prod(grid)
    conv = pooled = 0
    if fine:
        tokens = math.prod(up(grid, up(grid, fine)))
        conv, pooled = tokens * math.prod(up(grid, fine)) * dim, tokens
    if coarse:
        cell = up(grid, coarse)
        rest = (cell[0], *(-(-side // 7) for side in cell[1:]))
        first = (1, *up(cell[1:], rest[1:]))
        whole = tuple(a * b for a, b in zip(first, rest))
        tokens = math.prod(up(grid, whole))
        between = tokens * math.prod(rest)
        conv += between * math.prod(first) * dim + tokens * math.prod(rest) * dim
        pooled += tokens
    return conv, pooled


FORMULAS = {"F": full_costs, "D": divided_costs, "L": window_costs, "S": window_costs, "G": global_costs}
"""Those of the letters that the papers have, written a second time."""


@pytest.mark.parametrize("seed", range(40))
def test_network_costs_what_the_closed_form_says_with_every_switch_at_random(seed):
    fields = random_choices(seed)
    count = count_macs("dualformer_tiny", **fields)
    expected = closed_form(fields)
    assert count.matrix_work == sum(expected.values())
    if set(fields["attention"]) <= {",", *FORMULAS}:
        assert {key: value for key, value in count.by_operator.items() if not key.endswith("norm")} == expected


def test_every_pattern_is_drawn():
    assert {random_choices(seed)["attention"] for seed in range(40)} == set(PATTERNS)


@pytest.mark.parametrize("seed", range(40, 52))
def test_network_runs_with_every_switch_at_random(seed):
    fields = random_choices(seed)
    torch.manual_seed(0)
    model = create_model("dualformer_tiny", num_classes=3, **fields)
    clip = torch.randn(2, *model.config.clip_shape)
    logits = model.eval()(clip)
    assert torch.isfinite(logits).all()
    assert not torch.equal(logits[0], logits[1])


SWITCHES = [  # field changes of DualFormer-T, and what they must do to its MACs: > more, < fewer, = none
    ({"fine_sizes": (None, None, None, None)}, "more"),  # the last two stages then attend to every token
    ({"fine_sizes": (None, None, (8, 7, 7), (16, 7, 7))}, "fewer"),
    ({"coarse_sizes": (None, None, None, None)}, "fewer"),
    ({"coarse_sizes": ((4, 4, 4), (4, 4, 4), (4, 4, 4), None)}, "more"),
    ({"fine_sizes": ((4, 7, 7), (8, 7, 7), (8, 7, 7), (16, 7, 7))}, "fewer"),
    ({"coarse_sizes": ((8, 4, 4), (4, 4, 4), None, None)}, "more"),
    ({"window_size": (4, 7, 7)}, "fewer"),
    ({"window_size": (8, 14, 14)}, "more"),
    ({"attention": "LL"}, "more"),  # keys and values of all tokens instead of the pooled ones
    ({"attention": "LG,LG,LG,G"}, "more"),
    ({"attention": "L,L,LG,LG"}, "more"),
    ({"position": "none"}, "fewer"),
    ({"position": "absolute"}, "fewer"),
    ({"position": "relative"}, "fewer"),
    ({"pooling": "average"}, "fewer"),
    ({"pooling": "max"}, "fewer"),
    ({"share_kv": False}, "the same"),
]


@pytest.mark.parametrize(("changes", "effect"), SWITCHES, ids=str)
def test_switch_changes_the_cost_of_the_published_network(changes, effect):
    published, changed = count_macs("dualformer_tiny"), count_macs("dualformer_tiny", **changes)
    assert {"more": changed.total > published.total, "fewer": changed.total < published.total}.get(
        effect, changed.total == published.total
    )
    fields = {**model_config("dualformer_tiny").to_dict(), **changes}
    assert changed.matrix_work == sum(closed_form(fields).values())


def parameters(**changes):
    with torch.device("meta"):
        model = model_config("dualformer_tiny", **changes).build()
    return {name: tuple(value.shape) for name, value in model.named_parameters()}


def test_separate_keys_and_values_are_one_projection_more_where_there_are_two_levels():
    shared, separate = parameters(), parameters(share_kv=False)
    extra = {name for name in separate if name not in shared}
    assert {name.split(".")[1] for name in extra} == {"0", "1"}, "the stages with two levels"
    assert all(".attn.kv.1." in name or ".attn.norms.1." in name for name in extra)
    assert set(shared) < set(separate)


def test_position_encodings_are_exclusive():
    peg, none, absolute, relative = (set(parameters(position=position)) for position in POSITIONS)
    assert peg - none == {f"stages.{s}.peg.conv.{kind}" for s in range(4) for kind in ("weight", "bias")}
    assert absolute - none == {"stages.0.absolute_position"}
    assert all(name.endswith("attn.bias_table") for name in relative - none)
    assert none < peg and none < absolute and none < relative
    window = (2 * 8 - 1) * (2 * 7 - 1) * (2 * 7 - 1)
    assert parameters(position="relative")["stages.0.blocks.0.attn.bias_table"] == (window, 2)
