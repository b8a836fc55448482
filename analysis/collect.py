"""Turns a folder of runs into committed tables: one CSV per grid and device, with a manifest beside it.

    python analysis/collect.py --runs runs [--grid NAME ...] [--out analysis/results] [--allow-mixed-code]

Reads `<runs>/<grid>.grid.json` (what the grid expects) and each expected run's `result.json`, `config.json` and
`provenance.json`; writes `<out>/<grid>/<device>.csv` and `<out>/<grid>/<device>.manifest.json`. A table has a row for
every run the grid expects, whatever became of it: a run without a result is a row of status `missing`. Such a row, and
any other that names no device, stands in each device's table, because nothing says which it was meant for.

Exit status: 0 written; 2 nothing written, with the reason.
"""

from __future__ import annotations

import argparse
import collections
import csv
import datetime
import difflib
import io
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path[0] = str(ROOT)

from analysis import schema  # noqa: E402
from analysis.result_set import flat  # noqa: E402

Row = dict[str, Any]
DEVICE = schema.PROVENANCE_PREFIX + "device_name"
COMMIT = schema.PROVENANCE_PREFIX + "commit"
CODE = schema.PROVENANCE_PREFIX + "code"
DIRTY = schema.PROVENANCE_PREFIX + "dirty"


class CollectError(Exception):
    """The runs can't be turned into a table that means what it says."""


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        grids = find_grids(options.runs, options.grid)
        tables = {grid["grid"]: collect(options.runs, grid, options.allow_mixed_code) for grid in grids}
        if not any(tables.values()):
            raise CollectError(f"no run of {', '.join(tables)} in '{options.runs}' has finished yet")
        for name, pairs in tables.items():
            for manifest, rows in pairs:
                print(f"{write(options.out, manifest, rows)}: {_summary(rows)}")
            if not pairs:
                print(f"{name}: none of its runs has finished, no table written")
    except (CollectError, OSError) as error:
        print(f"collect: {error}", file=sys.stderr)
        return 2
    return 0


def find_grids(runs: Path, names: Iterable[str] = ()) -> list[dict[str, Any]]:
    """Reads the manifests of the grids called `names` (all grids when empty), sorted by name.

    Raises:
        CollectError: no manifest, an unreadable one, or an unknown name.
    """
    paths = {path.name.removesuffix(".grid.json"): path for path in sorted(runs.glob("*.grid.json"))}
    if not paths:
        raise CollectError(f"no grid was launched into '{runs}': it has no *.grid.json")
    wanted = [Path(name).name.removesuffix(".yaml") for name in names] or list(paths)
    for name in wanted:
        if name not in paths:
            close = difflib.get_close_matches(name, paths, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"there are: {', '.join(paths)}"
            raise CollectError(f"no grid '{name}' in '{runs}'; {hint}")
    grids = []
    for name in sorted(set(wanted)):
        manifest = _read_json(paths[name])
        listed = manifest.get("runs") if manifest else None
        if not isinstance(listed, list) or not all(isinstance(run, dict) and "run_id" in run for run in listed):
            raise CollectError(
                f"'{paths[name]}' is not a grid manifest: it has no list 'runs' of objects with a 'run_id'"
            )
        grids.append({**manifest, "grid": name})
    return grids


def collect(
    runs: Path, grid: Mapping[str, Any], allow_mixed_code: bool = False
) -> list[tuple[dict[str, Any], list[Row]]]:
    """Builds one (manifest, rows) pair per device that ran any run of `grid`; no pair if none did.

    Raises:
        CollectError: results of an unknown schema or under a wrong id, or of different code without leave.
    """
    rows = [_row(runs, expected) for expected in grid["runs"]]
    rows.sort(key=lambda row: [_sortable(row.get(field)) for field in (*_differing(grid), "run_id")])
    if all(row["status"] == "missing" for row in rows):
        return []
    devices = sorted({row[DEVICE] for row in rows if row[DEVICE]}) or ["unknown device"]
    tables = [(device, [row for row in rows if row[DEVICE] in (device, None)]) for device in devices]
    return [(_manifest(grid, device, members, allow_mixed_code), members) for device, members in tables]


def device_slug(name: str) -> str:
    """File name of a device: `NVIDIA H200` -> `nvidia-h200`."""
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)", "", name.lower())).strip("-")


