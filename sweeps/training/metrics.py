"""What predictions are worth: every metric, and the tables beside it, from a file alone.

    python -m sweeps.training.metrics runs/<run id>/predictions.csv

takes the metrics of a finished run anew, without its videos, its model or a GPU: it prints them, writes `classes.csv`,
`confusion.csv` and `calibration.csv` again, and compares with the `result.json` beside them. Probabilities are written
with the nine digits that tell any two float32 numbers apart, so the figures come out equal, not nearly.

Exit status: 0; 1 where `result.json` says otherwise; 2 where the predictions can't be read, with the reason.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dualformer.results.files import write_text
from dualformer.results.result import read_result

PREDICTIONS, CLASSES, CONFUSION, CALIBRATION = "predictions.csv", "classes.csv", "confusion.csv", "calibration.csv"
TOP_K = 5
BINS = 15
"""Bins of equal width that confidences are sorted into for the calibration error."""

_FACTOR = "factor_"


class MetricsError(Exception):
    """There is nothing to score, or what there is isn't predictions."""


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


def score(predictions: Predictions) -> dict[str, Any]:
    """The metrics of a result. Accuracies are fractions of the videos scored; None where there is nothing to tell.

    Returns:
        `top1`; `top5`, None where there are no more than five classes; `mean_class_accuracy`, the mean over the classes
        that have videos here of the share of each that is told right; `calibration_error`, the expected one (Guo et
        al., arXiv 1706.04599) over `BINS` bins; `chance_top1`, the share of the most frequent class; `top1_<factor>`;
        `num_videos` scored, and `num_failed_videos`, which count in none of the others.
    """
    labels, probabilities = predictions.labels, predictions.probabilities
    counts = {"num_videos": len(labels), "num_failed_videos": len(predictions.unread)}
    names = ("top1", "top5", "mean_class_accuracy", "calibration_error", "chance_top1")
    scores = dict.fromkeys([*names, *(f"top1_{name}" for name in predictions.factors)])
    if not len(labels):
        return {**scores, **counts}
    confusion = confusion_matrix(predictions)
    right, videos = confusion.diag().double(), confusion.sum(dim=1).double()
    scores["top1"] = right.sum().item() / len(labels)
    scores["mean_class_accuracy"] = (right / videos)[videos > 0].mean().item()
    scores["chance_top1"] = videos.max().item() / len(labels)
    scores["calibration_error"] = _calibration_error(predictions)
    if probabilities.shape[1] > TOP_K:
        scores["top5"] = _num_in_top(predictions, TOP_K) / len(labels)
    for name, values in predictions.factors.items():
        scores[f"top1_{name}"] = factor_accuracy(probabilities, labels, values)
    return {**scores, **counts}


def confusion_matrix(predictions: Predictions) -> Tensor:
    """Counts int64 [classes, classes]: videos of the row's class that were taken for the column's."""
    from torchmetrics.functional.classification import multiclass_confusion_matrix  # here: it takes seconds to import

    if not predictions.files:
        return torch.zeros(len(predictions.classes), len(predictions.classes), dtype=torch.int64)
    return multiclass_confusion_matrix(predictions.probabilities, predictions.labels, len(predictions.classes))


def factor_accuracy(probabilities: Tensor, labels: Tensor, values: Sequence[str]) -> float:
    """Share of videos whose factor is told right.

    The prediction for a factor is the value whose classes together have the highest probability.
    """
    names = sorted(set(values))
    value_of_class = torch.tensor([names.index(value) for value in values])
    summed = torch.zeros(len(probabilities), len(names), dtype=probabilities.dtype)
    summed.index_add_(1, value_of_class, probabilities)
    return (summed.argmax(dim=1) == value_of_class[labels]).double().mean().item()


def reliability(predictions: Predictions) -> list[dict[str, Any]]:
    """For each bin of confidence: `from`, `to`, the number of `videos`, and their mean `confidence` and `accuracy`.

    A bin holds its lower end, and the last one its upper end too; means over no videos are None.
    """
    confidence, called = _below_one(predictions.probabilities).max(dim=1)
    bounds = torch.linspace(0, 1, BINS + 1)
    index = torch.bucketize(confidence, bounds, right=True) - 1
    right = called == predictions.labels
    rows = []
    for number in range(BINS):
        inside = index == number
        videos = int(inside.sum())
        means = (
            (confidence[inside].double().mean().item(), right[inside].double().mean().item()) if videos else (None,) * 2
        )
        ends = (number / BINS, (number + 1) / BINS)
        rows.append(dict(zip(("from", "to", "videos", "confidence", "accuracy"), (*ends, videos, *means))))
    return rows


def class_table(predictions: Predictions) -> list[dict[str, Any]]:
    """For each class: its `videos`, the share that is told right, and what it is most often taken for instead."""
    confusion = confusion_matrix(predictions)
    rows = []
    for index, name in enumerate(predictions.classes):
        videos, right = int(confusion[index].sum()), int(confusion[index, index])
        wrong = confusion[index].clone()
        wrong[index] = 0
        most = int(wrong.argmax())
        rows.append(
            {
                "class": name,
                **{_FACTOR + factor: values[index] for factor, values in predictions.factors.items()},
                "videos": videos,
                "accuracy": right / videos if videos else None,
                "confused_with": predictions.classes[most] if wrong[most] else None,
                "confused_videos": int(wrong[most]),
            }
        )
    return rows


