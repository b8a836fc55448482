"""Where else the lines of `metrics.jsonl` go: the trackers that `train.log_to` names."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from dualformer.config import ConfigError
from sweeps.run_context import RunContext

Track = Callable[[Mapping[str, Any]], None]
"""Takes a line of `metrics.jsonl`, `step` and figures by name."""


def check_installed(names: Iterable[str]) -> None:
    """Raises `ConfigError`, which says how to get it, where what `train.log_to` names isn't there."""
    for name in names:
        if not sys.modules.get(name) and importlib.util.find_spec(name) is None:
            raise ConfigError(f"train.log_to: {name} is not installed (pip install {name})")


@contextlib.contextmanager
def tracking(context: RunContext, start: int = 0) -> Iterator[Track]:
    """Opens what `train.log_to` names; yields the function that sends a line to all of it.

    Args:
        context: of the run.
        start: steps done before; what an earlier attempt told of later ones is told anew.

    Raises:
        ConfigError: a package is missing; says how to get it.
    """
    check_installed(context.config.train.log_to)
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
    from torch.utils.tensorboard import SummaryWriter  # here, for those who don't have it

    with SummaryWriter(str(context.folder / "tensorboard"), purge_step=start + 1) as writer:

        def track(line: Mapping[str, Any]) -> None:
            for name, value in _figures(line).items():
                writer.add_scalar(name, value, line["step"])
            writer.flush()  # what a killed run has logged is there

        yield track


@contextlib.contextmanager
def _wandb(context: RunContext, start: int) -> Iterator[Track]:
    """Writes to the folder `wandb` of the run; nothing leaves the machine unless WANDB_MODE says so."""
    import wandb  # here, for those who don't have it

    config, mode = context.config, os.environ.get("WANDB_MODE", "offline")
    with wandb.init(
        project="dualformer", id=config.run_id, dir=context.folder, config=config.to_dict(), resume="allow", mode=mode
    ) as run:
        yield lambda line: run.log(_figures(line), step=line["step"])


def _figures(line: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in line.items() if name not in ("step", "steps")}
