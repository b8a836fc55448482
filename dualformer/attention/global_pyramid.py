"""Letter G: a pyramid of pooled tokens of the whole clip, the coarse level of DualFormer (GP-MSA)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from itertools import product
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn

from dualformer import reference
from dualformer.attention.base import Attention, Place
from dualformer.attention.pooling import Pooling, PyramidLevel, pool_kernel
from dualformer.attention.style import Style
from dualformer.config import Config, ConfigError
from dualformer.layers import Size


class GlobalPyramidAttention(Attention):
    """GP-MSA: every token attends to a small pyramid of pooled tokens of the whole clip (DualFormer, section 3.3).

    The fine level is a depth-wise convolution with kernel = stride; the coarse level factorises into space, batch norm
    and ReLU, then the rest. Where a level's size covers the grid nothing is pooled and keys and values are all tokens,
    which makes it full attention (the published stage 4); the same holds where no level is configured.

    A level of size s on an axis of n tokens pools ceil(n / s) tokens into one, so it has at most s; a border that is
    not a whole cell is filled up with copies of the last token. Where s divides n this is the published rule.

    Shapes: P tokens of the pyramid.
    """

    letter = "G"
    words = "pyramid"
    family = "pooled"
    colour = "#009E73"
    marker = "^"
    mixes = {"window": Style("dual", "window + pyramid", "#D55E00", "o")}
    examples = {
        "plain": {"fine_size": (2, 3, 3)},
        "coarse_too": {"fine_size": (2, 3, 3), "coarse_size": (2, 2, 1)},
        "coarse_only": {"fine_size": None, "coarse_size": (2, 1, 1)},
        "no_level": {"fine_size": None},
        "separate_kv": {"fine_size": (2, 3, 3), "coarse_size": (2, 2, 1), "share_kv": False},
        "average": {"fine_size": (2, 3, 3), "coarse_size": (2, 2, 1), "pooling": "average"},
        "max": {"fine_size": (2, 3, 3), "pooling": "max"},
    }
    pooling_kernels = (r"levels\.(fine\.pool|coarse\.pool\.[03])\.weight",)

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Options(Config):
        """Choices of the pyramid.

        Attributes:
            fine_size: tokens of the fine level (time, height, width), None for no such level.
            coarse_size: tokens of the coarse level, None for no such level.
            pooling: operator that makes the levels.
            share_kv: whether the levels share one norm and one key/value projection.
        """

        fine_size: Size | None = (8, 7, 7)
        coarse_size: Size | None = None
        pooling: Pooling = "conv"
        share_kv: bool = True

        def check(self) -> None:
            for field in ("fine_size", "coarse_size"):
                if min(getattr(self, field) or (1,)) < 1:
                    raise ConfigError(f"{field} must be positive, got {getattr(self, field)}")

        @property
        def sizes(self) -> dict[str, Size]:
            """Tokens of the levels that are configured, by name."""
            sizes = {"fine": self.fine_size, "coarse": self.coarse_size}
            return {name: size for name, size in sizes.items() if size is not None}

    def __init__(self, place: Place, options: Options | None = None) -> None:
        super().__init__(place, options)
        dim = place.dim
        self.q = nn.Linear(dim, dim, bias=place.qkv_bias)
        self.levels = nn.ModuleDict(self._levels())
        groups = 1 if self.options.share_kv or not self.levels else len(self.levels)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) if self.levels else nn.Identity() for _ in range(groups))
        self.kv = nn.ModuleList(nn.Linear(dim, 2 * dim, bias=place.qkv_bias) for _ in range(groups))

    def _levels(self) -> dict[str, PyramidLevel]:
        """The levels that pool anything, by name; none where a level would keep every token."""
        dim, grid, pooling = self.place.dim, self.place.grid, self.options.pooling
        kernels = {name: pool_kernel(grid, size) for name, size in self.options.sizes.items()}
        if (1, 1, 1) in kernels.values():
            return {}
        return {
            name: PyramidLevel(dim, grid, kernel, pooling, factorised=name == "coarse")
            for name, kernel in kernels.items()
        }

    @property
    def pooled_levels(self) -> list[PyramidLevel]:
        """The levels that pool anything; torch's `ModuleDict` forgets what its modules are."""
        return [cast(PyramidLevel, level) for level in self.levels.values()]

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(1, 3)  # [B, N, C]
        k, v = self.keys_values(self.pyramid(x)).chunk(2, dim=-1)  # [B, P, C] each
        return self.proj_drop(self.proj(self.attend(self.q(tokens), k, v))).view_as(x)

    def pyramid(self, x: Tensor) -> list[Tensor]:
        """[B, T, H, W, C] -> the tokens of each level, [B, P, C]; all tokens where nothing is pooled."""
        if not self.levels:
            return [x.flatten(1, 3)]
        channels_first = rearrange(x, "b t h w c -> b c t h w")
        return [rearrange(level(channels_first), "b c t h w -> b (t h w) c") for level in self.levels.values()]

    def keys_values(self, levels: list[Tensor]) -> Tensor:
        """Levels [B, P_i, C] -> keys beside values, [B, P, 2C]."""
        groups = [torch.cat(levels, dim=1)] if len(self.kv) == 1 else levels
        return torch.cat([kv(norm(group)) for kv, norm, group in zip(self.kv, self.norms, groups)], dim=1)

    def macs(self) -> int:
        n, c = self.num_tokens, self.place.dim
        p = sum(math.prod(level.size) for level in self.pooled_levels) or n
        pooling = sum(level.macs() for level in self.pooled_levels)
        return 2 * n * c * c + 2 * p * c * c + 2 * n * p * c + pooling

    def naive(self, x: Tensor) -> Tensor:
        """Every token attends to the pooled tokens of all levels, or to all tokens where a level would keep them."""
        kept = [size for size in self.options.sizes.values() if all(n <= s for n, s in zip(self.place.grid, size))]
        names = [] if kept else list(self.options.sizes)
        levels = [self._pooled(x, name) for name in names] or [x.flatten(1, 3)]
        out = []
        for sample in range(len(x)):
            pairs = []
            for number, level in enumerate(levels):
                group = 0 if self.options.share_kv else number
                pairs.append(self.kv[group](self.norms[group](level[sample])))
            k, v = torch.cat(pairs).chunk(2, dim=-1)
            q = self.q(x[sample]).reshape(self.num_tokens, -1)
            out.append(reference.attend(q, k, v, self.place.num_heads))
        return self.proj(torch.stack(out)).view_as(x)

    def _pooled(self, x: Tensor, name: str) -> Tensor:
        """[B, T, H, W, C] -> [B, P, C], one cell at a time."""
        cell = [math.ceil(n / size) for n, size in zip(self.place.grid, self.options.sizes[name])]
        if self.options.pooling == "average":
            return _by_cell(x, cell, lambda tokens: tokens.mean(dim=(1, 2, 3))).flatten(1, 3)
        if self.options.pooling == "max":
            return _by_cell(x, cell, lambda tokens: tokens.amax(dim=(1, 2, 3))).flatten(1, 3)
        pool = self.levels.get_submodule(f"{name}.pool")
        if name == "fine":
            return _convolved(x, pool, cell).flatten(1, 3)
        first, norm, _, second = pool.children()
        parts = [math.ceil(side / 7) for side in cell[1:]]  # a side is taken in so many parts of at most seven
        in_frame = [1, *(math.ceil(side / part) for side, part in zip(cell[1:], parts))]
        rest = [cell[0], *parts]
        x = _filled(x, [a * b for a, b in zip(in_frame, rest)])
        x = _convolved(x, first, in_frame)
        x = norm(x.movedim(-1, 1)).movedim(1, -1).relu()
        return _convolved(x, second, rest).flatten(1, 3)


