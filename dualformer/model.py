"""DualFormer: a four-stage video transformer whose blocks take their attention from a pattern of letters.

Paper: Liang, Zhou, Zimmermann, Yan, "DualFormer: Local-Global Stratified Transformer for Efficient Video
Recognition", ECCV 2022, arXiv 2112.04674. Upstream: sail-sg/dualformer@058c10c, Apache-2.0. Parameters, multiply-
accumulates and float64 logits equal upstream at the published sizes.

Deviation: upstream drops border tokens where a map is not a multiple of a kernel; here clip and maps are padded with
copies of their last entries, windows and pyramid as `attention.py` says.

Shapes: B batch, T x H x W input clip or token grid, C channels.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache, partial
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from dualformer.attention import ATTENTIONS, AttentionConfig, Size, check_pattern, window_partition
from dualformer.config import ConfigError
from dualformer.model_config import ModelConfig
from dualformer.weights import PoolingKernel, PositionTable, State, WeightLayout, inflate


@dataclasses.dataclass(frozen=True, kw_only=True)
class DualFormerConfig(ModelConfig):
    """Every choice of the network; defaults are what the published sizes share (architectures of upstream@058c10c).

    Attributes:
        attention: pattern of letters that repeats over the blocks of every stage: L local window, S local window
            shifted by half, G global pyramid, D divided space-time, F full; or one such pattern for each stage, with
            commas between them, such as "LL,LG,LG,F".
        patch_size: stem kernel and stride (time, height, width) in frames and pixels.
        embed_dims: channels of each stage; its length is the number of stages.
        depths: blocks of each stage.
        num_heads: heads of each stage.
        mlp_ratio: hidden channels of the MLP over its channels.
        qkv_bias: whether queries, keys and values have a bias.
        window_size: largest local window in tokens.
        fine_sizes: fine pyramid tokens of each stage, None for no such level.
        coarse_sizes: coarse pyramid tokens of each stage, None for no such level.
        pooling: operator that makes the pyramid.
        share_kv: whether the pyramid's levels share one norm and one key/value projection.
        position: "peg" is a depth-wise 3x3x3 convolution after the first block of each stage; "absolute" a learned
            table after the stem; "relative" a learned bias in every local window (letters L and S); "none" nothing.
        dropout: before the classification head.
        projection_dropout: after every projection and in the MLPs.
        attention_dropout: on attention weights.
        drop_path_rate: stochastic depth of the last block; linear from 0 over all blocks.
        norm_eps: epsilon of every layer norm.
        gradient_checkpointing: recompute each block in the backward pass instead of keeping its activations.
    """

    num_frames: int = 32
    crop_size: tuple[int, int] = (224, 224)
    attention: str = "LG"
    patch_size: Size = (2, 4, 4)
    embed_dims: tuple[int, ...]
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    window_size: Size = (8, 7, 7)
    fine_sizes: tuple[Size | None, ...] = ((8, 7, 7), (8, 7, 7), (8, 7, 7), (16, 7, 7))
    coarse_sizes: tuple[Size | None, ...] = ((4, 4, 4), (4, 4, 4), None, None)
    pooling: Literal["conv", "average", "max"] = "conv"
    share_kv: bool = True
    position: Literal["peg", "absolute", "relative", "none"] = "peg"
    dropout: float = 0.5
    projection_dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path_rate: float = 0.0
    norm_eps: float = 1e-5
    gradient_checkpointing: bool = False

    def check(self) -> None:
        super().check()
        stages = len(self.embed_dims)
        if not stages:
            raise ConfigError("embed_dims is empty; it has the channels of each stage")
        patterns = self.attention.split(",")
        for pattern in patterns:
            check_pattern(pattern)
        if len(patterns) not in (1, stages):
            raise ConfigError(f"attention '{self.attention}' has {len(patterns)} patterns for {stages} stages")
        for field in ("depths", "num_heads", "fine_sizes", "coarse_sizes"):
            if len(getattr(self, field)) != stages:
                raise ConfigError(f"{field} has {len(getattr(self, field))} entries, embed_dims has {stages} stages")
        sizes = [self.patch_size, self.window_size, *self.fine_sizes, *self.coarse_sizes]
        if min(*self.embed_dims, *self.depths, *self.num_heads, *(n for size in sizes if size for n in size)) < 1:
            raise ConfigError("channels, depths, heads and sizes must be positive")
        rates = ("dropout", "projection_dropout", "attention_dropout", "drop_path_rate")
        self.check_numbers(rates=rates, mlp_dims=self.embed_dims, mlp_ratio=self.mlp_ratio)
        if self.position == "relative" and not set(self.attention) & set("LS"):
            raise ConfigError(
                f"position 'relative' is a bias of local windows, and attention '{self.attention}' has none"
            )
        for stage in range(stages):
            self.stage_attention(stage)

    def stage_grid(self, stage: int) -> Size:
        """Token grid (T, H, W) of a stage; the stem divides by `patch_size`, every further stage halves space."""
        t, h, w = (-(-n // p) for n, p in zip((self.num_frames, *self.crop_size), self.patch_size))
        return t, -(-h // 2**stage), -(-w // 2**stage)

    def stage_attention(self, stage: int) -> AttentionConfig:
        """What the attentions of a stage are built from."""
        return AttentionConfig(
            dim=self.embed_dims[stage],
            num_heads=self.num_heads[stage],
            grid=self.stage_grid(stage),
            qkv_bias=self.qkv_bias,
            attention_dropout=self.attention_dropout,
            projection_dropout=self.projection_dropout,
            window_size=self.window_size,
            relative_bias=self.position == "relative",
            fine_size=self.fine_sizes[stage],
            coarse_size=self.coarse_sizes[stage],
            pooling=self.pooling,
            share_kv=self.share_kv,
        )

    def stage_letters(self, stage: int) -> str:
        """Letter of each block of a stage: its pattern, repeated."""
        patterns = self.attention.split(",")
        pattern = patterns[stage] if len(patterns) > 1 else patterns[0]
        return (pattern * self.depths[stage])[: self.depths[stage]]

    def drop_path_rates(self, stage: int) -> list[float]:
        """Stochastic depth of each block of a stage."""
        rates = torch.linspace(0, self.drop_path_rate, sum(self.depths), device="cpu").tolist()
        start = sum(self.depths[:stage])
        return rates[start : start + self.depths[stage]]

    def build(self) -> DualFormer:
        return DualFormer(self)

    def matrix_work(self, *, include_head: bool) -> int:
        total, in_dim = 0, 3
        for stage, dim in enumerate(self.embed_dims):
            tokens = math.prod(self.stage_grid(stage))
            letters = self.stage_letters(stage)
            patch = self.patch_size if stage == 0 else (1, 2, 2)
            total += tokens * dim * in_dim * math.prod(patch)
            total += tokens * dim * 3**3 if self.position == "peg" else 0
            total += sum(_attention_macs(letter, self.stage_attention(stage)) for letter in letters)
            total += len(letters) * 2 * tokens * dim * int(dim * self.mlp_ratio)
            in_dim = dim
        return total + include_head * in_dim * self.num_classes


@lru_cache(maxsize=10_000)
def _attention_macs(letter: str, config: AttentionConfig) -> int:
    """What one attention says of itself; a network has many of a kind."""
    with torch.device("meta"):
        return ATTENTIONS[letter](config).macs()


def _image_weights(state: State, model: DualFormer) -> State:
    """2D DualFormer to 3D (upstream's inflation): kernels by `inflate`, the last coarse pooling an average."""
    entries = inflate(state, model)
    for name, value in model.state_dict().items():
        if name.endswith("levels.coarse.pool.3.weight"):
            entries[name] = torch.full(value.shape, 1 / value[0].numel())
        if name.endswith("levels.coarse.pool.3.bias"):
            entries[name] = torch.zeros(value.shape)
    return entries


RENAME = (
    (r"^patch_embeds\.(\d+)\.", r"stages.\1.embed."),
    (r"^blocks\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"^pos_block\.(\d+)\.proj\.0\.", r"stages.\1.peg.conv."),
    (r"\.attn\.kv\.", ".attn.kv.0."),
    (r"\.attn\.norm\.", ".attn.norms.0."),
    (r"\.attn\.sr\.", ".attn.levels.fine.pool."),
    (r"\.attn\.lr\.", ".attn.levels.coarse.pool."),
)


class DualFormer(nn.Module):
    """The network: stages of blocks, a final norm, and a linear head on the average of all tokens."""

    published_macs_include_head = False  # README of upstream@058c10c: the backbone is what is counted

    weight_layouts = (
        WeightLayout(
            name="dualformer_released",
            has=r"^backbone\.patch_embeds\.",
            rename=((r"^backbone\.", ""), (r"^cls_head\.fc_cls\.", "head."), *RENAME),
            absent=(r"num_batches_tracked$",),
        ),
        WeightLayout(name="dualformer", has=r"^stages\.0\.embed\."),
        WeightLayout(
            name="dualformer_image",
            has=r"^patch_embeds\.0\.proj\.weight$",
            ndim=4,
            rename=RENAME,
            # The classes of ImageNet are none of a video's, so that head is never taken.
            ignored=(r"^head\.", r"\.lr\.3\."),
            absent=(r"^head\.", r"num_batches_tracked$"),
            convert=_image_weights,
        ),
    )
    clip_sized = (
        PositionTable(name=r"absolute_position$", grid=lambda config: config.stage_grid(0)),
        *(
            PositionTable(
                name=rf"^stages\.{stage}\..*bias_table$",
                grid=lambda config, stage=stage: tuple(
                    2 * w - 1 for w in window_partition(config.stage_grid(stage), config.window_size)[1]
                ),
            )
            for stage in range(4)
        ),
        PoolingKernel(name=r"\.levels\.(fine\.pool|coarse\.pool\.[03])\.weight$"),
    )

    def __init__(self, config: DualFormerConfig) -> None:
        super().__init__()
        self.config = config
        dims = config.embed_dims
        self.stages = nn.ModuleList(Stage(config, stage) for stage in range(len(dims)))
        self.norm = nn.LayerNorm(dims[-1])
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(dims[-1], config.num_classes)
        self.apply(_init_weights)
        nn.init.normal_(self.head.weight, std=0.01)
        for norm in (module for module in self.modules() if isinstance(module, nn.LayerNorm)):
            norm.eps = config.norm_eps

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

    def forward_features(self, clip: Tensor) -> Tensor:
        """Maps a clip [B, 3, T, H, W] to the map before pooling, [B, C, t, h, w]."""
        check_clip(clip, self.config)
        x = clip
        for stage in self.stages:
            x = rearrange(stage(x), "b t h w c -> b c t h w")
        return rearrange(self.norm(rearrange(x, "b c t h w -> b t h w c")), "b t h w c -> b c t h w")


class Stage(nn.Module):
    """Patch embedding, then blocks: [B, C_in, T, H, W] -> [B, t, h, w, C]."""

    def __init__(self, config: DualFormerConfig, index: int) -> None:
        super().__init__()
        self.gradient_checkpointing = config.gradient_checkpointing
        dim = config.embed_dims[index]
        if index == 0:
            self.embed = PatchEmbed(3, dim, config.patch_size)
        else:
            self.embed = PatchEmbed(config.embed_dims[index - 1], dim, (1, 2, 2))
        self.drop = nn.Dropout(config.projection_dropout)
        self.absolute_position = None
        if config.position == "absolute" and index == 0:
            self.absolute_position = nn.Parameter(torch.empty(*config.stage_grid(0), dim))
            nn.init.trunc_normal_(self.absolute_position, std=0.02)
        self.peg = PositionEncodingGenerator(dim) if config.position == "peg" else nn.Identity()
        attention = config.stage_attention(index)
        self.blocks = nn.ModuleList(
            Block(attention, letter, config.mlp_ratio, drop_path)
            for letter, drop_path in zip(config.stage_letters(index), config.drop_path_rates(index))
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        if self.absolute_position is not None:
            x = x + self.absolute_position
        x = self.drop(x)
        for number, block in enumerate(self.blocks):
            if self.gradient_checkpointing and self.training:
                x = checkpoint(block, x, use_reentrant=False, context_fn=partial(_contexts, block))
            else:
                x = block(x)
            if number == 0:
                x = self.peg(x)
        return x


def _contexts(block: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """What a checkpointed block runs in, first and when it is recomputed."""
    return nullcontext(), _statistics_kept(block)


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Inside, batch norms in training mode normalise as ever but don't count the batch a second time."""
    norms = [module for module in block.modules() if isinstance(module, nn.BatchNorm3d)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, before):
            norm.momentum, norm.num_batches_tracked = momentum, batches


class Block(nn.Module):
    """Pre-norm transformer block on a channels-last map [B, T, H, W, C]."""

    def __init__(self, attention: AttentionConfig, letter: str, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(attention.dim)
        self.attn = ATTENTIONS[letter](attention)
        self.norm2 = nn.LayerNorm(attention.dim)
        self.mlp = Mlp(attention.dim, int(attention.dim * mlp_ratio), attention.projection_dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Mlp(nn.Module):
    """Two linear layers with a GELU between them, on the last axis."""

    def __init__(self, dim: int, hidden_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(functional.gelu(self.fc1(x)))))


class PatchEmbed(nn.Module):
    """Strided convolution and layer norm: [B, C_in, T, H, W] -> [B, t, h, w, C]. Nothing at a border is dropped."""

    def __init__(self, in_dim: int, dim: int, patch_size: Size) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv3d(in_dim, dim, patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        pad = [-n % p for n, p in zip(x.shape[2:], self.patch_size)]
        if any(pad):
            x = functional.pad(x, (0, pad[2], 0, pad[1], 0, pad[0]), mode="replicate")
        return self.norm(rearrange(self.proj(x), "b c t h w -> b t h w c"))


class PositionEncodingGenerator(nn.Module):
    """Depth-wise 3x3x3 convolution with a residual, on a channels-last map (PEG, arXiv 2102.10882)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        return x + rearrange(self.conv(rearrange(x, "b t h w c -> b c t h w")), "b c t h w -> b t h w c")


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


def check_clip(clip: Tensor, config: ModelConfig) -> None:
    """Raises `ValueError` unless `clip` is a batch of the shape that `config` was built for."""
    if clip.ndim != 5 or tuple(clip.shape[1:]) != config.clip_shape:
        wanted = ", ".join(map(str, config.clip_shape))
        raise ValueError(
            f"{config.name} was built for clips [B, {wanted}] and got {list(clip.shape)}; "
            f"create_model takes num_frames and crop_size"
        )


def _init_weights(module: nn.Module) -> None:
    """Upstream's rule: linear layers from a truncated normal, convolutions as torch makes them."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def dualformer_tiny() -> DualFormerConfig:
    """DualFormer-T: 21.8 M parameters without head, 60 GMACs per view of 32x224x224."""
    return DualFormerConfig(
        name="dualformer_tiny",
        embed_dims=(64, 128, 256, 512),
        depths=(2, 2, 10, 4),
        num_heads=(2, 4, 8, 16),
        drop_path_rate=0.1,
    )


def dualformer_small() -> DualFormerConfig:
    """DualFormer-S: 48.9 M parameters without head, 159 GMACs per view of 32x224x224."""
    return DualFormerConfig(
        name="dualformer_small",
        embed_dims=(96, 192, 384, 768),
        depths=(2, 2, 18, 2),
        num_heads=(3, 6, 12, 24),
        drop_path_rate=0.2,
    )


def dualformer_base() -> DualFormerConfig:
    """DualFormer-B: 86.8 M parameters without head, 268 GMACs per view of 32x224x224."""
    return DualFormerConfig(
        name="dualformer_base",
        embed_dims=(128, 256, 512, 1024),
        depths=(2, 2, 18, 2),
        num_heads=(4, 8, 16, 32),
        drop_path_rate=0.3,
    )
