"""Loading weights: recognise a checkpoint's layout by its keys, rename, convert, check, copy, and say what happened.

What a layout looks like is data beside each model (`weight_layouts`), and so is which of its tensors are tables of
places that may be interpolated to another clip size (`position_tables`). This module knows no model.

Files are opened without running any code they might carry: `.safetensors`, or torch's own format with `weights_only`.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

from dualformer.registry import ModelConfig, model_config

logger = logging.getLogger(__name__)

State = dict[str, Tensor]
Size = tuple[int, int, int]

WRAPPERS = ("state_dict", "model_state", "model")  # where training frameworks keep the weights of a checkpoint
TORCH_SUFFIXES = (".pth", ".pt", ".pyth", ".bin", ".ckpt")
HEAD = ("head.weight", "head.bias")
NAMES_SHOWN = 5


class WeightsError(ValueError):
    """A checkpoint that can't be opened, isn't recognised or doesn't fit the model. The model is left as it was."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightLayout:
    """How one family of checkpoints names and shapes the weights of a model.

    Attributes:
        name: what `LoadReport.layout` says.
        has: pattern that some key must match for a checkpoint to be of this layout.
        ndim: dimensions of the entry that matches `has`; tells a 2D kernel from a 3D one of the same name.
        rename: patterns and replacements, applied to every key in this order.
        ignored: patterns of keys, as the checkpoint spells them, that carry nothing to load.
        absent: patterns of the model's names that this layout doesn't carry; they keep their values.
        convert: called with the renamed entries and the model's own state; returns the entries to load.
    """

    name: str
    has: str
    ndim: int | None = None
    rename: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    convert: Callable[[State, State], State] | None = None

    def recognises(self, state: Mapping[str, Tensor]) -> bool:
        return any(re.search(self.has, key) and self.ndim in (None, value.ndim) for key, value in state.items())

    def translate(self, state: Mapping[str, Tensor], own: State) -> State:
        """Returns the checkpoint's entries under the model's names."""
        renamed = {self._own_name(key): value for key, value in state.items() if not _matches(key, self.ignored)}
        return self.convert(renamed, own) if self.convert else renamed

    def _own_name(self, key: str) -> str:
        for pattern, replacement in self.rename:
            key = re.sub(pattern, replacement, key)
        return key


