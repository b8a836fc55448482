"""Layers that several models share, on channels-last token maps unless said otherwise.

Shapes: B batch, T x H x W input clip or token grid, C channels, M heads, D = C / M channels per head.
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import accumulate, pairwise
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from dualformer.model_config import ModelConfig

Size = tuple[int, int, int]
"""Of a grid, window or kernel: time, height, width."""


def as_size(numbers: Iterable[int]) -> Size:
    """Returns three numbers as a size."""
    time, height, width = numbers
    return time, height, width


class PooledNetwork(nn.Module, abc.ABC):
    """A network whose head is given the mean of its map; it has a `dropout`, a `head` and `forward_features`."""

    dropout: nn.Dropout
    head: nn.Linear

    def forward(self, clip: Tensor) -> Tensor:
        """Maps a normalised clip [B, 3, T, H, W] to logits [B, num_classes].

        Raises:
            ValueError: if the clip is not of the shape the model was built for.
        """
        return self.logits_and_features(clip)[0]

    def logits_and_features(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        """Returns what `forward` and `forward_features` give for a clip, at the cost of the first alone."""
        features = self.forward_features(clip)
        return self.head(self.dropout(features.mean(dim=(2, 3, 4)))), features

    @abc.abstractmethod
    def forward_features(self, clip: Tensor) -> Tensor:
        """Maps a clip [B, 3, T, H, W] to the map before pooling, [B, C, t, h, w]."""


def multi_head(
    q: Tensor, k: Tensor, v: Tensor, num_heads: int, bias: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """softmax(q k^T / sqrt(D) + bias) v of every head.

    Args:
        q: queries [..., L, C].
        k: keys [..., S, C].
        v: values [..., S, C].
        num_heads: heads M.
        bias: added to the logits, or a boolean mask of the pairs that may attend; broadcasts to [..., M, L, S].
        dropout: share of the attention weights that is dropped.

    Returns:
        [..., L, C].
    """
    q, k, v = (rearrange(x, "... l (m d) -> ... m l d", m=num_heads) for x in (q, k, v))
    out = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
    return rearrange(out, "... m l d -> ... l (m d)")


class Mlp(nn.Module):
    """Two linear layers with a GELU between them, on the last axis; `gelu` is "none" (exact) or "tanh"."""

    def __init__(self, dim: int, hidden_dim: int, dropout: float = 0.0, gelu: Literal["none", "tanh"] = "none") -> None:
        super().__init__()
        self.gelu = gelu
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(functional.gelu(self.fc1(x), approximate=self.gelu))))


class DropPath(nn.Module):
    """Stochastic depth: while training, drops a sample's whole branch and scales the others to keep the mean."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = torch.rand(x.shape[0], *[1] * (x.ndim - 1), device=x.device) >= self.rate
        return x * keep.to(x.dtype) / (1 - self.rate)


def drop_path_rates(rate: float, depths: Sequence[int]) -> list[list[float]]:
    """Returns the stochastic depth of each block of each stage: linear from 0 to `rate` over all blocks."""
    rates = torch.linspace(0, rate, sum(depths), device="cpu").tolist()
    return [rates[start:end] for start, end in pairwise(accumulate(depths, initial=0))]


class Block(nn.Module):
    """Pre-norm transformer block: attention, then MLP, a residual around each; any shape [B, ..., C] that both take.

    Args:
        dim: channels C.
        attention: maps tokens to tokens of the same shape.
        mlp_ratio: hidden channels of the MLP over C.
        drop_path: stochastic depth.
        norm_eps: epsilon of both norms.
        dropout: in the MLP.
        gelu: of the MLP.
    """

    def __init__(
        self,
        dim: int,
        attention: nn.Module,
        *,
        mlp_ratio: float,
        drop_path: float,
        norm_eps: float = 1e-5,
        dropout: float = 0.0,
        gelu: Literal["none", "tanh"] = "none",
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = attention
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), dropout, gelu)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


def run_block(block: nn.Module, x: Tensor, *, recompute: bool) -> Tensor:
    """Runs a block; while training with `recompute`, its activations are computed again in the backward pass."""
    if not (recompute and block.training):
        return block(x)
    if not _batch_norms(block):
        return checkpoint(block, x, use_reentrant=False)
    contexts = partial(_first_and_again, block)
    return checkpoint(block, x, use_reentrant=False, context_fn=contexts)


def _first_and_again(
    block: nn.Module,
) -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
    """What a recomputed block runs in, first and when it is recomputed."""
    return contextlib.nullcontext(), _statistics_kept(block)


def _batch_norms(block: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [module for module in block.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


@contextlib.contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Inside, batch norms in training mode normalise as ever but don't count the batch a second time."""
    norms = _batch_norms(block)
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, before):
            norm.momentum, norm.num_batches_tracked = momentum, batches


class PatchEmbed(nn.Module):
    """Strided convolution and layer norm: [B, C_in, T, H, W] -> [B, t, h, w, C].

    Nothing at a border is dropped: it is padded to whole patches, with copies of the last entries ("replicate") or with
    zeros ("constant").
    """

    def __init__(
        self, in_dim: int, dim: int, patch_size: Size, padding: Literal["replicate", "constant"] = "replicate"
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.padding = padding
        self.proj = nn.Conv3d(in_dim, dim, patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = padded_to_multiple(x, self.patch_size, self.padding)
        return self.norm(rearrange(self.proj(x), "b c t h w -> b t h w c"))


def padded_to_multiple(x: Tensor, cell: Size, padding: Literal["replicate", "constant"]) -> Tensor:
    """Pads the end of every axis of [B, C, T, H, W] until it is a multiple of `cell`."""
    t, h, w = (-n % c for n, c in zip(x.shape[2:], cell))
    return functional.pad(x, (0, w, 0, h, 0, t), mode=padding) if any((t, h, w)) else x


class PositionEncodingGenerator(nn.Module):
    """Depth-wise 3x3x3 convolution with a residual, on a map [B, T, H, W, C] (PEG, arXiv 2102.10882)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        return x + rearrange(self.conv(rearrange(x, "b t h w c -> b c t h w")), "b c t h w -> b t h w c")


def check_clip(clip: Tensor, config: ModelConfig) -> None:
    """Raises `ValueError` unless `clip` is a batch of the shape that `config` was built for."""
    if clip.ndim != 5 or tuple(clip.shape[1:]) != config.clip_shape:
        wanted = ", ".join(map(str, config.clip_shape))
        raise ValueError(
            f"{config.name} was built for clips [B, {wanted}] and got {list(clip.shape)}; "
            f"create_model takes num_frames and crop_size"
        )


def init_linear(module: nn.Module) -> None:
    """For `Module.apply`: linear layers from a truncated normal with zero bias, all else as torch makes it."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
