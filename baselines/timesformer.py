"""TimeSformer: a ViT-B/16 over frames, with divided, joint or space-only attention.

Paper: Bertasius, Wang, Torresani, "Is Space-Time Attention All You Need for Video Understanding?", ICML 2021,
arXiv 2102.05095. Upstream: facebookresearch/TimeSformer@a5ef29a (timesformer/models/vit.py), CC-BY-NC 4.0.
Parameters, multiply-accumulates and float64 logits equal upstream.

Deviation: the linear layer after time attention starts at zero in every block except the first. Upstream states that
intent, but its loop counts the list of blocks as the first block, so that its own first one starts at zero as well.
Deviation: a clip of another size is a model of another size, whose tables are learned or interpolated when weights are
loaded (`load_weights(..., interpolate=True)`, linear); upstream stretches its tables in every forward pass (nearest).

Shapes: B batch, T frames, (h, w) patches of a frame, N = h * w, C channels. Tokens run frame by frame.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional

from dualformer.checkpoint_files import State
from dualformer.layers import Block, check_clip, drop_path_rates, init_linear, run_block
from dualformer.weights import PositionTable, WeightLayout

from .vit import SelfAttention, ViTConfig, block_fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimeSformerConfig(ViTConfig):
    """Every choice of the network, besides those of `ViTConfig`.

    Attributes:
        attention_type: "divided" attends along time at each place, then over each frame; "joint" over all tokens at
            once; "space" over each frame alone, averaging frames at the end.
    """

    num_frames: int = 8
    attention_type: Literal["divided", "joint", "space"]
    drop_path_rate: float = 0.1

    def build(self) -> TimeSformer:
        return TimeSformer(self)

    def matrix_work(self, *, include_head: bool) -> int:
        t, n, dim = self.num_frames, math.prod(self.frame_grid), self.embed_dim
        if self.attention_type == "divided":
            over_time = self.attention_macs(sequences=n, length=t) + t * n * dim**2
            block = over_time + self.attention_macs(sequences=t, length=1 + n) + self.mlp_macs(1 + t * n)
        elif self.attention_type == "joint":
            block = self.attention_macs(sequences=1, length=1 + t * n) + self.mlp_macs(1 + t * n)
        else:
            block = self.attention_macs(sequences=t, length=1 + n) + self.mlp_macs(t * (1 + n))
        stem = t * n * dim * 3 * self.patch_size**2
        return stem + self.depth * block + include_head * dim * self.num_classes


def _image_weights(state: State, model: TimeSformer) -> State:
    """ViT to TimeSformer (upstream helpers.py): time attention and its norm start as copies of the spatial ones."""
    own = model.state_dict()
    entries = dict(state)
    for name, value in state.items():
        copy = name.replace(".attn.", ".temporal_attn.").replace(".norm1.", ".temporal_norm1.")
        if copy in own:
            entries.setdefault(copy, value)
    return entries


RELEASED = WeightLayout(
    name="timesformer_released",
    has=r"^model\.(pos_embed|cls_token|blocks\.)",
    rename=((r"^model\.", ""),),
)
HUGGING_FACE = WeightLayout(
    name="huggingface_timesformer",
    has=r"^timesformer\.",
    rename=(
        (r"^timesformer\.(embeddings\.|encoder\.)?", ""),
        (r"^layer\.", "blocks."),
        (r"^patch_embeddings\.projection\.", "patch_embed.proj."),
        (r"^position_embeddings$", "pos_embed"),
        (r"^time_embeddings$", "time_embed"),
        (r"^layernorm\.", "norm."),
        (r"^classifier\.", "head."),
        (r"\.layernorm_before\.", ".norm1."),
        (r"\.layernorm_after\.", ".norm2."),
        (r"\.temporal_layernorm\.", ".temporal_norm1."),
        (r"\.temporal_dense\.", ".temporal_fc."),
        (r"attention\.attention\.qkv\.", "attention.qkv."),
        (r"attention\.output\.dense\.", "attention.proj."),
        (r"attention\.(qkv|proj)\.", r"attn.\1."),
        (r"\.intermediate\.dense\.", ".mlp.fc1."),
        (r"\.output\.dense\.", ".mlp.fc2."),
    ),
)
IMAGE = WeightLayout(
    name="vit_image",
    has=r"^pos_embed$",
    # The classes of ImageNet are none of a video's, so that head is never taken.
    ignored=(r"^head\.", r"^pre_logits\."),
    absent=(r"^head\.", r"^time_embed$", r"\.temporal_fc\."),
    convert=_image_weights,
)


class TimeSformer(nn.Module):
    """The network: patches, positions, blocks, a final norm, and a linear head on the class token."""

    published_macs_include_head = True  # tables of the paper and of mmaction2

    clip_sized = (
        PositionTable(name=r"^pos_embed$", grid=lambda config: (1, *config.frame_grid), leading=1),
        PositionTable(name=r"^time_embed$", grid=lambda config: (config.num_frames, 1, 1)),
    )

    def __init__(self, config: TimeSformerConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.embed_dim
        height, width = config.frame_grid
        self.patch_embed = PatchEmbed(dim, config.patch_size)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + height * width, dim))
        if config.attention_type != "space":
            self.time_embed = nn.Parameter(torch.zeros(1, config.num_frames, dim))
        (rates,) = drop_path_rates(config.drop_path_rate, (config.depth,))
        self.blocks = nn.ModuleList(_block(config, rate) for rate in rates)
        self.norm = nn.LayerNorm(dim, eps=config.norm_eps)
        self.head = nn.Linear(dim, config.num_classes)
        self._init_weights()

    @property
    def weight_layouts(self) -> tuple[WeightLayout, ...]:
        """An image ViT has the very names of the space-only model; only a time embedding tells the others from it."""
        if self.config.attention_type == "space":
            return RELEASED, HUGGING_FACE, WeightLayout(name="timesformer", has=r"^pos_embed$")
        return RELEASED, HUGGING_FACE, WeightLayout(name="timesformer", has=r"^time_embed$"), IMAGE

    def forward(self, clip: Tensor) -> Tensor:
        """Maps a normalised clip [B, 3, T, H, W] to logits [B, num_classes].

        Raises:
            ValueError: if the clip is not of the shape the model was built for.
        """
        return self.head(self.class_token(clip))

    def class_token(self, clip: Tensor) -> Tensor:
        """What the head is given for a clip [B, 3, T, H, W]: the class token [B, C] after the last norm.

        Frames that attend to nothing but themselves have one each; their mean is normed.
        """
        return self._class_token(self._encode(clip))

    def forward_features(self, clip: Tensor) -> Tensor:
        """Maps a clip [B, 3, T, H, W] to its patch tokens after the last norm as a map, [B, C, T, h, w]."""
        return self._map(self._encode(clip))

    def logits_and_features(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        """Returns what `forward` and `forward_features` give for a clip, at the cost of the first alone."""
        tokens = self._encode(clip)
        return self.head(self._class_token(tokens)), self._map(tokens)

    def _class_token(self, tokens: Tensor) -> Tensor:
        """The class token [B, C] of what `_encode` gives, after the last norm."""
        if self.config.attention_type == "space":
            return self.norm(tokens[:, :, 0].mean(dim=1))
        return self.norm(tokens)[:, 0]

    def _map(self, tokens: Tensor) -> Tensor:
        """The patch tokens [B, C, T, h, w] of what `_encode` gives, after the last norm."""
        height, width = self.config.frame_grid
        if self.config.attention_type == "space":
            return rearrange(self.norm(tokens[:, :, 1:]), "b t (h w) c -> b c t h w", h=height, w=width)
        return rearrange(self.norm(tokens)[:, 1:], "b (t h w) c -> b c t h w", h=height, w=width)

    def _encode(self, clip: Tensor) -> Tensor:
        """Tokens before the last norm, by the attention's type."""
        return self._encode_frames(clip) if self.config.attention_type == "space" else self._encode_clip(clip)

    def _encode_clip(self, clip: Tensor) -> Tensor:
        """Tokens before the last norm, [B, 1 + T * N, C], the class token first."""
        check_clip(clip, self.config)
        patches = self.patch_embed(clip) + self.pos_embed[:, 1:] + self.time_embed.unsqueeze(2)  # [B, T, N, C]
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(clip.shape[0], -1, -1)
        return self._apply_blocks(torch.cat([cls, patches.flatten(1, 2)], dim=1))

    def _encode_frames(self, clip: Tensor) -> Tensor:
        """Tokens before the last norm of frames that are images of their own, [B, T, 1 + N, C]."""
        check_clip(clip, self.config)
        patches = (self.patch_embed(clip) + self.pos_embed[:, 1:]).flatten(0, 1)  # [B * T, N, C]
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(patches.shape[0], -1, -1)
        x = self._apply_blocks(torch.cat([cls, patches], dim=1))
        return rearrange(x, "(b t) n c -> b t n c", t=self.config.num_frames)

    def _apply_blocks(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = run_block(block, x, recompute=self.config.gradient_checkpointing)
        return x

    def _init_weights(self) -> None:
        """Upstream's rule: truncated normals, the patch convolution as torch makes it, no time order at the start."""
        for table in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(table, std=0.02)
        self.apply(init_linear)
        if self.config.attention_type == "divided":
            for block in self.blocks[1:]:
                nn.init.zeros_(block.get_parameter("temporal_fc.weight"))


class PatchEmbed(nn.Module):
    """A linear map of the pixels of every patch of every frame: [B, 3, T, H, W] -> [B, T, N, C]."""

    def __init__(self, dim: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch_size, stride=patch_size)

    def forward(self, clip: Tensor) -> Tensor:
        patches = self.proj(rearrange(clip, "b c t h w -> (b t) c h w"))
        return rearrange(patches, "(b t) c h w -> b t (h w) c", t=clip.shape[2])


def _block(config: TimeSformerConfig, drop_path: float) -> Block:
    if config.attention_type == "divided":
        return DividedBlock(config, drop_path)
    attention = SelfAttention(config.embed_dim, config.num_heads)
    return Block(config.embed_dim, attention, drop_path=drop_path, **block_fields(config))


class DividedBlock(Block):
    """Divided space-time attention (paper, section 3): along time at each place, then over each frame, then the MLP.

    The class token takes part in the second step only: every frame sees a copy of it, and what the copies gather is
    averaged. Tokens [B, 1 + T * N, C] in and out.
    """

    attn: SelfAttention

    def __init__(self, config: TimeSformerConfig, drop_path: float) -> None:
        dim = config.embed_dim
        super().__init__(dim, SelfAttention(dim, config.num_heads), drop_path=drop_path, **block_fields(config))
        self.num_frames = config.num_frames
        self.temporal_norm1 = nn.LayerNorm(dim, eps=config.norm_eps)
        self.temporal_attn = SelfAttention(dim, config.num_heads)
        self.temporal_fc = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        cls, patches = x[:, :1], x[:, 1:]
        patches = patches + self.along_time(patches)
        x = torch.cat([cls, patches], dim=1) + self.over_frames(cls, patches)
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def along_time(self, patches: Tensor) -> Tensor:
        """[B, T * N, C] -> [B, T * N, C]; stochastic depth drops single places, as upstream."""
        tubes = rearrange(patches, "b (t n) c -> (b n) t c", t=self.num_frames)
        out = self.drop_path(self.temporal_attn(self.temporal_norm1(tubes)))
        return self.temporal_fc(rearrange(out, "(b n) t c -> b (t n) c", b=patches.shape[0]))

    def over_frames(self, cls: Tensor, patches: Tensor) -> Tensor:
        """[B, 1, C] and [B, T * N, C] -> [B, 1 + T * N, C]; stochastic depth drops single frames, as upstream."""
        copies = repeat(cls, "b 1 c -> (b t) 1 c", t=self.num_frames)
        frames = rearrange(patches, "b (t n) c -> (b t) n c", t=self.num_frames)
        out = self.drop_path(self.attn(self.norm1(torch.cat([copies, frames], dim=1))))
        out = rearrange(out, "(b t) n c -> b t n c", t=self.num_frames)
        return torch.cat([out[:, :, 0].mean(dim=1, keepdim=True), out[:, :, 1:].flatten(1, 2)], dim=1)

    def naive(self, x: Tensor) -> Tensor:
        """Each place attends over time; then each frame with the class token, whose gains over frames are averaged."""
        return torch.stack([self._naive_sample(sample[:1], sample[1:]) for sample in x])

    def _naive_sample(self, cls: Tensor, patches: Tensor) -> Tensor:
        """[1, C] and [T * N, C] of one sample -> [1 + T * N, C]."""
        places = len(patches) // self.num_frames
        stepped = torch.empty_like(patches)
        for place in range(places):
            tube = patches[place::places]  # [T, C]
            stepped[place::places] = tube + self.temporal_fc(_alone(self.temporal_attn, self.temporal_norm1(tube)))
        gains, seen = [], []
        for frame in stepped.split(places):  # [N, C]
            out = _alone(self.attn, self.norm1(torch.cat([cls, frame])))
            gains.append(out[:1])
            seen.append(frame + out[1:])
        tokens = torch.cat([cls + sum(gains) / self.num_frames, *seen])
        hidden = functional.gelu(self.mlp.fc1(self.norm2(tokens)), approximate=self.mlp.gelu)
        return tokens + self.mlp.fc2(hidden)


def _alone(attention: SelfAttention, tokens: Tensor) -> Tensor:
    """The naive attention of one sequence, [N, C] -> [N, C]."""
    return attention.naive(tokens.unsqueeze(0)).squeeze(0)


def timesformer_divided() -> TimeSformerConfig:
    """Divided space-time attention: 121.6 M parameters, 196 GMACs per view of 8x224x224."""
    return TimeSformerConfig(name="timesformer_divided", attention_type="divided")


def timesformer_joint() -> TimeSformerConfig:
    """Joint (full) space-time attention: 86.1 M parameters, 180 GMACs per view of 8x224x224."""
    return TimeSformerConfig(name="timesformer_joint", attention_type="joint")


def timesformer_space() -> TimeSformerConfig:
    """Space-only attention: 86.1 M parameters, 141 GMACs per view of 8x224x224."""
    return TimeSformerConfig(name="timesformer_space", attention_type="space")
