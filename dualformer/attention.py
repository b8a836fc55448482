"""The attention variants, one class and one letter each, behind one interface.

An attention maps a channels-last token map to a map of the same shape. Nothing else of a network depends on which one
it is, so a pattern of letters is a controlled comparison. To add a variant: write its class here, give it a letter in
`ATTENTIONS`, and write its obviously right twin in `reference.py`; counting, tests and benchmarks find it by its
letter.

Shapes: B batch, (T, H, W) token grid, N = T*H*W tokens, C channels, M heads, D = C / M channels per head,
K tokens of a window, P tokens of the pyramid.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from itertools import product
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from dualformer.config import Config, ConfigError, nearest

Size = tuple[int, int, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionConfig(Config):
    """What an attention needs to know about its place in the network.

    Attributes:
        dim: channels C.
        num_heads: heads M; divides `dim`.
        grid: token grid (T, H, W).
        qkv_bias: whether queries, keys and values have a bias.
        attention_dropout: dropout on attention weights while training.
        projection_dropout: dropout on the output while training.
        window_size: largest local window in tokens (time, height, width).
        relative_bias: whether windows add a learned bias per head and relative position.
        fine_size: tokens of the fine pyramid level, None for no such level.
        coarse_size: tokens of the coarse pyramid level, None for no such level.
        pooling: operator that makes the pyramid.
        share_kv: whether the pyramid's levels share one norm and one key/value projection.
    """

    dim: int
    num_heads: int
    grid: Size
    qkv_bias: bool = True
    attention_dropout: float = 0.0
    projection_dropout: float = 0.0
    window_size: Size = (8, 7, 7)
    relative_bias: bool = False
    fine_size: Size | None = (8, 7, 7)
    coarse_size: Size | None = None
    pooling: Literal["conv", "average", "max"] = "conv"
    share_kv: bool = True

    def check(self) -> None:
        if self.dim % self.num_heads:
            raise ConfigError(f"{self.dim} channels can't be split over {self.num_heads} heads")


class Attention(nn.Module, abc.ABC):
    """Base of all variants: output projection, dropout, and attention itself."""

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__()
        self.config = config
        self.proj = nn.Linear(config.dim, config.dim)
        self.proj_drop = nn.Dropout(config.projection_dropout)

    @abc.abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Maps tokens [B, T, H, W, C] to tokens of the same shape."""

    @abc.abstractmethod
    def macs(self) -> int:
        """Multiply-accumulates of one sample's matrix work: projections, convolutions, both attention products."""

    @property
    def num_tokens(self) -> int:
        return math.prod(self.config.grid)

    def split_heads(self, x: Tensor) -> Tensor:
        """[..., L, C] -> [..., M, L, D]."""
        return rearrange(x, "... l (m d) -> ... m l d", m=self.config.num_heads)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """softmax(q k^T / sqrt(D) + bias) v.

        Args:
            q: queries [..., L, C].
            k: keys [..., S, C].
            v: values [..., S, C].
            bias: added to the logits, or a boolean mask of the pairs that may attend; broadcasts to [..., M, L, S].

        Returns:
            [..., L, C].
        """
        dropout = self.config.attention_dropout if self.training else 0.0
        q, k, v = self.split_heads(q), self.split_heads(k), self.split_heads(v)
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
        return rearrange(out, "... m l d -> ... l (m d)")


class FullAttention(Attention):
    """Joint space-time attention: every token attends to every token."""

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__(config)
        self.qkv = nn.Linear(config.dim, 3 * config.dim, bias=config.qkv_bias)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x.flatten(1, 3)).chunk(3, dim=-1)  # [B, N, C] each
        return self.proj_drop(self.proj(self.attend(q, k, v))).view_as(x)

    def macs(self) -> int:
        n, c = self.num_tokens, self.config.dim
        return 4 * n * c * c + 2 * n * n * c


