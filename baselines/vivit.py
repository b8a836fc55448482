r"""ViViT-B/16x2, model 1: joint space-time attention over tubelets.

Paper: Arnab, Dehghani, Heigold, Sun, Lucic, Schmid, "ViViT: A Video Vision Transformer", ICCV 2021, arXiv 2103.15691.
Upstream: google-research/scenic@4a38d47 (scenic/projects/vivit/model.py), Apache-2.0; the classification model of
Hugging Face transformers is the same network, and logits equal it.

Deviation: the head starts from a truncated normal (standard deviation 0.02), where upstream starts at zero. With zeros
a fresh model answers every clip alike and no weight but the head's gets a gradient in the first step.

The published 455.2 GMACs per view (Table 2) against 451.5 of matrix work here. With n = 16 * 14 * 14 + 1 = 3137 tokens,
C = 768 channels, L = 12 blocks of M = 12 heads, that work is

    L * (12 n C^2 + 2 n^2 C)        blocks: projections and MLP, both attention products       447.83 G
    + (n - 1) * (2 * 16 * 16 * 3) C    tubelets                                                  3.70 G
    + 400 C                            head                                                      0.00 G   = 451.52 G

What is left, 3.68 G, is the element-wise work, if an operation counts half a MAC as in a compiler's FLOPs / 2 (softmax:
4 operations per pair, the exponential not counted; GELU 8 per hidden channel; norm 7 per channel; 9 C biases, 2 C
residuals and C query scalings per token):

    1/2 * (L * (4 M n^2 + 8 * 4 n C + 12 n C) + 7 (2 L + 1) n C)                                  3.68 G

The paper doesn't name its counter, so this is an inference; but the same rule also gives models 2, 3 and 4 of that
table (284.4, 372.3, 277.1) to 0.05 G, which counting the tubelets twice, say, does not.

Shapes: B batch, (t, h, w) tubelet grid, N = t * h * w, C channels.
"""

from __future__ import annotations

import dataclasses
import math
import re

import torch
from einops import rearrange
from torch import Tensor, nn

from dualformer.checkpoint_files import State
from dualformer.config import ConfigError
from dualformer.layers import Block, Mlp, check_clip, drop_path_rates, run_block
from dualformer.weights import PositionTable, WeightLayout

from .vit import SelfAttention, ViTConfig, block_fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViViTConfig(ViTConfig):
    """Every choice of the network, besides those of `ViTConfig`.

    Attributes:
        tubelet_frames: frames of a tubelet; num_frames is a multiple of it.
    """

    num_frames: int = 32
    tubelet_frames: int = 2

    def check(self) -> None:
        super().check()
        if self.tubelet_frames < 1 or self.num_frames % self.tubelet_frames:
            raise ConfigError(f"num_frames {self.num_frames} is not a multiple of tubelet_frames {self.tubelet_frames}")

    @property
    def grid(self) -> tuple[int, int, int]:
        """Tubelets along time, height and width."""
        return self.num_frames // self.tubelet_frames, *self.frame_grid

    def build(self) -> ViViT:
        return ViViT(self)

    def matrix_work(self, *, include_head: bool) -> int:
        n, dim = math.prod(self.grid), self.embed_dim
        stem = n * dim * 3 * self.tubelet_frames * self.patch_size**2
        block = self.attention_macs(sequences=1, length=1 + n) + self.mlp_macs(1 + n)
        return stem + self.depth * block + include_head * dim * self.num_classes


def _merge_qkv(state: State, model: ViViT) -> State:
    """Hugging Face keeps queries, keys and values apart; here they are one matrix, in this order."""
    entries = {name: value for name, value in state.items() if not re.search(r"\.attn\.[qkv]\.", name)}
    for name in model.state_dict():
        parts = [name.replace(".qkv.", f".{part}.") for part in "qkv"]
        if ".attn.qkv." in name and all(part in state for part in parts):
            entries[name] = torch.cat([state[part] for part in parts])
    return entries


