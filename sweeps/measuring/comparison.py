"""Time models in turns, with intervals.

Which is faster here and now? They are timed in turns, so that drift of the machine hits all alike.

    dualformer side-by-side dualformer_tiny:LG dualformer_tiny:FF --num-frames 8 --crop-size 112

Every network has to agree with its naive reference first. The table has median, 20th and 80th percentile of a
synchronised forward pass, and the ratio to the first network with its 95 % bootstrap interval. Nothing is stored; what
is to be kept is a sweep.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dualformer.arguments import parse_and_run, positive
from sweeps.measuring.options import (
    add_network_shape,
    add_place,
    add_settings,
    device_of,
    ended,
    measure_config,
    network,
)

if TYPE_CHECKING:
    from torch import nn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    parser.add_argument(
        "networks",
        nargs="+",
        metavar="NAME[:PATTERN]",
        help="a model and its attention, such as dualformer_tiny:LG, or one of your own, such as my.module:function",
    )
    add_network_shape(parser)
    add_settings(parser, "batch_size", "precision", "attention_backend")
    parser.add_argument(
        "--samples", type=positive, default=30, metavar="N", help="timed passes of each network (default: 30)"
    )
    add_place(parser)


def run(options: argparse.Namespace) -> int:
    """Compares networks and prints the table; returns the exit status."""
    return ended("side-by-side", lambda: _compare(options))


def _compare(options: argparse.Namespace) -> int:
    from sweeps.measuring.side_by_side import side_by_side, table  # here, so that --help doesn't wait for torch

    config, device = measure_config(options), device_of(options.device)
    models: dict[str, nn.Module] = {}
    for number, text in enumerate(options.networks, start=1):
        models[text if text not in models else f"{text} ({number})"] = network(text, options)
    times, disturbances = side_by_side(models, config, device=device, threads=options.threads)
    print(table(times))
    for disturbance in disturbances:
        print(f"disturbed: {disturbance}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line and runs it; returns the exit status."""
    return parse_and_run(sys.modules[__name__], arguments, prog="side-by-side")


if __name__ == "__main__":
    sys.exit(main())
