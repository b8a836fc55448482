"""Training: one straight loop in which a step depends on (config, step) and the weights so far, on nothing else.

Which samples a step takes, how they are augmented and which activations are dropped all follow from the seed and the
step's number. A run that is stopped and resumed from a checkpoint therefore ends with the same bits on a CPU as one
that was not, and a checkpoint needs to hold no generator states.

In a run folder training leaves `metrics.jsonl`; `weights.pt`, what is evaluated in the end, where it saves at all; and
`best.pt`, where it evaluates on the way (see `checkpoint`).
"""

from __future__ import annotations

import contextlib
import itertools
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from dualformer.data.dataset import TrainBatches, VideoDataset, collate
from dualformer.results.files import write_json
from sweeps import machine_lock
from sweeps.run_config import RunConfig
from sweeps.training import checkpoint
from sweeps.training.evaluation import evaluate
from sweeps.training.learner import Learner
from sweeps.training.processes import ALONE, Team
from sweeps.training.progress import Progress, tracking
from sweeps.training.schedule import Schedule

LOADER_TIMEOUT_S = 300
FAILED_BATCH = "failed_batch.json"
"""File of a run that names the videos of the batch whose loss was not finite."""

_NAMES_SHOWN = 8


class TrainingError(RuntimeError):
    """Training that can't go on: the loss is not finite, too many videos can't be read, a checkpoint is another's."""


def train(
    model: nn.Module,
    dataset: VideoDataset,
    config: RunConfig,
    device: torch.device,
    run_dir: Path,
    team: Team = ALONE,
    held_out: VideoDataset | None = None,
) -> dict[str, float]:
    """Trains `model` in place, from the newest checkpoint of `run_dir` where there is one.

    Writes a line of `metrics.jsonl` every `train.log_every` steps and a checkpoint every `train.save_every`.

    Args:
        model: on `device`; ends as what is to be evaluated, the moving average of the weights where there is one.
        dataset: the training clips.
        config: of the run.
        device: where to train.
        run_dir: the run's folder.
        team: the processes that train together; all of them call this.
        held_out: what is evaluated every `train.evaluate_every` steps; None evaluates nothing on the way.

    Returns:
        `final_train_loss` (mean over the last logged steps), `train_clips_per_s` (waiting for data included, evaluation
        not) and `data_wait_share` (of that time).

    Raises:
        TrainingError: names the videos of the batch whose loss is not finite (`failed_batch.json` has all of them), or
            those that can't be read where they are more than `data.max_failed_share`; or the checkpoint is another
            run's.
        OSError: the weights can't be written.
    """
    schedule = Schedule.of(config.train, len(dataset))
    learner = Learner(model, config, device, team)
    progress = Progress(run_dir, schedule)
    start = load_checkpoint(run_dir, learner, progress, config, len(dataset))
    with tracking(config, run_dir, start) if team.leads else contextlib.nullcontext() as progress.track:
        for step, batch in enumerate(
            progress.timed(batches(dataset, config, start, schedule.end, device, team)), start
        ):
            progress.failures.update(team.union(batch["failures"]))
            check_failures(progress.failures, config.data.max_failed_share * len(dataset), len(dataset))
            with machine(device, team):
                clips = int(team.sum(len(batch["label"])))
                if not clips:
                    continue
                share = len(batch["label"]) / (clips / team.size)
                loss = learner.backward(batch, step_seed(config.seed, step, team.rank), share)
                loss = team.sum(loss) / team.size
                if not math.isfinite(loss):
                    raise not_finite(loss, step, team.union(names(dataset, batch)), run_dir, team)
                rate = schedule.rate(step)
                learner.update(rate)
            if team.leads:
                progress.step(step, loss, rate, clips)
            if held_out is not None and is_due(step, config.train.evaluate_every):
                evaluate_on_the_way(step, learner, held_out, progress, config, run_dir, team)
            if team.leads and is_due(step, config.train.save_every):
                save_checkpoint(run_dir, learner, progress, config, len(dataset), step + 1)
        learner.finish()
    if team.leads and config.train.save_every:
        checkpoint.save_weights(run_dir / "weights.pt", model, step=schedule.end, run=identity(config))
    return progress.summary()


def machine(device: torch.device, team: Team) -> contextlib.AbstractContextManager:
    """Keeps timings off this machine while a CPU trains.

    One process holds it for all of the team that are there. Else one could wait for a timing to end, which waits for
    another to end its step, which waits for the first one's gradient.
    """
    holds = device.type == "cpu" and team.rank % team.local_size == 0
    return machine_lock.shared() if holds else contextlib.nullcontext()