class LocalWindowAttention(Attention):
    """LW-MSA: attention inside non-overlapping 3D windows (DualFormer, section 3.2).

    Where the grid is a multiple of `window_size` this is the published rule. Elsewhere an axis is cut into the fewest
    windows no longer than `window_size` and as even as possible; what the last one lacks is padded and masked, so that
    every token is in exactly one window and none attends to padding.
    """

    def __init__(self, config: AttentionConfig, shifted: bool = False) -> None:
        super().__init__(config)
        self.qkv = nn.Linear(config.dim, 3 * config.dim, bias=config.qkv_bias)
        self.counts, self.window = window_partition(config.grid, config.window_size)
        self.shift = tuple(w // 2 if shifted and n > 1 else 0 for n, w in zip(self.counts, self.window))
        regions = window_regions(config.grid, self.counts, self.window, self.shift)
        self.register_buffer("regions", regions, persistent=False)  # [windows, K], None where nothing is masked
        if config.relative_bias:
            table_size = math.prod(2 * w - 1 for w in self.window)
            self.bias_table = nn.Parameter(torch.empty(table_size, config.num_heads))
            nn.init.trunc_normal_(self.bias_table, std=0.02)
            self.register_buffer("bias_index", relative_index(self.window), persistent=False)  # [K, K]

    def forward(self, x: Tensor) -> Tensor:
        windows = self.to_windows(self.qkv(x))  # [B * windows, K, 3C]
        q, k, v = windows.chunk(3, dim=-1)
        out = self.from_windows(self.attend(q, k, v, self.bias(x.shape[0])))
        return self.proj_drop(self.proj(out))

    def to_windows(self, x: Tensor) -> Tensor:
        """[B, T, H, W, C] -> [B * windows, K, C], padded to whole windows and rolled by the shift."""
        pad = [n * w - size for n, w, size in zip(self.counts, self.window, self.config.grid)]
        if any(pad):
            x = functional.pad(x, (0, 0, 0, pad[2], 0, pad[1], 0, pad[0]))
        if any(self.shift):
            x = x.roll([-s for s in self.shift], dims=(1, 2, 3))
        (nt, nh, nw), (wt, wh, ww) = self.counts, self.window
        return rearrange(
            x, "b (nt wt) (nh wh) (nw ww) c -> (b nt nh nw) (wt wh ww) c", nt=nt, nh=nh, nw=nw, wt=wt, wh=wh, ww=ww
        )

    def from_windows(self, windows: Tensor) -> Tensor:
        """The inverse of `to_windows`: [B * windows, K, C] -> [B, T, H, W, C]."""
        (nt, nh, nw), (wt, wh, ww) = self.counts, self.window
        x = rearrange(
            windows,
            "(b nt nh nw) (wt wh ww) c -> b (nt wt) (nh wh) (nw ww) c",
            nt=nt,
            nh=nh,
            nw=nw,
            wt=wt,
            wh=wh,
            ww=ww,
        )
        if any(self.shift):
            x = x.roll(self.shift, dims=(1, 2, 3))
        t, h, w = self.config.grid
        return x[:, :t, :h, :w]

    def bias(self, batch: int) -> Tensor | None:
        """Relative bias and mask, [B * windows or 1, M or 1, K, K]; None where there is neither."""
        mask = None
        if self.regions is not None:
            mask = (self.regions[:, :, None] == self.regions[:, None, :]).unsqueeze(1).repeat(batch, 1, 1, 1)
        if not self.config.relative_bias:
            return mask
        table = self.bias_table
        if torch.onnx.is_in_onnx_export():
            table = table.detach()  # for a mask that needs a gradient the exporter confuses two kernels' strides
        bias = rearrange(table[self.bias_index], "q k m -> 1 m q k")
        return bias if mask is None else bias.masked_fill(~mask, -math.inf)

    def macs(self) -> int:
        n, c, k = self.num_tokens, self.config.dim, math.prod(self.window)
        return 4 * n * c * c + 2 * math.prod(self.counts) * k * k * c


class ShiftedWindowAttention(LocalWindowAttention):
    """Local windows moved by half a window along every axis that has more than one (Video Swin, section 3.2).

    Windows cut by the border stay cut: tokens that only meet because of the cyclic roll don't attend to each other.
    """

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__(config, shifted=True)


class GlobalPyramidAttention(Attention):
    """GP-MSA: every token attends to a small pyramid of pooled tokens of the whole clip (DualFormer, section 3.3).

    The fine level is a depth-wise convolution with kernel = stride; the coarse level factorises into space, batch norm
    and ReLU, then the rest. Where a level's size covers the grid nothing is pooled and keys and values are all tokens,
    which makes it full attention (the published stage 4); the same holds where no level is configured.

    A level of size s on an axis of n tokens pools ceil(n / s) tokens into one, so it has at most s; a border that is
    not a whole cell is filled up with copies of the last token. Where s divides n this is the published rule.
    """

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__(config)
        dim = config.dim
        self.q = nn.Linear(dim, dim, bias=config.qkv_bias)
        self.levels = nn.ModuleDict(pyramid_levels(config))
        groups = 1 if config.share_kv or not self.levels else len(self.levels)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) if self.levels else nn.Identity() for _ in range(groups))
        self.kv = nn.ModuleList(nn.Linear(dim, 2 * dim, bias=config.qkv_bias) for _ in range(groups))

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
        n, c = self.num_tokens, self.config.dim
        p = sum(math.prod(level.size) for level in self.levels.values()) or n
        pooling = sum(level.macs() for level in self.levels.values())
        return 2 * n * c * c + 2 * p * c * c + 2 * n * p * c + pooling


