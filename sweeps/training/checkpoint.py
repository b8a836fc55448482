"""Checkpoints that a crash can't turn against the run: whole and unaltered, or passed over for the one before.

`checkpoints/<step>-<digest>.pt` of a run folder carries the hash of its own content in its name. Several are kept, so
that even a file which the disk lost after it was written costs one save interval and not the training.

Weights for people lie beside that folder and outlive it: `weights.pt` of the last step and `best.pt` of the best
evaluation on the way, as `dualformer.load_weights` reads them.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dualformer.results.layout import CHECKPOINTS


def save(run_dir: Path, step: int, state: dict[str, Any], keep: int = 2) -> None:
    """Writes the state after `step` steps; where that fails (a full disk), warns, and the ones before stay.

    Args:
        run_dir: the run's folder.
        step: number of steps done.
        state: what `torch.load` restores with `weights_only=True`: tensors and plain values.
        keep: how many of the newest to keep, this one included.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getbuffer()
    folder = run_dir / CHECKPOINTS
    path = folder / f"{step:08d}-{_digest(content)}.pt"
    try:
        folder.mkdir(exist_ok=True)
        _replace(path, content)
    except OSError as error:
        warnings.warn(f"no checkpoint at step {step}: {error.strerror}; training goes on without", stacklevel=2)
        return
    for old in _newest_first(run_dir)[keep:]:
        old.unlink(missing_ok=True)


def save_weights(path: Path, model: nn.Module, **about: Any) -> None:
    """Writes a model's weights, with what else there is to say about them, as plain values.

    Raises:
        OSError: the file could not be written; what was there before is as it was.
    """
    buffer = io.BytesIO()
    torch.save({"model": model.state_dict(), **about}, buffer)
    _replace(path, buffer.getbuffer())


def load(run_dir: Path) -> tuple[int, dict[str, Any]] | None:
    """Returns (step, state) of the newest checkpoint that is what its name says; None where there is none."""
    for path in _newest_first(run_dir):
        step, _, digest = path.stem.partition("-")
        content = path.read_bytes()
        if _digest(content) == digest:
            return int(step), torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        warnings.warn(f"checkpoint {path.name} is torn or altered and passed over", stacklevel=2)
    return None


def _replace(path: Path, content: memoryview) -> None:
    """Writes a file aside and renames it, so that it is there whole or not at all."""
    aside = path.with_name(f".{path.name}")
    try:
        with open(aside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise


def _newest_first(run_dir: Path) -> list[Path]:
    return sorted((run_dir / CHECKPOINTS).glob("[0-9]*-*.pt"), reverse=True)


def _digest(content: bytes | memoryview) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