def _convolved(x: Tensor, conv: nn.Module, cell: list[int]) -> Tensor:
    """Depth-wise convolution with kernel = stride as a weighted sum over each cell."""
    weight = conv.get_parameter("weight")[:, 0].permute(1, 2, 3, 0)  # [t, h, w, C]
    bias = conv.get_parameter("bias")
    return _by_cell(x, cell, lambda tokens: (tokens * weight).sum(dim=(1, 2, 3)) + bias)


def _by_cell(x: Tensor, cell: list[int], operator: Callable[[Tensor], Tensor]) -> Tensor:
    """[B, T, H, W, C] -> [B, t, h, w, C]: `operator` maps the tokens of each cell, [B, *cell, C], to [B, C]."""
    x = _filled(x, cell)
    counts = [n // k for n, k in zip(x.shape[1:4], cell)]
    cells = []
    for place in product(*map(range, counts)):
        t, h, w = (slice(i * k, (i + 1) * k) for i, k in zip(place, cell))
        cells.append(operator(x[:, t, h, w]))
    return torch.stack(cells, dim=1).view(len(x), *counts, -1)


def _filled(x: Tensor, cell: list[int]) -> Tensor:
    """Repeats the last entry of every axis of [B, T, H, W, C] until it is a multiple of `cell`."""
    for axis, k in enumerate(cell, start=1):
        last = x.narrow(axis, x.shape[axis] - 1, 1)
        x = torch.cat([x, *[last] * (-x.shape[axis] % k)], dim=axis)
    return x