def is_due(step: int, every: int) -> bool:
    """Whether something that is done every so many steps, 0 being never, is done after this one."""
    return every > 0 and (step + 1) % every == 0


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """Seed of the random numbers of one step in one process; those of different seeds share none below 10^6 steps."""
    return (rank * 1_000_003 + seed) * 1_000_003 + step


def names(dataset: VideoDataset, batch: dict[str, Any]) -> list[str]:
    """Files of a batch's videos."""
    return [dataset.entries[index].file for index in batch["index"].tolist()]


def batches(
    dataset: VideoDataset, config: RunConfig, start: int, end: int, device: torch.device, team: Team
) -> Iterator[dict[str, Any]]:
    """Collated batches of the steps from `start` until `end`, this process' share of each."""
    sampler = TrainBatches(len(dataset), config.train.batch_size, seed=config.seed, start=start)
    workers = config.train.num_workers
    # A worker may be stuck in a broken file for good; better a run that fails with a reason than one that hangs.
    loader = DataLoader(
        dataset,
        batch_sampler=team.share(sampler),
        num_workers=workers,
        collate_fn=collate,
        timeout=LOADER_TIMEOUT_S if workers else 0,
        pin_memory=device.type == "cuda",
    )
    return itertools.islice(loader, max(0, end - start))


def check_failures(failures: set[str], allowed: float, num_videos: int) -> None:
    """Ends a training that has lost more of its videos than it may."""
    if len(failures) > allowed:
        raise TrainingError(f"{len(failures)} of {num_videos} videos failed: {'; '.join(sorted(failures)[:5])}")


def not_finite(loss: float, step: int, files: Sequence[str], run_dir: Path, team: Team) -> TrainingError:
    """What to raise for a loss that is not finite; saves the batch's names first."""
    if team.leads:
        write_json(run_dir / FAILED_BATCH, {"step": step + 1, "loss": str(loss), "files": files})
    more = f" and {len(files) - _NAMES_SHOWN} more (see {FAILED_BATCH})" if len(files) > _NAMES_SHOWN else ""
    return TrainingError(f"loss is {loss} at step {step + 1} on {', '.join(files[:_NAMES_SHOWN])}{more}")


def evaluate_on_the_way(
    step: int,
    learner: Learner,
    held_out: VideoDataset,
    progress: Progress,
    config: RunConfig,
    run_dir: Path,
    team: Team,
) -> None:
    """Takes the accuracy on the held-out videos and keeps the weights if they are the best so far."""
    with progress.paused():
        top1 = evaluate(learner.evaluated, held_out, config, learner.device, team)["top1"]
        if team.leads and progress.held_out(step, top1):
            about = {"step": step + 1, "top1": top1, "run": identity(config)}
            try:
                checkpoint.save_weights(run_dir / "best.pt", learner.evaluated, **about)
            except OSError as error:  # a full disk, say, is no reason to lose the training
                warnings.warn(
                    f"no best.pt at step {step + 1}: {error.strerror}; training goes on without", stacklevel=2
                )


def identity(config: RunConfig) -> dict[str, str]:
    """What tells a run's checkpoints from those of others."""
    return {"id": config.run_id, "model": config.model.name}


def save_checkpoint(
    run_dir: Path, learner: Learner, progress: Progress, config: RunConfig, num_clips: int, step: int
) -> None:
    """Saves all that the steps to come depend on, and the figures so far."""
    state = {**learner.state_dict(), "progress": progress.state_dict(), "run": identity(config), "num_clips": num_clips}
    checkpoint.save(run_dir, step, state, keep=config.train.keep_checkpoints)


def load_checkpoint(run_dir: Path, learner: Learner, progress: Progress, config: RunConfig, num_clips: int) -> int:
    """Restores what `save_checkpoint` saved; returns the step to go on with, 0 where there is no valid checkpoint.

    Raises:
        TrainingError: the checkpoint is of another run.
    """
    found = checkpoint.load(run_dir)
    if found is None:
        return 0
    step, state = found
    theirs, ours = state.get("run", {"id": "unknown", "model": "unknown"}), identity(config)
    if theirs != ours:
        raise TrainingError(
            f"{run_dir / checkpoint.CHECKPOINTS} is of run {theirs['id']} ({theirs['model']}), and this is run "
            f"{ours['id']} ({ours['model']}); remove that folder to start anew"
        )
    if state["num_clips"] != num_clips:
        warnings.warn(
            f"training began with {state['num_clips']} clips and goes on with {num_clips}: its order is another now",
            stacklevel=2,
        )
    learner.load_state_dict(state)
    progress.load_state_dict(state["progress"])
    print(f"resumed at step {step}", flush=True)
    return step
