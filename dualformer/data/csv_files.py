"""CSV files that hold other people's names: written whole or not at all, harmless in a spreadsheet, read back exactly.

A spreadsheet takes a cell that begins with `=`, `+`, `-`, `@`, a tab or a line break for a formula and computes it, and
names of files and classes come from whoever made the data. Such a cell gets an apostrophe before it, as spreadsheets
themselves mark text, and loses it when it is read here.
"""

from __future__ import annotations

import csv
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from dualformer.data.files import DataError

_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")  # the last four are full-width forms, which count as well
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def inert(value: Any) -> str:
    """Returns the text of a cell, which no spreadsheet takes for a formula."""
    text = "" if value is None else str(value)
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def write_csv(
    path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]], check: Callable[[Path], Any] | None = None
) -> None:
    """Writes a csv file aside and renames it, so that there is all of it or what was there before.

    Args:
        path: the file.
        columns: its header.
        rows: a value for each column.
        check: called with the file before it gets its name; what it raises is passed on, and nothing is replaced.

    Raises:
        OSError: the file can't be written.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=".part", dir=path.parent or None)
    aside = Path(name)
    try:
        with open(handle, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            csv.writer(file).writerows([map(inert, row) for row in (columns, *rows)])
        if check:
            check(aside)
        aside.chmod(0o644)  # mkstemp lets nobody else read
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def read_csv(path: Path, needed: Iterable[str] = ()) -> tuple[tuple[str, ...], list[dict[str, str]]]:
    """Returns columns and rows of a csv file; what a row lacks is empty.

    Raises:
        DataError: it isn't UTF-8 or no csv, or lacks a column of `needed`.
        OSError: it can't be read.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            columns = tuple(reader.fieldnames or ())
            rows = [{name: plain(row[name]) for name in columns} for row in reader]
    except UnicodeDecodeError:
        raise DataError(f"{path}, line {_line_not_utf8(path)}: not UTF-8; write it anew in that encoding") from None
    except csv.Error as error:
        raise DataError(f"{path}: no csv file ({error})") from None
    if missing := set(needed) - set(columns):
        raise DataError(f"{path}: no column {' or '.join(sorted(missing))}; it has: {', '.join(columns) or 'none'}")
    return columns, rows


def plain(cell: str) -> str:
    """Returns what `inert` was given."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _line_not_utf8(path: Path) -> int:
    for number, line in enumerate(Path(path).read_bytes().split(b"\n"), 1):
        try:
            line.decode()
        except UnicodeDecodeError:
            return number
    return 1
