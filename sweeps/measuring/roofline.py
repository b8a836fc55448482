"""Compare times with what the machine allows.

How fast a network could be on this machine at best, and how much of that it reaches, whole and by kind of block.

    dualformer roofline dualformer_tiny --device cuda --precision bfloat16 --batch-size 8

The network has to agree with its naive reference first, and the last lines say what that was: gate "twins", or "self"
where it has none. What the bounds are: `sweeps.measuring.bounds`. A time below its bound is said to be wrong, and makes
the exit status 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from dualformer.arguments import parse_and_run
from sweeps.measuring.options import (
    add_network,
    add_place,
    add_settings,
    device_of,
    ended,
    measure_config,
    network,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    add_network(parser)
    add_settings(parser, "batch_size", "precision", "attention_backend", "samples")
    add_place(parser)


def run(options: argparse.Namespace) -> int:
    """Bounds and times a network and prints the table; returns the exit status, 1 where a bound can't be right."""
    return ended("roofline", lambda: _bound(options))


def _bound(options: argparse.Namespace) -> int:
    from sweeps.measuring.bounds import roofline, table  # here, so that --help doesn't wait for torch

    config, device = measure_config(options), device_of(options.device)
    found = roofline(network(options.model, options), config, device=device, threads=options.threads)
    print(table(found))
    return 1 if found.beaten else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line and runs it; returns the exit status."""
    return parse_and_run(sys.modules[__name__], arguments, prog="roofline")


if __name__ == "__main__":
    sys.exit(main())
