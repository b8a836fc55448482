"""Write the manifest of a data set in a known format.

Tells what can't be used, by reason.

What each format looks like stands in dualformer/data/formats/. Stopped, it goes on where it was.

Exit status: 0 all clips can be used, 1 some can't.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from dualformer.arguments import positive, share
from dualformer.data.formats import FOLDS, FORMATS, Source
from dualformer.data.manifest import MANIFEST_NAME, SPLITS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    parser.add_argument(
        "format", choices=tuple(FORMATS), metavar="FORMAT", help=f"how it is published: {', '.join(FORMATS)}"
    )
    parser.add_argument("--videos", type=Path, required=True, metavar="DIR", help="folder of the videos")
    parser.add_argument(
        "--annotations",
        type=_annotation,
        nargs="+",
        default=[],
        metavar="[SPLIT=]FILE",
        help="the data set's own lists, or folders of them, SPLIT where neither content nor name tells it "
        "(default: none, as FORMAT folders has it)",
    )
    parser.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="class names in their order, one a line, or JSON (default: those of the annotations or folders)",
    )
    folds = ", ".join(f"{name} has {count}" for name, count in FOLDS.items())
    parser.add_argument("--fold", type=positive, metavar="N", help=f"which official split ({folds}; default: 1)")
    parser.add_argument("--rawframes", action="store_true", help="clips are folders of images")
    parser.add_argument("--out", type=Path, default=Path(MANIFEST_NAME), metavar="CSV", help="what to write")
    parser.add_argument(
        "--quarantine", type=Path, metavar="CSV", help="list of unusable clips (default: OUT_quarantine.csv)"
    )
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--workers", type=positive, default=cores, help="files at the same time (default: cores)")
    parser.add_argument(
        "--max-failed-share",
        type=share,
        default=0.05,
        metavar="S",
        help="more missing or unusable clips are an error",
    )


def run(options: argparse.Namespace) -> int:
    """Writes the manifest and prints what is in it; returns 1 where some clip can't be used, else 0."""
    from dualformer.data.prepare import prepare

    source = Source(options.videos, tuple(options.annotations), options.classes, options.fold, options.rawframes)
    limits = {"workers": options.workers, "max_failed_share": options.max_failed_share}
    done = prepare(options.format, source, options.out, quarantine=options.quarantine, **limits)
    for reason, count in done.reasons.items():
        print(f"{count:7}  {reason}")
    for note in done.notes:
        print(f"note: {note}")
    if done.failures:
        print(f"{len(done.failures)} clips can't be used (listed in {done.quarantine})")
    counts = ", ".join(f"{split or 'no split'}: {count}" for split, count in done.counts.items())
    print(f"{sum(done.counts.values())} clips of {len(done.classes)} classes ({counts}) are in {done.manifest}")
    return 1 if done.failures else 0


def _annotation(text: str) -> tuple[str | None, Path]:
    """A file, or `SPLIT=FILE`."""
    split, equals, path = text.partition("=")
    if equals and split.lower() in SPLITS:
        return SPLITS[split.lower()], Path(path)
    return None, Path(text)
