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

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from dualformer.attention import Size, relative_index, window_regions
from dualformer.config import ConfigError
from dualformer.model import DropPath, Mlp, check_clip
from dualformer.model_config import ModelConfig
from dualformer.weights import PositionTable, State, WeightLayout, inflate

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


class VideoSwin(nn.Module):
    """The network: four stages of window attention, a final norm, and a linear head on the average of all tokens."""

    published_macs_include_head = False  # README of upstream@db018fb; counted so in golden values as well

    weight_layouts = (
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
                *((rf"^features\.{2 * stage}\.", f"layers.{stage}.blocks.") for stage in range(4)),
                *((rf"^features\.{2 * stage + 1}\.", f"layers.{stage}.downsample.") for stage in range(3)),
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
    clip_sized = (
        PositionTable(
            name=r"relative_position_bias_table$", grid=lambda config: tuple(2 * w - 1 for w in config.window_size)
        ),
    )

    def __init__(self, config: VideoSwinConfig) -> None:
        super().__init__()
        self.config = config
        stages = len(config.depths)
        self.patch_embed = PatchEmbed(config.embed_dim, config.patch_size)
        self.layers = nn.ModuleList(Stage(config, stage) for stage in range(stages))
        self.norm = nn.LayerNorm(config.stage_dim(stages - 1))
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.stage_dim(stages - 1), config.num_classes)
        self.apply(_init_weights)
        nn.init.normal_(self.head.weight, std=0.01)

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
        x = self.patch_embed(clip)
        for layer in self.layers:
            x = layer(x)
        return rearrange(self.norm(x), "b t h w c -> b c t h w")


class PatchEmbed(nn.Module):
    """Strided convolution and layer norm: [B, 3, T, H, W] -> [B, t, h, w, C], padded with zeros to whole patches."""

    def __init__(self, dim: int, patch_size: Size) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv3d(3, dim, patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(dim)

    def forward(self, clip: Tensor) -> Tensor:
        pt, ph, pw = (-n % p for n, p in zip(clip.shape[2:], self.patch_size))
        clip = functional.pad(clip, (0, pw, 0, ph, 0, pt))
        return self.norm(rearrange(self.proj(clip), "b c t h w -> b t h w c"))


class Stage(nn.Module):
    """Blocks, then a merge of 2x2 neighbours except after the last stage: [B, T, H, W, C] -> [B, T, H/2, W/2, 2C]."""

    def __init__(self, config: VideoSwinConfig, index: int) -> None:
        super().__init__()
        self.gradient_checkpointing = config.gradient_checkpointing
        rates = torch.linspace(0, config.drop_path_rate, sum(config.depths), device="cpu").tolist()
        start = sum(config.depths[:index])
        self.blocks = nn.ModuleList(
            Block(config, index, shifted=number % 2 == 1, drop_path=rates[start + number])
            for number in range(config.depths[index])
        )
        last = index == len(config.depths) - 1
        self.downsample = nn.Identity() if last else PatchMerging(config.stage_dim(index))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            if self.gradient_checkpointing and self.training:
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return self.downsample(x)


class Block(nn.Module):
    """Pre-norm transformer block on a channels-last map [B, T, H, W, C]."""

    def __init__(self, config: VideoSwinConfig, stage: int, shifted: bool, drop_path: float) -> None:
        super().__init__()
        dim = config.stage_dim(stage)
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(
            dim, config.num_heads[stage], config.stage_grid(stage), config.window_size, shifted=shifted
        )
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * config.mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class WindowAttention(nn.Module):
    """Attention inside 3D windows with a relative bias, on a channels-last map [B, T, H, W, C] (paper, section 3.2).

    Args:
        dim: channels.
        num_heads: heads.
        grid: token grid (T, H, W) of the map.
        window_size: full window in tokens; an axis of the grid that isn't longer is one window.
        shifted: whether windows start half a window later, with a cyclic roll, on axes longer than the window.
    """

    def __init__(self, dim: int, num_heads: int, grid: Size, window_size: Size, shifted: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.grid = grid
        self.window = tuple(min(size, w) for size, w in zip(grid, window_size))
        self.counts = tuple(-(-size // w) for size, w in zip(grid, self.window))
        self.shift = tuple(w // 2 if shifted and size > w else 0 for size, w in zip(grid, window_size))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        rows = math.prod(2 * w - 1 for w in window_size)
        self.relative_position_bias_table = nn.Parameter(torch.empty(rows, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        tokens = math.prod(self.window)
        index = relative_index(window_size)[:tokens, :tokens]
        self.register_buffer("bias_index", index.contiguous(), persistent=False)  # [K, K]
        padded = tuple(n * w for n, w in zip(self.counts, self.window))
        regions = window_regions(padded, self.counts, self.window, self.shift)
        self.register_buffer("regions", regions, persistent=False)  # [windows, K], None without a shift

    def forward(self, x: Tensor) -> Tensor:
        windows = self.to_windows(x)  # [B * windows, K, C]
        q, k, v = rearrange(self.qkv(windows), "n k (three m d) -> three n m k d", three=3, m=self.num_heads)
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=self.bias(batch=x.shape[0]))
        return self.from_windows(self.proj(rearrange(out, "n m k d -> n k (m d)")))

    def bias(self, batch: int) -> Tensor:
        """Relative bias and mask, [B * windows, M, K, K] where windows are shifted, else [1, M, K, K]."""
        table = self.relative_position_bias_table
        if torch.onnx.is_in_onnx_export():
            table = table.detach()  # for a mask that needs a gradient the exporter confuses two kernels' strides
        bias = rearrange(table[self.bias_index], "q k m -> 1 m q k")
        if self.regions is None:
            return bias
        strangers = (self.regions[:, None, :, None] != self.regions[:, None, None, :]).to(bias.dtype)
        return (bias + MASKED * strangers).repeat(batch, 1, 1, 1)

    def to_windows(self, x: Tensor) -> Tensor:
        """[B, T, H, W, C] -> [B * windows, K, C], padded to whole windows and rolled by the shift."""
        pt, ph, pw = (n * w - size for n, w, size in zip(self.counts, self.window, self.grid))
        x = functional.pad(x, (0, 0, 0, pw, 0, ph, 0, pt))
        if any(self.shift):
            x = x.roll([-s for s in self.shift], dims=(1, 2, 3))
        return rearrange(x, "b (nt wt) (nh wh) (nw ww) c -> (b nt nh nw) (wt wh ww) c", **self.axes())

    def from_windows(self, windows: Tensor) -> Tensor:
        """The inverse of `to_windows`: [B * windows, K, C] -> [B, T, H, W, C]."""
        x = rearrange(windows, "(b nt nh nw) (wt wh ww) c -> b (nt wt) (nh wh) (nw ww) c", **self.axes())
        if any(self.shift):
            x = x.roll(self.shift, dims=(1, 2, 3))
        t, h, w = self.grid
        return x[:, :t, :h, :w]

    def axes(self) -> dict[str, int]:
        """Number and length of windows along each axis, as the patterns of `rearrange` name them."""
        return dict(zip(("nt", "nh", "nw", "wt", "wh", "ww"), (*self.counts, *self.window)))

    def macs(self) -> int:
        """Multiply-accumulates for one sample."""
        return _window_macs(self.proj.in_features, self.grid, self.window)


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


def _init_weights(module: nn.Module) -> None:
    """Upstream's rule: linear layers from a truncated normal, the stem's convolution as torch makes it."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


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
