"""A grid file lists values; this module turns it into runs and checks every one of them before anything starts.

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

There is no logic, no inheritance and no interpolation. YAML is read by the 1.2 rules, so `1e-3` is a number and `no` a
word.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.overrides import TorchFunctionMode

from dualformer.config import ConfigError, flatten, nearest, nest
from dualformer.model_config import ModelConfig
from dualformer.registry import model_config
from dualformer.weights import TORCH_SUFFIXES
from sweeps.run_config import RunConfig

FOLDER = Path(__file__).resolve().parents[1] / "grids"

_PARTS = ("description", "base", "axes", "rows")
_MOST_ERRORS = 10
_MOST_BUILT = 12


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a grid.

    Attributes:
        config: the run, resolved and checked.
        run_id: the run's identity.
        name: where the grid file says so, as `axis=value, ...` or `row 3`.
        differs: dotted field to value, for the fields that are not the same in all cells of the grid.
    """

    config: RunConfig
    run_id: str
    name: str
    differs: Mapping[str, Any]

    @property
    def label(self) -> str:
        """What tells this run from the others, for people."""
        return " ".join(f"{field}={show(value)}" for field, value in self.differs.items()) or "(the only run)"


@dataclasses.dataclass(frozen=True)
class Grid:
    """A grid that was expanded and checked in full.

    Attributes:
        name: the file's name without its ending.
        text: the file as it was read.
        overrides: what `--set` changed.
    """

    name: str
    description: str
    text: str
    overrides: Mapping[str, Any]
    cells: tuple[Cell, ...]


def load_grid(where: str | Path, *, overrides: Sequence[str] = (), only: Sequence[str] = ()) -> Grid:
    """Reads, expands and checks a grid.

    Args:
        where: a path, or the name of one of the project's grids.
        overrides: `FIELD=VALUE` that holds for every run, whatever the file says.
        only: `FIELD=VALUE` that a run must have to be kept, or `AXIS=LABEL` for an axis of labels; values of one field
            are alternatives. What other labels stand for isn't looked at, so `overrides` needn't suit it.

    Raises:
        ConfigError: lists what is wrong with every run, naming fields and the nearest valid ones.
    """
    path = find_grid(where)
    text = path.read_text(encoding="utf-8")
    parts = _parts(_parse(text, path.name), path.name)
    changes = _assignments("--set", overrides)
    labels, only = _split_only(parts["axes"], only)
    rows = [(label, {**fields, **changes}) for label, fields in _rows(_picked(parts, labels))]
    configs = _check(path.name, rows)
    _refuse_duplicates(path.name, rows, configs, changes)
    cells = _select(_cells(rows, configs), only, parts["axes"])
    return Grid(path.stem, parts["description"], text, changes, cells)


def find_grid(where: str | Path) -> Path:
    """Returns the grid's file: `where` as a path first, then among the project's grids, with or without `.yaml`.

    Raises:
        ConfigError: there is no such file; names the nearest of the project's grids.
    """
    for path in (Path(where), FOLDER / where, FOLDER / f"{where}.yaml"):
        if path.is_file():
            return path
    raise ConfigError(f"no grid '{where}'{nearest(str(where), (path.name for path in FOLDER.glob('*.yaml')))}")


def show(value: Any) -> str:
    """Writes a value as it would be typed after `--set FIELD=`."""
    return value if isinstance(value, str) else json.dumps(value)


class _Loader(yaml.SafeLoader):
    """YAML by the core schema of version 1.2, and a key given twice is an error instead of the last one winning."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - yaml's own name

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        counts = Counter(self.construct_object(key, deep=True) for key, _ in node.value)
        twice = [key for key, count in counts.items() if count > 1]
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"'{twice[0]}' is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
):
    _first_letters = ["" if letter == "\0" else letter for letter in _first]
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), _first_letters)


def _parse(text: str, source: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not valid YAML: {error}") from None


def _parts(content: Any, source: str) -> dict[str, Any]:
    content = {} if content is None else content
    shapes = {"description": str, "base": dict, "axes": dict, "rows": list}
    if not isinstance(content, dict):
        raise ConfigError(f"{source}: a grid is a mapping with {', '.join(_PARTS)}")
    for part, value in content.items():
        if part not in shapes:
            raise ConfigError(f"{source}: unknown part '{part}'{nearest(str(part), shapes)}")
        if not isinstance(value, shapes[part]):
            raise ConfigError(f"{source}: '{part}' must be a {_kind(shapes[part])}, got {value!r}")
    return {part: content.get(part, shape()) for part, shape in shapes.items()}


def _kind(shape: type) -> str:
    return {str: "text", dict: "mapping", list: "list"}[shape]


def _split_only(axes: Mapping[str, Any], only: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Sorts `--only` texts into wanted labels by axis, and what is said of fields."""
    labels: dict[str, list[str]] = {}
    fields = []
    for text in only:
        name, _, value = text.partition("=")
        if isinstance(axes.get(name), dict):
            labels.setdefault(name, []).append(value)
        else:
            fields.append(text)
    return labels, fields


