"""Letter L: local windows, the fine level of DualFormer (LW-MSA)."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise, product

import torch
from einops import rearrange
from torch import Tensor, nn

from dualformer import reference
from dualformer.attention.base import Attention, Place
from dualformer.attention.windows import WindowLayout, even_windows, relative_bias, relative_index
from dualformer.config import Config, ConfigError
from dualformer.layers import Size

Interval = tuple[int, int]


class LocalWindowAttention(Attention):
    """LW-MSA: attention inside non-overlapping 3D windows (DualFormer, section 3.2).

    Where the grid is a multiple of `window_size` this is the published rule. Elsewhere an axis is cut into the fewest
    windows no longer than `window_size` and as even as possible; what the last one lacks is padded and masked, so that
    every token is in exactly one window and none attends to padding.

    Shapes: K tokens of a window.
    """

    letter = "L"
    words = "window"
    colour = "#0072B2"
    marker = "s"
    examples = {
        "plain": {"window_size": (2, 3, 3)},
        "long": {"window_size": (4, 2, 5)},
        "relative": {"window_size": (3, 2, 4), "relative_bias": True},
    }
    shifted = False

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Options(Config):
        """Choices of local windows.

        Attributes:
            window_size: largest window in tokens (time, height, width).
            relative_bias: whether windows add a learned bias per head and relative position.
        """

        window_size: Size = (8, 7, 7)
        relative_bias: bool = False

        def check(self) -> None:
            if min(self.window_size) < 1:
                raise ConfigError(f"window_size must be positive, got {self.window_size}")

    def __init__(self, place: Place, options: Options | None = None) -> None:
        super().__init__(place, options)
        self.qkv = nn.Linear(place.dim, 3 * place.dim, bias=place.qkv_bias)
        counts, window = even_windows(place.grid, self.options.window_size)
        shift = tuple(w // 2 if self.shifted and n > 1 else 0 for n, w in zip(counts, window))
        self.layout = WindowLayout(place.grid, counts, window, shift)
        regions = self.layout.regions(padding_apart=True)
        self.register_buffer("regions", regions, persistent=False)  # [windows, K], None where nothing is masked
        if self.options.relative_bias:
            table_size = math.prod(2 * w - 1 for w in window)
            self.bias_table = nn.Parameter(torch.empty(table_size, place.num_heads))
            nn.init.trunc_normal_(self.bias_table, std=0.02)
            self.register_buffer("bias_index", relative_index(window), persistent=False)  # [K, K]

    def forward(self, x: Tensor) -> Tensor:
        windows = self.layout.split(self.qkv(x))  # [B * windows, K, 3C]
        q, k, v = windows.chunk(3, dim=-1)
        out = self.layout.join(self.attend(q, k, v, self.bias(x.shape[0])))
        return self.proj_drop(self.proj(out))

    def bias(self, batch: int) -> Tensor | None:
        """Relative bias and mask, [B * windows or 1, M or 1, K, K]; None where there is neither."""
        mask = None
        if self.regions is not None:
            mask = (self.regions[:, :, None] == self.regions[:, None, :]).unsqueeze(1).repeat(batch, 1, 1, 1)
        if not self.options.relative_bias:
            return mask
        bias = relative_bias(self.bias_table, self.bias_index)
        return bias if mask is None else bias.masked_fill(~mask, -math.inf)

    def macs(self) -> int:
        n, c, k = self.num_tokens, self.place.dim, self.layout.num_tokens
        return 4 * n * c * c + 2 * self.layout.num_windows * k * k * c

    @classmethod
    def position_tables(cls, grid: Size, options: Options) -> dict[str, Size]:
        if not options.relative_bias:
            return {}
        t, h, w = (2 * length - 1 for length in even_windows(grid, options.window_size)[1])
        return {"bias_table": (t, h, w)}

    def naive(self, x: Tensor) -> Tensor:
        """Every box of the grid attends to itself; boxes are products of one interval an axis."""
        qkv = self.qkv(x)
        out = torch.empty_like(x)
        axes = zip(self.place.grid, self.options.window_size)
        for box in product(*(_intervals(size, longest, self.shifted) for size, longest in axes)):
            t, h, w = (slice(start, stop) for start, stop in box)
            bias = self._bias_of_box(box) if self.options.relative_bias else None
            for sample in range(len(x)):
                part = qkv[sample, t, h, w]
                q, k, v = part.reshape(-1, part.shape[-1]).chunk(3, dim=-1)
                attended = reference.attend(q, k, v, self.place.num_heads, bias)
                out[sample, t, h, w] = attended.view(*part.shape[:-1], -1)
        return self.proj(out)

    def _bias_of_box(self, box: tuple[Interval, ...]) -> Tensor:
        """Learned bias of every pair of tokens of a box by their offset, [M, L, L]."""
        wt, wh, ww = (_even_length(size, longest) for size, longest in zip(self.place.grid, self.options.window_size))
        table = rearrange(self.bias_table, "(t h w) m -> t h w m", t=2 * wt - 1, h=2 * wh - 1, w=2 * ww - 1)
        t, h, w = torch.tensor(list(product(*(range(*interval) for interval in box)))).T  # [L] each
        rows = [table[a - t + wt - 1, b - h + wh - 1, c - w + ww - 1] for a, b, c in zip(t, h, w)]  # [L, M] each
        return torch.stack(rows).permute(2, 0, 1)


def _even_length(size: int, longest: int) -> int:
    """Length of windows when `size` tokens are shared out as evenly as can be among the fewest windows."""
    return math.ceil(size / math.ceil(size / longest))


def _intervals(size: int, longest: int, shifted: bool) -> list[Interval]:
    """Cuts `range(size)` into windows; shifted ones start half a window later if there is more than one."""
    length = _even_length(size, longest)
    first = length // 2 if shifted and size > length else 0
    return list(pairwise([0, *range(first or length, size, length), size]))
