"""Turn run folders into one table per grid and device.

Tables are to be committed, each with its sheet beside it.

    python analysis/collect.py --runs runs [--grid NAME ...] [--out analysis/results] [--allow-mixed-code] [--replace]

Reads `<runs>/<grid>.grid.json` (the runs that the grid expects) and each expected run's `result.json`, `config.json`
and `provenance.json`; writes `<out>/<grid>/<device>.csv` and `<out>/<grid>/<device>.manifest.json`. A table has a row
for every run the grid expects, whatever became of it: a run without a result is a row of status `missing`. Such a row,
and any other that names no device, stands in each device's table, because nothing says which it was meant for.

Rows whose runs used a file of the project that isn't the same in both are not put into one table. A table that has more
finished runs than these is not replaced, unless told.

Exit status: 0 written; 2 nothing written, with the reason.
"""

from __future__ import annotations

import argparse
import collections
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path[0] = str(ROOT)

from analysis.places import OUTPUT  # noqa: E402
from dualformer.arguments import parse_and_run, printable, program  # noqa: E402
from dualformer.config import nearest  # noqa: E402
from dualformer.results import provenance, result_set, table  # noqa: E402
from dualformer.results.code import Files, mixed_code  # noqa: E402
from dualformer.results.files import read_object, utc_now  # noqa: E402
from dualformer.results.layout import CONFIG, LAUNCH_RECORD, PROVENANCE, RESULT, TABLE  # noqa: E402
from dualformer.results.result import MISSING, ROW_STATUSES, SCHEMA_VERSION  # noqa: E402
from dualformer.results.table import Row  # noqa: E402

DEVICE = provenance.PREFIX + "device_name"
COMMIT = provenance.PREFIX + "commit"
CODE = provenance.PREFIX + "code"
DIRTY = provenance.PREFIX + "dirty"

Sheet = dict[str, Any]

_LONGEST_SLUG = 100


class CollectError(Exception):
    """The runs can't be turned into a table that means what it says."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), help="folder that the grids were launched into (default: runs)"
    )
    parser.add_argument(
        "--grid", action="append", default=[], metavar="NAME", help="this grid alone (repeatable; default: all)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=OUTPUT / "results",
        help="folder of the tables (default: analysis/results of a checkout, build/results elsewhere)",
    )
    parser.add_argument(
        "--allow-mixed-code",
        action="store_true",
        help="let a table hold rows whose runs used different states of the same file (default: refuse)",
    )
    parser.add_argument(
        "--replace",
        action="store_true",
        help="put these tables in the place of any that have more finished runs (default: refuse)",
    )


def run(options: argparse.Namespace) -> int:
    """Collects; returns the exit status."""
    try:
        records = find_records(options.runs, options.grid)
        tables = {record["grid"]: collect(options.runs, record, options.allow_mixed_code) for record in records}
        if not any(tables.values()):
            raise CollectError(f"no run of {', '.join(tables)} in '{options.runs}' has finished yet")
        if not options.replace:
            refuse_to_lose(options.out, [sheet for pairs in tables.values() for sheet, _ in pairs])
        for name, pairs in tables.items():
            for sheet, rows in pairs:
                print(printable(f"{write(options.out, sheet, rows)}: {_summary(rows)}"))
            if not pairs:
                print(f"{name}: none of its runs has finished, no table written")
    except (CollectError, OSError) as error:
        print(f"{program('collect')}: {printable(str(error))}", file=sys.stderr)
        return 2
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line and runs it; returns the exit status."""
    return parse_and_run(sys.modules[__name__], arguments)


