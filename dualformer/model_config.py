"""What every model's config has in common: a name, classes, and the shape of a clip."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dualformer.config import Config, ConfigError

if TYPE_CHECKING:
    from torch import nn


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig(Config):
    """What every model's config has; each model adds its own fields.

    Attributes:
        name: key of `MODELS`, or the import path of a model of one's own; with the other fields it rebuilds the model.
        num_classes: length of the logits.
        num_frames: frames of the input clip (T).
        crop_size: height and width of the input clip in pixels (H, W).
    """

    name: str
    num_classes: int = 400
    num_frames: int
    crop_size: tuple[int, int]

    def check(self) -> None:
        for field, value in (
            ("num_classes", self.num_classes),
            ("num_frames", self.num_frames),
            ("crop_size", min(self.crop_size)),
        ):
            if value < 1:
                raise ConfigError(f"{field} must be positive, got {getattr(self, field)}")

    def check_numbers(self, *, rates: Sequence[str], mlp_dims: Sequence[int], mlp_ratio: float) -> None:
        """Raises `ConfigError` where torch would refuse to build the network, or build one that computes nothing.

        Args:
            rates: names of the fields that are shares of what is dropped.
            mlp_dims: channels of each MLP.
            mlp_ratio: hidden channels of each over its channels.
        """
        for field in rates:
            if not 0 <= getattr(self, field) < 1:
                raise ConfigError(f"{field} must be at least 0 and below 1, got {getattr(self, field)}")
        if not 0 < mlp_ratio < math.inf or min(mlp_dims) * mlp_ratio < 1:
            raise ConfigError(f"mlp_ratio {mlp_ratio} leaves {min(mlp_dims)} channels no hidden ones")

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """Shape of one input clip without its batch axis: (3, T, H, W)."""
        return (3, self.num_frames, *self.crop_size)

    def resolved(self) -> dict[str, Any]:
        """Returns the network as plain data: the same for every spelling of it, and another where a default changed.

        It is what a run is identified by. A config whose fields leave something open (a default that is written
        elsewhere, one choice by two fields) says here what it comes to; it needs not rebuild the network.

        Raises:
            ConfigError: what a field names is not there, or can't be imported.
        """
        return self.to_dict()

    def build(self) -> nn.Module:
        """Returns the network with fresh weights.

        Raises:
            ConfigError: this config describes clips and classes alone, as that of a module at hand may.
        """
        raise ConfigError(f"{self.name} can't be built from its config, which describes clips and classes alone")

    def matrix_work(self, *, include_head: bool) -> int:
        """Returns the multiply-accumulates of one view without norms, by arithmetic on these fields alone.

        Optional: where a model has no closed form, `dualformer.count_macs` counts.
        """
        raise ConfigError(f"{self.name} has no closed form of its cost; dualformer.count_macs counts it")
