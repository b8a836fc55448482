"""Pooling a token map to a level of a pyramid of at most so many tokens.

Shapes: B batch, (T, H, W) token grid, C channels, (t, h, w) tokens of a level.
"""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor, nn

from dualformer.layers import Size, padded_to_multiple

Pooling = Literal["conv", "average", "max"]


def pool_kernel(grid: Size, size: Size) -> Size:
    """Tokens pooled into one along each axis, so that at most `size` are left."""
    t, h, w = (-(-n // s) for n, s in zip(grid, size))
    return t, h, w


class PyramidLevel(nn.Module):
    """One level of a pyramid: [B, C, T, H, W] -> [B, C, t, h, w], cells of `kernel` tokens pooled into one.

    Args:
        dim: channels C.
        grid: token grid (T, H, W).
        kernel: cell size (time, height, width).
        pooling: "conv" is a depth-wise convolution with kernel = stride.
        factorised: whether a convolution first pools at most 7x7 places of each frame, then, past a batch norm and a
            ReLU, the rest (upstream sail-sg/dualformer dualformer.py@058c10c: about 30 % faster than 14x14 at once).
    """

    def __init__(self, dim: int, grid: Size, kernel: Size, pooling: Pooling, factorised: bool) -> None:
        super().__init__()
        self.dim = dim
        self.grid = grid
        self.kernels = factorise(kernel) if factorised and pooling == "conv" else [kernel]
        # Two kernels need not multiply to `kernel` exactly; what the map is padded to is their product.
        t, h, w = (math.prod(axis) for axis in zip(*self.kernels))
        self.cell = t, h, w
        self.size = pool_kernel(grid, self.cell)
        self.pool = _operator(dim, self.kernels, pooling)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(padded_to_multiple(x, self.cell, "replicate"))

    def macs(self) -> int:
        """Multiply-accumulates of its convolutions for one sample."""
        if isinstance(self.pool, (nn.AvgPool3d, nn.MaxPool3d)):
            return 0
        total, left = 0, [n * cell for n, cell in zip(self.size, self.cell)]
        for kernel in self.kernels:
            left = [n // k for n, k in zip(left, kernel)]
            total += math.prod(left) * math.prod(kernel) * self.dim
        return total


def _operator(dim: int, kernels: list[Size], pooling: Pooling) -> nn.Module:
    if pooling == "average":
        return nn.AvgPool3d(kernels[0])
    if pooling == "max":
        return nn.MaxPool3d(kernels[0])
    first, *rest = [nn.Conv3d(dim, dim, kernel, stride=kernel, groups=dim) for kernel in kernels]
    return nn.Sequential(first, nn.BatchNorm3d(dim), nn.ReLU(), *rest) if rest else first


def factorise(kernel: Size) -> list[Size]:
    """Splits a cell into at most 7x7 places of one frame, then time and the rest of space."""
    time, *space = kernel
    rows, columns = (-(-k // 7) for k in space)
    height, width = (-(-k // r) for k, r in zip(space, (rows, columns)))
    return [(1, height, width), (time, rows, columns)]