def find_records(runs: Path, names: Iterable[str] = ()) -> list[dict[str, Any]]:
    """Reads the launch records of the grids called `names` (all grids when empty), sorted by name.

    Raises:
        CollectError: no launch record, an unreadable one, or an unknown name.
    """
    paths = {path.name.removesuffix(LAUNCH_RECORD): path for path in sorted(runs.glob(f"[!.]*{LAUNCH_RECORD}"))}
    if not paths:
        raise CollectError(f"no grid was launched into '{runs}': it has no *{LAUNCH_RECORD}")
    wanted = [Path(name).name.removesuffix(".yaml") for name in names] or list(paths)
    for name in wanted:
        if name not in paths:
            raise CollectError(f"no grid '{name}' in '{runs}'{nearest(name, paths)}")
    return [{**_record(paths[name]), "grid": name} for name in sorted(set(wanted))]


def _record(path: Path) -> dict[str, Any]:
    try:
        record = read_object(path)
    except ValueError as error:
        raise CollectError(f"not a launch record: {error}") from None
    listed = result_set.listed_runs(record)
    if not isinstance(record.get("runs"), list) or len(listed) < len(record["runs"]):
        raise CollectError(f"'{path}' is not a launch record: it has no list 'runs' of objects with a 'run_id'")
    return {**record, "runs": listed}


def collect(runs: Path, record: Mapping[str, Any], allow_mixed_code: bool = False) -> list[tuple[Sheet, list[Row]]]:
    """Builds one (sheet, rows) pair per device that ran any run of a launch record; no pair if none did.

    Raises:
        CollectError: results of an unknown schema or under a wrong id, or of different code without leave.
    """
    codes: dict[str, Files] = {}
    rows = [_row(runs, expected, codes) for expected in record["runs"]]
    rows.sort(key=lambda row: [_sortable(row.get(field)) for field in (*_differing(record), "run_id")])
    if all(row["status"] == MISSING for row in rows):
        return []
    devices = sorted({row[DEVICE] for row in rows if row.get(DEVICE)}) or ["unknown device"]
    if twice := [
        device for device in devices if sum(device_slug(device) == device_slug(other) for other in devices) > 1
    ]:
        raise CollectError(
            f"devices {' and '.join(map(repr, twice))} would share a table's name, {device_slug(twice[0])}"
        )
    tables = [(device, [row for row in rows if row.get(DEVICE) in (device, None)]) for device in devices]
    return [(_sheet(record, device, members, codes, allow_mixed_code), members) for device, members in tables]


def device_slug(name: str) -> str:
    """File name of a device: `NVIDIA H200` -> `nvidia-h200`."""
    slug = re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)", "", name.lower())).strip("-")
    return slug[:_LONGEST_SLUG].strip("-") or "unknown-device"


def refuse_to_lose(out: Path, sheets: Iterable[Sheet]) -> None:
    """Raises `CollectError` where a table is there that has more finished runs than the one to come."""
    for sheet in sheets:
        path = _place(out, sheet)
        there, here = len((_object(table.sheet_path(path)) or {}).get("finished") or ()), len(sheet["finished"])
        if there > here:
            raise CollectError(
                f"'{path}' has {there} finished runs, and these are {here}; nothing was written. "
                "--out puts them elsewhere, --replace in its place"
            )


def _place(out: Path, sheet: Mapping[str, Any]) -> Path:
    return out / sheet["grid"] / f"{sheet['device']}{TABLE}"


def write(out: Path, sheet: Mapping[str, Any], rows: list[Row]) -> Path:
    """Writes the table and its sheet, each whole or not at all; returns the table's path."""
    path = _place(out, sheet)
    path.parent.mkdir(parents=True, exist_ok=True)
    table.write(path, rows, sheet)
    return path


def _row(runs: Path, expected: Mapping[str, Any], codes: dict[str, Files]) -> Row:
    """Everything known about one expected run: configuration, result, provenance; notes the files of its code."""
    run_id = expected["run_id"]
    folder = runs / run_id
    circumstances = _object(folder / PROVENANCE) or {}
    result = _result(folder, run_id)
    if result["status"] != MISSING and (files := result_set.kept_files(circumstances)):
        codes[circumstances["code"]] = files
    return result_set.row(_object(folder / CONFIG) or expected.get("differs") or {}, circumstances, result)


