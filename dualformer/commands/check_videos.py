"""Decode every video of a folder, and report.

Tells which can't be used, and which can be sought in.

Exit status: 0 all can be used, 1 some can't.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualformer.arguments import positive, seconds
from dualformer.config_fields import choices
from dualformer.data.config import AUTO, TIME_LIMIT_S, DataConfig
from dualformer.data.csv_files import write_csv
from dualformer.data.files import DataError, frame_folders, passed_over_note, video_files
from dualformer.data.manifest import listed_files

if TYPE_CHECKING:
    from dualformer.data.reader import VideoError, VideoInfo

    Outcome = VideoInfo | VideoError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    parser.add_argument("root", type=Path, metavar="ROOT", help="folder of a data set, or of any videos")
    parser.add_argument("--workers", type=positive, default=1, help="videos decoded at the same time")
    parser.add_argument(
        "--quarantine",
        type=Path,
        default=Path("quarantine.csv"),
        metavar="CSV",
        help="list of unusable videos with reasons",
    )
    parser.add_argument(
        "--report", type=Path, metavar="CSV", help="also write what was found about every video (default: not written)"
    )
    parser.add_argument(
        "--decoder",
        nargs="+",
        choices=choices(DataConfig, "decoder"),
        default=[AUTO],
        help="which may seek; auto: the first at hand",
    )
    parser.add_argument(
        "--time-limit-s",
        type=seconds,
        default=TIME_LIMIT_S,
        metavar="S",
        help="longest time for one video, in seconds",
    )


def run(options: argparse.Namespace) -> int:
    """Writes and prints what was found; returns 1 where some video can't be used, else 0."""
    from dualformer.data.decoders import chosen_decoder
    from dualformer.data.inspection import inspect_all
    from dualformer.data.reader import VideoError

    root = options.root
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    passed_over: Counter[str] = Counter()
    files = sorted({*(video_files(root, passed_over) or frame_folders(root)), *listed_files(root)})
    if not files:
        raise DataError(f"{root}: no videos")
    limits = {"workers": options.workers, "time_limit_s": options.time_limit_s}
    found = {
        name: inspect_all(root, files, decoder=name, **limits)
        for name in dict.fromkeys(map(chosen_decoder, options.decoder))
    }
    outcomes = [(file, name, outcome) for name, of_files in found.items() for file, outcome in of_files.items()]
    broken = {file: outcome.reason for file, _, outcome in outcomes if isinstance(outcome, VideoError)}
    _write_quarantine(options.quarantine, broken)
    if options.report:
        _write_report(options.report, outcomes)
    for line in _summary(root, outcomes):
        print(line)
    if note := passed_over_note(root, passed_over):
        print(f"note: {note}")
    for file, reason in broken.items():
        print(f"{file}: {reason}")
    print(f"{len(broken)} of {len(files)} videos can't be used (listed in {options.quarantine})")
    return 1 if broken else 0


def _access(outcome: Outcome) -> str:
    if isinstance(outcome, Exception):
        return "unusable"
    return "sought" if outcome.seekable else "in order"


def _summary(root: Path, outcomes: Sequence[tuple[str, str, Outcome]]) -> list[str]:
    """How many files of each format each decoder seeks in, as far as that gave the frames of a full decode."""
    counts = Counter((_format(root, file), decoder, _access(outcome)) for file, decoder, outcome in outcomes)
    columns = ("sought", "in order", "unusable")
    lines = [f"{'format':8}{'decoder':12}" + "".join(f"{column:>10}" for column in columns)]
    for name, decoder in sorted({(name, decoder) for name, decoder, _ in counts}):
        lines.append(f"{name:8}{decoder:12}" + "".join(f"{counts[name, decoder, column]:10}" for column in columns))
    return lines


def _format(root: Path, file: str) -> str:
    return "images" if (root / file).is_dir() else Path(file).suffix.lower()


def _write_quarantine(path: Path, broken: Mapping[str, str]) -> None:
    write_csv(path, ("file", "reason"), broken.items())


def _write_report(path: Path, outcomes: Sequence[tuple[str, str, Outcome]]) -> None:
    columns = ("file", "decoder", "access", "frames", "height", "width", "seconds", "rate", "reason")
    write_csv(path, columns, (_row(*outcome) for outcome in outcomes))


def _row(name: str, decoder: str, outcome: Outcome) -> tuple[Any, ...]:
    row = (name, decoder, _access(outcome))
    if isinstance(outcome, Exception):
        return (*row, *[""] * 5, outcome.reason)
    seconds = "" if outcome.seconds is None else f"{outcome.seconds:.3f}"
    rate = "" if outcome.seconds is None else "varies" if outcome.times else "constant"
    return (*row, outcome.num_frames, outcome.height, outcome.width, seconds, rate, "")
