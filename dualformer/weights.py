"""Loading weights: recognise a checkpoint's layout by its keys, rename, convert, check, copy, and say what happened.

What a layout looks like is data beside each model (`weight_layouts`), and so is which of its weights have a shape that
follows from the clip size and may be interpolated (`clip_sized`). This module knows no model.

How files are opened, and which sets of weights they may hold, is in `checkpoint_files`.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dualformer.checkpoint_files import State, WeightsError, chosen_set, open_checkpoint, shown, unwrapped, weight_sets
from dualformer.layers import Size
from dualformer.model_config import ModelConfig
from dualformer.model_contract import config_of, need, part
from dualformer.registry import model_config

logger = logging.getLogger(__name__)


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
        convert: called with the renamed entries and the model; returns the entries to load.
    """

    name: str
    has: str
    ndim: int | None = None
    rename: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    convert: Callable[[State, Any], State] | None = None

    def recognises(self, state: Mapping[str, Tensor]) -> bool:
        return any(re.search(self.has, key) and self.ndim in (None, value.ndim) for key, value in state.items())

    def translate(self, state: Mapping[str, Tensor], model: nn.Module) -> State:
        """Returns the checkpoint's entries under the model's names."""
        renamed = {self._own_name(key): value for key, value in state.items() if not _matches(key, self.ignored)}
        return self.convert(renamed, model) if self.convert else renamed

    def num_known(self, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> int:
        """Returns how many entries have a name of the model's after renaming."""
        return sum(self._own_name(key) in own for key in state if not _matches(key, self.ignored))

    def _own_name(self, key: str) -> str:
        for pattern, replacement in self.rename:
            key = re.sub(pattern, replacement, key)
        return key


OWN_LAYOUT = WeightLayout(name="own", has="")
"""Of a model that declares no layouts: its own names and shapes."""


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

    def resize(self, table: Tensor, like: Tensor, config: ModelConfig, learned_by: ModelConfig | None) -> Tensor:
        """Returns `table` interpolated (linear on every axis) to another clip size, itself if it needn't be.

        Args:
            table: as the checkpoint has it.
            like: the table to match in shape.
            config: of the model that `like` belongs to.
            learned_by: config of the model that learned `table`; None to tell its grid from its length.

        Raises:
            WeightsError: if the grid that `table` was learned on isn't or can't be what its length says.
        """
        if table.shape == like.shape and (learned_by is None or self.grid(learned_by) == self.grid(config)):
            return table
        rows = table.reshape(-1, table.shape[-1])
        lead, cells = rows[: self.leading], rows[self.leading :]
        candidates = [self.grid(learned_by)] if learned_by else self._likely_grids(table, len(cells), config)
        grid = next((grid for grid in candidates if math.prod(grid) == len(cells)), None)
        if grid is None:
            raise WeightsError(
                f"can't tell which grid the {len(cells)} cells of a position table come from (tried "
                f"{', '.join(map(str, candidates))}); give the config of the model that learned it, such as "
                f"interpolate={{'num_frames': 8, 'crop_size': (112, 112)}}"
            )
        volume = cells.T.reshape(1, -1, *grid).double()
        resized = functional.interpolate(volume, size=self.grid(config), mode="trilinear", align_corners=False)
        return torch.cat([lead, resized.flatten(2)[0].T.to(table.dtype)]).reshape(like.shape)

    def _likely_grids(self, table: Tensor, cells: int, config: ModelConfig) -> list[Size]:
        """The grid the table's own axes spell, the published one, ones that differ only in time or (square) space."""
        if table.ndim == 4:
            t, h, w = table.shape[:3]
            return [(t, h, w)]
        t, h, w = self.grid(config)
        published = self.grid(model_config(config.name))
        side = math.isqrt(cells // t)
        other_time = [(cells // (h * w), h, w)] if max(t, published[0]) > 1 else []
        other_space = [(t, side, side)] if max(h, w, *published[1:]) > 1 else []
        return [published, *other_time, *other_space]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PoolingKernel:
    """Kernels that pool a map whose size follows from the clip's into tokens whose number doesn't.

    Attributes:
        name: pattern of the model's names for them.
    """

    name: str

    def resize(self, kernel: Tensor, like: Tensor, *_: Any) -> Tensor:
        """Returns `kernel` [C, 1, t, h, w] in the shape of `like`, itself if it has that shape.

        Every weight is spread evenly over its part of the cell and gathered by the parts of the new one, so that a
        channel's sum is kept: what is the same everywhere pools to the same token.
        """
        if kernel.ndim != 5 or kernel.shape == like.shape:
            return kernel
        shares = [_shares(old, new) for old, new in zip(kernel.shape[2:], like.shape[2:])]
        return torch.einsum("oixyz,tx,hy,wz->oithw", kernel.double(), *shares).to(kernel.dtype)


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
        sets: names of all sets of weights that the source holds, such as `model` and `model_ema`; "" is the source
            itself.
        taken: the one of them that was loaded.
    """

    layout: str
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    kept: tuple[str, ...]
    notes: tuple[str, ...]
    sets: tuple[str, ...] = ("",)
    taken: str = ""

    def __str__(self) -> str:
        lists = [
            f"{len(names)} {what}{shown(names)}"
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
    interpolate: bool | Mapping[str, Any] = False,
    weight_set: str | None = None,
) -> LoadReport:
    """Loads weights of any layout that the model declares, or none of them.

    Args:
        model: a model of `create_model`.
        source: a file (safetensors, or torch's own format; or the `.index.json` of one in several parts), or a mapping
            of names to tensors; either may be wrapped as training frameworks do (see `checkpoint_files`).
        strict: whether a missing or an unexpected entry is an error. A wrong shape always is.
        replace_head: leave the checkpoint's classification head out and keep the model's, whatever its class count.
            Nothing else is affected.
        interpolate: resize position tables, time embeddings and pooling kernels to the model's clip size. True takes
            a table to come from the published size, or from one that differs from the model's only in time or only in
            (square) space; fields of the config that learned it, such as `{"num_frames": 8}`, leave nothing to guess.
        weight_set: which weights to take where the source holds several sets, such as `model_ema` beside `model`. None
            takes those that were trained, rather than their average; the report names all.

    Returns:
        What was matched, missing, unexpected, kept and changed; `str(report)` is one line of it.

    Raises:
        WeightsError: the source can't be opened safely, has no known layout, doesn't fit, or holds what is no number;
            names are listed.
        FileNotFoundError: there is no such file.
    """
    sets = weight_sets(source if isinstance(source, Mapping) else open_checkpoint(Path(source)))
    taken = chosen_set(sets, weight_set)
    own = model.state_dict()
    layout, state = _recognise(model, sets[taken], own)
    entries = layout.translate(state, model)
    notes = _other_sets(sets, taken)
    head = _head_entries(model)
    if replace_head:
        need(model, "head", "replacing the head")
        left_out = [entries.pop(name) for name in head if name in entries]
        count = len(left_out[0]) if left_out else 0
        notes.append(f"head replaced: the checkpoint's {count} classes left out, {len(own[head[0]])} start anew")
    if interpolate is not False:
        learned_by = None if interpolate is True else _changed(config_of(model), interpolate)
        notes += _resize(model, entries, own, learned_by)
    report = _compare(layout, entries, own, kept=head if replace_head else (), notes=notes)
    report = dataclasses.replace(report, sets=tuple(sets), taken=taken)
    _check(report, entries, own, strict, model)
    model.load_state_dict({name: entries[name] for name in report.matched}, strict=False)
    logger.info("%s: %s", type(model).__name__, report)
    return report


def inflate(state: State, model: nn.Module) -> State:
    """Turns 2D kernels into 3D ones: repeated along time and divided by the number of repeats.

    A clip of one repeated frame then gives what the image model gives for that frame. An entry is a 2D kernel where
    it has four dimensions and the model's entry of that name five.
    """
    own = model.state_dict()
    inflated = dict(state)
    for name, kernel in state.items():
        if kernel.ndim == 4 and name in own and own[name].ndim == 5:
            frames = own[name].shape[2]
            inflated[name] = kernel.unsqueeze(2).repeat(1, 1, frames, 1, 1) / frames
    return inflated


def _other_sets(sets: Mapping[str, State], taken: str) -> list[str]:
    others = [repr(name) for name in sets if name != taken]
    return [f"took '{taken}', and left {', '.join(others)} (weight_set takes another)"] if others else []


def _head_entries(model: nn.Module) -> tuple[str, ...]:
    """Names of the head's weights in the state dict, the matrix first; none where there is no head."""
    head = part(model, "head")
    tensors = set() if head is None else {id(tensor) for tensor in head.state_dict(keep_vars=True).values()}
    return tuple(name for name, tensor in model.state_dict(keep_vars=True).items() if id(tensor) in tensors)


def _recognise(model: nn.Module, state: State, own: State) -> tuple[WeightLayout, State]:
    """The layout of a checkpoint, and its entries without what wrappers put before their names.

    A prefix may be a wrapper's or part of a layout (`model.` is both), so each way of spelling the names is tried, and
    the one taken gives the model most of its names; the first of several.
    """
    layouts: tuple[WeightLayout, ...] = part(model, "weight_layouts") or (OWN_LAYOUT,)
    candidates = [(layout, spelt) for spelt in unwrapped(state) for layout in layouts if layout.recognises(spelt)]
    if candidates:
        return max(candidates, key=lambda candidate: candidate[0].num_known(candidate[1], own))
    known = ", ".join(layout.name for layout in layouts) or "none"
    raise WeightsError(
        f"no known layout of {type(model).__name__} (known: {known}); saw {len(state)} entries{shown(state)}"
    )


def _changed(config: ModelConfig, changes: Mapping[str, Any]) -> ModelConfig:
    fields = config.to_dict()
    return model_config(fields.pop("name"), **{**fields, **changes})


def _resize(model: nn.Module, entries: State, own: State, learned_by: ModelConfig | None) -> list[str]:
    """Fits the entries that follow the clip size to the model's, in place; returns what was done."""
    notes = []
    for name, tensor in entries.items():
        sized = _clip_sized(model, name)
        if name in own and sized:
            entries[name] = sized.resize(tensor, own[name], config_of(model), learned_by)
            if entries[name] is not tensor:
                notes.append(f"{name} interpolated from {list(tensor.shape)} to {list(own[name].shape)}")
    return notes


def _clip_sized(model: nn.Module, name: str) -> PositionTable | PoolingKernel | None:
    return next((sized for sized in part(model, "clip_sized") or () if re.search(sized.name, name)), None)


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
        if set(wrong) & set(_head_entries(model)):
            hints.append("replace_head=True loads everything but the head")
        if any(_clip_sized(model, name) for name in wrong):
            hints.append("interpolate=True resizes what follows from the clip size")
        raise WeightsError("; ".join([f"{len(wrong)} entries of another shape{shown(shapes)}", *hints]))
    if broken := [name for name in report.matched if not _finite(entries[name])]:
        raise WeightsError(f"{len(broken)} entries hold NaN or infinity{shown(broken)}")
    if strict and (report.missing or report.unexpected):
        raise WeightsError(f"the checkpoint doesn't fit ({report}); strict=False loads what matches")


def _shares(old: int, new: int) -> Tensor:
    """[new, old]: the share of each of `old` equal parts of an interval that lies in each of its `new` equal parts."""
    starts_old, starts_new = torch.arange(old) / old, torch.arange(new).unsqueeze(1) / new
    ends_old, ends_new = (torch.arange(old) + 1) / old, (torch.arange(new).unsqueeze(1) + 1) / new
    overlap = torch.minimum(ends_old, ends_new) - torch.maximum(starts_old, starts_new)
    return overlap.clamp(min=0).double() * old


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)


def _finite(tensor: Tensor) -> bool:
    return tensor.is_meta or not tensor.is_floating_point() or bool(tensor.isfinite().all())