def _result(folder: Path, run_id: str) -> dict[str, Any]:
    path = folder / RESULT
    if not path.exists():
        reason = "started, not finished" if folder.exists() else "never started"
        return {"run_id": run_id, "status": MISSING, "reason": reason}
    result = _object(path)
    if result is None:
        return {"run_id": run_id, "status": MISSING, "reason": f"{RESULT} is not readable JSON"}
    if result.get("schema_version") != SCHEMA_VERSION:
        version = result.get("schema_version")
        raise CollectError(f"'{path}' has schema version {version}; this code knows {SCHEMA_VERSION}")
    if result.get("run_id") != run_id:
        raise CollectError(f"'{path}' is the result of run {result.get('run_id')}, not of {run_id}")
    if result.get("status") not in ROW_STATUSES:
        raise CollectError(f"'{path}' has the unknown status {result.get('status')!r}")
    return result


def _sheet(
    record: Mapping[str, Any], device: str, rows: list[Row], codes: Mapping[str, Files], allow_mixed_code: bool
) -> Sheet:
    finished = [row for row in rows if row["status"] != MISSING]
    if not allow_mixed_code and (mixed := _mixed(finished, codes)):
        raise CollectError(
            f"results of {record['grid']} on {device} are of {mixed}; "
            "launch again with --retry ok, or pass --allow-mixed-code"
        )
    return {
        "schema_version": SCHEMA_VERSION,
        "grid": record["grid"],
        "device": device_slug(device),
        "device_name": device,
        "commits": list(_counts(finished, COMMIT)),
        "codes": {code: dict(codes.get(code, {})) for code in _counts(finished, CODE)},
        "dirty": any(row.get(DIRTY) for row in finished),
        "collected_utc": utc_now(),
        "expected": [row["run_id"] for row in rows],
        "finished": [row["run_id"] for row in finished],
        "missing": [row["run_id"] for row in rows if row["status"] == MISSING],
        "differs": _differing(record),
        "text": record.get("text"),
    }


def _mixed(finished: list[Row], codes: Mapping[str, Files]) -> str:
    """Why finished rows are of mixed code; where their files weren't kept, commits must be the same as well."""
    counts = _counts(finished, CODE)
    mixed = mixed_code(counts, codes)
    if not mixed and not all(row.get(CODE) in codes for row in finished):
        counts = _counts(finished, COMMIT)
        mixed = f"mixed commits: {', '.join(counts)}" if len(counts) > 1 else ""
    told = ", ".join(f"{count} of {name}" for name, count in counts.items())
    return f"{mixed} ({told})" if mixed else ""


def _counts(rows: Iterable[Row], column: str) -> dict[str, int]:
    """How many rows have each value of a column, sorted by value."""
    return dict(sorted(collections.Counter(row[column] for row in rows if row.get(column)).items()))


def _differing(record: Mapping[str, Any]) -> list[str]:
    """The fields in which runs of the grid differ, in the grid's own order of axes."""
    return list(dict.fromkeys(name for run in record["runs"] for name in run.get("differs") or {}))


def _sortable(value: Any) -> tuple[int, float, str]:
    """Numbers by size before text by alphabet, so that mixed columns sort the same way every time."""
    if isinstance(value, (int, float)):
        return (0, float(value), "")
    return (1, 0.0, json.dumps(value))


def _object(path: Path) -> dict[str, Any] | None:
    """The file's object; None where there is no file or no JSON object in it."""
    try:
        return read_object(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def _summary(rows: list[Row]) -> str:
    counts = {status: sum(row["status"] == status for row in rows) for status in ROW_STATUSES}
    return f"{len(rows)} rows (" + ", ".join(f"{count} {status}" for status, count in counts.items() if count) + ")"


if __name__ == "__main__":
    sys.exit(main())