class DividedAttention(Attention):
    """Divided space-time attention (TimeSformer, section 3): along time at each place, then over each frame.

    Both steps live in one module with a residual between them, so that it takes the place of any other letter:
    y = time(x), output y + space(norm(x + y)).
    """

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__(config)
        dim = config.dim
        self.time_qkv = nn.Linear(dim, 3 * dim, bias=config.qkv_bias)
        self.time_proj = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=config.qkv_bias)

    def forward(self, x: Tensor) -> Tensor:
        time = self.proj_drop(self.time_proj(self.over_time(self.time_qkv(x))))
        space = self.proj_drop(self.proj(self.over_space(self.qkv(self.norm(x + time)))))
        return time + space

    def over_time(self, qkv: Tensor) -> Tensor:
        """[B, T, H, W, 3C] -> [B, T, H, W, C], each place attending over its T tokens."""
        q, k, v = rearrange(qkv, "b t h w (three c) -> three (b h w) t c", three=3)
        _, h, w = self.config.grid
        return rearrange(self.attend(q, k, v), "(b h w) t c -> b t h w c", h=h, w=w)

    def over_space(self, qkv: Tensor) -> Tensor:
        """[B, T, H, W, 3C] -> [B, T, H, W, C], each token attending over the H * W tokens of its frame."""
        q, k, v = rearrange(qkv, "b t h w (three c) -> three (b t) (h w) c", three=3)
        t, h, w = self.config.grid
        return rearrange(self.attend(q, k, v), "(b t) (h w) c -> b t h w c", t=t, h=h, w=w)

    def macs(self) -> int:
        n, c = self.num_tokens, self.config.dim
        t, h, w = self.config.grid
        return 8 * n * c * c + 2 * n * (t + h * w) * c


ATTENTIONS: dict[str, type[Attention]] = {
    "L": LocalWindowAttention,
    "S": ShiftedWindowAttention,
    "G": GlobalPyramidAttention,
    "D": DividedAttention,
    "F": FullAttention,
}


def check_pattern(pattern: str) -> None:
    """Raises `ConfigError` unless `pattern` is a non-empty string of letters of `ATTENTIONS`."""
    if not pattern:
        raise ConfigError(f"attention is empty; it is a pattern of the letters {', '.join(sorted(ATTENTIONS))}")
    for letter in pattern:
        if letter not in ATTENTIONS:
            raise ConfigError(f"attention '{pattern}': unknown letter '{letter}'{nearest(letter.upper(), ATTENTIONS)}")