def write(out: Path, manifest: Mapping[str, Any], rows: list[Row]) -> Path:
    """Writes the table and its manifest, each whole or not at all; returns the table's path."""
    folder = out / manifest["grid"]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{manifest['device']}.csv"
    table = io.StringIO()
    writer = csv.DictWriter(table, columns(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    _replace(path, table.getvalue())
    _replace(path.with_suffix(".manifest.json"), json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    return path


def columns(rows: Iterable[Row]) -> list[str]:
    """Column order: identity, measured fields, factors, configuration, provenance; sorted where nothing else rules."""
    found = {name for row in rows for name in row}
    fixed = [*schema.IDENTITY, *schema.MEASURED, *schema.OPTIONAL]
    provenance = [schema.PROVENANCE_PREFIX + name for name in schema.PROVENANCE]
    factors = sorted(name for name in found if name.startswith(schema.FACTOR_PREFIXES))
    configuration = sorted(found - {*fixed, *factors, *provenance})
    return [*fixed, *factors, *configuration, *provenance]


def _row(runs: Path, expected: Mapping[str, Any]) -> Row:
    """Everything known about one expected run: configuration, result, provenance."""
    run_id = expected["run_id"]
    folder = runs / run_id
    configuration = flat(_read_json(folder / "config.json") or expected.get("differs") or {})
    provenance = flat(_read_json(folder / "provenance.json") or {})
    return {
        **configuration,
        **{schema.PROVENANCE_PREFIX + name: provenance.get(name) for name in schema.PROVENANCE},
        **_result(folder, run_id),
    }


def _result(folder: Path, run_id: str) -> Row:
    path = folder / "result.json"
    if not path.exists():
        reason = "started, not finished" if folder.exists() else "never started"
        return {"run_id": run_id, "status": "missing", "reason": reason}
    result = _read_json(path)
    if result is None:
        return {"run_id": run_id, "status": "missing", "reason": "result.json is not readable JSON"}
    if result.get("schema_version") != schema.SCHEMA_VERSION:
        version = result.get("schema_version")
        raise CollectError(f"'{path}' has schema version {version}; this code knows {schema.SCHEMA_VERSION}")
    if result.get("run_id") != run_id:
        raise CollectError(f"'{path}' is the result of run {result.get('run_id')}, not of {run_id}")
    if result.get("status") not in schema.STATUSES:
        raise CollectError(f"'{path}' has the unknown status {result.get('status')!r}")
    return flat(result)


def _manifest(grid: Mapping[str, Any], device: str, rows: list[Row], allow_mixed_code: bool) -> dict[str, Any]:
    finished = [row for row in rows if row["status"] != "missing"]
    commits, codes = (collections.Counter(row[name] for row in finished if row[name]) for name in (COMMIT, CODE))
    for kind, counts in (("commits", commits), ("states of the code", codes)):
        if len(counts) > 1 and not allow_mixed_code:
            told = ", ".join(f"{count} of {name}" for name, count in sorted(counts.items()))
            raise CollectError(
                f"results of {grid['grid']} on {device} come from several {kind} ({told}); "
                "launch again with --retry ok, or pass --allow-mixed-code"
            )
    return {
        "schema_version": schema.SCHEMA_VERSION,
        "grid": grid["grid"],
        "device": device_slug(device),
        "device_name": device,
        "commits": sorted(commits),
        "codes": sorted(codes),
        "dirty": any(row[DIRTY] for row in finished),
        "collected_utc": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "expected": [row["run_id"] for row in rows],
        "finished": [row["run_id"] for row in finished],
        "missing": [row["run_id"] for row in rows if row["status"] == "missing"],
        "differs": _differing(grid),
        "text": grid.get("text"),
    }


def _differing(grid: Mapping[str, Any]) -> list[str]:
    """The fields in which runs of the grid differ, in the grid's own order of axes."""
    return list(dict.fromkeys(name for run in grid["runs"] for name in run.get("differs") or {}))


def _cell(value: Any) -> Any:
    """CSV text: empty for null, JSON for booleans and lists, one line for text, `~` for the home folder."""
    if value is None:
        return ""
    if isinstance(value, str):
        return " ".join(value.replace(str(Path.home()), "~").split())
    return json.dumps(value)


def _sortable(value: Any) -> tuple[int, float, str]:
    """Numbers by size before text by alphabet, so that mixed columns sort the same way every time."""
    if isinstance(value, (int, float)):
        return (0, float(value), "")
    return (1, 0.0, json.dumps(value))


def _read_json(path: Path) -> dict[str, Any] | None:
    """The file's object; None where there is no file or no JSON object in it."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _replace(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _summary(rows: list[Row]) -> str:
    counts = {status: sum(row["status"] == status for row in rows) for status in schema.STATUSES}
    return f"{len(rows)} rows (" + ", ".join(f"{count} {status}" for status, count in counts.items() if count) + ")"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=Path, required=True, help="folder that the grids were launched into")
    parser.add_argument("--grid", action="append", default=[], help="this grid alone (repeatable; default: all)")
    parser.add_argument("--out", type=Path, default=ROOT / "analysis" / "results", help="default: analysis/results")
    parser.add_argument(
        "--allow-mixed-code", action="store_true", help="let a table mix commits, and uncommitted changes of one"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
