"""A grid file as it was written, and the runs that it stands for, as plain fields.

    description: which attention pattern learns what
    base:                       # values of every run; nested or dotted
      train: {steps: 400}
      data.frame_stride: 2
    axes:                       # every combination
      model.attention: [FF, LG]
      seed: [0, 1, 2]
      clip:                     # an axis of a free name: fields that move together, under a label each
        short: {model.num_frames: 8, model.crop_size: 32}
        long: {model.num_frames: 16, model.crop_size: 32}
    rows:                       # further runs, on top of base
      - {model.name: video_swin_tiny}

There is no logic, no inheritance and no interpolation.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dualformer import strict_yaml
from dualformer.config import ConfigError, flatten, nearest
from sweeps.launching.planned_run import show

MOST_RUNS = 10_000

Fields = dict[str, Any]
"""Dotted field to value."""

_KINDS = {str: "text", dict: "mapping", list: "list"}


@dataclasses.dataclass(frozen=True)
class GridFile:
    """The parts of a grid file.

    Attributes:
        description: what the grid is to find out.
        base: fields of every run.
        axes: by name, the fields of each point under its label; points of a field's axis are labelled by the value.
        labelled: axes of a free name.
        rows: fields of the further runs, each by its name in messages.
    """

    description: str
    base: Fields
    axes: Mapping[str, Mapping[str, Fields]]
    labelled: frozenset[str]
    rows: tuple[tuple[str, Fields], ...]

    @property
    def num_runs(self) -> int:
        """How many runs it stands for."""
        return self._num_points + len(self.rows)

    def runs(self) -> Iterator[tuple[str, Fields]]:
        """Yields every run as its name in messages and its fields."""
        if self._num_points:
            for point in itertools.product(*(self._points(name) for name in self.axes)):
                name = ", ".join(text for text, _ in point) or "base"
                yield name, {**self.base, **{field: value for _, fields in point for field, value in fields.items()}}
        for name, fields in self.rows:
            yield name, {**self.base, **fields}

    def with_axis(self, name: str, values: Sequence[Any]) -> GridFile:
        """Returns the grid with an axis more, or another one in place of that name; rows without the field get it too.

        Raises:
            ConfigError: the axis of that name has labels.
        """
        if name in self.labelled:
            raise ConfigError(f"--axis {name}: that axis has labels, not values; --only {name}=LABEL picks some")
        axis = _axis(name, list(values))
        rows = [
            (f"{row}, {show_point(name, label)}", {**fields, **point}) if name not in fields else (row, fields)
            for row, fields in self.rows
            for label, point in (axis.items() if name not in fields else [("", {})])
        ]
        axes = {**self.axes, name: axis} if self._num_points else self.axes
        return dataclasses.replace(self, axes=axes, rows=tuple(rows))

    def picked(self, wanted: Mapping[str, Sequence[str]]) -> GridFile:
        """Returns the grid with the wanted labels of some axes alone; the extra rows lie on no axis and go.

        Raises:
            ConfigError: there is no such label.
        """
        axes = dict(self.axes)
        for name, labels in wanted.items():
            if unknown := [label for label in labels if label not in axes[name]]:
                raise ConfigError(f"--only {name}={unknown[0]}: no such label{nearest(unknown[0], axes[name])}")
            axes[name] = {label: fields for label, fields in axes[name].items() if label in labels}
        return dataclasses.replace(self, axes=axes, rows=()) if wanted else self

    @property
    def _num_points(self) -> int:
        """Runs on the axes; base is one of its own only where there is nothing else."""
        if not self.axes:
            return 0 if self.rows else 1
        return math.prod(len(points) for points in self.axes.values())

    def _points(self, name: str) -> list[tuple[str, Fields]]:
        return [(show_point(name, label), fields) for label, fields in self.axes[name].items()]


def show_point(axis: str, label: str) -> str:
    """Returns how a point of an axis is called in messages."""
    return f"{axis}={label.partition(_TWICE)[0]}"


def parse_grid(text: str, source: str) -> GridFile:
    """Reads the text of a grid file.

    Raises:
        ConfigError: it is no grid, naming the file and what is wrong.
    """
    parts = _parts(strict_yaml.parse(text, source), source)
    rows = []
    for number, row in enumerate(parts["rows"], 1):
        if not isinstance(row, dict):
            raise ConfigError(f"row {number} must be a mapping of fields, got {row!r}")
        rows.append((f"row {number}", flatten(row)))
    axes = {name: _axis(name, values) for name, values in parts["axes"].items()}
    labelled = frozenset(name for name, values in parts["axes"].items() if isinstance(values, dict))
    return GridFile(parts["description"], flatten(parts["base"]), axes, labelled, tuple(rows))


def _parts(content: Any, source: str) -> dict[str, Any]:
    content = {} if content is None else content
    shapes = {"description": str, "base": dict, "axes": dict, "rows": list}
    if not isinstance(content, dict):
        raise ConfigError(f"{source}: a grid is a mapping with {', '.join(shapes)}")
    for part, value in content.items():
        if part not in shapes:
            raise ConfigError(f"{source}: unknown part '{part}'{nearest(part, shapes)}")
        if not isinstance(value, shapes[part]):
            raise ConfigError(f"{source}: '{part}' must be a {_KINDS[shapes[part]]}, got {_shortened(value)}")
    return {part: content.get(part, shape()) for part, shape in shapes.items()}


_TWICE = "\0"  # tells a value from the same one listed before, which is refused later, by the runs that it makes twice


def _axis(name: str, values: Any) -> dict[str, Fields]:
    """The points of one axis by their labels."""
    if isinstance(values, dict) and values and all(isinstance(fields, dict) for fields in values.values()):
        return {label: flatten(fields) for label, fields in values.items()}
    if not isinstance(values, list) or not values:
        raise ConfigError(
            f"axis '{name}' must be a list of values, or a mapping of labels to fields, got {_shortened(values)}"
        )
    points: dict[str, Fields] = {}
    for number, value in enumerate(values):
        label = show(value)
        points[f"{label}{_TWICE}{number}" if label in points else label] = flatten({name: value})
    return points


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
