"""Video Swin Transformer: attention in shifted 3D windows with a learned relative bias.

Paper: Liu, Ning, Cao, Wei, Zhang, Lin, Hu, "Video Swin Transformer", CVPR 2022, arXiv 2106.13230.
Upstream: SwinTransformer/Video-Swin-Transformer@db018fb (mmaction/models/backbones/swin_transformer.py), Apache-2.0;
torchvision's swin3d models are the same network. Parameters, multiply-accumulates and float64 logits equal upstream.

Kept from upstream at clip sizes other than the paper's: clip, windows and merges are padded with zeros at the end, and
padded tokens take part in attention; a window longer than an axis shrinks to it, that axis isn't shifted, and the
bias between the i-th and j-th token of the small window is that of the i-th and j-th token of the full one.

Deviation: none in what is computed. Windows are laid out for the clip size of the config, when the model is built.

Shapes: B batch, (T, H, W) token grid, C channels, M heads, K tokens of a window.
"""

from __future__ import annotations

import dataclasses
import math
from itertools import product

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from dualformer import reference
from dualformer.attention.windows import WindowLayout, relative_bias, relative_index
from dualformer.checkpoint_files import State
from dualformer.config import ConfigError
from dualformer.layers import (
    Block,
    PatchEmbed,
    PooledNetwork,
    Size,
    as_size,
    check_clip,
    drop_path_rates,
    init_linear,
    multi_head,
    run_block,
)
from dualformer.model_config import ModelConfig
from dualformer.weights import PositionTable, WeightLayout, inflate

