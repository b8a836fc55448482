"""Training: one straight loop in which a step depends on (config, step) and the weights so far, on nothing else.

Which samples a step takes, how they are augmented and which activations are dropped all follow from the seed and the
step's number. A run that is stopped and resumed from a checkpoint therefore ends with the same bits on a CPU as one
that was not, and a checkpoint needs to hold no generator states.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

from dualformer.data.dataset import TrainBatches, VideoDataset, collate
from dualformer.optim import parameter_groups
from sweeps import checkpoint, quiet
from sweeps.distributed import ALONE, Team
from sweeps.record import append_metrics
from sweeps.run_config import RunConfig, TrainConfig

LOADER_TIMEOUT_S = 300


class TrainingError(RuntimeError):
    """Training that can't go on: the loss is not finite, or too many videos can't be read."""


def train(
    model: nn.Module,
    dataset: VideoDataset,
    config: RunConfig,
    device: torch.device,
    run_dir: Path,
    team: Team = ALONE,
) -> dict[str, float]:
    """Trains `model` in place, from the newest checkpoint of `run_dir` where there is one.

    Writes a line of `metrics.jsonl` every `train.log_every` steps and a checkpoint every `train.save_every`.

    Returns:
        `final_train_loss` (mean over the last logged steps) and `train_clips_per_s` (waiting for data included).

    Raises:
        TrainingError: names the videos of the batch whose loss is not finite, or those that can't be read where they
            are more than `data.max_failed_share`.
    """
    optimizer = torch.optim.AdamW(
        parameter_groups(model, "plain", config.train.learning_rate, config.train.weight_decay)
    )
    progress, failures = Progress(run_dir, config.train), set()
    start = load_checkpoint(run_dir, model, optimizer, progress)
    network = team.parallel(model.train())
    for step, batch in enumerate(batches(dataset, config, start, team), start):
        failures.update(team.union(batch["failures"]))
        if len(failures) > config.data.max_failed_share * len(dataset):
            raise TrainingError(f"{len(failures)} of {len(dataset)} videos failed: {'; '.join(sorted(failures)[:5])}")
        clips = int(team.sum(len(batch["label"])))
        if not clips:
            continue
        rate = learning_rate(config.train, step)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["lr_factor"]
        with quiet.shared() if device.type == "cpu" else contextlib.nullcontext():
            share = len(batch["label"]) / (clips / team.size)
            loss = training_step(network, optimizer, batch, config, step, device, share)
        loss = team.sum(loss) / team.size
        if not math.isfinite(loss):
            raise TrainingError(f"loss is {loss} at step {step} on {', '.join(names(dataset, batch))}")
        if not team.leads:
            continue
        progress.step(step, loss, rate, clips)
        if config.train.save_every and (step + 1) % config.train.save_every == 0:
            save_checkpoint(run_dir, model, optimizer, progress, step + 1)
    return progress.summary()


def training_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: dict[str, Any],
    config: RunConfig,
    step: int,
    device: torch.device,
    weight: float,
) -> float:
    """One optimiser step; returns its loss, the mean over the batch times `weight`."""
    torch.manual_seed(step_seed(config.seed, step))
    clip, label = batch["clip"].to(device, non_blocking=True), batch["label"].to(device, non_blocking=True)
    loss = functional.cross_entropy(model(clip), label, label_smoothing=config.train.label_smoothing) * weight
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.item()


def names(dataset: VideoDataset, batch: dict[str, Any]) -> list[str]:
    """Files of a batch's videos."""
    return [dataset.entries[index].file for index in batch["index"].tolist()]


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up to the peak, then a cosine to 0 at the last step."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def step_seed(seed: int, step: int) -> int:
    """Seed of the random numbers of one step; steps of different seeds share none below a million steps."""
    return seed * 1_000_003 + step


def batches(dataset: VideoDataset, config: RunConfig, start: int, team: Team) -> Iterator[dict[str, Any]]:
    """Collated batches of the steps from `start` on, this process' share of each."""
    sampler = TrainBatches(len(dataset), config.train.batch_size, seed=config.seed, start=start)
    workers = config.train.num_workers
    # A worker may be stuck in a broken file for good; better a run that fails with a reason than one that hangs.
    loader = DataLoader(
        dataset,
        batch_sampler=team.share(sampler),
        num_workers=workers,
        collate_fn=collate,
        timeout=LOADER_TIMEOUT_S if workers else 0,
    )
    return itertools.islice(loader, config.train.steps - start)


def save_checkpoint(
    run_dir: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress, step: int
) -> None:
    """Saves all that the steps to come depend on, and the figures so far."""
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "progress": progress.state_dict()}
    checkpoint.save(run_dir, step, state)


def load_checkpoint(run_dir: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> int:
    """Restores what `save_checkpoint` saved; returns the step to go on with, 0 where there is no valid checkpoint."""
    found = checkpoint.load(run_dir)
    if found is None:
        return 0
    step, state = found
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    progress.load_state_dict(state["progress"])
    print(f"resumed at step {step}", flush=True)
    return step


class Progress:
    """Means over the steps since the last line, written to `metrics.jsonl` and printed."""

    def __init__(self, run_dir: Path, config: TrainConfig) -> None:
        self.run_dir, self.config = run_dir, config
        self.losses: list[float] = []
        self.clips, self.total_clips, self.last_loss = 0, 0, math.nan
        self.began = self.since = time.perf_counter()

    def step(self, step: int, loss: float, rate: float, clips: int) -> None:
        """Takes one step's figures."""
        self.losses.append(loss)
        self.clips += clips
        self.total_clips += clips
        if (step + 1) % self.config.log_every and step + 1 < self.config.steps:
            return
        now = time.perf_counter()
        self.last_loss = sum(self.losses) / len(self.losses)
        line = {
            "step": step + 1,
            "steps": self.config.steps,
            "loss": self.last_loss,
            "lr": rate,
            "clips_per_s": self.clips / (now - self.since),
        }
        append_metrics(self.run_dir, line)
        print("step {step}/{steps}  loss {loss:.4f}  {clips_per_s:.0f} clips/s".format(**line), flush=True)
        self.losses, self.clips, self.since = [], 0, now

    def summary(self) -> dict[str, float]:
        """Figures of the whole training, the time of lost attempts left out."""
        if not self.total_clips:
            return {}
        elapsed = time.perf_counter() - self.began
        return {"final_train_loss": self.last_loss, "train_clips_per_s": self.total_clips / elapsed}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to report as if it had never stopped."""
        now = time.perf_counter()
        figures = {name: getattr(self, name) for name in ("losses", "clips", "total_clips", "last_loss")}
        return {**figures, "losses": list(self.losses), "elapsed": now - self.began, "elapsed_line": now - self.since}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from `state_dict`."""
        now = time.perf_counter()
        for name in ("losses", "clips", "total_clips", "last_loss"):
            setattr(self, name, state[name])
        self.began, self.since = now - state["elapsed"], now - state["elapsed_line"]
