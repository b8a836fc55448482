"""From a grid file to planned runs: read, expand, check every one, and select, before anything starts."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dualformer import strict_yaml
from dualformer.config import ConfigError, flatten, nearest
from sweeps.launching import selection
from sweeps.launching.grid_check import check_all
from sweeps.launching.grid_file import MOST_RUNS, GridFile, parse_grid
from sweeps.launching.planned_run import PlannedRun
from sweeps.run_config import RunConfig

FOLDER = Path(__file__).resolve().parents[1] / "grids"


@dataclasses.dataclass(frozen=True)
class Grid:
    """A grid that was expanded and checked in full.

    Attributes:
        name: the file's name without its ending.
        description: what the grid is to find out.
        text: the file as it was read.
        overrides: what `--set` changed.
        runs: what is planned.
    """

    name: str
    description: str
    text: str
    overrides: Mapping[str, Any]
    runs: tuple[PlannedRun, ...]


def load_grid(
    where: str | Path,
    *,
    overrides: Sequence[str] = (),
    axes: Sequence[str] = (),
    only: Sequence[str] = (),
    limit: int | None = None,
) -> Grid:
    """Reads, expands and checks a grid.

    Args:
        where: a path, or the name of one of the project's grids.
        overrides: `FIELD=VALUE` that holds for every run, whatever the file says.
        axes: `FIELD=V1,V2` that adds an axis to the grid, or replaces the one of that name.
        only: `FIELD=VALUE` that a run must have to be kept, or `AXIS=LABEL` for an axis of labels; values of one field
            are alternatives. What other labels stand for isn't looked at, so `overrides` needn't suit it.
        limit: most runs to keep, the first ones; None means all.

    Raises:
        ConfigError: lists what is wrong with every run, naming fields and the nearest valid ones.
        OSError: the file can't be read.
    """
    path = find_grid(where)
    text = strict_yaml.read_text(path)
    file = parse_grid(text, path.name)
    changes = selection.assignments("--set", overrides)
    labels, fields_only = selection.split_only(file.labelled, only)
    file = _with_axes(file.picked(labels), selection.axes(axes), changes)
    if file.num_runs > MOST_RUNS:
        raise ConfigError(f"{path.name}: {file.num_runs} runs, and a grid may have {MOST_RUNS}; make several of it")
    listed = [(name, {**fields, **changes}) for name, fields in file.runs()]
    configs = check_all(path.name, listed)
    _refuse_duplicates(path.name, listed, configs, changes)
    runs = selection.select(_plan(listed, configs), fields_only, file.axes, limit)
    return Grid(path.stem, file.description, text, changes, runs)


def find_grid(where: str | Path) -> Path:
    """Returns the grid's file: `where` as a path first, then among the project's grids, with or without `.yaml`.

    Raises:
        ConfigError: there is no such file; names the nearest of the project's grids.
    """
    for path in (Path(where), FOLDER / where, FOLDER / f"{where}.yaml"):
        if path.is_file():
            return path
    raise ConfigError(f"no grid '{where}'{nearest(str(where), (path.name for path in FOLDER.glob('*.yaml')))}")


def _with_axes(file: GridFile, added: Mapping[str, Sequence[Any]], changes: Mapping[str, Any]) -> GridFile:
    for name, values in added.items():
        if name in changes:
            raise ConfigError(f"--axis {name} and --set {name}: one of them must go")
        if file.num_runs * len(values) > MOST_RUNS and name not in file.axes:
            raise ConfigError(f"--axis {name}: more than {MOST_RUNS} runs, which is the most a grid may have")
        file = file.with_axis(name, values)
    return file


def _refuse_duplicates(
    source: str,
    listed: Sequence[tuple[str, Mapping[str, Any]]],
    configs: Sequence[RunConfig],
    changes: Mapping[str, Any],
) -> None:
    seen: dict[str, str] = {}
    for (label, _), config in zip(listed, configs, strict=True):
        run_id = config.run_id
        if run_id in seen:
            hint = f" (after --set {' '.join(changes)}; to pick values of an axis use --only)" if changes else ""
            raise ConfigError(f"{source}: '{seen[run_id]}' and '{label}' are the same run, {run_id}{hint}")
        seen[run_id] = label


def _plan(listed: Sequence[tuple[str, Mapping[str, Any]]], configs: Sequence[RunConfig]) -> list[PlannedRun]:
    flat = [flatten(config.to_dict()) for config in configs]
    fields = list(dict.fromkeys(field for values in flat for field in values))
    varying = [field for field in fields if len({json.dumps(values.get(field)) for values in flat}) > 1]
    return [
        PlannedRun(config, config.run_id, label, {field: values[field] for field in varying if field in values})
        for (label, _), config, values in zip(listed, configs, flat, strict=True)
    ]
