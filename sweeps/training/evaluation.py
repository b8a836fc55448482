"""Accuracy on held-out videos: every video once on however many processes, its views averaged.

Each process takes every so-manyth video, and the leader puts the predictions in the order of the data set, so the
figures don't depend on how many took part; nor on the batch size: at most that many clips go through the network at
once, however many views a video has. Both change the shapes of matrix products, and with them the last bits of a
probability.

Clips go through the network in the precision of training (autocast), as the published recipes test: a network trained
in bfloat16 that is tested in float32 is another one, and a slower one. What views are averaged to is float32 always.

Evaluating leaves no trace in the training that it interrupts: no random number is drawn, every module gets its mode
back, and nothing that a module keeps for later is an inference tensor, which autograd would refuse.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any

import torch
from torch import Tensor, nn

from dualformer.data.dataset import VideoDataset
from dualformer.modes import evaluating
from dualformer.results import layout
from sweeps import machine_lock
from sweeps.run_context import RunContext
from sweeps.training.errors import EvaluationError
from sweeps.training.loading import held_out_batches
from sweeps.training.predictions import Predictions, write_predictions
from sweeps.training.scoring import score, told_coverage
from sweeps.training.tables import write_tables


def evaluate(model: nn.Module, dataset: VideoDataset, context: RunContext, *, keep: bool = True) -> dict[str, Any]:
    """Metrics on the held-out videos (see `scoring.score`), the same in every process; all of them must call it.

    Args:
        model: evaluated with the leader's weights; its mode is left as it was.
        dataset: evaluation samples.
        context: of the run.
        keep: whether the run's folder takes the predictions and the tables that come from them.

    Raises:
        EvaluationError: in every process alike.
    """
    predictions, failures = predict(model, dataset, context)
    scores: dict[str, Any] = {}
    if predictions is not None:
        scores = score(predictions)
        if keep:
            write_predictions(context.folder / layout.PREDICTIONS, predictions)
            write_tables(context.folder, predictions)
            print("".join(f"not scored: {failure}\n" for failure in failures) + told_coverage(scores), flush=True)
    return context.team.tell(scores)


def predict(model: nn.Module, dataset: VideoDataset, context: RunContext) -> tuple[Predictions | None, list[str]]:
    """Class probabilities of every readable video of a data set.

    Args:
        model: maps clips [B, 3, T, H, W] to logits; on the run's device.
        dataset: evaluation samples, `clip` [V, 3, T, H, W] with V views.
        context: of the run; its team shares the videos.

    Returns:
        The predictions, in the order of the data set, and what was wrong with each video that they lack. Processes
        that don't lead get (None, []).

    Raises:
        EvaluationError: in every process alike.
    """
    team = context.team
    team.agree(model)
    mine, failures = predict_share(model, dataset, context)
    finite = all(values.isfinite().all() for values in mine.values())
    scored, bad = int(team.sum(len(mine))), int(team.sum(0 if finite else 1))
    gathered = team.gather((mine, failures))
    if bad:
        raise EvaluationError("the network's scores are not finite on held-out videos")
    if not scored:
        raise EvaluationError(f"none of the {dataset.num_expected} held-out videos could be read; see the log")
    if not team.leads:
        return None, []
    found = {index: values for part, _ in gathered for index, values in part.items()}
    return in_order(found, dataset), [*map(str, dataset.failures), *(text for _, part in gathered for text in part)]


def predict_share(model: nn.Module, dataset: VideoDataset, context: RunContext) -> tuple[dict[int, Tensor], list[str]]:
    """Class probabilities of this process' videos, by their index in the data set, and what was wrong with others."""
    found: dict[int, Tensor] = {}
    failures: list[str] = []
    with evaluating(model), torch.no_grad():
        for batch in held_out_batches(dataset, context):
            failures += batch["failures"]
            if len(batch["label"]):
                logits = _logits(model, batch["clip"].flatten(0, 1), context)
                averaged = average_views(logits, batch["clip"].shape[1], context.config.evaluate.average)
                found |= zip(batch["index"].tolist(), averaged)
    return found, failures


def in_order(found: dict[int, Tensor], dataset: VideoDataset) -> Predictions:
    """Predictions in the order of the data set, and which of its videos have none."""
    order = sorted(found)
    unread = [os.path.relpath(failure.path, dataset.root) for failure in dataset.failures]
    unread += [entry.file for index, entry in enumerate(dataset.entries) if index not in found]
    return Predictions(
        classes=tuple(dataset.classes),
        files=tuple(dataset.entries[index].file for index in order),
        labels=torch.tensor([dataset.entries[index].label for index in order]),
        probabilities=torch.stack([found[index] for index in order]),
        unread=tuple(unread),
        factors=dataset.factors,
    )


def average_views(logits: Tensor, views: int, average: str) -> Tensor:
    """Logits of clips, [B * views, classes], to probabilities of videos, [B, classes] float32 on the CPU."""
    logits = logits.float().unflatten(0, (-1, views))
    mean = logits.mean(dim=1).softmax(dim=-1) if average == "score" else logits.softmax(dim=-1).mean(dim=1)
    return mean.clamp(max=1.0).cpu()  # a mean of ones may round to more


def _logits(model: nn.Module, clips: Tensor, context: RunContext) -> Tensor:
    """Logits of clips [B, 3, T, H, W], of which no more than `evaluate.batch_size` are on the device."""
    device, precision = context.device, context.config.train.precision
    logits = []
    for chunk in clips.split(context.config.evaluate.batch_size):
        held = machine_lock.shared() if device.type == "cpu" else contextlib.nullcontext()
        autocast = torch.autocast(device.type, getattr(torch, precision), enabled=precision != "float32")
        with held, autocast:
            logits.append(model(chunk.to(device, non_blocking=True)))
    return torch.cat(logits)
