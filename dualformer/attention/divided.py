"""Letter D: divided space-time attention."""

from __future__ import annotations

from itertools import product

import torch
from einops import rearrange
from torch import Tensor, nn

from dualformer import reference
from dualformer.attention.base import Attention, Place


class DividedAttention(Attention):
    """Divided space-time attention (TimeSformer, section 3): along time at each place, then over each frame.

    Both steps live in one module with a residual between them, so that it takes the place of any other letter:
    y = time(x), output y + space(norm(x + y)).
    """

    letter = "D"
    words = "divided"
    colour = "#CC79A7"
    marker = "v"

    def __init__(self, place: Place, options: Attention.Options | None = None) -> None:
        super().__init__(place, options)
        dim = place.dim
        self.time_qkv = nn.Linear(dim, 3 * dim, bias=place.qkv_bias)
        self.time_proj = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=place.qkv_bias)

    def forward(self, x: Tensor) -> Tensor:
        time = self.proj_drop(self.time_proj(self.over_time(self.time_qkv(x))))
        space = self.proj_drop(self.proj(self.over_space(self.qkv(self.norm(x + time)))))
        return time + space

    def over_time(self, qkv: Tensor) -> Tensor:
        """[B, T, H, W, 3C] -> [B, T, H, W, C], each place attending over its T tokens."""
        q, k, v = rearrange(qkv, "b t h w (three c) -> three (b h w) t c", three=3)
        _, h, w = self.place.grid
        return rearrange(self.attend(q, k, v), "(b h w) t c -> b t h w c", h=h, w=w)

    def over_space(self, qkv: Tensor) -> Tensor:
        """[B, T, H, W, 3C] -> [B, T, H, W, C], each token attending over the H * W tokens of its frame."""
        q, k, v = rearrange(qkv, "b t h w (three c) -> three (b t) (h w) c", three=3)
        t, h, w = self.place.grid
        return rearrange(self.attend(q, k, v), "(b t) (h w) c -> b t h w c", t=t, h=h, w=w)

    def macs(self) -> int:
        n, c = self.num_tokens, self.place.dim
        t, h, w = self.place.grid
        return 8 * n * c * c + 2 * n * (t + h * w) * c

    def naive(self, x: Tensor) -> Tensor:
        """Each place attends over time; then, past a residual and a norm, each frame attends over its places."""
        heads = self.place.num_heads
        _, times, rows, columns, _ = x.shape
        along_time, along_space = torch.empty_like(x), torch.empty_like(x)
        qkv = self.time_qkv(x)
        for sample, row, column in product(range(len(x)), range(rows), range(columns)):
            q, k, v = qkv[sample, :, row, column].chunk(3, dim=-1)
            along_time[sample, :, row, column] = reference.attend(q, k, v, heads)
        along_time = self.time_proj(along_time)
        qkv = self.qkv(self.norm(x + along_time))
        for sample, time in product(range(len(x)), range(times)):
            q, k, v = qkv[sample, time].flatten(0, 1).chunk(3, dim=-1)
            along_space[sample, time] = reference.attend(q, k, v, heads).view(rows, columns, -1)
        return along_time + self.proj(along_space)
