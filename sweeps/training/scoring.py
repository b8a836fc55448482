"""What predictions are worth: every metric, and the tables beside them, by pure functions of predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sweeps.training.errors import EvaluationError
from sweeps.training.predictions import FACTOR, Predictions

TOP_K = 5
BINS = 15
"""Bins of equal width that confidences are sorted into for the calibration error."""


def rehearse() -> None:
    """Scores a few imaginary videos, so that a library that can't is noticed before training and not after it.

    Raises:
        EvaluationError: with what the library said.
    """
    labels = torch.arange(TOP_K + 2)
    names = tuple(map(str, labels.tolist()))
    imaginary = Predictions(names, names, labels, torch.eye(len(labels)))
    try:
        found = score(imaginary)
    except Exception as error:  # a package that is broken may raise anything
        raise EvaluationError(f"nothing here can score predictions: {type(error).__name__}: {error}") from error
    if (found["top1"], found["top5"]) != (1.0, 1.0):
        raise EvaluationError(f"predictions without a mistake are scored as {found}: torchmetrics is not what it was")


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
                **{FACTOR + factor: values[index] for factor, values in predictions.factors.items()},
                "videos": videos,
                "accuracy": right / videos if videos else None,
                "confused_with": predictions.classes[most] if wrong[most] else None,
                "confused_videos": int(wrong[most]),
            }
        )
    return rows


def told_coverage(scores: Mapping[str, Any]) -> str:
    """How many of the expected videos the scores are about, in words."""
    scored, failed = scores["num_videos"], scores["num_failed_videos"]
    return f"scored {scored} of {scored + failed} videos" + (f"; {failed} could not be read" if failed else "")


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
