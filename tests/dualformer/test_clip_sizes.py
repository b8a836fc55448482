"""DualFormer at any clip size: the published network where its rules are exact, and nothing lost where they are not."""

import math
from itertools import product

import pytest
import torch
from torch.nn import functional

from dualformer import create_model
from dualformer.attention import letters
from dualformer.attention.global_pyramid import GlobalPyramidAttention
from dualformer.attention.local_window import LocalWindowAttention
from dualformer.registry import model_config

REDUCED = {"embed_dims": (8, 16, 16, 16), "depths": (2, 2, 2, 2), "num_heads": (1, 2, 2, 2), "num_classes": 5}
WINDOW = (8, 7, 7)
FINE = ((8, 7, 7), (8, 7, 7), (8, 7, 7), (16, 7, 7))
COARSE = (4, 4, 4)  # in the first two stages
COARSE_FIRST = (1, 7, 7)


def floored(sizes, divisors):
    return tuple(size // divisor for size, divisor in zip(sizes, divisors))


class PublishedNetwork:
    """The published rules written out for one clip, on the weights of a DualFormer: floor divisions and all.

    Upstream: sail-sg/dualformer@058c10c, as in the docstring of `dualformer.model`.
    """

    def __init__(self, model):
        self.weights = dict(model.state_dict())
        self.depths, self.heads = model.config.depths, model.config.num_heads

    def __call__(self, clip):
        x = clip
        for stage in range(4):
            x = self.stage(stage, x)
        x = self.norm("norm", x.movedim(1, -1)).movedim(-1, 1)
        return self.linear("head", x.flatten(2).mean(dim=2))

    def stage(self, stage, x):
        """[1, C_in, T, H, W] -> [1, C, t, h, w]."""
        at = f"stages.{stage}"
        patch = (2, 4, 4) if stage == 0 else (1, 2, 2)
        x = self.conv(f"{at}.embed.proj", x, stride=patch)
        x = self.norm(f"{at}.embed.norm", x.movedim(1, -1))
        for number in range(self.depths[stage]):
            block = f"{at}.blocks.{number}"
            attention = self.windows if number % 2 == 0 else self.pyramid
            x = x + attention(f"{block}.attn", stage, self.norm(f"{block}.norm1", x))
            hidden = self.linear(f"{block}.mlp.fc1", self.norm(f"{block}.norm2", x))
            x = x + self.linear(f"{block}.mlp.fc2", hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))))
            if number == 0:
                x = x + self.conv(f"{at}.peg.conv", x.movedim(-1, 1), padding=1).movedim(1, -1)
        return x.movedim(-1, 1)

    def windows(self, at, stage, x):
        """Every whole window of the map attends to itself."""
        q, k, v = self.linear(f"{at}.qkv", x).chunk(3, dim=-1)
        out = torch.full_like(x, math.nan)  # what no window covers stays nan
        for place in product(*map(range, floored(x.shape[1:4], WINDOW))):
            box = (0, *(slice(i * w, (i + 1) * w) for i, w in zip(place, WINDOW)))
            attended = self.attend(stage, *(part[box].reshape(math.prod(WINDOW), -1) for part in (q, k, v)))
            out[box] = attended.view(*WINDOW, -1)
        return self.linear(f"{at}.proj", out)

    def pyramid(self, at, stage, x):
        """All tokens attend to the pooled ones, or to all where the fine level would pool nothing."""
        grid = x.shape[1:4]
        q = self.linear(f"{at}.q", x).flatten(1, 3)[0]
        tokens = x.flatten(1, 3)
        fine = floored(grid, FINE[stage])
        if math.prod(fine) > 1:
            channels_first = x.movedim(-1, 1)
            levels = [self.conv(f"{at}.levels.fine.pool", channels_first, stride=fine)]
            if stage < 2:
                second = floored(floored(grid, COARSE), COARSE_FIRST)
                coarse = self.conv(f"{at}.levels.coarse.pool.0", channels_first, stride=COARSE_FIRST)
                coarse = self.batch_norm(f"{at}.levels.coarse.pool.1", coarse).clamp(min=0)
                levels.append(self.conv(f"{at}.levels.coarse.pool.3", coarse, stride=second))
            tokens = torch.cat([level.flatten(2).mT for level in levels], dim=1)
            tokens = self.norm(f"{at}.norms.0", tokens)
        k, v = self.linear(f"{at}.kv.0", tokens)[0].chunk(2, dim=-1)
        out = torch.cat([self.attend(stage, part, k, v) for part in q.split(4096)])
        return self.linear(f"{at}.proj", out.view_as(x))

    def attend(self, stage, q, k, v):
        heads = [part.chunk(self.heads[stage], dim=-1) for part in (q, k, v)]
        attended = [(q @ k.T / math.sqrt(q.shape[-1])).softmax(dim=-1) @ v for q, k, v in zip(*heads)]
        return torch.cat(attended, dim=-1)

    def linear(self, at, x):
        return x @ self.weights[f"{at}.weight"].T + self.weights[f"{at}.bias"]

    def norm(self, at, x):
        x = (x - x.mean(dim=-1, keepdim=True)) / (x.var(dim=-1, keepdim=True, correction=0) + 1e-5).sqrt()
        return x * self.weights[f"{at}.weight"] + self.weights[f"{at}.bias"]

    def batch_norm(self, at, x):
        mean, var, weight, bias = (
            self.weights[f"{at}.{name}"].view(1, -1, 1, 1, 1)
            for name in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    def conv(self, at, x, stride=1, padding=0):
        """Where stride means anything, the published kernel is as large, so that one of another size shows here."""
        weight = self.weights[f"{at}.weight"]
        if not padding:
            assert weight.shape[2:] == stride
        groups = weight.shape[0] if weight.shape[1] == 1 else 1
        return functional.conv3d(x, weight, self.weights[f"{at}.bias"], stride, padding, groups=groups)


@torch.no_grad()
def lively_model(**changes):
    """A float64 model whose every weight and statistic makes a difference."""
    model = create_model("dualformer_tiny", **{**REDUCED, **changes}).double().eval()
    generator = torch.Generator().manual_seed(0)
    for name, value in model.state_dict().items():
        if not value.is_floating_point():
            continue
        noise = torch.randn(value.shape, dtype=value.dtype, generator=generator)
        if value.ndim > 1:
            value.copy_(noise / math.sqrt(value[0].numel()))
        elif name.endswith("running_var"):
            value.copy_(1 + 0.1 * noise.abs())
        else:
            value.copy_(0.1 * noise + float(name.endswith(".weight")))
    return model


@pytest.mark.parametrize(("num_frames", "crop_size"), [(64, (224, 224)), (32, (224, 448)), (16, (224, 224))], ids=str)
@torch.inference_mode()
def test_equals_the_published_rules_where_they_are_exact(num_frames, crop_size):
    model = lively_model(num_frames=num_frames, crop_size=crop_size)
    clip = torch.randn(1, *model.config.clip_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = PublishedNetwork(model)(clip)
    assert torch.isfinite(expected).all()
    torch.testing.assert_close(model(clip), expected, rtol=1e-9, atol=1e-11)
    assert model.norm.eps == 1e-5


def attentions(**changes):
    """Attention modules of each stage, on the meta device."""
    with torch.device("meta"):
        model = model_config("dualformer_tiny", **{**REDUCED, **changes}).build()
    return [[block.attn for block in stage.blocks] for stage in model.stages]


@pytest.mark.parametrize("num_frames", [16, 32, 64, 128])
@pytest.mark.parametrize("crop_size", [(224, 224), (224, 448), (448, 224), (448, 448), (672, 224)], ids=str)
def test_windows_and_kernels_are_the_published_ones_where_those_divide(num_frames, crop_size):
    divided = 0
    for stage, (local, pyramid) in enumerate(attentions(num_frames=num_frames, crop_size=crop_size)):
        grid = local.place.grid
        assert isinstance(local, LocalWindowAttention) and isinstance(pyramid, GlobalPyramidAttention)
        assert (local.layout.window, local.layout.counts, local.regions) == (WINDOW, floored(grid, WINDOW), None)
        if any(size % cells for size, cells in zip(grid, FINE[stage])):
            continue
        divided += 1
        kernels = {name: level.kernels for name, level in pyramid.levels.items()}
        fine = floored(grid, FINE[stage])
        if math.prod(fine) == 1:
            assert kernels == {}
        elif stage < 2:
            assert kernels == {"fine": [fine], "coarse": [(1, 7, 7), floored(floored(grid, COARSE), COARSE_FIRST)]}
        else:
            assert kernels == {"fine": [fine]}
    assert divided == (3 if num_frames == 16 else 4)  # 8 tokens in time are no 16 for the last stage


SIZES = [
    (4, (64, 64)),
    (7, (113, 75)),
    (16, (112, 160)),
    (31, (200, 64)),
    (65, (72, 100)),
    (128, (64, 96)),
    (4, (448, 65)),
]


@pytest.mark.parametrize(("num_frames", "crop_size"), SIZES, ids=str)
@pytest.mark.parametrize("attention", ["LG", "".join(letters())])
def test_every_pixel_counts_and_the_grid_follows_the_rule(num_frames, crop_size, attention):
    """Patches of 2x4x4 and every halving are rounded up, so the grid is the clip over 2x32x32, rounded up."""
    depths = (2, 2, 2, 2) if attention == "LG" else (1, 1, len(attention), 1)
    dims = {"embed_dims": (4, 4, 4, 4), "num_heads": (1, 1, 1, 1), "depths": depths}
    torch.manual_seed(0)
    size = {"num_frames": num_frames, "crop_size": crop_size}
    model = create_model("dualformer_tiny", attention=attention, **size, **dims).eval()
    clip = torch.randn(1, *model.config.clip_shape).requires_grad_()
    features = model.forward_features(clip)
    assert features.shape[2:] == tuple(
        math.ceil(size / step) for size, step in zip((num_frames, *crop_size), (2, 32, 32))
    )
    features.square().sum().backward()
    assert torch.isfinite(features).all()
    assert clip.grad.abs().sum(dim=1).min() > 0


@pytest.mark.parametrize(
    ("num_frames", "crop_size"), [*SIZES, (5, (448, 448)), (128, (448, 448)), (1, (1, 1))], ids=str
)
def test_windows_and_pyramids_stay_within_the_published_sizes(num_frames, crop_size):
    for stage, (local, pyramid) in enumerate(attentions(num_frames=num_frames, crop_size=crop_size)):
        grid = local.place.grid
        for size, window, count, largest in zip(grid, local.layout.window, local.layout.counts, WINDOW):
            assert window <= largest
            assert count == math.ceil(size / largest)
            assert count * window - size < count, "windows are as even as possible"
        for name, level in pyramid.levels.items():
            limits = FINE[stage] if name == "fine" else COARSE
            assert all(tokens <= limit for tokens, limit in zip(level.size, limits))
            covered = [tokens * cell for tokens, cell in zip(level.size, level.cell)]
            assert all(size <= reach < size + cell for size, reach, cell in zip(grid, covered, level.cell))
