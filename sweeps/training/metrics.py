"""Score a run's predictions again, without its model.

Neither its videos nor a GPU are needed.

It prints them, writes `classes.csv`, `confusion.csv` and `calibration.csv` again, and compares with the `result.json`
beside them. The figures come out equal, not nearly.

Exit status: 0; 1 where `result.json` says otherwise; 2 where the predictions can't be read, with the reason.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dualformer.arguments import parse_and_run, program
from dualformer.results import layout
from dualformer.results.result import read_result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    parser.add_argument("predictions", type=Path, help="a run's predictions.csv, or the run's folder")


def run(options: argparse.Namespace) -> int:
    """Scores predictions again; returns the exit status."""
    from sweeps.training.predictions import PredictionsError, read_predictions  # here, since torch takes its time
    from sweeps.training.scoring import score, told_coverage
    from sweeps.training.tables import write_tables

    path = options.predictions / layout.PREDICTIONS if options.predictions.is_dir() else options.predictions
    try:
        predictions = read_predictions(path)
        write_tables(path.parent, predictions)
    except (PredictionsError, OSError) as error:
        print(f"{program('metrics')}: {error}", file=sys.stderr)
        return 2
    scores = score(predictions)
    for name, value in scores.items():
        print(f"{name:22} {'none' if value is None else value}")
    print(told_coverage(scores))
    return _compare(path.parent, scores)


def _compare(folder: Path, scores: Mapping[str, Any]) -> int:
    result = read_result(folder.resolve())
    if result is None:
        return 0
    recorded = result.to_dict()
    others = {name: recorded.get(name) for name, value in scores.items() if recorded.get(name) != value}
    for name, value in others.items():
        print(f"{layout.RESULT} says otherwise: {name} is {value} there", file=sys.stderr)
    return 1 if others else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line and runs it; returns the exit status."""
    return parse_and_run(sys.modules[__name__], arguments, prog="metrics")


if __name__ == "__main__":
    sys.exit(main())
