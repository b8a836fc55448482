"""Batches of videos for one process of a run: to train on, from any step on, and to evaluate on."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Subset

from dualformer.data.dataset import TrainBatches, VideoDataset, collate
from dualformer.data.handover import check_handover
from sweeps.run_context import RunContext

LOADER_TIMEOUT_S = 300
"""A worker may be stuck in a broken file for good; better a run that fails with a reason than one that hangs."""


def training_batches(dataset: VideoDataset, context: RunContext, start: int, end: int) -> Iterator[dict[str, Any]]:
    """Collated batches of the steps from `start` until `end`, this process' share of each.

    Raises:
        HandoverError: loader workers can't hand over what they would make, in training or evaluation.
    """
    train = context.config.train
    check_handover(train.num_workers, math.ceil(train.batch_size / context.team.size) * dataset.sample_bytes)
    check_handover(context.config.evaluate.num_workers)  # now rather than after training
    sampler = TrainBatches(len(dataset), train.batch_size, seed=context.config.seed, start=start)
    loader = DataLoader(
        dataset,
        batch_sampler=context.team.share(sampler),
        num_workers=train.num_workers,
        collate_fn=collate,
        timeout=LOADER_TIMEOUT_S if train.num_workers else 0,
        pin_memory=context.device.type == "cuda",
    )
    return itertools.islice(loader, max(0, end - start))


def held_out_batches(dataset: VideoDataset, context: RunContext) -> DataLoader[dict[str, Any]]:
    """Batches of this process' videos, as many at a time as make a full batch of clips."""
    evaluate, team = context.config.evaluate, context.team
    if dataset.views is None:
        raise ValueError("clips drawn at random are to train on; what is held out has fixed views")
    videos = math.ceil(evaluate.batch_size / math.prod(dataset.views))
    check_handover(evaluate.num_workers, videos * dataset.sample_bytes)
    return DataLoader(
        Subset(dataset, range(team.rank, len(dataset), team.size)),
        batch_size=videos,
        collate_fn=collate,
        num_workers=evaluate.num_workers,
        timeout=LOADER_TIMEOUT_S if evaluate.num_workers else 0,
        generator=torch.Generator(),  # without one a loader draws a seed from torch's, which training may be using
    )