def _image_weights(state: State, model: ViViT) -> State:
    """ViT to ViViT (paper, section 3.4): the 2D kernel at the central frame, positions repeated along time."""
    entries = dict(state)
    frames = model.config.tubelet_frames
    image = state["patch_embed.proj.weight"]
    kernel = image.new_zeros(*image.shape[:2], frames, *image.shape[2:])
    kernel[:, :, frames // 2] = image
    entries["patch_embed.proj.weight"] = kernel
    if "pos_embed" in state:
        cls, places = state["pos_embed"][:, :1], state["pos_embed"][:, 1:]
        entries["pos_embed"] = torch.cat([cls, places.repeat(1, model.config.grid[0], 1)], dim=1)
    return entries


class ViViT(nn.Module):
    """The network: tubelets, positions, blocks, a final norm, and a linear head on the class token."""

    published_macs_include_head = True  # whole models in Table 2 of the paper

    weight_layouts = (
        WeightLayout(
            name="huggingface_vivit",
            has=r"^vivit\.",
            rename=(
                (r"^vivit\.(embeddings\.|encoder\.)?", ""),
                (r"^layers?\.", "blocks."),
                (r"^patch_embeddings\.projection\.", "patch_embed.proj."),
                (r"^position_embeddings$", "pos_embed"),
                (r"^layernorm\.", "norm."),
                (r"^classifier\.", "head."),
                (r"\.layernorm_before\.", ".norm1."),
                (r"\.layernorm_after\.", ".norm2."),
                # The library named these layers one way up to version 4 and another from 5 on.
                (r"\.attention\.attention\.([qkv])(uery|ey|alue)\.", r".attn.\1."),
                (r"\.attention\.([qkv])_proj\.", r".attn.\1."),
                (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
                (r"\.intermediate\.dense\.", ".mlp.fc1."),
                (r"\.output\.dense\.", ".mlp.fc2."),
            ),
            convert=_merge_qkv,
        ),
        WeightLayout(name="vivit", has=r"^patch_embed\.proj\.weight$", ndim=5),
        WeightLayout(
            name="vit_image",
            has=r"^patch_embed\.proj\.weight$",
            ndim=4,
            # The classes of ImageNet are none of a video's, so that head is never taken.
            ignored=(r"^head\.", r"^pre_logits\."),
            absent=(r"^head\.",),
            convert=_image_weights,
        ),
    )
    clip_sized = (PositionTable(name=r"^pos_embed$", grid=lambda config: config.grid, leading=1),)

    def __init__(self, config: ViViTConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.embed_dim
        t, h, w = config.grid
        self.patch_embed = TubeletEmbed(dim, (config.tubelet_frames, config.patch_size, config.patch_size))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + t * h * w, dim))
        (rates,) = drop_path_rates(config.drop_path_rate, (config.depth,))
        self.blocks = nn.ModuleList(
            Block(dim, SelfAttention(dim, config.num_heads), drop_path=rate, gelu="tanh", **block_fields(config))
            for rate in rates
        )
        self.norm = nn.LayerNorm(dim, eps=config.norm_eps)
        self.head = nn.Linear(dim, config.num_classes)
        self._init_weights()

    def forward(self, clip: Tensor) -> Tensor:
        """Maps a normalised clip [B, 3, T, H, W] to logits [B, num_classes].

        Raises:
            ValueError: if the clip is not of the shape the model was built for.
        """
        return self.head(self.encode(clip)[:, 0])

    def forward_features(self, clip: Tensor) -> Tensor:
        """Maps a clip [B, 3, T, H, W] to its tubelet tokens after the last norm as a map, [B, C, t, h, w]."""
        return self._map(self.encode(clip))

    def logits_and_features(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        """Returns what `forward` and `forward_features` give for a clip, at the cost of the first alone."""
        tokens = self.encode(clip)
        return self.head(tokens[:, 0]), self._map(tokens)

    def encode(self, clip: Tensor) -> Tensor:
        """Returns the class token and the tubelet tokens after the last norm, [B, 1 + N, C]."""
        check_clip(clip, self.config)
        tubelets = self.patch_embed(clip)
        x = torch.cat([self.cls_token.expand(clip.shape[0], -1, -1), tubelets], dim=1) + self.pos_embed
        for block in self.blocks:
            x = run_block(block, x, recompute=self.config.gradient_checkpointing)
        return self.norm(x)

    def _map(self, tokens: Tensor) -> Tensor:
        """Tubelet tokens of [B, 1 + N, C] in their places, [B, C, t, h, w]."""
        t, h, w = self.config.grid
        return rearrange(tokens[:, 1:], "b (t h w) c -> b c t h w", t=t, h=h, w=w)

    def _init_weights(self) -> None:
        """Upstream's rule: Xavier uniform blocks, a tubelet kernel that sees its central frame, a zero class token."""
        nn.init.normal_(self.pos_embed, std=0.02)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        for module in self.blocks.modules():
            if isinstance(module, SelfAttention):
                for matrix in (*module.qkv.weight.chunk(3), module.proj.weight):
                    nn.init.xavier_uniform_(matrix)
            elif isinstance(module, Mlp):
                for layer in (module.fc1, module.fc2):
                    nn.init.xavier_uniform_(layer.weight)
                    nn.init.normal_(layer.bias, std=1e-6)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        self.patch_embed.init_central_frame()


class TubeletEmbed(nn.Module):
    """A linear map of the pixels of every tubelet: [B, 3, T, H, W] -> [B, N, C]."""

    def __init__(self, dim: int, tubelet: tuple[int, int, int]) -> None:
        super().__init__()
        self.proj = nn.Conv3d(3, dim, tubelet, stride=tubelet)

    def forward(self, clip: Tensor) -> Tensor:
        return rearrange(self.proj(clip), "b c t h w -> b (t h w) c")

    @torch.no_grad()
    def init_central_frame(self) -> None:
        """Starts as a 2D patch embedding of the central frame (LeCun normal), zero elsewhere."""
        kernel = self.proj.weight
        fan_in = kernel[0, :, 0].numel()
        nn.init.zeros_(kernel)
        nn.init.trunc_normal_(kernel[:, :, kernel.shape[2] // 2], std=fan_in**-0.5)
        nn.init.zeros_(self.proj.get_parameter("bias"))


def vivit_base() -> ViViTConfig:
    """ViViT-B/16x2, model 1: 88.9 M parameters, 452 GMACs per view of 32x224x224 (published as 455)."""
    return ViViTConfig(name="vivit_base")
