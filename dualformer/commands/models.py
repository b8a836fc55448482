"""List models with parameters, cost, clip and paper.

Cost is the multiply-accumulates of one view.

Parameters include the classification head of 400 classes, in millions; GMACs are 10^9 multiply-accumulates (FLOPs are
twice as many) and include the head where the paper's figure does. docs/models.md has them in every convention.
"""

from __future__ import annotations

import argparse
import re
import sys
from typing import TYPE_CHECKING

from dualformer.arguments import columns
from dualformer.config import ConfigError, nearest
from dualformer.registry import MODELS, list_models, model_config

if TYPE_CHECKING:
    from dualformer.model_config import ModelConfig

_HEADS = ("model", "params, M", "GMACs per view", "clip", "paper")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    parser.add_argument("pattern", nargs="?", default="*", metavar="PATTERN", help="shell wildcards")
    parser.add_argument("--names", action="store_true", help="names alone, one a line, at once")


def run(options: argparse.Namespace) -> int:
    """Prints the table; returns 0.

    Raises:
        ConfigError: no name matches the pattern.
    """
    names = list_models(options.pattern)
    if not names:
        raise ConfigError(f"no model matches '{options.pattern}'{nearest(options.pattern, MODELS)}")
    rows = [(name,) for name in names] if options.names else [_HEADS, *map(_row, names)]
    print("\n".join(columns(rows, right=(1, 2))))
    return 0


def _row(name: str) -> tuple[str, ...]:
    from dualformer.macs import count_macs
    from dualformer.meta import no_memory

    config = model_config(name)
    with no_memory():
        model = config.build()
    params_m = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    gmacs = count_macs(model).total / 1e9
    clip = "x".join(map(str, config.clip_shape[1:]))
    return (name, f"{params_m:.3f}", f"{gmacs:.2f}", clip, paper(type(config)))


def paper(config: type[ModelConfig]) -> str:
    """Returns venue and arXiv number, which the docstring of a model's file gives after authors and title."""
    text = " ".join((sys.modules[config.__module__].__doc__ or "").split())
    found = re.search(r'Paper: [^"]*"[^"]+", (.+?\d{4}\.\d{5})', text)
    return found[1] if found else ""
