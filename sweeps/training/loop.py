"""Training: one straight loop in which a step depends on (config, step) and the weights so far, on nothing else.

Which samples a step takes, how they are augmented and which activations are dropped all follow from the seed and the
step's number. A run that is stopped and resumed from a checkpoint therefore ends with the same bits on a CPU as one
that was not, and a checkpoint needs to hold no generator states.

In a run folder training leaves `metrics.jsonl`; `weights.pt`, what is evaluated in the end, where it saves at all; and
`best.pt`, where it evaluates on the way (see `checkpoint`).
"""

from __future__ import annotations

import contextlib
import math
import os
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from dualformer.data.dataset import VideoDataset
from dualformer.results import layout
from dualformer.results.files import write_json
from sweeps import machine_lock
from sweeps.run_context import RunContext
from sweeps.training import checkpoint, resuming
from sweeps.training.errors import TrainingError
from sweeps.training.evaluation import evaluate
from sweeps.training.learner import Learner
from sweeps.training.loading import training_batches
from sweeps.training.progress import Progress
from sweeps.training.schedule import Schedule
from sweeps.training.tracking import tracking

_NAMES_SHOWN = 8


def train(
    model: nn.Module, dataset: VideoDataset, context: RunContext, held_out: VideoDataset | None = None
) -> dict[str, float]:
    """Trains `model` in place, from the newest checkpoint of the run's folder where there is one.

    Writes a line of `metrics.jsonl` every `train.log_every` steps and a checkpoint every `train.save_every`.

    Args:
        model: on the run's device; ends as what is to be evaluated, the moving average of the weights where there is
            one.
        dataset: the training clips.
        context: of the run; all processes of its team call this.
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
    config, team = context.config.train, context.team
    schedule = Schedule.of(config, len(dataset))
    learner = Learner(model, context)
    progress = Progress(context.folder, schedule)
    start = resuming.resume(context, learner, progress, len(dataset))
    with tracking(context, start) if team.leads else contextlib.nullcontext(progress.track) as progress.track:
        batches = training_batches(dataset, context, start, schedule.end)
        for step, batch in enumerate(progress.timed(batches), start):
            note_failures(batch["failures"], progress, dataset, context)
            if (taken := take_step(step, batch, learner, schedule, dataset, context)) is None:
                continue
            if team.leads:
                progress.step(step, *taken)
            if held_out is not None and is_due(step, config.evaluate_every):
                evaluate_on_the_way(step, learner, held_out, progress, context)
            if team.leads and is_due(step, config.save_every):
                resuming.save(context, learner, progress, len(dataset), step + 1)
        learner.finish()
    if team.leads and config.save_every:
        checkpoint.save_weights(context.folder / layout.WEIGHTS, model, step=schedule.end, run=context.identity)
    return progress.summary()


def take_step(
    step: int,
    batch: dict[str, Any],
    learner: Learner,
    schedule: Schedule,
    dataset: VideoDataset,
    context: RunContext,
) -> tuple[float, float, int] | None:
    """Changes the weights by one batch, of which each process has a part.

    Returns:
        Loss, learning rate and number of clips, of all processes; None where no clip of the batch could be read.

    Raises:
        TrainingError: the loss is not finite; names the videos.
    """
    team, ours = context.team, len(batch["label"])
    with machine(context):
        clips = int(team.sum(ours))
        if not clips:
            return None
        seed = step_seed(context.config.seed, step, team.rank)
        loss = team.sum(learner.backward(batch, seed, share=ours / (clips / team.size))) / team.size
        if not math.isfinite(loss):
            raise not_finite(loss, step, team.union(names(dataset, batch)), context)
        rate = schedule.rate(step)
        learner.update(rate)
    return loss, rate, clips


def machine(context: RunContext) -> contextlib.AbstractContextManager[None]:
    """Keeps timings off this machine while a CPU trains.

    One process holds it for all of the team that are there. Else one could wait for a timing to end, which waits for
    another to end its step, which waits for the first one's gradient.
    """
    holds = context.device.type == "cpu" and context.team.rank % context.team.local_size == 0
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


def note_failures(failures: Iterable[str], progress: Progress, dataset: VideoDataset, context: RunContext) -> None:
    """Adds up what is wrong with videos, of all processes; ends a training that has lost more than it may."""
    progress.failures.update(context.team.union(list(failures)))
    failed = progress.failures
    if len(failed) > context.config.data.max_failed_share * len(dataset):
        raise TrainingError(f"{len(failed)} of {len(dataset)} videos failed: {'; '.join(sorted(failed)[:5])}")


def not_finite(loss: float, step: int, files: Sequence[str], context: RunContext) -> TrainingError:
    """What to raise for a loss that is not finite; saves the batch's names first."""
    if context.team.leads:
        write_json(context.folder / layout.FAILED_BATCH, {"step": step + 1, "loss": str(loss), "files": files})
    more = f" and {len(files) - _NAMES_SHOWN} more (see {layout.FAILED_BATCH})" if len(files) > _NAMES_SHOWN else ""
    return TrainingError(f"loss is {loss} at step {step + 1} on {', '.join(files[:_NAMES_SHOWN])}{more}")


def evaluate_on_the_way(
    step: int, learner: Learner, held_out: VideoDataset, progress: Progress, context: RunContext
) -> None:
    """Takes the accuracy on the held-out videos and keeps the weights if they are the best so far."""
    with progress.paused():
        top1 = evaluate(learner.evaluated, held_out, context, keep=False)["top1"]
        if not (context.team.leads and progress.held_out(step, top1)):
            return
        about = {"step": step + 1, "top1": top1, "run": context.identity}
        try:
            checkpoint.save_weights(context.folder / layout.BEST_WEIGHTS, learner.evaluated, **about)
        except OSError as error:  # a full disk, say, is no reason to lose the training
            why = os.strerror(error.errno) if error.errno else error
            warnings.warn(f"no {layout.BEST_WEIGHTS} at step {step + 1}: {why}; training goes on without", stacklevel=2)
