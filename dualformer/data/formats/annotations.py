"""Files of annotations as text, csv and JSON, with the place of each entry for messages; which split they are of."""

from __future__ import annotations

import csv
import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dualformer.config import nearest
from dualformer.data.files import DataError, is_hidden
from dualformer.data.formats.listing import Source
from dualformer.data.formats.names import join
from dualformer.data.manifest import SPLITS
from dualformer.results.files import parse

FIRST_FOLD = 1


def annotation_files(source: Source, *suffixes: str) -> list[tuple[str | None, Path]]:
    """The annotation files, those of folders by suffix, sorted by name."""
    found = []
    for split, path in source.annotations:
        inside = [path]
        if path.is_dir():
            inside = sorted(f for f in path.iterdir() if f.suffix.lower() in suffixes and not is_hidden(f.name))
        if not inside:
            raise DataError(f"{path}: no {' or '.join(suffixes)} files in this folder")
        found += [(split, file) for file in inside]
    if not found:
        raise DataError(f"no annotations given: this format needs {' or '.join(suffixes)} files")
    return found


def split_of(path: Path, given: str | None) -> str | None:
    """The split of all clips of a file: as given, else as its name tells."""
    words = re.split(r"[^a-z]+", path.stem.lower())
    named = {SPLITS[word] for word in words if word in SPLITS}
    return given or (named.pop() if len(named) == 1 else None)


def split_named(written: str | None, place: str) -> str | None:
    """The split that an annotation's own word for it means; None where it has none."""
    if written is not None and written.lower() not in SPLITS:
        raise DataError(f"{place}: unknown split '{written}'{nearest(written, SPLITS)}")
    return SPLITS[written.lower()] if written else None


def of_fold(lists: Mapping[tuple[str, int], Path], name: str, fold: int, wanted: str) -> Path:
    """The file of a fold; where there is none, the error names those of other folds."""
    if (name, fold) in lists:
        return lists[name, fold]
    others = sorted(f"{path.name} is of fold {other}" for (kind, other), path in lists.items() if kind == name)
    raise DataError("; ".join([f"no {wanted} among the annotations, which fold {fold} needs", *others]))


def csv_rows(path: Path) -> tuple[tuple[str, ...], Iterator[tuple[str, dict[str, str]]]]:
    """Columns, and the rows with their places, of a csv file with a header."""
    reader = csv.DictReader(read_text(path).splitlines(keepends=True))
    columns = tuple(name.strip() for name in reader.fieldnames or ())
    reader.fieldnames = columns

    def rows() -> Iterator[tuple[str, dict[str, str]]]:
        for row in reader:
            place = f"{path.name}, line {reader.line_num}"
            if None in row or None in row.values():
                count = sum(value is not None for value in row.values()) + len(row.get(None, [None])) - 1
                raise DataError(f"{place}: {count} columns, the header has {len(columns)}: {join(columns)}")
            yield place, {column: value.strip() for column, value in row.items()}

    return columns, rows()


def wrong_columns(path: Path, missing: set[str], columns: Sequence[str]) -> str:
    """What to say of a csv file without columns that its format has."""
    name = min(missing)
    close = difflib.get_close_matches(name, columns, n=1, cutoff=0.5)
    hint = f"; is it '{close[0]}'?" if close else ""
    return f"{path}, line 1: no column {' or '.join(sorted(missing))}{hint} It has: {join(columns) or 'nothing'}"


def entries(path: Path, content: Any, *fields: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place and content of the entries of a JSON list, each of which must have these fields."""
    if not isinstance(content, list):
        raise DataError(f"{path}: a JSON list of clips is expected, this is a {type(content).__name__}")
    for number, entry in enumerate(content, 1):
        place = f"{path.name}, entry {number}"
        if not isinstance(entry, dict):
            raise DataError(f"{place}: {json.dumps(entry)[:60]} is not a mapping with {join(fields)}")
        if missing := [field for field in fields if field not in entry]:
            raise DataError(f"{place}: no '{missing[0]}'; it has: {join(entry)}")
        yield place, entry


def read_json(path: Path) -> Any:
    """What a JSON file holds."""
    try:
        return parse(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not valid JSON: {error.msg}") from None
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON: {error}") from None


def lines_of(path: Path) -> list[tuple[str, str]]:
    """Place and text of the lines that aren't empty."""
    lines = enumerate(read_text(path).splitlines(), 1)
    return [(f"{path.name}, line {number}", line.strip()) for number, line in lines if line.strip()]


def read_text(path: Path) -> str:
    """The text of a file in UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file (byte {error.start} isn't UTF-8)") from None
    except IsADirectoryError:
        raise DataError(f"{path}: a folder, where a file is expected") from None


def is_list_of(kind: type | tuple[type, ...], content: Any) -> bool:
    """Whether what a JSON file holds is a list that begins with an element of that type."""
    return isinstance(content, list) and bool(content) and isinstance(content[0], kind)
