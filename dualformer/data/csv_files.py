"""CSV files that hold other people's names: written whole or not at all, harmless in a spreadsheet, read back exactly.

A spreadsheet takes a cell that begins with `=`, `+`, `-`, `@`, a tab or a line break for a formula and computes it, and
names of files and classes come from whoever made the data. Such a cell gets an apostrophe before it, as spreadsheets
themselves mark text, and loses it when it is read here.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from dualformer.data.files import DataError
from dualformer.results import files
from dualformer.results.files import plain


def write_csv(
    path: Path, columns: Sequence[str], rows: Iterable[Iterable[Any]], check: Callable[[Path], Any] | None = None
) -> None:
    """Writes a csv file as `dualformer.results.files.write_csv` does, and no cell that is a formula.

    Args:
        path: the file.
        columns: its header.
        rows: a value for each column.
        check: called with the file before it gets its name; what it raises is passed on, and nothing is replaced.

    Raises:
        RecordError: the file can't be written.
    """
    # Lines end as csv's own do: a cell with either character of it is quoted, so that it is read back as it was.
    files.write_csv(path, columns, rows, newline="\r\n", check=check)


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


def _line_not_utf8(path: Path) -> int:
    for number, line in enumerate(Path(path).read_bytes().split(b"\n"), 1):
        try:
            line.decode()
        except UnicodeDecodeError:
            return number
    return 1
