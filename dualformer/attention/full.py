"""Letter F: full attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dualformer import reference
from dualformer.attention.base import Attention, Place


class FullAttention(Attention):
    """Joint space-time attention: every token attends to every token."""

    letter = "F"
    words = "full"
    colour = "#B8860B"
    marker = "P"

    def __init__(self, place: Place, options: Attention.Options | None = None) -> None:
        super().__init__(place, options)
        self.qkv = nn.Linear(place.dim, 3 * place.dim, bias=place.qkv_bias)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x.flatten(1, 3)).chunk(3, dim=-1)  # [B, N, C] each
        return self.proj_drop(self.proj(self.attend(q, k, v))).view_as(x)

    def macs(self) -> int:
        n, c = self.num_tokens, self.place.dim
        return 4 * n * c * c + 2 * n * n * c

    def naive(self, x: Tensor) -> Tensor:
        out = []
        for sample in self.qkv(x):
            q, k, v = sample.reshape(self.num_tokens, -1).chunk(3, dim=-1)
            out.append(reference.attend(q, k, v, self.place.num_heads))
        return self.proj(torch.stack(out)).view_as(x)