@dataclasses.dataclass(frozen=True, kw_only=True)
class PositionTable:
    """Learned vectors, one for each cell of a grid, that can be interpolated to another grid.

    Attributes:
        name: pattern of the model's name for it.
        grid: the grid (T, H, W) that a config's table has, 1 on axes it doesn't distinguish.
        leading: rows before the grid's own that have no place, such as a class token's.
    """

    name: str
    grid: Callable[[Any], Size]
    leading: int = 0

    def resize(self, table: Tensor, like: Tensor, config: ModelConfig) -> Tensor:
        """Returns `table` interpolated (linear on every axis) to the shape of `like`, the table of `config`.

        Raises:
            WeightsError: if the grid that `table` was learned on can't be told from its length.
        """
        rows = table.reshape(-1, table.shape[-1])
        lead, cells = rows[: self.leading], rows[self.leading :]
        grid = self._source_grid(table, len(cells), config)
        volume = cells.T.reshape(1, -1, *grid).double()
        resized = functional.interpolate(volume, size=self.grid(config), mode="trilinear", align_corners=False)
        return torch.cat([lead, resized.flatten(2)[0].T.to(table.dtype)]).reshape(like.shape)

    def _source_grid(self, table: Tensor, cells: int, config: ModelConfig) -> Size:
        """The published grid, else one that differs from the config's only in time, else only in (square) space."""
        t, h, w = self.grid(config)
        published = self.grid(model_config(config.name))
        candidates = [tuple(table.shape[:-1]), published]
        if max(t, published[0]) > 1:
            candidates.append((cells // (h * w), h, w))
        if max(h, w, *published[1:]) > 1:
            side = math.isqrt(cells // t)
            candidates.append((t, side, side))
        for grid in candidates:
            if len(grid) == 3 and math.prod(grid) == cells:
                return grid
        raise WeightsError(f"can't tell which grid the {cells} cells of a position table come from")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What became of a checkpoint.

    Attributes:
        layout: name of the recognised layout.
        matched: the model's names that were loaded.
        missing: the model's names that the checkpoint should have had and hasn't; they keep their values.
        unexpected: the checkpoint's entries, under the model's way of naming, that the model has no place for.
        kept: the model's names that kept their values because the layout doesn't carry them or the caller said so.
        notes: everything that was not a plain copy, in words.
    """

    layout: str
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    kept: tuple[str, ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        lists = [
            f"{len(names)} {what}{_shown(names)}"
            for what, names in (("missing", self.missing), ("unexpected", self.unexpected), ("kept", self.kept))
            if names
        ]
        return "; ".join([f"layout {self.layout}: {len(self.matched)} entries matched", *lists, *self.notes])


def load_weights(
    model: nn.Module,
    source: str | Path | Mapping[str, Any],
    *,
    strict: bool = True,
    replace_head: bool = False,
    interpolate: bool = False,
) -> LoadReport:
    """Loads weights of any layout that the model declares, or none of them.

    Args:
        model: a model of `create_model`.
        source: a file (`.safetensors`, or torch's `.pth .pt .pyth .bin .ckpt`), or a mapping of names to tensors;
            either may be wrapped as training frameworks do (`state_dict`, `model_state`, `model`).
        strict: whether a missing or an unexpected entry is an error. A wrong shape always is.
        replace_head: leave the checkpoint's classification head out and keep the model's, whatever its class count.
            Nothing else is affected.
        interpolate: resize position tables and time embeddings to the model's clip size.

    Returns:
        What was matched, missing, unexpected, kept and changed; `str(report)` is one line of it.

    Raises:
        WeightsError: the source can't be opened safely, has no known layout or doesn't fit; names are listed.
        FileNotFoundError: there is no such file.
    """
    state = _read(source)
    own = model.state_dict()
    layout = _recognise(model, state)
    entries = layout.translate(state, own)
    notes = []
    if replace_head:
        count = len(entries.pop("head.bias", ()))
        entries.pop("head.weight", None)
        notes.append(f"head replaced: the checkpoint's {count} classes left out, {len(own['head.bias'])} start anew")
    if interpolate:
        notes += _resize_tables(model, entries, own)
    report = _compare(layout, entries, own, kept=HEAD if replace_head else (), notes=notes)
    _check(report, entries, own, strict, model)
    model.load_state_dict({name: entries[name] for name in report.matched}, strict=False)
    logger.info("%s: %s", type(model).__name__, report)
    return report


def inflate(state: State, own: State) -> State:
    """Turns 2D kernels into 3D ones: repeated along time and divided by the number of repeats.

    A clip of one repeated frame then gives what the image model gives for that frame. An entry is a 2D kernel where
    it has four dimensions and the model's entry of that name five.
    """
    inflated = dict(state)
    for name, kernel in state.items():
        if kernel.ndim == 4 and name in own and own[name].ndim == 5:
            frames = own[name].shape[2]
            inflated[name] = kernel.unsqueeze(2).repeat(1, 1, frames, 1, 1) / frames
    return inflated


def _read(source: str | Path | Mapping[str, Any]) -> State:
    """The tensors of a file or mapping, without wrappers and without the prefix of parallel training."""
    content = source if isinstance(source, Mapping) else _open(Path(source))
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    state = {}
    if isinstance(content, Mapping):
        state = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not state:
        seen = f"a mapping of {_shown(content)[2:]}" if isinstance(content, Mapping) else type(content).__name__
        raise WeightsError(f"no tensors by name found; got {seen}")
    return {key.removeprefix("module."): value for key, value in state.items()}


def _open(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"no weights file {path}")
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except safetensors.SafetensorError as error:
            raise WeightsError(f"{path} is no safetensors file: {error}") from None
    if path.suffix not in TORCH_SUFFIXES:
        raise WeightsError(f"{path}: unknown kind of file; known are .safetensors {' '.join(TORCH_SUFFIXES)}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).strip().splitlines()[0]
        raise WeightsError(
            f"{path} holds more than tensors and plain data, and opening it could run its code, so it was not opened; "
            f"save its state_dict alone ({reason})"
        ) from None
    except (RuntimeError, EOFError, OSError) as error:
        raise WeightsError(f"{path} is broken: {error}") from None


def _recognise(model: nn.Module, state: State) -> WeightLayout:
    layouts: tuple[WeightLayout, ...] = getattr(model, "weight_layouts", ())
    for layout in layouts:
        if layout.recognises(state):
            return layout
    known = ", ".join(layout.name for layout in layouts) or "none"
    raise WeightsError(
        f"no known layout of {type(model).__name__} (known: {known}); saw {len(state)} entries{_shown(state)}"
    )


def _resize_tables(model: nn.Module, entries: State, own: State) -> list[str]:
    """Resizes in place every position table of another shape; returns what was done."""
    notes = []
    for name, tensor in entries.items():
        for table in getattr(model, "position_tables", ()):
            if name in own and re.search(table.name, name) and tensor.shape != own[name].shape:
                entries[name] = table.resize(tensor, own[name], model.config)
                notes.append(f"{name} interpolated from {list(tensor.shape)} to {list(own[name].shape)}")
    return notes


def _compare(layout: WeightLayout, entries: State, own: State, kept: tuple[str, ...], notes: list[str]) -> LoadReport:
    lacking = [name for name in own if name not in entries]
    meant = [name for name in lacking if name in kept or _matches(name, layout.absent)]
    return LoadReport(
        layout=layout.name,
        matched=tuple(name for name in own if name in entries),
        missing=tuple(name for name in lacking if name not in meant),
        unexpected=tuple(name for name in entries if name not in own),
        kept=tuple(meant),
        notes=tuple(notes),
    )


def _check(report: LoadReport, entries: State, own: State, strict: bool, model: nn.Module) -> None:
    """Raises `WeightsError` before anything is loaded if the entries don't fit."""
    wrong = [name for name in report.matched if entries[name].shape != own[name].shape]
    if wrong:
        shapes = [f"{name} {list(entries[name].shape)}, the model has {list(own[name].shape)}" for name in wrong]
        hints = []
        if set(wrong) & set(HEAD):
            hints.append("replace_head=True loads everything but the head")
        if any(re.search(table.name, name) for name in wrong for table in getattr(model, "position_tables", ())):
            hints.append("interpolate=True resizes position tables")
        raise WeightsError("; ".join([f"{len(wrong)} entries of another shape{_shown(shapes)}", *hints]))
    if strict and (report.missing or report.unexpected):
        raise WeightsError(f"the checkpoint doesn't fit ({report}); strict=False loads what matches")


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)


def _shown(names: Any) -> str:
    """`: a, b, c and 7 more` for the first few names."""
    names = list(map(str, names))
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return f": {', '.join(names[:NAMES_SHOWN])}{more}"
