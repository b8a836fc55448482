"""Checkpoints that a crash can't turn against the run: whole and unaltered, or passed over for the one before.

`checkpoints/<step>-<digest>.pt` of a run folder carries the hash of its own content in its name. The two newest are
kept, so that even a file which the disk lost after it was written costs one save interval and not the training.
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

from sweeps.attempt import CHECKPOINTS

_KEPT = 2


def save(run_dir: Path, step: int, state: dict[str, Any]) -> None:
    """Writes the state after `step` steps; where that fails (a full disk), warns, and the ones before stay.

    Args:
        state: what `torch.load` restores with `weights_only=True`: tensors and plain values.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getbuffer()
    folder = run_dir / CHECKPOINTS
    path = folder / f"{step:08d}-{_digest(content)}.pt"
    aside = folder / f".{path.name}"
    try:
        folder.mkdir(exist_ok=True)
        with open(aside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink()
        warnings.warn(f"no checkpoint at step {step}: {error.strerror}; training goes on without", stacklevel=2)
        return
    for old in _newest_first(run_dir)[_KEPT:]:
        old.unlink(missing_ok=True)


def load(run_dir: Path) -> tuple[int, dict[str, Any]] | None:
    """Returns (step, state) of the newest checkpoint that is what its name says; None where there is none."""
    for path in _newest_first(run_dir):
        step, _, digest = path.stem.partition("-")
        content = path.read_bytes()
        if _digest(content) == digest:
            return int(step), torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        warnings.warn(f"checkpoint {path.name} is torn or altered and passed over", stacklevel=2)
    return None


def _newest_first(run_dir: Path) -> list[Path]:
    return sorted((run_dir / CHECKPOINTS).glob("[0-9]*-*.pt"), reverse=True)


def _digest(content: bytes | memoryview) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
