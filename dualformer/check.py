"""Hold a model or an attention to its twin, contract and cost.

A short benchmark comes last.

    dualformer check dualformer_tiny
    dualformer check my_models:convnet --num-frames 8 --crop-size 64 --set width=8
    dualformer check L

A model is a name of `dualformer models` or an import path, `package.module:function`; an attention is its letter. It
runs on the CPU within a minute, a slow model at a reduced size, and says so. The exit status is 0 where all is well, 1
where a check failed, 2 where there is no such thing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from dualformer.arguments import add_assignments, assigned, parse_and_run, positive
from dualformer.errors import kind_and_line

if TYPE_CHECKING:
    from dualformer.checking import Finding


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    parser.add_argument(
        "thing", metavar="NAME|PATH|LETTER", help="model, import path of a model, or attention's letter"
    )
    parser.add_argument("--num-frames", type=positive, metavar="T", help="frames of a clip (default: as published)")
    parser.add_argument("--crop-size", type=positive, metavar="PX", help="side of a clip (default: as published)")
    add_assignments(parser)


def run(options: argparse.Namespace) -> int:
    """Checks what is named, prints one line for each check, and returns the exit status."""
    from dualformer.config import ConfigError
    from dualformer.macs import UncountedOperatorError

    try:
        failed = 0
        for finding in _findings(options):
            print(f"{'ok' if finding.ok else 'FAILED':8}{finding.name:12}{finding.detail}", flush=True)
            failed += not finding.ok
    except (ConfigError, UncountedOperatorError) as error:
        print(f"dualformer check: {'; '.join(str(error).splitlines())}", file=sys.stderr)
        return 2
    return 1 if failed else 0


def _findings(options: argparse.Namespace) -> Iterator[Finding]:
    if len(options.thing) == 1:
        return _of_letter(options.thing, options)
    return _of_model(options.thing, options)


def _of_letter(letter: str, options: argparse.Namespace) -> Iterator[Finding]:
    """Words, colour and options of an attention, then its checks."""
    import dataclasses

    from dualformer.attention import find, style
    from dualformer.checking import check_letter
    from dualformer.config import ConfigError

    if options.set or options.num_frames or options.crop_size:
        raise ConfigError(f"letter {letter} is tried at sizes and options of its own; flags are for models")
    cls, look = find(letter), style.of_letter(letter)
    print(f"{letter}: {look.words} ({cls.__name__}), family {look.family}, colour {look.colour}, marker {look.marker}")
    for field in dataclasses.fields(cls.Options):
        print(f"  option {field.name}: {field.type}, default {field.default!r}")
    yield from check_letter(letter)
    yield _speed_of_letter(letter)


def _speed_of_letter(letter: str) -> Finding:
    """A few passes of an attention on a token grid of usual size."""
    import torch

    from dualformer.checking import Finding, build, examples, tokens
    from dualformer.model_checking import quick_median_ms

    grid = (8, 14, 14)
    try:
        module = build(letter, grid, dim=96, num_heads=3, **next(iter(examples(letter).values())))
        x = tokens(module, batch=1)
        median_ms, passes = quick_median_ms(lambda: module(x))
    except Exception as error:
        return Finding("speed", False, kind_and_line(error))
    told = f"{median_ms:.3g} ms, the median of only {passes} passes on 8x14x14 tokens of 96 channels"
    return Finding("speed", True, f"{told} on this CPU with {torch.get_num_threads()} threads: nothing to compare by")


def _of_model(name: str, options: argparse.Namespace) -> Iterator[Finding]:
    from dualformer.model_checking import check_model, subject

    flags = {"num_frames": options.num_frames, "crop_size": options.crop_size}
    given = {field: value for field, value in flags.items() if value is not None}
    about = subject(name, **given, **assigned(options.set, given))
    print(f"{name}: {type(about.model).__name__}, checked on clips of {about.size}")
    yield from check_model(about)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line and runs it; returns the exit status."""
    return parse_and_run(sys.modules[__name__], arguments, prog="dualformer check")


if __name__ == "__main__":
    sys.exit(main())
