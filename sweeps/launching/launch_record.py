"""What was launched into a folder of runs: `<grid>.grid.json`, which tells the runs of a grid, however often launched.

Every launch adds to it: with other values (`--set`), of other runs (`--only`), or of a grid that was edited since. So
`runs` lists all runs of the grid that are in the folder, and `launches` how each of them came about. A run leaves the
list when its folder is removed, or when its config no longer stands for it, as after a change of what is measured.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualformer.config import ConfigError, flatten
from dualformer.results import layout
from dualformer.results.files import read_object, utc_now, write_json
from dualformer.results.result_set import listed_runs

if TYPE_CHECKING:  # they bring models along, which looking after a sweep can do without
    from sweeps.launching.grid import Grid
    from sweeps.run_config import RunConfig


@dataclasses.dataclass(frozen=True)
class LaunchRecord:
    """What a launch record says, as far as it can be read.

    Attributes:
        grid: the grid's name.
        runs: `run_id` of each run and what tells it from the others (`differs`).
        launches: how the runs came about, the oldest first: `arguments`, `folder`, `runs` and more.
    """

    grid: str
    runs: tuple[dict[str, Any], ...] = ()
    launches: tuple[dict[str, Any], ...] = ()


def read(path: Path) -> LaunchRecord:
    """Reads a launch record; what isn't there, or isn't one, lists nothing."""
    grid = path.name.removesuffix(layout.LAUNCH_RECORD)
    try:
        content = read_object(path)
    except (OSError, ValueError):
        return LaunchRecord(grid)
    launches = content.get("launches")
    launches = [each for each in launches if _is_launch(each)] if isinstance(launches, list) else []
    return LaunchRecord(grid, tuple(listed_runs(content)), tuple(launches))


def read_all(runs: Path, grid: str | None = None) -> list[LaunchRecord]:
    """Reads the launch records of a folder of runs, sorted by grid: all, or that of one grid."""
    if grid is None:
        return [read(path) for path in sorted(runs.glob(f"*{layout.LAUNCH_RECORD}"))]
    path = record_path(runs, grid)
    return [read(path)] if path.is_file() else []


def record_path(runs: Path, grid: str) -> Path:
    """Returns where the record of a grid is, or would be; the grid's file stands for its name."""
    return runs / f"{Path(grid).name.removesuffix('.yaml')}{layout.LAUNCH_RECORD}"


def note_launch(runs: Path, grid: Grid, arguments: Sequence[str]) -> tuple[int, int]:
    """Adds a launch to the record of its grid.

    Args:
        runs: folder of all run folders; made where there is none.
        grid: what is launched, without the runs that flags left out.
        arguments: of a command that goes on with this launch in this working directory.

    Returns:
        How many runs of earlier launches alone are listed still, and how many no longer are.
    """
    from sweeps import source
    from sweeps.launching import ledger

    with ledger.submitting(runs):  # two launches at once would each write what they know
        path = record_path(runs, grid.name)
        before = read(path)
        configs = {run.run_id: run.config for run in grid.runs}
        older = [run["run_id"] for run in before.runs if run["run_id"] not in configs]
        kept = {run_id: config for run_id in older if (config := _config(runs / run_id)) is not None}
        launch = {
            "arguments": list(arguments),
            "folder": os.getcwd(),
            "text": grid.text,
            "overrides": dict(grid.overrides),
            **source.source_state(),
            "launched_utc": utc_now(),
            "runs": list(configs),
        }
        record = {
            "grid": grid.name,
            "description": grid.description,
            **{name: launch[name] for name in ("text", "overrides", "commit", "dirty", "launched_utc")},
            "runs": list(_listed({**kept, **configs}, grid)),
            "launches": [*(other for other in before.launches if not _same_command(other, launch)), launch],
        }
        write_json(path, record)
    return len(kept), len(older) - len(kept)


def _listed(configs: Mapping[str, RunConfig], grid: Grid) -> Iterator[dict[str, Any]]:
    """Each run with the fields that aren't the same in all of them or in all of the grid."""
    flat = {run_id: flatten(config.to_dict()) for run_id, config in configs.items()}
    texts = {run_id: {field: json.dumps(value) for field, value in values.items()} for run_id, values in flat.items()}
    fields = dict.fromkeys(field for run in grid.runs for field in run.differs)
    for field in dict.fromkeys(field for values in flat.values() for field in values):
        if len({values.get(field) for values in texts.values()}) > 1:
            fields[field] = None
    for run_id, values in flat.items():
        yield {"run_id": run_id, "differs": {field: values[field] for field in fields if field in values}}


def _is_launch(each: object) -> bool:
    """Whether it says how to go on: text, and lists of text."""
    if not isinstance(each, dict) or not isinstance(each.get("folder"), str):
        return False
    lists = (each.get("arguments"), each.get("runs"))
    return all(isinstance(one, list) and all(isinstance(item, str) for item in one) for one in lists)


def _config(run_dir: Path) -> RunConfig | None:
    """The config of a run, None where it no longer is that of a run by this id."""
    from sweeps.run_config import RunConfig

    try:
        config = RunConfig.from_dict(read_object(run_dir / layout.CONFIG))
    except (OSError, ValueError, ConfigError):
        return None
    return config if config.run_id == run_dir.name else None


def _same_command(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one[name] == other[name] for name in ("arguments", "folder"))
