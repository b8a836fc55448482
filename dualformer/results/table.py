"""A results table as a file: `<grid>/<device>.csv` with its sheet `<device>.manifest.json` beside it.

Cells are empty for null, JSON for numbers, booleans and lists, else text. Tables that other programs saved again are
read alike (`False` for false, `8.0` for 8).
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dualformer.config import flatten
from dualformer.results import provenance, result
from dualformer.results.fields import Field
from dualformer.results.files import plain, write_csv, write_json
from dualformer.results.layout import SHEET

Row = dict[str, Any]
"""Result fields, dotted configuration and `provenance.*`."""


def dotted(nested: Mapping[str, Any]) -> Row:
    """Dotted names of nested values; an empty mapping is no name at all."""
    return {name: value for name, value in flatten(nested).items() if value != {}}


def sheet_path(table: Path) -> Path:
    return table.with_name(table.stem + SHEET)


def field(column: str) -> Field | None:
    """What a column holds, None where that is a field of the configuration."""
    if result.is_factor(column):
        return Field(name=column, type=float, kind="learned", unit="fraction", optional=True)
    return result.fields().get(column) or provenance.find(column)


def configuration(row: Mapping[str, Any]) -> Row:
    """The fields of a row that were chosen, and not measured or found."""
    measured = result.fields()
    prefixes = (provenance.PREFIX, *result.FACTOR_PREFIXES)
    return {name: value for name, value in row.items() if name not in measured and not name.startswith(prefixes)}


def columns(rows: Iterable[Row]) -> list[str]:
    """Column order: fields of results, factors, configuration, provenance; sorted where nothing else rules."""
    found = {name for row in rows for name in row}
    fixed = list(result.fields())
    circumstances = [circumstance.column for circumstance in provenance.CIRCUMSTANCES]
    factors = sorted(filter(result.is_factor, found))
    return [*fixed, *factors, *sorted(found - {*fixed, *factors, *circumstances}), *circumstances]


def lacking(columns: Iterable[str]) -> list[str]:
    """Returns the columns that every table must have and this one hasn't."""
    found = set(columns)
    return [name for name, field in result.fields().items() if not field.optional and name not in found]


def write(path: Path, rows: list[Row], sheet: Mapping[str, Any]) -> None:
    """Writes a table and its sheet, to which its seal is added (`rows_sha256`), each whole or not at all.

    Raises:
        RecordError: a file could not be written.
    """
    names = columns(rows)
    write_csv(path, names, ([_cell(row.get(name)) for name in names] for row in rows))
    written = io.StringIO(path.read_text(encoding="utf-8"), newline="")
    sealed = seal(_parsed(cells) for cells in csv.DictReader(written))
    write_json(sheet_path(path), {**sheet, "rows_sha256": sealed})


def read_rows(path: Path) -> tuple[list[Row], list[str]]:
    """Returns the rows of a table, what is empty being absent, and what is wrong with the file, in words.

    Raises:
        OSError: it can't be opened.
    """
    problems: list[str] = []
    rows: list[Row] = []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            reader.fieldnames = [plain(name) for name in reader.fieldnames or ()]
            if absent := lacking(reader.fieldnames or ()):
                problems.append(f"{path} lacks the column(s) {', '.join(absent)}")
            for number, cells in enumerate(reader, start=1):
                if cells.pop(None, None):
                    problems.append(f"{path} is not a table: row {number} has more cells than there are columns")
                rows.append(_parsed(cells))
    except (csv.Error, UnicodeDecodeError) as error:
        problems.append(f"{path} is not a table: {error}")
    return rows, problems


def _parsed(cells: Mapping[str, str | None]) -> Row:
    return {name: value(name, text) for name, text in cells.items() if text}


def value(column: str, text: str) -> Any:
    """What a cell says: text where the column holds text, else JSON where it is JSON."""
    text, about = plain(text), field(column)
    if about and about.type is str:
        return text
    try:
        found = json.loads({"True": "true", "False": "false"}.get(text, text))
    except ValueError:
        return text
    if about and about.type is int and isinstance(found, float) and found.is_integer():
        return int(found)
    return found


def _home() -> str:
    """The user's home folder, "" where there is none (no HOME, and a uid without a name)."""
    try:
        return str(Path.home())
    except RuntimeError:
        return ""


def whole(value: Any) -> Any:
    """8.0 is 8, as some programs save it."""
    if isinstance(value, list):
        return [whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def seal(rows: Iterable[Mapping[str, Any]]) -> str:
    """SHA-256 over every cell of a table, in whichever order, numbers to 12 digits.

    It shows that a cell was changed after the table was made, by accident or by someone who left the sheet alone; it
    proves nothing about who made both.
    """
    lines = sorted(json.dumps({name: _sealed(value) for name, value in row.items()}, sort_keys=True) for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _sealed(value: Any) -> Any:
    """A value as any program that saved the table again would have kept it."""
    if isinstance(value, list):
        return [_sealed(item) for item in value]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:.12g}" if is_number else value


def _cell(value: Any) -> Any:
    """A value as text: one line, and `~` for the home folder."""
    if value is None:
        return ""
    if isinstance(value, str):
        return " ".join((value.replace(home, "~") if (home := _home()) else value).split())
    return json.dumps(value)
