"""Which run folders a person means: by id, by the beginning of one, or by a grid's name for all its runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dualformer.config import nearest
from dualformer.results import layout
from sweeps.launching import launch_record


class UnknownRunError(ValueError):
    """No run goes by this name, or more than one."""


def find_runs(runs: Path, names: Sequence[str]) -> list[Path]:
    """Returns the folders of the runs that ids, beginnings of ids and names of grids stand for.

    Raises:
        UnknownRunError: a name stands for nothing, or the beginning of an id for several runs.
    """
    found: dict[Path, None] = {}
    for name in names:
        found.update(dict.fromkeys(_members(runs, name) or [find_run(runs, name)]))
    return list(found)


def find_run(runs: Path, name: str) -> Path:
    """Returns the folder of the run that an id, or the beginning of one, stands for.

    Raises:
        UnknownRunError: it stands for none, or for several.
    """
    known = [path.parent for path in runs.glob(f"*/{layout.CONFIG}")]
    found = [path for path in known if path.name == name] or [path for path in known if path.name.startswith(name)]
    if len(found) == 1 and name:
        return found[0]
    if found:
        raise UnknownRunError(f"{len(found)} runs in '{runs}' called '{name}'; write more of the id")
    grids = [record.grid for record in launch_record.read_all(runs)]
    hint = nearest(name, [*grids, *(path.name for path in known)]) if known else ""
    raise UnknownRunError(f"no run in '{runs}' called '{name}'{hint}")


def _members(runs: Path, grid: str) -> list[Path]:
    listed = [run["run_id"] for record in launch_record.read_all(runs, grid) for run in record.runs]
    return [runs / run_id for run_id in listed if (runs / run_id).is_dir()]