def _picked(parts: Mapping[str, Any], wanted: Mapping[str, Sequence[str]]) -> Mapping[str, Any]:
    """The parts of a grid with the wanted labels alone; the extra rows lie on no axis and go."""
    axes = dict(parts["axes"])
    for name, labels in wanted.items():
        valid = {str(label): label for label in axes[name]}
        if unknown := [label for label in labels if label not in valid]:
            raise ConfigError(f"--only {name}={unknown[0]}: no such label{nearest(unknown[0], valid)}")
        axes[name] = {label: axes[name][label] for text, label in valid.items() if text in labels}
    return {**parts, "axes": axes, "rows": []} if wanted else parts


def _rows(parts: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Every run as (its name in messages, its dotted fields)."""
    base = flatten(parts["base"])
    rows = []
    if parts["axes"] or not parts["rows"]:
        for point in itertools.product(*(_axis(name, values) for name, values in parts["axes"].items())):
            label = ", ".join(text for text, _ in point) or "base"
            rows.append((label, {**base, **{field: value for _, fields in point for field, value in fields.items()}}))
    for number, row in enumerate(parts["rows"], 1):
        if not isinstance(row, dict):
            raise ConfigError(f"row {number} must be a mapping of fields, got {row!r}")
        rows.append((f"row {number}", {**base, **flatten(row)}))
    return rows


def _axis(name: str, values: Any) -> list[tuple[str, dict[str, Any]]]:
    """The points of one axis as (their name in messages, their dotted fields)."""
    if isinstance(values, list) and values:
        return [(f"{name}={show(value)}", flatten({name: value})) for value in values]
    if isinstance(values, dict) and values and all(isinstance(fields, dict) for fields in values.values()):
        return [(f"{name}={label}", flatten(fields)) for label, fields in values.items()]
    raise ConfigError(f"axis '{name}' must be a list of values, or a mapping of labels to fields, got {values!r}")


def _check(source: str, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> list[RunConfig]:
    configs: list[RunConfig] = []
    errors: dict[str, list[str]] = {}
    models: dict[ModelConfig, str] = {}
    for label, fields in rows:
        try:
            config = RunConfig.from_dict(nest(fields))
            _check_data(config.data.root)
            _check_weights("model.weights", config.model.weights)
            _check_weights("train.token_labels.weights", config.train.token_labels.weights)
            if teacher := config.train.token_labels.teacher:
                _model(teacher, "{}")
            models.setdefault(_model(config.model.name, json.dumps(config.model.changes(), sort_keys=True)), label)
            configs.append(config)
        except ConfigError as error:
            errors.setdefault(str(error), []).append(label)
    for model in _to_build(list(models)):
        try:
            _check_build(model)
        except ConfigError as error:
            errors.setdefault(str(error), []).append(models[model])
    if errors:
        raise ConfigError(f"{source}: nothing was started\n{_listing(errors, len(rows))}")
    return configs


def _check_data(root: str) -> None:
    if root != "embedded" and not Path(root).exists():
        raise ConfigError(
            f"data.root: no folder '{root}' (nor manifest file); say where yours is by --set data.root=PATH"
        )


def _check_weights(field: str, path: str | None) -> None:
    if path is None or Path(path).is_file():
        return
    folder = Path(path).parent
    if not folder.is_dir():
        raise ConfigError(f"{field}: no file '{path}', nor its folder")
    weights = [file.name for file in folder.iterdir() if file.suffix in (".safetensors", *TORCH_SUFFIXES)]
    raise ConfigError(f"{field}: no file '{path}'{nearest(Path(path).name, weights)}")


@functools.cache
def _model(name: str, changes: str) -> ModelConfig:
    """The network's config, which checks itself."""
    return model_config(name, **json.loads(changes))


def _to_build(models: Sequence[ModelConfig]) -> list[ModelConfig]:
    """Picks networks so that every value of every field is in one of them; evenly spread ones where that is too many.

    A config's own check is to refuse whatever can't be built. That it does is tried on few, since a network takes some
    tenths of a second to build and a grid may have a thousand.
    """
    seen: set[tuple[str, str]] = set()
    picked = []
    for model in models:
        values = {(field, repr(value)) for field, value in vars(model).items()}
        if not values <= seen:
            picked.append(model)
            seen |= values
    if len(picked) <= _MOST_BUILT:
        return picked
    step = (len(picked) - 1) / (_MOST_BUILT - 1)
    return [picked[round(number * step)] for number in range(_MOST_BUILT)]


class _Uninitialised(TorchFunctionMode):
    """Initial values of weights that have no memory are for nothing, and take most of the time of a build."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"]
        return func(*args, **(kwargs or {}))


@functools.cache
def _check_build(model: ModelConfig) -> None:
    """Builds a network on the meta device, which allocates nothing."""
    try:
        with torch.device("meta"), _Uninitialised():
            model.build()
    except Exception as error:  # whatever it is, the run would meet it too
        raise ConfigError(f"{model.name}: {error}") from None


def _listing(errors: Mapping[str, Sequence[str]], num_runs: int) -> str:
    lines = []
    for message, labels in itertools.islice(errors.items(), _MOST_ERRORS):
        where = labels[0] if len(labels) == 1 else f"{len(labels)} of {num_runs} runs, the first being {labels[0]}"
        lines.append(f"  {message} [{where}]")
    if len(errors) > _MOST_ERRORS:
        lines.append(f"  and {len(errors) - _MOST_ERRORS} more")
    return "\n".join(lines)


def _refuse_duplicates(
    source: str,
    rows: Sequence[tuple[str, Mapping[str, Any]]],
    configs: Sequence[RunConfig],
    changes: Mapping[str, Any],
) -> None:
    seen: dict[str, str] = {}
    for (label, _), config in zip(rows, configs, strict=True):
        run_id = config.run_id
        if run_id in seen:
            hint = f" (after --set {' '.join(changes)}; to pick rows of an axis use --only)" if changes else ""
            raise ConfigError(f"{source}: '{seen[run_id]}' and '{label}' are the same run, {run_id}{hint}")
        seen[run_id] = label


def _cells(rows: Sequence[tuple[str, Mapping[str, Any]]], configs: Sequence[RunConfig]) -> list[Cell]:
    flat = [flatten(config.to_dict()) for config in configs]
    fields = list(dict.fromkeys(field for values in flat for field in values))
    varying = [field for field in fields if len({json.dumps(values.get(field)) for values in flat}) > 1]
    return [
        Cell(config, config.run_id, label, {field: values[field] for field in varying if field in values})
        for (label, _), config, values in zip(rows, configs, flat, strict=True)
    ]


def _assignments(flag: str, texts: Sequence[str]) -> dict[str, Any]:
    """Turns `FIELD=VALUE` texts into dotted fields; the last of a field wins."""
    fields: dict[str, Any] = {}
    for text in texts:
        field, equals, value = text.partition("=")
        if not equals or not field:
            raise ConfigError(f"{flag} {text}: expected FIELD=VALUE")
        fields.update(flatten({field: _parse(value, f"{flag} {field}")}))
    return fields


def _select(cells: Sequence[Cell], only: Sequence[str], axes: Iterable[str]) -> tuple[Cell, ...]:
    wanted: dict[str, list[Any]] = {}
    for text in only:
        for field, value in _assignments("--only", [text]).items():
            wanted.setdefault(field, []).append(value)
    if not wanted:
        return tuple(cells)
    chosen = tuple(cell for cell in cells if _matches(cell, wanted, axes))
    if not chosen:
        raise ConfigError(f"--only {' '.join(only)}: none of the {len(cells)} runs is like that")
    return chosen


def _matches(cell: Cell, wanted: Mapping[str, Sequence[Any]], axes: Iterable[str]) -> bool:
    values = flatten(cell.config.to_dict())
    for field, choices in wanted.items():
        if field not in values:
            raise ConfigError(f"--only: unknown field '{field}'{nearest(field, {*values, *axes})}")
        if values[field] not in choices:
            return False
    return True
