"""Results as plain rows, from run folders or from tables alike: what `compare`, `verify` and `cost` look at.

Reading refuses nothing. What can't be read is kept as a problem in words, so that a checker can list all of them.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dualformer.results import provenance, table
from dualformer.results.code import Files
from dualformer.results.files import read_object
from dualformer.results.layout import CONFIG, LAUNCH_RECORD, MEASUREMENT, PROVENANCE, RESULT
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
        problems: what could not be read, in words.
    """

    source: Path
    rows: list[Row]
    records: list[Mapping[str, Any]]
    codes: Mapping[str, Files]
    samples_ms: Mapping[str, list[float]]
    problems: list[str]

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
    tables = [file for file in sorted(path.rglob("*.csv")) if not (file.parent / CONFIG).exists()]
    if not tables:
        raise ResultSetError(f"no results in '{path}': neither run folders nor tables")
    return [read_table(file) for file in tables]


def read_table(path: Path) -> ResultSet:
    """Reads a table with its sheet."""
    problems: list[str] = []
    sheet = _object(table.sheet_path(path), problems)
    rows, wrong = table.read_rows(path)
    return ResultSet(path, rows, [sheet] if sheet else [], sheet_codes(sheet or {}), {}, problems + wrong)


def read_runs(folder: Path) -> ResultSet:
    """Reads every finished run below `folder`, whichever grid it belongs to."""
    problems: list[str] = []
    records = [record for path in sorted(folder.glob(f"*{LAUNCH_RECORD}")) if (record := _object(path, problems))]
    return _read_folders(folder, [path.parent for path in sorted(folder.glob(f"*/{RESULT}"))], records, problems)


def read_run(folder: Path) -> ResultSet:
    """Reads the folder of one finished run."""
    return _read_folders(folder, [folder], [], [])


def _read_folders(
    source: Path, folders: Iterable[Path], records: list[Mapping[str, Any]], problems: list[str]
) -> ResultSet:
    found = ResultSet(source, [], records, {}, {}, problems)
    codes, samples = dict[str, Files](), dict[str, list[float]]()
    for folder in folders:
        result = _object(folder / RESULT, problems)
        if result is None:
            continue
        run_id = folder.resolve().name
        if result.get("run_id") != run_id:
            problems.append(f"{folder / RESULT} is the result of run {result.get('run_id')}")
        config = _object(folder / CONFIG, problems) or {}
        circumstances = _object(folder / PROVENANCE, problems) or {}
        if files := kept_files(circumstances):
            codes[circumstances["code"]] = files
        found.rows.append(row(config, circumstances, {**result, "run_id": run_id}))
        samples[run_id] = _samples(folder / MEASUREMENT)
    return dataclasses.replace(found, codes=codes, samples_ms=samples)


def row(config: Mapping[str, Any], circumstances: Mapping[str, Any], result: Mapping[str, Any]) -> Row:
    """A run's files as one row; what is null is absent."""
    about = {provenance.PREFIX + name: told for name, told in circumstances.items() if name in provenance.NAMES}
    return {name: value for name, value in table.dotted({**config, **about, **result}).items() if value is not None}


def kept_files(circumstances: Mapping[str, Any]) -> Files:
    """The project files that a run's provenance names; none where it is older than that, or unfinished."""
    files = circumstances.get(provenance.FILES)
    return files if isinstance(files, dict) and circumstances.get("code") else {}


def sheet_codes(sheet: Mapping[str, Any]) -> dict[str, Files]:
    """Digest -> project files by a table's sheet; older sheets list digests alone."""
    codes = sheet.get("codes")
    return {code: files for code, files in codes.items() if files} if isinstance(codes, dict) else {}


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
    samples = (_object(path, []) or {}).get("samples_ms")
    return samples if isinstance(samples, list) and all(map(is_number, samples)) else []


def _object(path: Path, problems: list[str]) -> dict[str, Any] | None:
    """The JSON object in a file; None, and a problem, where there is none."""
    try:
        return read_object(path)
    except FileNotFoundError:
        problems.append(f"{path} is missing")
    except ValueError as error:
        problems.append(str(error))
    return None
