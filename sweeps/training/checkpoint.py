"""Checkpoints that a crash can't turn against the run: whole and unaltered, or passed over for the one before.

`checkpoints/<step>-<digest>.pt` of a run folder carries the hash of its own content in its name. Several are kept, so
that even a file which the disk lost after it was written costs one save interval and not the training. What stands
there under such a name and can't be read, be it a folder or a link to nowhere, is passed over likewise.

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

from dualformer.results import layout
from dualformer.results.files import write_bytes


def save(folder: Path, step: int, state: dict[str, Any], keep: int = 2) -> None:
    """Writes the state after `step` steps; where that fails (a full disk), warns, and the ones before stay.

    Args:
        folder: the run's.
        step: number of steps done.
        state: what `torch.load` restores with `weights_only=True`: tensors and plain values.
        keep: how many of the newest to keep, this one included.
    """
    content = _bytes(state)
    place = folder / layout.CHECKPOINTS
    path = place / f"{step:08d}-{_digest(content)}.pt"
    try:
        place.mkdir(exist_ok=True)
        write_bytes(path, content)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else error
        warnings.warn(f"no checkpoint at step {step}: {why}; training goes on without", stacklevel=2)
        return
    _prune(folder, path, keep)


def save_weights(path: Path, model: nn.Module, **about: Any) -> None:
    """Writes a model's weights, with what else there is to say about them, as plain values.

    Raises:
        OSError: the file could not be written; what was there before is as it was.
    """
    write_bytes(path, _bytes({"model": model.state_dict(), **about}))


def load(folder: Path) -> tuple[int, dict[str, Any]] | None:
    """Returns (step, state) of the newest checkpoint that is what its name says; None where there is none."""
    for path in _newest_first(folder):
        step, _, digest = path.stem.partition("-")
        try:
            content = path.read_bytes()
            if _digest(content) != digest:
                raise ValueError("it is torn or altered")
            return int(step), torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load may raise anything; whatever it is, the one before may be read
            why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
            warnings.warn(f"checkpoint {path.name} is passed over: {why}", stacklevel=2)
    return None


def _prune(folder: Path, newest: Path, keep: int) -> None:
    """Removes all but the `keep` last up to the newest, and what a killed writer left.

    A checkpoint of a later step is one that could not be read, since training went on from an earlier one. It would
    stand in the place of a good one.
    """
    found = _newest_first(folder)
    later = [path for path in found if path.name[:8] > newest.name[:8]]
    older = [path for path in found if path not in later and path != newest]
    for path in [*later, *older[keep - 1 :], *newest.parent.glob(".*.pt*")]:
        with contextlib.suppress(OSError):  # a folder, say, which costs nothing but its place
            path.unlink()


def _newest_first(folder: Path) -> list[Path]:
    return sorted((folder / layout.CHECKPOINTS).glob("[0-9]*-*.pt"), reverse=True)


def _bytes(state: dict[str, Any]) -> memoryview:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getbuffer()


def _digest(content: bytes | memoryview) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
