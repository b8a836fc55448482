"""Every model by name: one lazy table, so that naming a model imports that model's file and no other.

A new model is one line here plus its file. The line names a function without arguments that returns the model's
published config, a `ModelConfig`; the config builds the network.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import importlib
import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from dualformer.config import Config, ConfigError, nearest

MODELS = {
    "dualformer_tiny": "dualformer.model:dualformer_tiny",
    "dualformer_small": "dualformer.model:dualformer_small",
    "dualformer_base": "dualformer.model:dualformer_base",
    "video_swin_tiny": "baselines.video_swin:video_swin_tiny",
    "video_swin_small": "baselines.video_swin:video_swin_small",
    "video_swin_base": "baselines.video_swin:video_swin_base",
    "timesformer_divided": "baselines.timesformer:timesformer_divided",
    "timesformer_joint": "baselines.timesformer:timesformer_joint",
    "timesformer_space": "baselines.timesformer:timesformer_space",
    "vivit_base": "baselines.vivit:vivit_base",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig(Config):
    """What every model's config has; each model adds its own fields.

    Attributes:
        name: key of `MODELS`; with the other fields it rebuilds the model.
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

    def check_numbers(self, *, rates: Sequence[str], mlp_dims: Sequence[int]) -> None:
        """Raises `ConfigError` where torch would refuse to build the network, or build one that computes nothing.

        Args:
            rates: names of the fields that are shares of what is dropped.
            mlp_dims: channels of each MLP, which `mlp_ratio` multiplies.
        """
        for field in rates:
            if not 0 <= getattr(self, field) < 1:
                raise ConfigError(f"{field} must be at least 0 and below 1, got {getattr(self, field)}")
        if not 0 < self.mlp_ratio < math.inf or min(mlp_dims) * self.mlp_ratio < 1:
            raise ConfigError(f"mlp_ratio {self.mlp_ratio} leaves {min(mlp_dims)} channels no hidden ones")

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """Shape of one input clip without its batch axis: (3, T, H, W)."""
        return (3, self.num_frames, *self.crop_size)

    def build(self) -> nn.Module:
        """Returns the network with fresh weights."""
        raise NotImplementedError(f"{type(self).__name__} must say which network it builds")

    def matrix_work(self, *, include_head: bool) -> int:
        """Returns the multiply-accumulates of one view without norms, by arithmetic on these fields alone."""
        raise NotImplementedError(f"{type(self).__name__} has no closed form of its cost; dualformer.count_macs counts")


def list_models(pattern: str = "*") -> list[str]:
    """Returns the sorted model names that match a shell wildcard pattern."""
    return sorted(fnmatch.filter(MODELS, pattern))


def model_config(name: str, **changes: Any) -> ModelConfig:
    """Returns a model's published config with `changes`; a change of None keeps the published value.

    Args:
        name: a name of `list_models()`.
        **changes: fields of that model's config; `crop_size` may be one int for a square.

    Raises:
        ConfigError: unknown model or field (the nearest valid one is named), wrong type, illegal value.
    """
    if name not in MODELS:
        raise ConfigError(f"unknown model '{name}'{nearest(name, MODELS)}")
    module, function = MODELS[name].split(":")
    published = getattr(importlib.import_module(module), function)()
    changes = {field: value for field, value in changes.items() if value is not None}
    if isinstance(changes.get("crop_size"), int):
        changes["crop_size"] = (changes["crop_size"],) * 2
    try:
        return published.changed(**changes)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None


def create_model(
    name: str,
    *,
    num_classes: int = 400,
    num_frames: int | None = None,
    crop_size: int | tuple[int, int] | None = None,
    attention: str | None = None,
    **overrides: Any,
) -> nn.Module:
    """Builds any model, DualFormer or baseline, with fresh weights.

    Args:
        name: a name of `list_models()`.
        num_classes: length of the logits.
        num_frames: frames of the clip; None means the published number.
        crop_size: pixels, one int or (height, width); None means the published size.
        attention: for `dualformer_*`, the pattern that repeats over the blocks of every stage, such as "LG", or one
            for each stage, such as "LL,LG,LG,F".
        **overrides: any other field of the model's config.

    Returns:
        A module that maps a normalised float clip [B, 3, T, H, W] to logits [B, num_classes] in train and eval
        mode alike, with `forward_features` giving [B, C, t, h, w] and `config` the frozen config that rebuilds it.

    Raises:
        ConfigError: as `model_config`.
    """
    return model_config(
        name, num_classes=num_classes, num_frames=num_frames, crop_size=crop_size, attention=attention, **overrides
    ).build()
