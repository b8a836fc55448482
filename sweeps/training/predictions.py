"""Predictions of a run and the tables beside them as files; knows what they look like and not what they are worth.

Probabilities are written with the nine digits that tell any two float32 numbers apart, so that what is taken from the
file is equal to what was taken from memory, not nearly.
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from dualformer.results import layout
from dualformer.results.files import plain, write_csv

FACTOR = "factor_"
"""Beginning of the columns of `classes.csv` that say a class' value of a factor."""


class PredictionsError(Exception):
    """A file that isn't there, or isn't predictions."""


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a model said about the held-out videos, each of them once.

    Attributes:
        classes: names; a label indexes them.
        files: the videos that were scored.
        labels: int64 [videos], the truth.
        probabilities: float32 [videos, classes].
        unread: videos that should have been scored and could not be read.
        factors: by name of a factor of the label, its value for every class.
    """

    classes: tuple[str, ...]
    files: tuple[str, ...]
    labels: Tensor
    probabilities: Tensor
    unread: tuple[str, ...] = ()
    factors: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Writes one row a video: file, label, probability of each class; that of a video not read has the file alone."""
    labels = (predictions.classes[label] for label in predictions.labels.tolist())
    scored = zip(predictions.files, labels, predictions.probabilities.tolist())
    rows = [[file, label, *(f"{p:.9g}" for p in row)] for file, label, row in scored]
    rows += [[file, *[""] * (1 + len(predictions.classes))] for file in predictions.unread]
    write_csv(path, ["file", "label", *predictions.classes], rows)


def read_predictions(path: Path) -> Predictions:
    """Returns what `write_predictions` wrote; factors come from the `classes.csv` beside it, where there is one.

    Raises:
        PredictionsError: the file is missing or isn't predictions; names the row.
    """
    header, rows = _read(path)
    classes = tuple(header[2:])
    if header[:2] != ["file", "label"] or len(classes) < 2:
        raise PredictionsError(f"{path}: its columns are not file, label and at least two classes")
    files, labels, probabilities, unread = [], [], [], []
    for number, row in enumerate(rows, 2):
        try:
            if len(row) != len(header):
                raise ValueError(f"{len(row)} columns, not {len(header)}")
            if not any(row[1:]):
                unread.append(row[0])
                continue
            labels.append(classes.index(row[1]))
            probabilities.append([float(cell) for cell in row[2:]])
            files.append(row[0])
        except ValueError as error:
            raise PredictionsError(f"{path}: row {number}: {error}") from None
    values = torch.tensor(probabilities, dtype=torch.float32).reshape(len(files), len(classes))
    if not ((values >= 0) & (values <= 1)).all():
        raise PredictionsError(f"{path}: it has probabilities that are not from 0 to 1")
    truth = torch.tensor(labels, dtype=torch.int64)
    factors = _read_factors(path.with_name(layout.CLASSES), classes)
    return Predictions(classes, tuple(files), truth, values, tuple(unread), factors)


def _read_factors(path: Path, classes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    if not path.exists():
        return {}
    header, rows = _read(path)
    if [row[:1] for row in rows] != [[name] for name in classes] or any(len(row) != len(header) for row in rows):
        raise PredictionsError(f"{path}: its classes are not those of the predictions beside it")
    columns = {name: index for index, name in enumerate(header) if name.startswith(FACTOR)}
    return {name.removeprefix(FACTOR): tuple(row[index] for row in rows) for name, index in columns.items()}


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            header, *rows = ([plain(cell) for cell in row] for row in csv.reader(file))
    except FileNotFoundError:
        raise PredictionsError(f"{path}: no such file") from None
    except (ValueError, csv.Error) as error:
        raise PredictionsError(f"{path}: not a table ({error})") from None
    return header, rows
