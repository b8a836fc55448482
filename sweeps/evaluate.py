"""Accuracy on held-out videos: every video once, its views averaged, each factor of the label scored separately."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dualformer.data.dataset import VideoDataset, collate
from sweeps.record import write_text
from sweeps.run_config import EvaluateConfig


@torch.inference_mode()
def predict(model: nn.Module, dataset: VideoDataset, config: EvaluateConfig, device: torch.device) -> dict[str, Any]:
    """Class probabilities of every readable video of a data set.

    Args:
        model: maps clips [B, 3, T, H, W] to logits.
        dataset: evaluation samples, `clip` [V, 3, T, H, W] with V views.
        config: batch size in videos.
        device: where the model is.

    Returns:
        `probabilities` [videos, classes] (softmax of each view, averaged), `labels` [videos] and their `files`;
        `failures` names the videos that could not be read.
    """
    model.eval()
    loader = DataLoader(dataset, batch_size=config.batch_size, collate_fn=collate, num_workers=config.num_workers)
    probabilities, labels, files, failures = [], [], [], []
    for batch in loader:
        failures += batch["failures"]
        if not len(batch["label"]):
            continue
        views = batch["clip"].shape[1]
        logits = model(batch["clip"].flatten(0, 1).to(device))
        probabilities.append(logits.float().softmax(dim=-1).unflatten(0, (-1, views)).mean(dim=1).cpu())
        labels.append(batch["label"])
        files += [dataset.entries[index].file for index in batch["index"].tolist()]
    return {
        "probabilities": torch.cat(probabilities) if files else torch.zeros(0, len(dataset.classes)),
        "labels": torch.cat(labels) if files else torch.zeros(0, dtype=torch.int64),
        "files": files,
        "failures": failures,
    }


def score(probabilities: Tensor, labels: Tensor, factors: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Accuracies as fractions of the videos scored.

    Args:
        probabilities: [videos, classes].
        labels: [videos].
        factors: name of a factor -> its value for every class; the prediction for a factor is the value whose classes
            together have the highest probability.

    Returns:
        `top1`, `top5` (only where there are more than five classes), `chance_top1` (share of the most frequent class),
        and `top1_<factor>`.
    """
    if len(labels) == 0:
        return {}
    ranked = probabilities.argsort(dim=-1, descending=True, stable=True)
    hits = ranked == labels[:, None]
    scores = {
        "top1": hits[:, 0].double().mean().item(),
        "chance_top1": labels.bincount().max().item() / len(labels),
    }
    if probabilities.shape[1] > 5:
        scores["top5"] = hits[:, :5].any(dim=1).double().mean().item()
    for name, values in factors.items():
        scores[f"top1_{name}"] = factor_accuracy(probabilities, labels, values)
    return scores


def factor_accuracy(probabilities: Tensor, labels: Tensor, values: Sequence[str]) -> float:
    """Share of videos whose factor is told right, from probabilities summed over the classes of each value."""
    names = sorted(set(values))
    value_of_class = torch.tensor([names.index(value) for value in values])
    summed = torch.zeros(len(probabilities), len(names), dtype=probabilities.dtype)
    summed.index_add_(1, value_of_class, probabilities)
    return (summed.argmax(dim=1) == value_of_class[labels]).double().mean().item()


def write_predictions(path: Path, predictions: Mapping[str, Any], classes: Sequence[str]) -> None:
    """Writes one row a video (file, label, probability of each class), so that metrics can be taken anew."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "label", *classes])
    for file, label, row in zip(predictions["files"], predictions["labels"].tolist(), predictions["probabilities"]):
        writer.writerow([file, classes[label], *(f"{p:.6f}" for p in row.tolist())])
    write_text(path, text.getvalue())
