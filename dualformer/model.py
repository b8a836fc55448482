"""DualFormer: a video transformer of stages whose blocks take their attention from a pattern of letters.

Paper: Liang, Zhou, Zimmermann, Yan, "DualFormer: Local-Global Stratified Transformer for Efficient Video
Recognition", ECCV 2022, arXiv 2112.04674. Upstream: sail-sg/dualformer@058c10c, Apache-2.0. Parameters, multiply-
accumulates and float64 logits equal upstream at the published sizes.

Deviation: upstream drops border tokens where a map is not a multiple of a kernel; here clip and maps are padded with
copies of their last entries, windows and pyramid as their files in `attention/` say.

Shapes: B batch, T x H x W input clip or token grid, C channels.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from dualformer.attention.base import Attention, Place
from dualformer.attention.patterns import attention_of, check_keys, option_names, options_of, symbols
from dualformer.checkpoint_files import State
from dualformer.config import ConfigError, FrozenMapping, freeze
from dualformer.layers import (
    Block,
    PatchEmbed,
    PooledNetwork,
    PositionEncodingGenerator,
    Size,
    check_clip,
    drop_path_rates,
    init_linear,
    run_block,
)
from dualformer.meta import no_memory
from dualformer.model_config import ModelConfig
from dualformer.weights import PoolingKernel, PositionTable, WeightLayout, inflate


@dataclasses.dataclass(frozen=True, kw_only=True)
class DualFormerConfig(ModelConfig):
    """Every choice of the network; defaults are what the published sizes share (architectures of upstream@058c10c).

    Attributes:
        attention: pattern of letters that repeats over the blocks of every stage, or one such pattern for each stage,
            with commas between them, such as "LL,LG,LG,F"; `dualformer.attention.letters()` are the letters, and
            digits keep several settings of one letter apart, as in "L1L2".
        attention_options: options of attentions by letter ("L") or symbol ("L2"), such as
            `{"L": {"window_size": (4, 7, 7)}}`; they go before the fields below that have the same name.
        patch_size: stem kernel and stride (time, height, width) in frames and pixels.
        embed_dims: channels of each stage; its length is the number of stages.
        depths: blocks of each stage.
        num_heads: heads of each stage.
        mlp_ratio: hidden channels of the MLP over its channels.
        qkv_bias: whether queries, keys and values have a bias.
        window_size: largest window in tokens, of every attention that has this option, as are the next four.
        fine_sizes: fine pyramid tokens (option `fine_size`) of each stage, None for no such level. Where no block has
            the option, nothing reads them, and there may be any number.
        coarse_sizes: coarse pyramid tokens (option `coarse_size`) of each stage, likewise.
        pooling: operator that makes the pyramid.
        share_kv: whether the pyramid's levels share one norm and one key/value projection.
        position: "peg" is a depth-wise 3x3x3 convolution after the first block of each stage; "absolute" a learned
            table after the stem; "relative" turns on `relative_bias` of every attention that has this option; "none"
            nothing.
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
    attention_options: Mapping[str, Mapping[str, Any]] = FrozenMapping()
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

    def __post_init__(self) -> None:
        object.__setattr__(self, "attention_options", freeze(self.attention_options))
        super().__post_init__()

    def check(self) -> None:
        super().check()
        self._check_stages()
        sizes = [self.patch_size, self.window_size, *self.fine_sizes, *self.coarse_sizes]
        if min(*self.embed_dims, *self.depths, *self.num_heads, *(n for size in sizes if size for n in size)) < 1:
            raise ConfigError("channels, depths, heads and sizes must be positive")
        rates = ("dropout", "projection_dropout", "attention_dropout", "drop_path_rate")
        self.check_numbers(rates=rates, mlp_dims=self.embed_dims, mlp_ratio=self.mlp_ratio)
        for stage in range(len(self.depths)):
            self.stage_place(stage)
        if self.attention_options or self.position == "relative":
            self._check_options()

    def resolved(self) -> dict[str, Any]:
        """As plain data, with letter and options of each block of each stage in place of all fields that choose them.

        The position encoding "relative" is nothing but an option of attentions, so here it is "none".
        """
        fields = {name: value for name, value in self.to_dict().items() if name not in _OF_ATTENTIONS}
        if self.position == "relative":
            fields["position"] = "none"
        return {**fields, "blocks": [self._resolved_blocks(stage) for stage in range(len(self.depths))]}

    def _resolved_blocks(self, stage: int) -> list[list[Any]]:
        """Letter and options of each block of a stage."""
        blocks = self.stage_symbols(stage)
        options = {symbol: self.block_options(stage, symbol).to_dict() for symbol in dict.fromkeys(blocks)}
        return [[symbol[0], options[symbol]] for symbol in blocks]

    def _check_options(self) -> None:
        """Raises `ConfigError` for options that no block takes; imports the attentions, so only where there are any."""
        blocks = [
            (stage, symbol) for stage in range(len(self.depths)) for symbol in dict.fromkeys(self.stage_symbols(stage))
        ]
        check_keys(self.attention_options, sorted(symbol for _, symbol in blocks))
        options = [self.block_options(stage, symbol) for stage, symbol in blocks]
        if self.position == "relative" and not any(getattr(one, "relative_bias", False) for one in options):
            raise ConfigError(
                f"position 'relative' needs an attention with relative_bias, and attention '{self.attention}' has none"
            )

    def _check_stages(self) -> None:
        """Raises `ConfigError` unless every field that has an entry for each stage has as many as there are stages."""
        stages = len(self.embed_dims)
        if not stages:
            raise ConfigError("embed_dims is empty; it has the channels of each stage")
        patterns = [symbols(pattern) for pattern in self.attention.split(",")]
        if len(patterns) not in (1, stages):
            raise ConfigError(f"attention '{self.attention}' has {len(patterns)} patterns for {stages} stages")
        for field in ("depths", "num_heads"):
            if len(getattr(self, field)) != stages:
                raise ConfigError(f"{field} has {len(getattr(self, field))} entries, embed_dims has {stages} stages")
        for field, option in _PER_STAGE.items():
            entries = len(getattr(self, field))
            if entries != stages and (letter := self._letter_with(option)):
                raise ConfigError(
                    f"{field} has {entries} entries, embed_dims has {stages} stages, and attention '{letter}' takes a "
                    f"{option} in each"
                )

    def _letter_with(self, option: str) -> str | None:
        """The first letter of the pattern whose attention has an option; imports attentions."""
        used = (symbol for stage in range(len(self.depths)) for symbol in self.stage_symbols(stage))
        having = (symbol[0] for symbol in used if option in option_names(attention_of(symbol)))
        return next(having, None)

    def stage_grid(self, stage: int) -> Size:
        """Token grid (T, H, W) of a stage; the stem divides by `patch_size`, every further stage halves space."""
        t, h, w = (-(-n // p) for n, p in zip((self.num_frames, *self.crop_size), self.patch_size))
        return t, -(-h // 2**stage), -(-w // 2**stage)

    def stage_place(self, stage: int) -> Place:
        """What every attention of a stage is built from, besides its own options."""
        return Place(
            dim=self.embed_dims[stage],
            num_heads=self.num_heads[stage],
            grid=self.stage_grid(stage),
            qkv_bias=self.qkv_bias,
            attention_dropout=self.attention_dropout,
            projection_dropout=self.projection_dropout,
        )

    def stage_symbols(self, stage: int) -> tuple[str, ...]:
        """Letter, with its number where it has one, of each block of a stage: its pattern, repeated."""
        patterns = self.attention.split(",")
        pattern = symbols(patterns[stage] if len(patterns) > 1 else patterns[0])
        depth = self.depths[stage]
        return (pattern * depth)[:depth]

    def block_options(self, stage: int, symbol: str) -> Any:
        """The `Options` of a symbol's attention in a stage.

        Raises:
            ConfigError: `attention_options` has a name, type or value that the letter doesn't take.
        """
        of_the_network = {
            "window_size": self.window_size,
            **{option: sizes[stage] for option, sizes in self._sizes_of_stages() if stage < len(sizes)},
            "pooling": self.pooling,
            "share_kv": self.share_kv,
            "relative_bias": self.position == "relative",
        }
        return options_of(symbol, of_the_network, self.attention_options)

    def _sizes_of_stages(self) -> list[tuple[str, tuple[Size | None, ...]]]:
        """Options that have an entry for each stage, with all of them; where no block has the option, any number."""
        return [(option, getattr(self, field)) for field, option in _PER_STAGE.items()]

    def drop_path_rates(self, stage: int) -> list[float]:
        """Stochastic depth of each block of a stage."""
        return drop_path_rates(self.drop_path_rate, self.depths)[stage]

    def build(self) -> DualFormer:
        return DualFormer(self)

    def matrix_work(self, *, include_head: bool) -> int:
        total, in_dim = 0, 3
        for stage, dim in enumerate(self.embed_dims):
            tokens = math.prod(self.stage_grid(stage))
            place, blocks = self.stage_place(stage), self.stage_symbols(stage)
            patch = self.patch_size if stage == 0 else (1, 2, 2)
            total += tokens * dim * in_dim * math.prod(patch)
            total += tokens * dim * 3**3 if self.position == "peg" else 0
            costs = {one: _attention_macs(attention_of(one), place, self.block_options(stage, one)) for one in blocks}
            total += sum(costs[symbol] for symbol in blocks)
            total += len(blocks) * 2 * tokens * dim * int(dim * self.mlp_ratio)
            in_dim = dim
        return total + include_head * in_dim * self.num_classes


_OF_ATTENTIONS = (
    "attention",
    "attention_options",
    "window_size",
    "fine_sizes",
    "coarse_sizes",
    "pooling",
    "share_kv",
)
"""Fields that only say which attention each block has, and which options that has."""
_PER_STAGE = {"fine_sizes": "fine_size", "coarse_sizes": "coarse_size"}
"""Fields with an entry for each stage, and the option of attentions that each entry is."""


@lru_cache(maxsize=10_000)
def _attention_macs(cls: type[Attention], place: Place, options: Any) -> int:
    """What one attention says of itself; a network has many of a kind."""
    with no_memory():
        return cls(place, options).macs()


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


class DualFormer(PooledNetwork):
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

    def __init__(self, config: DualFormerConfig) -> None:
        super().__init__()
        self.config = config
        dims = config.embed_dims
        self.stages = nn.ModuleList(Stage(config, stage) for stage in range(len(dims)))
        self.norm = nn.LayerNorm(dims[-1])
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(dims[-1], config.num_classes)
        self.apply(init_linear)
        nn.init.normal_(self.head.weight, std=0.01)
        for norm in (module for module in self.modules() if isinstance(module, nn.LayerNorm)):
            norm.eps = config.norm_eps

    @property
    def clip_sized(self) -> tuple[PositionTable | PoolingKernel, ...]:
        """What follows from the clip size: the absolute positions, and what each attention says of itself."""
        blocks = [
            sized
            for stage in range(len(self.config.depths))
            for number, symbol in enumerate(self.config.stage_symbols(stage))
            for sized in _clip_sized(self.config, stage, number, symbol)
        ]
        return PositionTable(name=r"absolute_position$", grid=lambda config: config.stage_grid(0)), *blocks

    def forward_features(self, clip: Tensor) -> Tensor:
        """Maps a clip [B, 3, T, H, W] to the map before pooling, [B, C, t, h, w]."""
        check_clip(clip, self.config)
        x = clip
        for stage in self.stages:
            x = rearrange(stage(x), "b t h w c -> b c t h w")
        return rearrange(self.norm(rearrange(x, "b c t h w -> b t h w c")), "b t h w c -> b c t h w")


def _clip_sized(own: DualFormerConfig, stage: int, number: int, symbol: str) -> Iterator[PositionTable | PoolingKernel]:
    """What an attention says follows from the clip size, under the names that it has in the network."""
    cls, at = attention_of(symbol), rf"^stages\.{stage}\.blocks\.{number}\.attn\."

    def tables(config: DualFormerConfig) -> Mapping[str, Size]:
        same = (config.attention, config.depths) == (own.attention, own.depths)  # else it lends its clip size alone
        options = (config if same else own).block_options(stage, symbol)
        return cls.position_tables(config.stage_grid(stage), options)

    for name in tables(own):

        def grid(config: DualFormerConfig, name: str = name) -> Size:
            return tables(config)[name]

        yield PositionTable(name=rf"{at}{name}$", grid=grid)
    for pattern in cls.pooling_kernels:
        yield PoolingKernel(name=rf"{at}{pattern}$")


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
        place = config.stage_place(index)
        self.blocks = nn.ModuleList(
            Block(
                place.dim,
                attention_of(symbol)(place, config.block_options(index, symbol)),
                mlp_ratio=config.mlp_ratio,
                drop_path=drop_path,
                dropout=config.projection_dropout,
            )
            for symbol, drop_path in zip(config.stage_symbols(index), config.drop_path_rates(index))
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        if self.absolute_position is not None:
            x = x + self.absolute_position
        x = self.drop(x)
        for number, block in enumerate(self.blocks):
            x = run_block(block, x, recompute=self.gradient_checkpointing)
            if number == 0:
                x = self.peg(x)
        return x


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
