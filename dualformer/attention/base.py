"""What every attention is: a map from tokens to tokens, with a place in a network, options, a cost and a naive twin.

An attention maps a channels-last token map to a map of the same shape. Nothing else of a network depends on which one
it is, so a pattern of letters is a controlled comparison.

Shapes: B batch, (T, H, W) token grid, N = T*H*W tokens, C channels, M heads, D = C / M channels per head.
"""

from __future__ import annotations

import abc
import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from dualformer.attention.style import Style
from dualformer.config import Config, ConfigError
from dualformer.layers import Size, multi_head


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place(Config):
    """What an attention needs to know about its place in the network.

    Attributes:
        dim: channels C.
        num_heads: heads M; divides `dim`.
        grid: token grid (T, H, W).
        qkv_bias: whether queries, keys and values have a bias.
        attention_dropout: dropout on attention weights while training.
        projection_dropout: dropout on the output while training.
    """

    dim: int
    num_heads: int
    grid: Size
    qkv_bias: bool = True
    attention_dropout: float = 0.0
    projection_dropout: float = 0.0

    def check(self) -> None:
        if self.dim % self.num_heads:
            raise ConfigError(f"{self.dim} channels can't be split over {self.num_heads} heads")


class Attention(nn.Module, abc.ABC):
    """Base of all attentions: output projection, dropout, and attention itself.

    Class attributes of an attention:
        letter: its capital letter in patterns.
        words: its name for readers, such as "window".
        family: what figures tell it apart by; its words unless given.
        colour, marker: how figures draw it, "#RRGGBB" and a marker of matplotlib; spare ones unless given.
        mixes: the style of a pattern that joins it with attentions of another family, by that family.
        examples: settings that tests build it with, by name: fields of `Options` and of `Place`, small enough for
            grids of a hundred tokens. Together they set every option.
        pooling_kernels: patterns of its parameters that pool a map whose size follows from the clip's; weights of
            another clip size are fitted to them (`dualformer.weights.PoolingKernel`).

    Args:
        place: where in the network it stands.
        options: its own choices; the defaults of its `Options` unless given.
    """

    letter: ClassVar[str]
    words: ClassVar[str]
    family: ClassVar[str | None] = None
    colour: ClassVar[str | None] = None
    marker: ClassVar[str | None] = None
    mixes: ClassVar[Mapping[str, Style]] = {}
    examples: ClassVar[Mapping[str, Mapping[str, Any]]] = {"plain": {}}
    pooling_kernels: ClassVar[tuple[str, ...]] = ()

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Options(Config):
        """Choices of this attention alone; an attention that has any defines an `Options` of its own."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "letter" in vars(cls) and "words" not in vars(cls):
            raise TypeError(f"{cls.__name__} has the letter '{cls.letter}' and no `words` to name it by")
        if cls.colour is not None and not re.fullmatch(r"#[0-9A-Fa-f]{6}", cls.colour):
            raise TypeError(f"{cls.__name__} has the colour '{cls.colour}', which is not of the form #RRGGBB")

    def __init__(self, place: Place, options: Config | None = None) -> None:
        super().__init__()
        self.place = place
        self.options: Any = self.Options() if options is None else options
        if not isinstance(self.options, self.Options):
            raise TypeError(f"{type(self).__name__} was given {type(options).__qualname__}, not its own Options")
        self.proj = nn.Linear(place.dim, place.dim)
        self.proj_drop = nn.Dropout(place.projection_dropout)

    @abc.abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Maps tokens [B, T, H, W, C] to tokens of the same shape."""

    @abc.abstractmethod
    def naive(self, x: Tensor) -> Tensor:
        """What `forward` has to give, slow and obviously right: nothing shared with it but weights; no dropout."""

    @abc.abstractmethod
    def macs(self) -> int:
        """Multiply-accumulates of one sample's matrix work: projections, convolutions, both attention products."""

    @classmethod
    def position_tables(cls, grid: Size, options: Any) -> Mapping[str, Size]:
        """The grid of every learned table of positions, by parameter, at a token grid (T, H, W).

        Weights of another clip size are interpolated to it (`dualformer.weights.PositionTable`).
        """
        return {}

    @property
    def num_tokens(self) -> int:
        return math.prod(self.place.grid)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """softmax(q k^T / sqrt(D) + bias) v of every head, with dropout of the weights while training.

        Args:
            q: queries [..., L, C].
            k: keys [..., S, C].
            v: values [..., S, C].
            bias: added to the logits, or a boolean mask of the pairs that may attend; broadcasts to [..., M, L, S].

        Returns:
            [..., L, C].
        """
        dropout = self.place.attention_dropout if self.training else 0.0
        return multi_head(q, k, v, self.place.num_heads, bias, dropout)
