"""Find the largest batch that fits a GPU.

That is the largest batch whose forward pass fits into memory; a measure of its own, no other run uses it.

dualformer max-batch dualformer_tiny --precision bfloat16
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dualformer.arguments import parse_and_run, positive
from dualformer.config import ConfigError
from sweeps.device import is_missing
from sweeps.measuring.options import (
    add_network,
    add_settings,
    ended,
    measure_config,
    network,
)
from sweeps.run_config import MeasureConfig

if TYPE_CHECKING:
    import torch
    from torch import nn

LIMIT = 4096
"""Largest batch that is tried unless something else is asked for."""


def max_batch(
    model: nn.Module, config: MeasureConfig, *, device: str | torch.device = "cuda", limit: int = LIMIT
) -> int:
    """Returns the largest batch size up to `limit` that runs uncompiled; 0 where not even one clip does.

    Args:
        model: a model with a `config`; it is moved to `device`.
        config: precision and attention kernel; its batch size doesn't matter.
        device: where memory running out is an error and not the end of the process, so no CPU.
        limit: largest batch that is tried.
    """
    import torch  # here, so that --help doesn't wait for it

    from dualformer.modes import evaluating
    from sweeps.measuring.settings import settings

    if torch.device(device).type == "cpu":
        raise ValueError(
            "a CPU swaps or kills instead of saying that memory is out, so its largest batch isn't searched"
        )
    with evaluating(model.to(device)), settings(config, threads=1):
        return largest(lambda size: fits(model, config, size, device), limit)


def fits(model: nn.Module, config: MeasureConfig, batch_size: int, device: str | torch.device) -> bool:
    """Whether one forward pass at this batch size gets the memory it wants."""
    import torch

    from dualformer.model_contract import config_of
    from sweeps.measuring.forward import forward_pass
    from sweeps.measuring.memory import is_out_of_memory

    torch.cuda.empty_cache()
    try:
        clip = torch.zeros(batch_size, *config_of(model).clip_shape, device=device)
        forward_pass(model, clip, config)()
        torch.cuda.synchronize()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True


def largest(fits: Callable[[int], bool], limit: int) -> int:
    """The largest n up to `limit` that fits, if all smaller ones do; 0 if none: doubling, then halving the gap."""
    good, bad = 0, 1
    while bad <= limit and fits(bad):
        good, bad = bad, 2 * bad
    bad = min(bad, limit + 1)
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    add_network(parser)
    add_settings(parser, "precision", "attention_backend")
    parser.add_argument(
        "--limit", type=positive, default=LIMIT, metavar="N", help=f"largest batch to try (default: {LIMIT})"
    )


def run(options: argparse.Namespace) -> int:
    """Prints the largest batch; returns the exit status, 1 where not even one clip fits."""
    return ended("max-batch", lambda: _search(options))


def _search(options: argparse.Namespace) -> int:

    if is_missing("cuda"):
        raise ConfigError("the largest batch is searched on a GPU, and this machine has no CUDA device")
    found = max_batch(network(options.model, options), measure_config(options), limit=options.limit)
    print(found)
    return 0 if found else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line and runs it; returns the exit status."""
    return parse_and_run(sys.modules[__name__], arguments, prog="max-batch")


if __name__ == "__main__":
    sys.exit(main())
