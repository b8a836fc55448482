"""What a model is, and what it may have besides: the one place where optional parts are asked for.

Required is `VideoModel`: a module with a `config` that maps clips to logits. All else is optional. Whoever wants an
optional part asks here: `part` gives it or None, `need` gives it or says which model lacks what, and for what.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from dualformer.config import ConfigError
from dualformer.model_config import ModelConfig

if TYPE_CHECKING:
    from torch import Tensor, nn


@runtime_checkable
class VideoModel(Protocol):
    """What every model has.

    `model(clip)` maps normalised clips, float [B, 3, T, H, W] of `config.clip_shape`, to logits [B, num_classes], in
    train and in eval mode alike; in eval mode the logits of a clip don't depend on the other clips of the batch.

    Attributes:
        config: clip shape and number of classes; `config.build()` gives the model again where it can be built again.
    """

    config: ModelConfig

    def __call__(self, clip: Tensor) -> Tensor: ...


PARTS = {
    "head": "a linear layer `head` that ends in the classes",
    "forward_features": "`forward_features(clip)`, the map [B, C, t, h, w] before pooling",
    "logits_and_features": "`logits_and_features(clip)`, logits and the map of one forward pass",
    "blocks": "repeated blocks, in module lists named `blocks` or as `transformer_blocks()` gives them",
    "weight_layouts": "`weight_layouts`, the layouts of checkpoints beside its own",
    "clip_sized": "`clip_sized`, which of its weights follow from the clip size",
    "published_macs_include_head": "`published_macs_include_head`, whether its published cost includes the head",
    "drop_path_rate": "a field `drop_path_rate` in its config",
    "gradient_checkpointing": "a field `gradient_checkpointing` in its config",
    "closed_form": "`matrix_work` in its config, a closed form of its cost",
}
"""Every optional part of a model, in words. What each buys: docs/models_of_your_own.md."""

_OF_CONFIG = frozenset({"drop_path_rate", "gradient_checkpointing"})


class LacksPartError(ConfigError):
    """A model has no such part, so something can't be done with it."""


def part(model: nn.Module, name: str) -> Any:
    """Returns an optional part of a model, None where it has none.

    Args:
        model: as `VideoModel`; one that `torch.compile` wraps is asked for what it wraps.
        name: a key of `PARTS`. Fields of configs are given by their value, "closed_form" as the config's method.
    """
    if name not in PARTS:
        raise KeyError(name)
    model = unwrapped(model)
    if name == "blocks":
        return blocks(model) or None
    if name == "closed_form":
        return config_of(model).matrix_work if has_closed_form(config_of(model)) else None
    return getattr(config_of(model) if name in _OF_CONFIG else model, name, None)


def need(model: nn.Module, name: str, purpose: str) -> Any:
    """Returns an optional part of a model that `purpose` can't do without.

    Args:
        model: as `VideoModel`.
        name: a key of `PARTS`.
        purpose: what is to be done, such as "Grad-CAM" or "compile 'blocks'".

    Raises:
        LacksPartError: the model has no such part.
    """
    found = part(model, name)
    if found is None:
        why = lacking(model, name) or f"it would be {PARTS[name]}"
        raise LacksPartError(f"{name_of(model)} has no {name}, so {purpose} can't be done: {why}")
    return found


def lacking(model: nn.Module, name: str) -> str | None:
    """What a model itself says of why it lacks a part; None where it says nothing."""
    return getattr(unwrapped(model), "lacks", {}).get(name)


def blocks(model: nn.Module) -> list[nn.Module]:
    """The repeated blocks of a model, in order; none where it has none.

    Those that its method `transformer_blocks` gives, else the entries of every module list named `blocks`.
    """
    model = unwrapped(model)
    if (own := getattr(model, "transformer_blocks", None)) is not None:
        return list(own())
    from torch import nn  # here, so that what only names parts, such as the rules of weight groups, needs no torch

    return [
        block
        for name, modules in model.named_modules()
        if isinstance(modules, nn.ModuleList) and name.split(".")[-1] == "blocks"
        for block in modules
    ]


def config_of(model: nn.Module) -> ModelConfig:
    """Returns a model's config.

    Raises:
        TypeError: it has none.
    """
    config = getattr(unwrapped(model), "config", None)
    if not isinstance(config, ModelConfig):
        raise TypeError(f"{type(model).__name__} has no config of a model, so the shape of its clip isn't known")
    return config


def head_name(model: nn.Module) -> str | None:
    """The head's qualified name among a model's modules; None where it has no head."""
    model = unwrapped(model)
    head = part(model, "head")
    return next((name for name, module in model.named_modules() if module is head), None) if head is not None else None


def has_closed_form(config: ModelConfig) -> bool:
    """Whether a config computes its network's cost by arithmetic."""
    return type(config).matrix_work is not ModelConfig.matrix_work


def name_of(model: nn.Module) -> str:
    """A model's name in messages."""
    model = unwrapped(model)
    return getattr(getattr(model, "config", None), "name", type(model).__name__)


def unwrapped(model: nn.Module) -> nn.Module:
    """The module that `torch.compile` wrapped, or the model itself."""
    return getattr(model, "_orig_mod", model)
