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
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from dualformer.data.dataset import VideoDataset, collate
from sweeps import machine_lock
from sweeps.run_config import EvaluateConfig, RunConfig
from sweeps.training.metrics import PREDICTIONS, Predictions, score, told_coverage, write_predictions, write_tables
from sweeps.training.processes import ALONE, Team

LOADER_TIMEOUT_S = 300


class EvaluationError(RuntimeError):
    """Nothing that would be a figure: no video could be read, or scores are not finite."""


def evaluate(
    model: nn.Module,
    dataset: VideoDataset,
    config: RunConfig,
    device: torch.device,
    team: Team = ALONE,
    run_dir: Path | None = None,
) -> dict[str, Any]:
    """Metrics on the held-out videos (see `metrics.score`), the same in every process; all of them must call it.

    Args:
        model: evaluated with the leader's weights; its mode is left as it was.
        run_dir: takes the predictions and the tables that come from them; None keeps nothing.

    Raises:
        EvaluationError: in every process alike.
    """
    predictions, failures = predict(model, dataset, config.evaluate, device, team, config.train.precision)
    scores: dict[str, Any] = {}
    if predictions is not None:
        scores = score(predictions)
        if run_dir is not None:
            write_predictions(run_dir / PREDICTIONS, predictions)
            write_tables(run_dir, predictions)
            print("".join(f"not scored: {failure}\n" for failure in failures) + told_coverage(scores), flush=True)
    return team.tell(scores)


def predict(
    model: nn.Module,
    dataset: VideoDataset,
    config: EvaluateConfig,
    device: torch.device,
    team: Team = ALONE,
    precision: str = "float32",
) -> tuple[Predictions | None, list[str]]:
    """Class probabilities of every readable video of a data set.

    Args:
        model: maps clips [B, 3, T, H, W] to logits.
        dataset: evaluation samples, `clip` [V, 3, T, H, W] with V views.
        config: what is averaged, and clips at once.
        device: where the model is.
        team: the processes that share the videos.
        precision: of matrix work.

    Returns:
        The predictions, in the order of the data set, and what was wrong with each video that they lack. Processes
        that don't lead get (None, []).

    Raises:
        EvaluationError: in every process alike.
    """
    team.agree(model)
    mine: dict[int, Tensor] = {}
    failures: list[str] = []
    with _evaluating(model):
        for batch in _batches(dataset, config, team):
            failures += batch["failures"]
            if len(batch["label"]):
                logits = _logits(model, batch["clip"].flatten(0, 1), config.batch_size, device, precision)
                mine |= zip(batch["index"].tolist(), average_views(logits, batch["clip"].shape[1], config.average))
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
    order = sorted(found)
    unread = [os.path.relpath(failure.path, dataset.root) for failure in dataset.failures]
    unread += [entry.file for index, entry in enumerate(dataset.entries) if index not in found]
    predictions = Predictions(
        classes=tuple(dataset.classes),
        files=tuple(dataset.entries[index].file for index in order),
        labels=torch.tensor([dataset.entries[index].label for index in order]),
        probabilities=torch.stack([found[index] for index in order]),
        unread=tuple(unread),
        factors=dataset.factors,
    )
    return predictions, [*map(str, dataset.failures), *(text for _, part in gathered for text in part)]


def average_views(logits: Tensor, views: int, average: str) -> Tensor:
    """Logits of clips, [B * views, classes], to probabilities of videos, [B, classes] float32 on the CPU."""
    logits = logits.float().unflatten(0, (-1, views))
    mean = logits.mean(dim=1).softmax(dim=-1) if average == "score" else logits.softmax(dim=-1).mean(dim=1)
    return mean.clamp(max=1.0).cpu()  # a mean of ones may round to more


def _logits(model: nn.Module, clips: Tensor, at_once: int, device: torch.device, precision: str) -> Tensor:
    """Logits of clips [B, 3, T, H, W], of which no more than `at_once` are on the device."""
    autocast = torch.autocast(device.type, getattr(torch, precision), enabled=precision != "float32")
    logits = []
    for chunk in clips.split(at_once):
        with machine_lock.shared() if device.type == "cpu" else contextlib.nullcontext(), autocast:
            logits.append(model(chunk.to(device, non_blocking=True)))
    return torch.cat(logits)


def _batches(dataset: VideoDataset, config: EvaluateConfig, team: Team) -> DataLoader:
    """Batches of this process' videos, as many at a time as make a full batch of clips."""
    videos = math.ceil(config.batch_size / math.prod(dataset.views))
    return DataLoader(
        Subset(dataset, range(team.rank, len(dataset), team.size)),
        batch_size=videos,
        collate_fn=collate,
        num_workers=config.num_workers,
        timeout=LOADER_TIMEOUT_S if config.num_workers else 0,
        generator=torch.Generator(),  # without one a loader draws a seed from torch's, which training may be using
    )


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every module is in the mode that it was in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training
