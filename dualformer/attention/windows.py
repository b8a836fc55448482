"""Cutting a token grid into 3D windows, shifted or not, and the bias inside them.

Shapes: B batch, (T, H, W) token grid, C channels, M heads, K tokens of a window.
"""

from __future__ import annotations

import dataclasses
import math
from itertools import product

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from dualformer.layers import Size

_WINDOWS = "(b nt nh nw) (wt wh ww) c"
_MAP = "b (nt wt) (nh wh) (nw ww) c"


@dataclasses.dataclass(frozen=True)
class WindowLayout:
    """Windows of one length that together cover a grid; what the last ones lack is padded.

    Attributes:
        grid: token grid (T, H, W).
        counts: windows along each axis.
        window: tokens of a window along each axis.
        shift: how many tokens later the windows start; what is before them comes round to the end.
    """

    grid: Size
    counts: Size
    window: Size
    shift: Size

    @property
    def num_windows(self) -> int:
        return math.prod(self.counts)

    @property
    def num_tokens(self) -> int:
        """Tokens of one window (K)."""
        return math.prod(self.window)

    @property
    def padded(self) -> Size:
        """The grid of whole windows."""
        t, h, w = (count * length for count, length in zip(self.counts, self.window))
        return t, h, w

    def split(self, x: Tensor) -> Tensor:
        """[B, T, H, W, C] -> [B * windows, K, C], padded with zeros and rolled by the shift."""
        t, h, w = (size - tokens for size, tokens in zip(self.padded, self.grid))
        if any((t, h, w)):
            x = functional.pad(x, (0, 0, 0, w, 0, h, 0, t))
        if any(self.shift):
            x = x.roll([-s for s in self.shift], dims=(1, 2, 3))
        return rearrange(x, f"{_MAP} -> {_WINDOWS}", **self._axes())

    def join(self, windows: Tensor) -> Tensor:
        """The inverse of `split`: [B * windows, K, C] -> [B, T, H, W, C]."""
        x = rearrange(windows, f"{_WINDOWS} -> {_MAP}", **self._axes())
        if any(self.shift):
            x = x.roll(self.shift, dims=(1, 2, 3))
        t, h, w = self.grid
        return x[:, :t, :h, :w]

    def regions(self, *, padding_apart: bool) -> Tensor | None:
        """Region of every token of every window, [windows, K]: tokens of different regions are no neighbours.

        Along a shifted axis the end of the grid and what came round to it are different regions; with `padding_apart`
        padding is one of its own. None where every window is a single region.
        """
        apart = padding_apart and self.padded != self.grid
        if not apart and not any(self.shift):
            return None
        device = torch.get_default_device()
        with torch.device("cpu"):  # on the meta device each step would take a hundred times as long as what it spares
            region = torch.zeros(self.padded, dtype=torch.int32)
            for axis, (size, s) in enumerate(zip(self.grid, self.shift)):
                places = torch.arange(self.padded[axis])
                axis_region = (places < s) + 2 * (places >= size) * apart
                region = 4 * region + axis_region.reshape([-1 if other == axis else 1 for other in range(3)])
            region = region.roll([-s for s in self.shift], dims=(0, 1, 2))
        windows = rearrange(region[None, ..., None], f"{_MAP} -> {_WINDOWS}", **self._axes())
        return windows.squeeze(-1).to(device)

    def _axes(self) -> dict[str, int]:
        """Number and length of windows along each axis, as the patterns of `rearrange` name them."""
        return dict(zip(("nt", "nh", "nw", "wt", "wh", "ww"), (*self.counts, *self.window)))


def even_windows(grid: Size, largest: Size) -> tuple[Size, Size]:
    """Returns how many windows each axis has and their length: the fewest no longer than `largest`, evenly long."""
    counts = tuple(-(-size // limit) for size, limit in zip(grid, largest))
    window = tuple(-(-size // count) for size, count in zip(grid, counts))
    return counts, window


def relative_index(window: Size) -> Tensor:
    """Row of the bias table for every pair of tokens of a window, [K, K] (Video Swin, equation 2)."""
    places = torch.tensor(list(product(*(range(w) for w in window))))  # [K, 3]
    offsets = places[:, None] - places[None, :] + torch.tensor(window) - 1  # [K, K, 3], each axis from 0 to 2w - 2
    rows, columns = 2 * window[1] - 1, 2 * window[2] - 1
    return (offsets[..., 0] * rows + offsets[..., 1]) * columns + offsets[..., 2]


def relative_bias(table: Tensor, index: Tensor) -> Tensor:
    """The bias of every head and pair of tokens: a table [rows, M] at rows [K, K] -> [1, M, K, K]."""
    if torch.onnx.is_in_onnx_export():
        table = table.detach()  # for a mask that needs a gradient the exporter confuses two kernels' strides
    return rearrange(table[index], "q k m -> 1 m q k")
