"""What was launched into a folder of runs: `<grid>.grid.json`, which tells the runs of a grid, however often launched.

Every launch adds to it: with other values (`--set`), of other rows (`--only`), or of a grid that was edited since. So
`runs` lists all runs of the grid that are in the folder, and `launches` how each of them came about. A run leaves the
list when its folder is removed, or when its config no longer stands for it, as after a change of what is measured.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dualformer.config import ConfigError, flatten
from dualformer.results.files import utc_now, write_json
from sweeps import source
from sweeps.launching import ledger
from sweeps.launching.grid import Grid
from sweeps.run_config import RunConfig


def note_launch(runs: Path, grid: Grid, arguments: Sequence[str]) -> tuple[int, int]:
    """Adds a launch to the manifest of its grid.

    Args:
        runs: folder of all run folders; made where there is none.
        grid: what is launched, without the runs that flags left out.
        arguments: of a command that goes on with this launch in this working directory.

    Returns:
        How many runs of earlier launches alone are listed still, and how many no longer are.
    """
    runs.mkdir(parents=True, exist_ok=True)
    with ledger.submitting(runs):  # two launches at once would each write what they know
        path = runs / f"{grid.name}.grid.json"
        before = _read(path)
        configs = {cell.run_id: cell.config for cell in grid.cells}
        older = [row["run_id"] for row in before["runs"] if row["run_id"] not in configs]
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
        others = [other for other in before["launches"] if not _same_command(other, launch)]
        manifest = {
            "grid": grid.name,
            "description": grid.description,
            **{name: launch[name] for name in ("text", "overrides", "commit", "dirty", "launched_utc")},
            "runs": list(_rows({**kept, **configs}, grid)),
            "launches": [*others, launch],
        }
        write_json(path, manifest)
    return len(kept), len(older) - len(kept)


def _rows(configs: Mapping[str, RunConfig], grid: Grid) -> Iterator[dict[str, Any]]:
    """A row for each run, with the fields that aren't the same in all of them or in all of the grid."""
    flat = {run_id: flatten(config.to_dict()) for run_id, config in configs.items()}
    texts = {run_id: {field: json.dumps(value) for field, value in values.items()} for run_id, values in flat.items()}
    fields = dict.fromkeys(field for cell in grid.cells for field in cell.differs)
    for field in dict.fromkeys(field for values in flat.values() for field in values):
        if len({values.get(field) for values in texts.values()}) > 1:
            fields[field] = None
    for run_id, values in flat.items():
        yield {"run_id": run_id, "differs": {field: values[field] for field in fields if field in values}}


def _config(run_dir: Path) -> RunConfig | None:
    """The config of a run, None where it no longer is that of a run by this id."""
    try:
        config = RunConfig.from_dict(json.loads((run_dir / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, ConfigError):
        return None
    return config if config.run_id == run_dir.name else None


def _read(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The runs and launches of a manifest, none where there is none."""
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        manifest = {}
    return {part: manifest.get(part, []) for part in ("runs", "launches")}


def _same_command(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one[name] == other[name] for name in ("arguments", "folder"))
