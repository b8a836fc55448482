"""Where else the lines of `metrics.jsonl` go: the trackers that `train.log_to` names."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from dualformer.config import ConfigError
from sweeps.run_context import RunContext

Track = Callable[[Mapping[str, Any]], None]
"""Takes a line of `metrics.jsonl`, `step` and figures by name."""


@contextlib.contextmanager
def tracking(context: RunContext, start: int = 0) -> Iterator[Track]:
    """Opens what `train.log_to` names; yields the function that sends a line to all of it.

    Args:
        context: of the run.
        start: steps done before; what an earlier attempt told of later ones is told anew.

    Raises:
        ConfigError: a package is missing; says how to get it.
    """
    openers = {"tensorboard": _tensorboard, "wandb": _wandb}
    with contextlib.ExitStack() as stack:
        tracks = [stack.enter_context(openers[name](context, start)) for name in context.config.train.log_to]

        def track(line: Mapping[str, Any]) -> None:
            for one in tracks:
                one(line)

        yield track


@contextlib.contextmanager
def _tensorboard(context: RunContext, start: int) -> Iterator[Track]:
    """Writes to the folder `tensorboard` of the run."""
    try:
        from torch.utils.tensorboard import SummaryWriter  # here, for those who don't have it
    except ImportError:
        raise ConfigError("train.log_to: tensorboard is not installed (pip install tensorboard)") from None
    with SummaryWriter(str(context.folder / "tensorboard"), purge_step=start + 1) as writer:

        def track(line: Mapping[str, Any]) -> None:
            for name, value in _figures(line).items():
                writer.add_scalar(name, value, line["step"])
            writer.flush()  # what a killed run has logged is there

        yield track


@contextlib.contextmanager
def _wandb(context: RunContext, start: int) -> Iterator[Track]:
    """Writes to the folder `wandb` of the run; nothing leaves the machine unless WANDB_MODE says so."""
    try:
        import wandb  # here, for those who don't have it
    except ImportError:
        raise ConfigError("train.log_to: wandb is not installed (pip install wandb)") from None
    config, mode = context.config, os.environ.get("WANDB_MODE", "offline")
    with wandb.init(
        project="dualformer", id=config.run_id, dir=context.folder, config=config.to_dict(), resume="allow", mode=mode
    ) as run:
        yield lambda line: run.log(_figures(line), step=line["step"])


def _figures(line: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in line.items() if name not in ("step", "steps")}