def window_partition(grid: Size, largest: Size) -> tuple[Size, Size]:
    """Returns how many windows each axis has and their length: the fewest no longer than `largest`, evenly long."""
    counts = tuple(-(-size // limit) for size, limit in zip(grid, largest))
    window = tuple(-(-size // count) for size, count in zip(grid, counts))
    return counts, window


def window_regions(grid: Size, counts: Size, window: Size, shift: Size) -> Tensor | None:
    """Region of every token of every window, [windows, K]; only tokens of one region attend to each other.

    Along a shifted axis the rolled-in start and the end of the grid are different regions; padding is one of its own.
    None where every window is a single region.
    """
    padded = [n * w for n, w in zip(counts, window)]
    if tuple(padded) == tuple(grid) and not any(shift):
        return None
    device = torch.get_default_device()
    with torch.device("cpu"):  # on the meta device each step would take a hundred times as long as the work it spares
        region = torch.zeros(padded, dtype=torch.int32)
        for axis, (size, s) in enumerate(zip(grid, shift)):
            wrapped = torch.arange(padded[axis]) < s
            padding = torch.arange(padded[axis]) >= size
            axis_region = wrapped + 2 * padding
            region = 4 * region + axis_region.reshape([-1 if other == axis else 1 for other in range(3)])
        region = region.roll([-s for s in shift], dims=(0, 1, 2))
    (nt, nh, nw), (wt, wh, ww) = counts, window
    windows = rearrange(
        region, "(nt wt) (nh wh) (nw ww) -> (nt nh nw) (wt wh ww)", nt=nt, nh=nh, nw=nw, wt=wt, wh=wh, ww=ww
    )
    return windows.to(device)


def relative_index(window: Size) -> Tensor:
    """Row of the bias table for every pair of tokens of a window, [K, K] (Video Swin, equation 2)."""
    places = torch.tensor(list(product(*(range(w) for w in window))))  # [K, 3]
    offsets = places[:, None] - places[None, :] + torch.tensor(window) - 1  # [K, K, 3], each axis from 0 to 2w - 2
    rows, columns = 2 * window[1] - 1, 2 * window[2] - 1
    return (offsets[..., 0] * rows + offsets[..., 1]) * columns + offsets[..., 2]


def pool_kernel(grid: Size, size: Size) -> Size:
    """Tokens pooled into one along each axis, so that at most `size` are left."""
    return tuple(-(-n // s) for n, s in zip(grid, size))


def pyramid_levels(config: AttentionConfig) -> dict[str, nn.Module]:
    """The levels that pool anything, by name; none where a level would keep every token."""
    sizes = {"fine": config.fine_size, "coarse": config.coarse_size}
    kernels = {name: pool_kernel(config.grid, size) for name, size in sizes.items() if size is not None}
    if any(kernel == (1, 1, 1) for kernel in kernels.values()):
        return {}
    return {name: PyramidLevel(config, kernel, factorised=name == "coarse") for name, kernel in kernels.items()}


class PyramidLevel(nn.Module):
    """One level of the pyramid: [B, C, T, H, W] -> [B, C, t, h, w], cells of `kernel` tokens pooled into one.

    Args:
        config: place and pooling operator.
        kernel: cell size (time, height, width).
        factorised: whether a convolution first pools at most 7x7 places of each frame, then, past a batch norm and a
            ReLU, the rest (upstream sail-sg/dualformer dualformer.py@058c10c: about 30 % faster than 14x14 at once).
    """

    def __init__(self, config: AttentionConfig, kernel: Size, factorised: bool) -> None:
        super().__init__()
        self.config = config
        self.kernel = kernel
        self.kernels = factorise(kernel) if factorised and config.pooling == "conv" else [kernel]
        # Two kernels need not multiply to `kernel` exactly; what the map is padded to is their product.
        self.cell = tuple(math.prod(axis) for axis in zip(*self.kernels))
        self.size = pool_kernel(config.grid, self.cell)
        self.pool = self._operator()

    def _operator(self) -> nn.Module:
        if self.config.pooling == "average":
            return nn.AvgPool3d(self.kernel)
        if self.config.pooling == "max":
            return nn.MaxPool3d(self.kernel)
        dim = self.config.dim
        first, *rest = [nn.Conv3d(dim, dim, kernel, stride=kernel, groups=dim) for kernel in self.kernels]
        return nn.Sequential(first, nn.BatchNorm3d(dim), nn.ReLU(), *rest) if rest else first

    def forward(self, x: Tensor) -> Tensor:
        pad = [n * cell - size for n, cell, size in zip(self.size, self.cell, self.config.grid)]
        if any(pad):
            x = functional.pad(x, (0, pad[2], 0, pad[1], 0, pad[0]), mode="replicate")
        return self.pool(x)

    def macs(self) -> int:
        if self.config.pooling != "conv":
            return 0
        total, left = 0, [n * cell for n, cell in zip(self.size, self.cell)]
        for kernel in self.kernels:
            left = [n // k for n, k in zip(left, kernel)]
            total += math.prod(left) * math.prod(kernel) * self.config.dim
        return total


def factorise(kernel: Size) -> list[Size]:
    """Splits a coarse cell into at most 7x7 places of one frame, then time and the rest of space."""
    rest = tuple(-(-k // 7) for k in kernel[1:])
    first = tuple(-(-k // r) for k, r in zip(kernel[1:], rest))
    return [(1, *first), (kernel[0], *rest)]
