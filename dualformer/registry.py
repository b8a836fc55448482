"""Every model by name: one lazy table, so that naming a model imports that model's file and no other.

A new model is one line here plus its file. The line names a function without arguments that returns the model's
published config, a `ModelConfig`; the config builds the network. A model of one's own needs no line: wherever a name
is taken, the import path of a function is, `package.module:function` (`model_path.py`, docs/models_of_your_own.md).
"""

from __future__ import annotations

import fnmatch
import importlib
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dualformer.config import ConfigError, nearest

if TYPE_CHECKING:
    from torch import nn

    from dualformer.model_config import ModelConfig

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


def list_models(pattern: str = "*") -> list[str]:
    """Returns the sorted names of the registry that match a shell wildcard pattern."""
    return sorted(fnmatch.filter(MODELS, pattern))


def source_files(name: str) -> list[Path]:
    """Returns the files of a model that belong to neither an installed package nor this project.

    A job that computes somewhere else needs them. A model of the registry has none.

    Args:
        name: a name of `list_models()`, or an import path.

    Raises:
        ConfigError: it is neither.
    """
    from dualformer import model_path  # here, since it brings torch along, which naming models doesn't need

    if name in MODELS:
        return []
    if model_path.is_path(name):
        return model_path.source_files(name)
    raise _unknown(name)


def _unknown(name: str) -> ConfigError:
    own = "; a model of your own is named package.module:function" if {".", "/"} & set(name) else ""
    return ConfigError(f"unknown model '{name}'{nearest(name, MODELS)}{own}")


def model_config(name: str, **changes: Any) -> ModelConfig:
    """Returns a model's published config with `changes`; a change of None keeps the published value.

    Args:
        name: a name of `list_models()`, or an import path.
        **changes: fields of that model's config; `crop_size` may be one int for a square. For an import path, arguments
            of its function as well.

    Raises:
        ConfigError: unknown model or field (the nearest valid one is named), wrong type, illegal value.
    """
    _check_text(name)
    changes = {field: value for field, value in changes.items() if value is not None}
    if isinstance(changes.get("crop_size"), int) and not isinstance(changes["crop_size"], bool):
        changes["crop_size"] = (changes["crop_size"],) * 2
    if name not in MODELS:
        from dualformer import model_path

        if not model_path.is_path(name):
            raise _unknown(name)
        return model_path.path_config(name, changes)
    module, function = MODELS[name].split(":")
    published = getattr(_import(module), function)()
    try:
        return published.changed(**changes)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None


def _check_text(name: object) -> None:
    if not isinstance(name, str):
        kind = type(name).__name__
        raise ConfigError(f"a model is named by text, got a {kind}; dualformer.adapt takes a module at hand")


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
        name: a name of `list_models()`, or `package.module:function` for a model of one's own.
        num_classes: length of the logits.
        num_frames: frames of the clip; None means the published number.
        crop_size: pixels, one int or (height, width); None means the published size.
        attention: for `dualformer_*`, the pattern that repeats over the blocks of every stage, such as "LG", or one
            for each stage, such as "LL,LG,LG,F".
        **overrides: any other field of the model's config, or argument of the function that an import path names.

    Returns:
        A module that maps a normalised float clip [B, 3, T, H, W] to logits [B, num_classes] in train and eval
        mode alike, with `forward_features` giving [B, C, t, h, w] and `config` the frozen config that rebuilds it. A
        model by import path has what docs/models_of_your_own.md says.

    Raises:
        ConfigError: as `model_config`.
    """
    return model_config(
        name, num_classes=num_classes, num_frames=num_frames, crop_size=crop_size, attention=attention, **overrides
    ).build()


def _import(module: str) -> ModuleType:
    """Imports a model's file; `baselines` lies beside this package in a checkout, inside it in an installed wheel."""
    if module.partition(".")[0] == "baselines" and not _lies_beside("baselines"):
        module = f"dualformer.{module}"
    return importlib.import_module(module)


def _lies_beside(package: str) -> bool:
    """Whether that name is imported from the folder beside this package; other projects have a `baselines` too."""
    library = Path(__file__).resolve().parent
    if (library / package).is_dir():
        return False
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin == str(library.parent / package / "__init__.py")