MASKED = -100.0  # added to the logits of pairs that only the cyclic shift brought together (upstream)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoSwinConfig(ModelConfig):
    """Every choice of the network; defaults are what the published sizes share.

    Attributes:
        patch_size: stem kernel and stride (time, height, width) in frames and pixels.
        embed_dim: channels of the first stage; every further stage doubles them and halves height and width.
        depths: blocks of each stage.
        num_heads: heads of each stage.
        window_size: window in tokens (time, height, width); odd blocks shift it by half.
        mlp_ratio: hidden channels of the MLP over its channels.
        dropout: before the classification head.
        drop_path_rate: stochastic depth of the last block; linear from 0 over all blocks.
        gradient_checkpointing: recompute each block in the backward pass instead of keeping its activations.
    """

    num_frames: int = 32
    crop_size: tuple[int, int] = (224, 224)
    patch_size: Size = (2, 4, 4)
    embed_dim: int = 96
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    window_size: Size = (8, 7, 7)
    mlp_ratio: float = 4.0
    dropout: float = 0.5
    drop_path_rate: float = 0.1
    gradient_checkpointing: bool = False

    def check(self) -> None:
        super().check()
        if not self.depths:
            raise ConfigError("depths is empty; it has the blocks of each stage")
        if len(self.depths) != len(self.num_heads):
            raise ConfigError(f"depths has {len(self.depths)} stages, num_heads has {len(self.num_heads)}")
        if min(self.embed_dim, *self.depths, *self.num_heads, *self.patch_size, *self.window_size) < 1:
            raise ConfigError("channels, depths, heads and sizes must be positive")
        self.check_numbers(rates=("dropout", "drop_path_rate"), mlp_dims=(self.embed_dim,), mlp_ratio=self.mlp_ratio)
        for stage, heads in enumerate(self.num_heads):
            if self.stage_dim(stage) % heads:
                raise ConfigError(f"{self.stage_dim(stage)} channels can't be split over {heads} heads")

    def stage_dim(self, stage: int) -> int:
        return self.embed_dim * 2**stage

    def stage_grid(self, stage: int) -> Size:
        """Token grid (T, H, W) of a stage."""
        t, h, w = (-(-n // p) for n, p in zip((self.num_frames, *self.crop_size), self.patch_size))
        return t, -(-h // 2**stage), -(-w // 2**stage)

    def build(self) -> VideoSwin:
        return VideoSwin(self)

    def matrix_work(self, *, include_head: bool) -> int:
        total, in_values = 0, 3 * math.prod(self.patch_size)
        for stage, depth in enumerate(self.depths):
            dim, grid = self.stage_dim(stage), self.stage_grid(stage)
            tokens = math.prod(grid)
            total += tokens * in_values * dim
            total += depth * (_window_macs(dim, grid, self.window_size) + 2 * tokens * dim * int(dim * self.mlp_ratio))
            in_values = 4 * dim  # what merging joins
        return total + include_head * dim * self.num_classes


def _window_macs(dim: int, grid: Size, window_size: Size) -> int:
    """Multiply-accumulates of `WindowAttention`: padded tokens are projected and attended like all others."""
    window = [min(size, w) for size, w in zip(grid, window_size)]
    padded = math.prod(-(-size // w) * w for size, w in zip(grid, window))
    return 4 * padded * dim**2 + 2 * padded * math.prod(window) * dim


def _image_weights(state: State, model: VideoSwin) -> State:
    """2D Swin to 3D (upstream's inflation): kernels by `inflate`, bias tables once for every offset in time."""
    entries = inflate(state, model)
    for name, table in state.items():
        if name.endswith("relative_position_bias_table"):
            entries[name] = table.repeat(2 * model.config.window_size[0] - 1, 1)
    return entries


class VideoSwin(PooledNetwork):
    """The network: stages of window attention, a final norm, and a linear head on the average of all tokens."""

    published_macs_include_head = False  # README of upstream@db018fb; counted so in golden values as well

    clip_sized = (
        PositionTable(
            name=r"relative_position_bias_table$", grid=lambda config: tuple(2 * w - 1 for w in config.window_size)
        ),
    )

    def __init__(self, config: VideoSwinConfig) -> None:
        super().__init__()
        self.config = config
        stages = len(config.depths)
        self.patch_embed = PatchEmbed(3, config.embed_dim, config.patch_size, padding="constant")
        self.layers = nn.ModuleList(Stage(config, stage) for stage in range(stages))
        self.norm = nn.LayerNorm(config.stage_dim(stages - 1))
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.stage_dim(stages - 1), config.num_classes)
        self.apply(init_linear)
        nn.init.normal_(self.head.weight, std=0.01)

    @property
    def weight_layouts(self) -> tuple[WeightLayout, ...]:
        stages = len(self.config.depths)
        return (
            WeightLayout(
                name="video_swin_released",
                has=r"^backbone\.patch_embed\.",
                rename=((r"^backbone\.", ""), (r"^cls_head\.fc_cls\.", "head.")),
                ignored=(r"relative_position_index$",),
            ),
            WeightLayout(
                name="torchvision_swin3d",
                has=r"^features\.0\.0\.",
                rename=(
                    *((rf"^features\.{2 * stage}\.", f"layers.{stage}.blocks.") for stage in range(stages)),
                    *((rf"^features\.{2 * stage + 1}\.", f"layers.{stage}.downsample.") for stage in range(stages)),
                    (r"\.mlp\.0\.", ".mlp.fc1."),
                    (r"\.mlp\.3\.", ".mlp.fc2."),
                ),
                ignored=(r"relative_position_index$",),
            ),
            WeightLayout(name="video_swin", has=r"^patch_embed\.proj\.weight$", ndim=5),
            WeightLayout(
                name="swin_image",
                has=r"^patch_embed\.proj\.weight$",
                ndim=4,
                # The classes of ImageNet are none of a video's, so that head is never taken.
                ignored=(r"relative_position_index$", r"attn_mask$", r"^head\."),
                absent=(r"^head\.",),
                convert=_image_weights,
            ),
        )

    def forward_features(self, clip: Tensor) -> Tensor:
        """Maps a clip [B, 3, T, H, W] to the map before pooling, [B, C, t, h, w]."""
        check_clip(clip, self.config)
        x = self.patch_embed(clip)
        for layer in self.layers:
            x = layer(x)
        return rearrange(self.norm(x), "b t h w c -> b c t h w")


class Stage(nn.Module):
    """Blocks, then a merge of 2x2 neighbours except after the last stage: [B, T, H, W, C] -> [B, T, H/2, W/2, 2C]."""

    def __init__(self, config: VideoSwinConfig, index: int) -> None:
        super().__init__()
        self.gradient_checkpointing = config.gradient_checkpointing
        rates = drop_path_rates(config.drop_path_rate, config.depths)[index]
        self.blocks = nn.ModuleList(
            _block(config, index, shifted=number % 2 == 1, drop_path=rate) for number, rate in enumerate(rates)
        )
        last = index == len(config.depths) - 1
        self.downsample = nn.Identity() if last else PatchMerging(config.stage_dim(index))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = run_block(block, x, recompute=self.gradient_checkpointing)
        return self.downsample(x)


def _block(config: VideoSwinConfig, stage: int, shifted: bool, drop_path: float) -> Block:
    dim, heads, grid = config.stage_dim(stage), config.num_heads[stage], config.stage_grid(stage)
    attention = WindowAttention(dim, heads, grid, config.window_size, shifted=shifted)
    return Block(dim, attention, mlp_ratio=config.mlp_ratio, drop_path=drop_path)


class WindowAttention(nn.Module):
    """Attention inside 3D windows with a relative bias, on a channels-last map [B, T, H, W, C] (paper, section 3.2).

    Args:
        dim: channels.
        num_heads: heads.
        grid: token grid (T, H, W) of the map.
        window_size: full window in tokens; an axis of the grid that isn't longer is one window.
        shifted: whether windows start half a window later, with a cyclic roll, on axes longer than the window.
    """

    regions: Tensor | None
    bias_index: Tensor

    def __init__(self, dim: int, num_heads: int, grid: Size, window_size: Size, shifted: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        self.shifted = shifted
        window = as_size(min(size, w) for size, w in zip(grid, window_size))
        counts = as_size(-(-size // w) for size, w in zip(grid, window))
        shift = as_size(w // 2 if shifted and size > w else 0 for size, w in zip(grid, window_size))
        self.layout = WindowLayout(grid, counts, window, shift)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        rows = math.prod(2 * w - 1 for w in window_size)
        self.relative_position_bias_table = nn.Parameter(torch.empty(rows, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        tokens = self.layout.num_tokens
        index = relative_index(window_size)[:tokens, :tokens]
        self.register_buffer("bias_index", index.contiguous(), persistent=False)  # [K, K]
        regions = self.layout.regions(padding_apart=False)
        self.register_buffer("regions", regions, persistent=False)  # [windows, K], None without a shift

    def forward(self, x: Tensor) -> Tensor:
        windows = self.layout.split(x)  # [B * windows, K, C]
        q, k, v = self.qkv(windows).chunk(3, dim=-1)
        out = multi_head(q, k, v, self.num_heads, self.bias(batch=x.shape[0]))
        return self.layout.join(self.proj(out))

    def bias(self, batch: int) -> Tensor:
        """Relative bias and mask, [B * windows, M, K, K] where windows are shifted, else [1, M, K, K]."""
        bias = relative_bias(self.relative_position_bias_table, self.bias_index)
        if self.regions is None:
            return bias
        strangers = (self.regions[:, None, :, None] != self.regions[:, None, None, :]).to(bias.dtype)
        return (bias + MASKED * strangers).repeat(batch, 1, 1, 1)

    def macs(self) -> int:
        """Multiply-accumulates for one sample."""
        return _window_macs(self.proj.in_features, self.layout.grid, self.window_size)

    def naive(self, x: Tensor) -> Tensor:
        """One window at a time, each token at the place where it is after padding, before any roll."""
        _, *grid, dim = x.shape
        window = [min(size, w) for size, w in zip(grid, self.window_size)]
        padded = [math.ceil(size / w) * w for size, w in zip(grid, window)]
        moved = [w // 2 if self.shifted and size > w else 0 for size, w in zip(grid, self.window_size)]
        whole = x.new_zeros(len(x), *padded, dim)
        whole[:, : grid[0], : grid[1], : grid[2]] = x
        qkv, out = self.qkv(whole), torch.zeros_like(whole)
        learned = self._bias_of_window(window)
        for start in product(*(range(s, s + size, w) for s, size, w in zip(moved, padded, window))):
            places = torch.tensor(list(product(*(range(a, a + w) for a, w in zip(start, window)))))  # [K, 3]
            round_again = places >= torch.tensor(padded)  # past the end a window goes on at the start
            strangers = (round_again[:, None] != round_again[None, :]).any(dim=-1)
            t, h, w = (places % torch.tensor(padded)).T
            for sample in range(len(x)):
                q, k, v = qkv[sample, t, h, w].chunk(3, dim=-1)
                bias = learned + MASKED * strangers.to(learned)
                out[sample, t, h, w] = reference.attend(q, k, v, self.num_heads, bias)
        return self.proj(out[:, : grid[0], : grid[1], : grid[2]])

    def _bias_of_window(self, window: list[int]) -> Tensor:
        """Learned bias of every pair of tokens, [M, K, K]: the i-th token of a small window is that of the full one."""
        wt, wh, ww = self.window_size
        table = rearrange(
            self.relative_position_bias_table, "(t h w) m -> t h w m", t=2 * wt - 1, h=2 * wh - 1, w=2 * ww - 1
        )
        places = list(product(range(wt), range(wh), range(ww)))[: math.prod(window)]
        t, h, w = torch.tensor(places).T  # [K] each
        rows = [table[a - t + wt - 1, b - h + wh - 1, c - w + ww - 1] for a, b, c in places]  # [K, M] each
        return torch.stack(rows).permute(2, 0, 1)


class PatchMerging(nn.Module):
    """Joins 2x2 spatial neighbours: [B, T, H, W, C] -> [B, T, H/2, W/2, 2C], odd sides padded with zeros."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.pad(x, (0, 0, 0, x.shape[3] % 2, 0, x.shape[2] % 2))
        # Neighbours in the order top left, bottom left, top right, bottom right.
        return self.reduction(self.norm(rearrange(x, "b t (h y) (w x) c -> b t h w (x y c)", y=2, x=2)))


def video_swin_tiny() -> VideoSwinConfig:
    """Video Swin-T: 28.2 M parameters, 88 GMACs per view of 32x224x224."""
    return VideoSwinConfig(name="video_swin_tiny", depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24))


def video_swin_small() -> VideoSwinConfig:
    """Video Swin-S: 49.8 M parameters, 166 GMACs per view of 32x224x224."""
    return VideoSwinConfig(name="video_swin_small", depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24))


def video_swin_base() -> VideoSwinConfig:
    """Video Swin-B: 88.0 M parameters, 282 GMACs per view of 32x224x224; drop path as trained from ImageNet-1K."""
    return VideoSwinConfig(
        name="video_swin_base", embed_dim=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32), drop_path_rate=0.3
    )
