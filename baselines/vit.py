"""The plain vision transformer block (ViT, arXiv 2010.11929) that TimeSformer and ViViT are made of.

Shapes: B batch, N tokens, C channels, M heads, D = C / M channels per head.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from dualformer import reference
from dualformer.config import ConfigError
from dualformer.layers import multi_head
from dualformer.model_config import ModelConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTConfig(ModelConfig):
    """What every model built from ViT blocks chooses; defaults are ViT-B/16.

    Attributes:
        patch_size: side of a square patch in pixels; height and width of the crop are multiples of it.
        embed_dim: channels.
        depth: blocks.
        num_heads: heads.
        mlp_ratio: hidden channels of the MLP over its channels.
        norm_eps: epsilon of every layer norm.
        drop_path_rate: stochastic depth of the last block; linear from 0 over all blocks.
        gradient_checkpointing: recompute each block in the backward pass instead of keeping its activations.
    """

    crop_size: tuple[int, int] = (224, 224)
    patch_size: int = 16
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    norm_eps: float = 1e-6
    drop_path_rate: float = 0.0
    gradient_checkpointing: bool = False

    def check(self) -> None:
        super().check()
        if min(self.patch_size, self.embed_dim, self.depth, self.num_heads) < 1:
            raise ConfigError("patch_size, embed_dim, depth and num_heads must be positive")
        self.check_numbers(rates=("drop_path_rate",), mlp_dims=(self.embed_dim,), mlp_ratio=self.mlp_ratio)
        if self.embed_dim % self.num_heads:
            raise ConfigError(f"{self.embed_dim} channels can't be split over {self.num_heads} heads")
        for side in self.crop_size:
            if side % self.patch_size:
                below = side - side % self.patch_size
                nearest = f"{below} or {below + self.patch_size}" if below else f"{self.patch_size}"
                raise ConfigError(f"crop_size {side} is not a multiple of patch_size {self.patch_size}; try {nearest}")

    @property
    def frame_grid(self) -> tuple[int, int]:
        """Tokens of one frame, height and width."""
        return self.crop_size[0] // self.patch_size, self.crop_size[1] // self.patch_size

    def attention_macs(self, sequences: int, length: int) -> int:
        """Multiply-accumulates of `SelfAttention` within each of so many sequences: projections and both products."""
        return sequences * length * (4 * self.embed_dim**2 + 2 * length * self.embed_dim)

    def mlp_macs(self, tokens: int) -> int:
        return tokens * 2 * self.embed_dim * int(self.embed_dim * self.mlp_ratio)


class SelfAttention(nn.Module):
    """Attention of all tokens to all tokens, [B, N, C] -> [B, N, C]."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.proj(multi_head(q, k, v, self.num_heads))

    def naive(self, x: Tensor) -> Tensor:
        """One sample and one head at a time."""
        samples = [reference.attend(*tokens.chunk(3, dim=-1), self.num_heads) for tokens in self.qkv(x)]
        return self.proj(torch.stack(samples))


def block_fields(config: ViTConfig) -> dict[str, float]:
    """What every block of a network takes from its config, as arguments of `dualformer.layers.Block`."""
    return {"mlp_ratio": config.mlp_ratio, "norm_eps": config.norm_eps}
