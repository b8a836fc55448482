"""Results as plain rows, from run folders or from tables alike: what `compare`, `verify` and `cost` look at.

Reading refuses nothing. What can't be read is kept as a problem in words, so that a checker can list all of them.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dualformer.results import provenance, table
from dualformer.results.code import Files
from dualformer.results.files import is_folder_name, read_object
from dualformer.results.layout import CONFIG, LAUNCH_RECORD, MEASUREMENT, PROVENANCE, RESULT, TABLE
from dualformer.results.table import Row


@dataclasses.dataclass(frozen=True)
class ResultSet:
    """Rows that belong together.

    Attributes:
        source: the table, the folder of runs, or the one run.
        rows: finished runs in a folder; every row of a table. What is empty or null is absent.
        records: the table's sheet, or the launch record of each grid of a folder.
        codes: digest -> project files, of the rows whose files were kept.
        samples_ms: run id -> times of single forward passes; a table has none.
        folders: run id -> the run's folder; a table has none.
        damaged: files that can't be read, so that nobody knows what else they said, in words.
        odd: what isn't there, or isn't what its place says, in words.
    """

    source: Path
    rows: list[Row]
    records: list[Mapping[str, Any]]
    codes: Mapping[str, Files]
    samples_ms: Mapping[str, list[float]]
    damaged: list[str]
    odd: list[str]
    folders: Mapping[str, Path] = dataclasses.field(default_factory=dict)

    @property
    def problems(self) -> list[str]:
        """All that could not be read as it should."""
        return [*self.odd, *self.damaged]

    @property
    def is_table(self) -> bool:
        return self.source.is_file()


class ResultSetError(Exception):
    """There is nothing to look at."""


def read(path: Path) -> list[ResultSet]:
    """Reads a table, a run's folder, a folder of runs, or every table below a folder (such as `analysis/results`).

    Raises:
        ResultSetError: there is no such file, or no result in the folder.
    """
    if path.is_file():
        return [read_table(path)]
    if not path.exists():
        raise ResultSetError(f"no file or folder '{path}'")
    if (path / RESULT).exists():
        return [read_run(path)]
    if any(path.glob(f"*/{RESULT}")):
        return [read_runs(path)]
    if (path / CONFIG).exists():
        raise ResultSetError(f"run '{path}' has no result: it isn't finished")
    tables = [file for file in sorted(path.rglob(f"*{TABLE}")) if not (file.parent / CONFIG).exists()]
    if not tables:
        raise ResultSetError(f"no results in '{path}': neither run folders nor tables")
    return [read_table(file) for file in tables]


def read_table(path: Path) -> ResultSet:
    """Reads a table with its sheet."""
    found = ResultSet(path, [], [], {}, {}, [], [])
    sheet = _object(table.sheet_path(path), found)
    rows, wrong = table.read_rows(path)
    found.damaged.extend(wrong)
    return dataclasses.replace(found, rows=rows, records=[sheet] if sheet else [], codes=sheet_codes(sheet or {}))


def read_runs(folder: Path) -> ResultSet:
    """Reads every finished run below `folder`, whichever grid it belongs to."""
    found = ResultSet(folder, [], [], {}, {}, [], [])
    found.records.extend(_objects(sorted(folder.glob(f"*{LAUNCH_RECORD}")), found))
    return _with_runs(found, [path.parent for path in sorted(folder.glob(f"*/{RESULT}"))])


def read_run(folder: Path) -> ResultSet:
    """Reads the folder of one finished run."""
    return _with_runs(ResultSet(folder, [], [], {}, {}, [], []), [folder])


def _with_runs(found: ResultSet, folders: Iterable[Path]) -> ResultSet:
    codes, samples, places = dict[str, Files](), dict[str, list[float]](), dict[str, Path]()
    for folder in folders:
        result = _object(folder / RESULT, found)
        if result is None:
            continue
        run_id = folder.resolve().name
        if result.get("run_id") != run_id:
            found.odd.append(f"{folder / RESULT} is the result of run {result.get('run_id')}")
        config, circumstances = (_object(folder / name, found) or {} for name in (CONFIG, PROVENANCE))
        if files := kept_files(circumstances):
            codes[circumstances["code"]] = files
        found.rows.append(row(config, circumstances, {**result, "run_id": run_id}))
        samples[run_id] = _samples(folder / MEASUREMENT)
        places[run_id] = folder
    return dataclasses.replace(found, codes=codes, samples_ms=samples, folders=places)


def listed_runs(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The runs that a launch record lists: `run_id`, a plain name, and `differs`, a mapping; others are left out."""
    runs = record.get("runs")
    return [run for run in runs if _is_listed(run)] if isinstance(runs, list) else []


def _is_listed(run: object) -> bool:
    return isinstance(run, dict) and is_folder_name(run.get("run_id")) and isinstance(run.get("differs") or {}, dict)


def row(config: Mapping[str, Any], circumstances: Mapping[str, Any], result: Mapping[str, Any]) -> Row:
    """A run's files as one row; what is null is absent."""
    about = {known.column: circumstances.get(known.name) for known in provenance.CIRCUMSTANCES}
    about = {column: told for column, told in about.items() if provenance.says(column, told)}
    return {name: value for name, value in table.dotted({**config, **about, **result}).items() if value is not None}


def kept_files(circumstances: Mapping[str, Any]) -> Files:
    """The project files that a run's provenance names; none where it is older than that, or unfinished."""
    files = circumstances.get(provenance.FILES)
    digests = isinstance(files, dict) and all(isinstance(digest, str) for digest in files.values())
    return files if digests and files and isinstance(circumstances.get("code"), str) else {}


def sheet_codes(sheet: Mapping[str, Any]) -> dict[str, Files]:
    """Digest -> project files by a table's sheet; older sheets list digests alone."""
    codes = sheet.get("codes")
    if not isinstance(codes, dict):
        return {}
    return {code: files for code, files in codes.items() if kept_files({"code": code, provenance.FILES: files})}


def flags(row: Mapping[str, Any]) -> list[str]:
    """What a row says disturbed its timing."""
    said = row.get("flags")
    return [str(flag) for flag in said] if isinstance(said, list) else []


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, which true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def values(rows: Iterable[Mapping[str, Any]], name: str) -> list[Any]:
    """The different values of a field, absent ones left out, in an order that doesn't depend on the rows'."""
    return sorted({json.dumps(row[name]): row[name] for row in rows if name in row}.values(), key=json.dumps)


def _samples(path: Path) -> list[float]:
    """Timed passes of a run; none where nothing was timed."""
    try:
        samples = read_object(path).get("samples_ms")
    except (FileNotFoundError, ValueError):
        return []
    return samples if isinstance(samples, list) and all(map(is_number, samples)) else []


def _objects(paths: Iterable[Path], found: ResultSet) -> Iterator[dict[str, Any]]:
    for path in paths:
        if (value := _object(path, found)) is not None:
            yield value


def _object(path: Path, found: ResultSet) -> dict[str, Any] | None:
    """The JSON object in a file; None where there is none, which is noted."""
    try:
        return read_object(path)
    except FileNotFoundError:
        found.odd.append(f"{path} is missing")
    except ValueError as error:
        found.damaged.append(str(error))
    return None
