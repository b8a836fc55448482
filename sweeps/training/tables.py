"""The tables beside a run's predictions: what each class comes to, which are confused, how sure is how right."""

from __future__ import annotations

from pathlib import Path

from dualformer.results import layout
from sweeps.training.predictions import Predictions, write_rows, write_table
from sweeps.training.scoring import class_table, confusion_matrix, reliability


def write_tables(folder: Path, predictions: Predictions) -> None:
    """Writes `classes.csv`, `confusion.csv` (true class by predicted class) and `calibration.csv`."""
    write_rows(folder / layout.CLASSES, class_table(predictions))
    counts = zip(predictions.classes, confusion_matrix(predictions).tolist())
    write_table(folder / layout.CONFUSION, ["class", *predictions.classes], ([name, *row] for name, row in counts))
    write_rows(folder / layout.CALIBRATION, reliability(predictions))
