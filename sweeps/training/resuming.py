"""Where a run goes on that was stopped: its learner and its figures, to and from the run's checkpoints."""

from __future__ import annotations

import warnings

from dualformer.results import layout
from sweeps.run_context import RunContext
from sweeps.training import checkpoint
from sweeps.training.errors import TrainingError
from sweeps.training.learner import Learner
from sweeps.training.progress import Progress


def save(context: RunContext, learner: Learner, progress: Progress, num_clips: int, step: int) -> None:
    """Saves all that the steps to come depend on, and the figures so far; `step` steps are done."""
    state = {
        **learner.state_dict(),
        "progress": progress.state_dict(),
        "run": context.identity,
        "num_clips": num_clips,
    }
    checkpoint.save(context.folder, step, state, keep=context.config.train.keep_checkpoints)


def resume(context: RunContext, learner: Learner, progress: Progress, num_clips: int) -> int:
    """Restores what `save` saved; returns the step to go on with, 0 where there is no valid checkpoint.

    Raises:
        TrainingError: the checkpoint is of another run.
    """
    found = checkpoint.load(context.folder)
    if found is None:
        return 0
    step, state = found
    theirs, ours = state.get("run", {"id": "unknown", "model": "unknown"}), context.identity
    if theirs != ours:
        raise TrainingError(
            f"{context.folder / layout.CHECKPOINTS} is of run {theirs['id']} ({theirs['model']}), and this is run "
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
