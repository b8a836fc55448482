"""Count a model's multiply-accumulates, part by part.

Counted for one view, by operator and by part; no weights, no arithmetic.

One multiply-add is one MAC; FLOPs are twice as many. Norms are counted apart by fvcore's rule, biases, softmax and
activations not at all (see dualformer/macs).

With --check the same network is counted by arithmetic on its config, by torch, by fvcore and by ptflops as well, each
by its own convention and head included; fvcore runs the network once. Exit status: 1 where one of them differs.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from dualformer.arguments import add_assignments, assigned, columns, positive
from dualformer.config import ConfigError

if TYPE_CHECKING:
    from dualformer.cross_check import CrossCount
    from dualformer.macs import MacCount
    from dualformer.model_config import ModelConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    parser.add_argument("model", metavar="MODEL", help="a name of `dualformer models`, or package.module:function")
    parser.add_argument("--num-frames", type=positive, metavar="T", help="frames of a clip (default: as published)")
    parser.add_argument(
        "--crop-size",
        type=positive,
        nargs="+",
        default=(),
        metavar="PX",
        help="side of a clip, or its height and width (default: as published)",
    )
    parser.add_argument("--num-classes", type=positive, default=400, metavar="N", help="classes of the head")
    parser.add_argument("--attention", metavar="PATTERN", help="of dualformer_*, such as LG (default: as published)")
    add_assignments(parser)
    head = parser.add_mutually_exclusive_group()
    head.add_argument("--head", action="store_true", default=None, help="count the head (default: as its paper does)")
    head.add_argument(
        "--no-head", dest="head", action="store_false", default=None, help="leave it out (default: as its paper does)"
    )
    parser.add_argument("--depth", type=positive, default=2, metavar="N", help="how deep parts are listed")
    parser.add_argument("--check", action="store_true", help="count with every other counter, and compare")


def run(options: argparse.Namespace) -> int:
    """Prints the counts; returns 1 where another counter disagrees, else 0.

    Raises:
        ConfigError: unknown model or field, wrong type, illegal value.
        UncountedOperatorError: an operator's cost isn't known.
    """
    from dualformer.cross_check import cross_check

    config = _config(options)
    clip = "x".join(map(str, config.clip_shape[1:]))
    print(f"{options.model}, one view of {clip}, {config.num_classes} classes")
    if not options.check:
        print("\n".join(_counts(config, options.head, options.depth)))
        return 0
    counts = cross_check(config)
    print("\n".join(_comparison(counts)))
    return 1 if any(count.agrees is False for count in counts) else 0


def _config(options: argparse.Namespace) -> ModelConfig:
    from dualformer.registry import model_config

    if len(options.crop_size) > 2:
        raise ConfigError(f"--crop-size takes one number or two, got {len(options.crop_size)}")
    named = {
        "num_frames": options.num_frames,
        "crop_size": options.crop_size[0] if len(options.crop_size) == 1 else tuple(options.crop_size) or None,
        "num_classes": options.num_classes,
        "attention": options.attention,
    }
    changes = {field: value for field, value in named.items() if value is not None}
    return model_config(options.model, **changes, **assigned(options.set, changes))


def _counts(config: ModelConfig, include_head: bool | None, depth: int) -> list[str]:
    from dualformer.macs import count_macs
    from dualformer.meta import no_memory

    with no_memory():
        model = config.build()
    count = count_macs(model, include_head=include_head)
    head = "head included" if count.head_included else "head left out"
    lines = [f"{_g(count.total)} GMACs ({head}), {_g(count.matrix_work)} of them without norms", ""]
    lines += _table("operator", count.by_operator, count.total)
    return [*lines, "", *_table("part", _parts(count, depth), count.total)]


def _parts(count: MacCount, depth: int) -> dict[str, int]:
    return {name: macs for name, macs in count.by_module.items() if name and macs and name.count(".") < depth}


def _table(head: str, macs: dict[str, int] | Any, total: int) -> list[str]:
    rows = [(name, _g(value), f"{value / total:.1%}") for name, value in macs.items()]
    return columns([(head, "GMACs", "share"), *rows], right=(1, 2))


def _g(macs: int) -> str:
    """In 10^9, with three digits of however little it is."""
    return f"{macs / 1e9:.3f}" if macs >= 1e8 else f"{macs / 1e9:.3g}"


def _comparison(counts: list[CrossCount]) -> list[str]:
    verdicts = {True: "agrees", False: "DIFFERS", None: "can't count it"}
    rows = [
        (count.counter, "" if count.counted is None else str(count.counted), str(count.ours), verdict, count.convention)
        for count in counts
        for verdict in (verdicts[count.agrees] if count is not counts[0] else "",)
    ]
    reasons = [f"{count.counter}: {count.reason.splitlines()[0]}" for count in counts if count.reason]
    return [*columns([("counter", "counts", "ours so", "", "what it counts"), *rows], right=(1, 2)), *reasons]
