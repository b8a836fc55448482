"""The tables beside a run's predictions: what each class comes to, which are confused, how sure is how right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dualformer.results import layout
from dualformer.results.files import write_csv
from sweeps.training.predictions import Predictions
from sweeps.training.scoring import class_table, confusion_matrix, reliability


def write_tables(folder: Path, predictions: Predictions) -> None:
    """Writes `classes.csv`, `confusion.csv` (true class by predicted class) and `calibration.csv`."""
    _write_rows(folder / layout.CLASSES, class_table(predictions))
    counts = zip(predictions.classes, confusion_matrix(predictions).tolist())
    write_csv(folder / layout.CONFUSION, ["class", *predictions.classes], ([name, *row] for name, row in counts))
    _write_rows(folder / layout.CALIBRATION, reliability(predictions))


def _write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes a table; its columns are the names of the first row."""
    write_csv(path, list(rows[0]), (row.values() for row in rows))
