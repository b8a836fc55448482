"""Every attention equals its naive twin, forward and backward, at even and odd sizes; closed forms and edge rules."""

import itertools

import pytest
import torch

from dualformer.attention import (
    ATTENTIONS,
    Attention,
    AttentionConfig,
    GlobalPyramidAttention,
    LocalWindowAttention,
    check_pattern,
    factorise,
    window_partition,
)
from dualformer.config import ConfigError
from dualformer.reference import NAIVE, naive

GRIDS = {
    "even": (4, 6, 6),
    "odd": (5, 7, 3),
    "prime": (3, 11, 5),
    "flat": (1, 9, 9),
    "smaller_than_window": (2, 2, 3),
}
VARIANTS = {
    "plain": {},
    "no_qkv_bias": {"qkv_bias": False},
    "relative": {"relative_bias": True},
    "coarse_too": {"coarse_size": (2, 2, 1)},
    "coarse_only": {"fine_size": None, "coarse_size": (2, 1, 1)},
    "no_level": {"fine_size": None},
    "separate_kv": {"coarse_size": (2, 2, 1), "share_kv": False},
    "average": {"coarse_size": (2, 2, 1), "pooling": "average"},
    "max": {"pooling": "max"},
}
RELEVANT = {"relative": "LS", "plain": "LSGDF", "no_qkv_bias": "LSGDF"}  # the others change the pyramid alone


def build(letter, grid, **changes):
    torch.manual_seed(0)
    config = AttentionConfig(
        dim=12, num_heads=3, grid=grid, **({"window_size": (2, 3, 3), "fine_size": (2, 3, 3)} | changes)
    )
    return ATTENTIONS[letter](config).double().eval()


def cases():
    for variant, grid in itertools.product(VARIANTS, GRIDS):
        for letter in RELEVANT.get(variant, "G"):
            yield pytest.param(letter, GRIDS[grid], VARIANTS[variant], id=f"{letter}-{grid}-{variant}")


@pytest.mark.parametrize(("letter", "grid", "changes"), cases())
def test_equals_its_naive_twin_forward_and_backward(letter, grid, changes):
    module = build(letter, grid, **changes)
    x = torch.randn(2, *grid, 12, dtype=torch.float64, requires_grad=True)
    weights = torch.randn_like(x)
    results = []
    for context in (lambda m: torch.enable_grad(), naive):
        with context(module):
            out = module(x)
        # Logits of a single key have no gradient, so an unused parameter is a zero here.
        grads = torch.autograd.grad((out * weights).sum(), [x, *module.parameters()], allow_unused=True)
        results.append([out, *(torch.zeros(1) if g is None else g for g in grads)])
    for fast, slow in zip(*results):
        torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-11, check_dtype=False)


def test_every_letter_has_a_naive_twin():
    assert set(NAIVE) == set(ATTENTIONS.values())


@pytest.mark.parametrize("letter", sorted(ATTENTIONS))
def test_naive_context_restores_the_fast_path(letter):
    module = build(letter, (4, 6, 6))
    with pytest.raises(RuntimeError, match="stop"), naive(module):
        assert "forward" in vars(module)
        raise RuntimeError("stop")
    assert "forward" not in vars(module)


def test_window_partition_is_published_where_it_divides_and_even_elsewhere():
    assert window_partition((16, 56, 56), (8, 7, 7)) == ((2, 8, 8), (8, 7, 7))
    assert window_partition((12, 8, 3), (8, 7, 7)) == ((2, 2, 1), (6, 4, 3))
    for size, limit in itertools.product(range(1, 40), range(1, 12)):
        (count, *_), (length, *_) = window_partition((size, 1, 1), (limit, 1, 1))
        assert length <= limit
        assert (count - 1) * length < size <= count * length


def test_no_token_leaves_its_window():
    module = build("L", (4, 6, 6))
    x = torch.randn(1, 4, 6, 6, 12, dtype=torch.float64)
    changed = x.clone()
    changed[0, 0, 0, 0] += 1.0
    moved = (module(x) != module(changed)).any(dim=-1)[0]
    assert moved[:2, :3, :3].all()
    assert moved.sum() == 2 * 3 * 3


def test_shifted_windows_do_not_attend_across_the_border():
    module = build("S", (4, 6, 6))
    x = torch.randn(1, 4, 6, 6, 12, dtype=torch.float64)
    changed = x.clone()
    changed[0, 0, 0, 0] += 1.0
    moved = (module(x) != module(changed)).any(dim=-1)[0]
    assert moved[:1, :1, :1].all()
    assert moved.sum() == 1


@pytest.mark.parametrize("grid", [(5, 7, 3), (16, 14, 14)])
def test_pyramid_sees_every_token(grid):
    module = build("G", grid, coarse_size=(2, 2, 2))
    x = torch.randn(1, *grid, 12, dtype=torch.float64, requires_grad=True)
    fine, coarse = module.pyramid(x)
    (seen,) = torch.autograd.grad(fine.sum(), x)
    assert (seen.abs().sum(dim=-1) > 0).all()
    assert coarse.shape[1] <= 8


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        ((4, 14, 14), [(1, 7, 7), (4, 2, 2)]),  # stage 1 as published
        ((4, 7, 7), [(1, 7, 7), (4, 1, 1)]),  # stage 2 as published
        ((4, 14, 28), [(1, 7, 7), (4, 2, 4)]),  # 448 pixels wide
        ((2, 10, 3), [(1, 5, 3), (2, 2, 1)]),
    ],
)
def test_coarse_cells_factorise(kernel, expected):
    assert factorise(kernel) == expected


def test_pyramid_of_the_published_stages():
    def sizes(grid, fine, coarse):
        config = AttentionConfig(dim=8, num_heads=1, grid=grid, fine_size=fine, coarse_size=coarse)
        with torch.device("meta"):
            return {name: level.size for name, level in GlobalPyramidAttention(config).levels.items()}

    assert sizes((16, 56, 56), (8, 7, 7), (4, 4, 4)) == {"fine": (8, 7, 7), "coarse": (4, 4, 4)}
    assert sizes((8, 56, 56), (8, 7, 7), (4, 4, 4)) == {"fine": (8, 7, 7), "coarse": (4, 4, 4)}
    assert sizes((16, 7, 7), (16, 7, 7), None) == {}
    assert sizes((32, 7, 7), (16, 7, 7), None) == {"fine": (16, 7, 7)}


def test_attention_dropout_acts_in_training_only():
    module = build("L", (4, 6, 6), attention_dropout=0.5)
    x = torch.randn(1, 4, 6, 6, 12, dtype=torch.float64)
    assert torch.equal(module(x), module(x))
    module.train()
    assert not torch.equal(module(x), module(x))


def test_bad_patterns_and_heads_are_named():
    with pytest.raises(ConfigError, match="unknown letter 'l'; did you mean 'L'"):
        check_pattern("Gl")
    with pytest.raises(ConfigError, match="empty"):
        check_pattern("")
    with pytest.raises(ConfigError, match="12 channels can't be split over 5 heads"):
        AttentionConfig(dim=12, num_heads=5, grid=(2, 2, 2))


def test_unmasked_windows_need_no_mask():
    config = AttentionConfig(dim=8, num_heads=1, grid=(16, 14, 14))
    assert LocalWindowAttention(config).bias(batch=2) is None


def test_an_attention_without_a_cost_can_not_be_made():
    class Free(Attention):
        def forward(self, x):
            return x

    with pytest.raises(TypeError, match="macs"):
        Free(AttentionConfig(dim=12, num_heads=3, grid=(2, 2, 2)))
