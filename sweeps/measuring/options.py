"""What the commands of this wing have in common: flags whose choices are those of the configs, and how errors end."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from dualformer.arguments import positive, program
from dualformer.config import ConfigError
from dualformer.config_fields import choices
from dualformer.errors import first_line
from sweeps.device import choose_device, is_missing
from sweeps.run_config import MeasureConfig, RunConfig

if TYPE_CHECKING:
    import torch
    from torch import nn


class RefusedError(RuntimeError):
    """There is no figure, for a reason that says all there is to say."""


def add_network(parser: argparse.ArgumentParser) -> None:
    """Adds the argument for one network, and the flags for its clip."""
    parser.add_argument(
        "model",
        metavar="NAME[:PATTERN]",
        help="a model, its attention where it has one to choose, or one of your own, such as my.module:function",
    )
    add_network_shape(parser)


def add_network_shape(parser: argparse.ArgumentParser) -> None:
    """Adds the flags for the clip of a network."""
    parser.add_argument(
        "--num-frames", type=positive, metavar="N", help="frames of a clip (default: as the model was published)"
    )
    parser.add_argument(
        "--crop-size",
        type=crop_size,
        metavar="N|HxW",
        help="pixels of a clip, such as 112 or 112x160 (default: as the model was published)",
    )


def add_settings(parser: argparse.ArgumentParser, *fields: str) -> None:
    """Adds flags for fields of `MeasureConfig`, with its defaults and choices, and those for the place to run."""
    defaults = MeasureConfig()
    words = {
        "batch_size": "clips of one forward pass",
        "precision": "of matrix work; weights stay float32",
        "attention_backend": "kernel of scaled dot-product attention",
        "samples": "forward passes that are timed",
    }
    for field in fields:
        flag, default = f"--{field.replace('_', '-')}", getattr(defaults, field)
        if valid := choices(MeasureConfig, field):
            parser.add_argument(flag, choices=valid, default=default, help=f"{words[field]} (default: {default})")
        else:
            text = f"{words[field]} (default: {default})"
            parser.add_argument(flag, type=positive, default=default, metavar="N", help=text)


def add_place(parser: argparse.ArgumentParser) -> None:
    """Adds the flags for where a network runs."""
    parser.add_argument(
        "--device",
        choices=choices(RunConfig, "device"),
        default="auto",
        help="where the network runs; auto is CUDA where there is one (default: auto)",
    )
    parser.add_argument("--threads", type=positive, default=1, metavar="N", help="CPU threads (default: 1)")


def measure_config(options: argparse.Namespace) -> MeasureConfig:
    """The config that flags of `add_settings` make."""
    fields = MeasureConfig().to_dict()
    return MeasureConfig().changed(**{name: value for name, value in vars(options).items() if name in fields})


def device_of(name: str) -> torch.device:
    """The device that `--device` names.

    Raises:
        ConfigError: this machine has none.
    """
    if is_missing(name):
        raise ConfigError("--device cuda: this machine has no CUDA device")
    return choose_device(name)


def network(text: str, options: argparse.Namespace) -> nn.Module:
    """The network that `NAME[:PATTERN]` names, for the clip that flags of `add_network_shape` say.

    Raises:
        ConfigError: there is no such network, pattern or shape.
    """
    from dualformer.registry import create_model

    name, pattern = split_network(text)
    return create_model(name, attention=pattern, num_frames=options.num_frames, crop_size=options.crop_size)


def split_network(text: str) -> tuple[str, str | None]:
    """Name and pattern of `NAME[:PATTERN]`, where NAME is a model of the registry or `package.module:function`.

    What comes before the first colon decides: the name of a model has a pattern behind it, a module its function. What
    is neither is taken for a misspelt name, unless it has a dot or two colons, as names have not.
    """
    from dualformer.registry import list_models

    first, *rest = text.split(":")
    if "" in rest or len(rest) > 2:
        raise ConfigError(f"'{text}' is not NAME, NAME:PATTERN, MODULE:FUNCTION or MODULE:FUNCTION:PATTERN")
    if first in list_models() or not rest:
        if len(rest) > 1:
            raise ConfigError(f"'{text}': {first} is a model, and takes one pattern")
        return first, rest[0] if rest else None
    if "." in first or len(rest) == 2 or _is_module(first):
        return f"{first}:{rest[0]}", rest[1] if len(rest) == 2 else None
    return first, rest[0]


def _is_module(name: str) -> bool:
    import importlib.util
    import os

    in_folder = os.path.exists(f"{name}.py") or os.path.exists(os.path.join(name, "__init__.py"))
    return in_folder or importlib.util.find_spec(name) is not None


def crop_size(text: str) -> int | tuple[int, int]:
    """Pixels of a clip, one number or HEIGHTxWIDTH."""
    sizes = [positive(part) for part in text.split("x")]
    if len(sizes) > 2:
        raise argparse.ArgumentTypeError(f"'{text}' is neither a number nor HEIGHTxWIDTH")
    return (sizes[0], sizes[1]) if len(sizes) == 2 else sizes[0]


def ended(command: str, work: Callable[[], int]) -> int:
    """Runs a command's work; what it refuses becomes one line on stderr and the exit status.

    Returns:
        What `work` returns; 1 where there is no figure, out of memory included; 2 where what was asked for is wrong.
    """
    from sweeps.measuring.memory import is_out_of_memory

    try:
        return work()
    except ConfigError as error:
        said, status = "; ".join(str(error).splitlines()), 2
    except RefusedError as error:
        said, status = str(error), 1
    except (MemoryError, RuntimeError) as error:
        out = is_out_of_memory(error)
        said, status = ("out of memory", 1) if out else (f"torch refuses: {first_line(error)}", 1)
    print(f"{program(command)}: {said}", file=sys.stderr)
    return status