def write_tables(run_dir: Path, predictions: Predictions) -> None:
    """Writes `classes.csv`, `confusion.csv` (true class by predicted class) and `calibration.csv`."""
    _write_rows(run_dir / CLASSES, class_table(predictions))
    counts = zip(predictions.classes, confusion_matrix(predictions).tolist())
    _write(run_dir / CONFUSION, ["class", *predictions.classes], ([name, *row] for name, row in counts))
    _write_rows(run_dir / CALIBRATION, reliability(predictions))


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Writes one row a video: file, label, probability of each class; that of a video not read has the file alone."""
    labels = (predictions.classes[label] for label in predictions.labels.tolist())
    scored = zip(predictions.files, labels, predictions.probabilities.tolist())
    rows = [[file, label, *(f"{p:.9g}" for p in row)] for file, label, row in scored]
    rows += [[file, *[""] * (1 + len(predictions.classes))] for file in predictions.unread]
    _write(path, ["file", "label", *predictions.classes], rows)


def read_predictions(path: Path) -> Predictions:
    """Returns what `write_predictions` wrote; factors come from the `classes.csv` beside it, where there is one.

    Raises:
        MetricsError: the file is missing or isn't predictions; names the row.
    """
    header, rows = _read(path)
    classes = tuple(header[2:])
    if header[:2] != ["file", "label"] or len(classes) < 2:
        raise MetricsError(f"{path}: its columns are not file, label and at least two classes")
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
            raise MetricsError(f"{path}: row {number}: {error}") from None
    values = torch.tensor(probabilities, dtype=torch.float32).reshape(len(files), len(classes))
    if not ((values >= 0) & (values <= 1)).all():
        raise MetricsError(f"{path}: it has probabilities that are not from 0 to 1")
    labels = torch.tensor(labels, dtype=torch.int64)
    return Predictions(
        classes, tuple(files), labels, values, tuple(unread), _read_factors(path.with_name(CLASSES), classes)
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m sweeps.training.metrics", description=__doc__.partition("\n")[0])
    parser.add_argument("predictions", type=Path, help="a run's predictions.csv, or the run's folder")
    path = parser.parse_args(arguments).predictions
    path = path / PREDICTIONS if path.is_dir() else path
    try:
        predictions = read_predictions(path)
        write_tables(path.parent, predictions)
    except (MetricsError, OSError) as error:
        print(f"metrics: {error}", file=sys.stderr)
        return 2
    scores = score(predictions)
    for name, value in scores.items():
        print(f"{name:22} {'none' if value is None else value}")
    print(told_coverage(scores))
    return _compare(path.parent, scores)


def told_coverage(scores: Mapping[str, Any]) -> str:
    """How many of the expected videos the scores are about, in words."""
    scored, failed = scores["num_videos"], scores["num_failed_videos"]
    return f"scored {scored} of {scored + failed} videos" + (f"; {failed} could not be read" if failed else "")


def _compare(run_dir: Path, scores: Mapping[str, Any]) -> int:
    result = read_result(run_dir.resolve())
    if result is None:
        return 0
    recorded = result.to_dict()
    others = {name: recorded.get(name) for name, value in scores.items() if recorded.get(name) != value}
    for name, value in others.items():
        print(f"result.json says otherwise: {name} is {value} there", file=sys.stderr)
    return 1 if others else 0


def _num_in_top(predictions: Predictions, k: int) -> int:
    from torchmetrics.functional.classification import multiclass_stat_scores

    return int(
        multiclass_stat_scores(
            predictions.probabilities, predictions.labels, len(predictions.classes), average="micro", top_k=k
        )[0]
    )


def _calibration_error(predictions: Predictions) -> float:
    from torchmetrics.functional.classification import multiclass_calibration_error

    probabilities = _below_one(predictions.probabilities)
    return multiclass_calibration_error(probabilities, predictions.labels, len(predictions.classes), BINS).item()


def _below_one(probabilities: Tensor) -> Tensor:
    """A confidence of 1 belongs to the last bin; torchmetrics would make a bin of its own for it."""
    return probabilities.clamp(max=torch.nextafter(torch.tensor(1.0), torch.tensor(0.0)).item())


def _read_factors(path: Path, classes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    if not path.exists():
        return {}
    header, rows = _read(path)
    if [row[:1] for row in rows] != [[name] for name in classes] or any(len(row) != len(header) for row in rows):
        raise MetricsError(f"{path}: its classes are not those of the predictions beside it")
    columns = {name: index for index, name in enumerate(header) if name.startswith(_FACTOR)}
    return {name.removeprefix(_FACTOR): tuple(row[index] for row in rows) for name, index in columns.items()}


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
    except FileNotFoundError:
        raise MetricsError(f"{path}: no such file") from None
    except (ValueError, csv.Error) as error:
        raise MetricsError(f"{path}: not a table ({error})") from None
    return header, rows


def _write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    _write(path, list(rows[0]), (row.values() for row in rows))


def _write(path: Path, header: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())


if __name__ == "__main__":
    sys.exit(main())
