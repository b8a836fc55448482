"""Results as plain rows, from run folders or from a table alike: what `compare` and `verify` look at.

Reading refuses nothing. What can't be read is kept as a problem in words, so that a checker can list all of them.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from analysis import schema

Row = dict[str, Any]
"""Result fields, dotted configuration and `provenance.*`; what is empty or null is absent."""


@dataclasses.dataclass(frozen=True)
class ResultSet:
    """Rows that belong together.

    Attributes:
        source: the table, or the folder of runs.
        rows: finished runs in a folder; every row of a table.
        manifests: what the table's manifest says, or each grid's of a folder.
        samples_ms: run id -> times of single forward passes; a table has none.
        problems: what could not be read, in words.
    """

    source: Path
    rows: list[Row]
    manifests: list[Mapping[str, Any]]
    samples_ms: Mapping[str, list[float]]
    problems: list[str]


class ResultSetError(Exception):
    """There is nothing to look at."""


def read(path: Path) -> list[ResultSet]:
    """Reads a table, a folder of runs, or every table below a folder (such as `analysis/results`).

    Raises:
        ResultSetError: there is no such file, or no result in the folder.
    """
    if path.is_file():
        return [read_table(path)]
    if any(path.glob("*/result.json")):
        return [read_runs(path)]
    tables = sorted(path.rglob("*.csv"))
    if not tables:
        raise ResultSetError(f"no results in '{path}': neither run folders nor tables")
    return [read_table(table) for table in tables]


def read_table(path: Path) -> ResultSet:
    """Reads what `collect.py` wrote: `<device>.csv`, with `<device>.manifest.json` beside it."""
    problems: list[str] = []
    manifest = _object(path.with_suffix(".manifest.json"), problems)
    rows = []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.DictReader(file), start=1):
                if row.pop(None, None):
                    problems.append(f"{path} is not a table: row {number} has more cells than there are columns")
                rows.append({name: _value(name, text) for name, text in row.items() if text})
    except (csv.Error, UnicodeDecodeError) as error:
        problems.append(f"{path} is not a table: {error}")
    return ResultSet(path, rows, [manifest] if manifest else [], {}, problems)


def read_runs(folder: Path) -> ResultSet:
    """Reads every finished run below `folder`, whichever grid it belongs to."""
    problems: list[str] = []
    rows, samples = [], {}
    for path in sorted(folder.glob("*/result.json")):
        result = _object(path, problems)
        if result is None:
            continue
        if result.get("run_id") != path.parent.name:
            problems.append(f"{path} is the result of run {result.get('run_id')}")
        config = _object(path.with_name("config.json"), problems) or {}
        provenance = _object(path.with_name("provenance.json"), problems) or {}
        about = {schema.PROVENANCE_PREFIX + name: value for name, value in provenance.items()}
        fields = flat({**config, **about, **result, "run_id": path.parent.name})
        rows.append({name: value for name, value in fields.items() if value is not None})
        samples[path.parent.name] = _samples(path.with_name("measurement.json"))
    manifests = [found for path in sorted(folder.glob("*.grid.json")) if (found := _object(path, problems))]
    return ResultSet(folder, rows, manifests, samples, problems)


def flat(nested: Mapping[str, Any], prefix: str = "") -> Row:
    """Dotted names; an empty mapping is no name at all."""
    found: Row = {}
    for name, value in nested.items():
        found.update(flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value})
    return found


def configuration(row: Mapping[str, Any]) -> Row:
    """The fields of a row that were chosen, and not measured or found."""
    found = (*schema.IDENTITY, *schema.MEASURED, *schema.OPTIONAL)
    prefixes = (schema.PROVENANCE_PREFIX, *schema.FACTOR_PREFIXES)
    return {name: value for name, value in row.items() if name not in found and not name.startswith(prefixes)}


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
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        problems.append(f"{path} is missing")
        return None
    except ValueError as error:
        problems.append(f"{path} is not JSON: {error}")
        return None
    if not isinstance(value, dict):
        problems.append(f"{path} is not a JSON object")
        return None
    return value


def _value(name: str, text: str) -> Any:
    """A cell as `collect.py` wrote it: text stays text where the schema says so, else JSON where it is JSON."""
    if schema.kind(name) == "string" and name != "flags":
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text
