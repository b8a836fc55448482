"""Class names in their order: the files that give them, and finding them by name or number."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dualformer.data.files import DataError
from dualformer.data.formats.annotations import is_list_of, lines_of, read_json, read_text
from dualformer.data.formats.names import join, key
from dualformer.data.manifest import whole_number

_NAMES_SHOWN = 5


def read_classes(path: Path) -> tuple[str, ...]:
    """Reads class names in the order of their indices.

    The file is text with a name a line, or a name and its index (csv with a header such as `id,name`), or JSON: a list
    of names (or of a name's words, as Diving48 has them), or a mapping from name to index.

    Raises:
        DataError: not such a file, an index that is missing or given twice, a name given twice.
    """
    if path.suffix.lower() == ".json":
        return _classes_of_json(path, read_json(path))
    lines = [(number, line.strip()) for number, line in enumerate(read_text(path).splitlines(), 1) if line.strip()]
    header = [column.strip().lower() for column in lines[0][1].split(",")] if lines else []
    if path.suffix.lower() == ".csv" and len(header) == 2 and {"id", "index", "label_id"} & set(header):
        first = 0 if header[0] in ("id", "index", "label_id") else 1
        pairs = []
        for row in csv.reader(line for _, line in lines[1:]):
            pairs.append((row[1 - first] if len(row) == 2 else "", row[first] if row else ""))
        return _by_index(path, pairs)
    return _unique(path, [line for _, line in lines])


class Classes:
    """Class names in their order, found whatever their case, and whether words are joined by spaces or underscores."""

    def __init__(self, names: Sequence[str], counted_from_1: bool = False):
        self.names = tuple(names)
        self._hint = "; no label is 0: the list counts from 1, and must count from 0" if counted_from_1 else ""
        self._labels = {key(name): label for label, name in enumerate(self.names)}

    def index(self, name: str, place: str) -> int:
        """Label of a class by its name."""
        if key(name) not in self._labels:
            close = difflib.get_close_matches(name, self.names, n=1, cutoff=0.5)
            raise DataError(
                f"{place}: unknown class '{name}'" + (f"; did you mean '{close[0]}'?" if close else f"{self._some()}")
            )
        return self._labels[key(name)]

    def number(self, text: str, place: str, first: int = 0) -> int:
        """Label of a class by its number in text, counted from `first`."""
        last, number = first + len(self.names) - 1, whole_number(text)
        if number is None or not first <= number <= last:
            raise DataError(
                f"{place}: label {text} is out of range: {len(self.names)} classes, {first} to {last}{self._hint}"
            )
        return number - first

    def _some(self) -> str:
        return f"; there are {len(self.names)}, such as {join(self.names[:_NAMES_SHOWN])}"


def read_class_ind(path: Path) -> tuple[str, ...]:
    """Class names of a `classInd.txt`, whose lines are a number from 1 and a name."""
    pairs = []
    for place, line in lines_of(path):
        number, _, name = line.partition(" ")
        position = whole_number(number)
        if not position or not name:
            raise DataError(f"{place}: '{line}' is not a number from 1 and a class")
        pairs.append((name.strip(), str(position - 1)))
    return _by_index(path, pairs)


def _classes_of_json(path: Path, content: Any) -> tuple[str, ...]:
    if isinstance(content, dict):
        return _by_index(path, [(str(name), str(index)) for name, index in content.items()])
    if isinstance(content, list) and not is_list_of(dict, content):
        return _unique(path, [" ".join(map(str, name)) if isinstance(name, list) else str(name) for name in content])
    raise DataError(f"{path}: neither a JSON list of class names nor a mapping from name to index")


def _by_index(path: Path, pairs: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Names in the order of their indices, which must be 0, 1, ... without a gap."""
    names: dict[int, str] = {}
    for name, text in pairs:
        index = whole_number(text)
        if not name or index is None:
            raise DataError(f"{path}: class '{name}' has index '{text}', which is not a whole number")
        if index in names:
            raise DataError(f"{path}: classes '{names[index]}' and '{name}' have the same index {text}")
        names[index] = name.strip('"')
    if missing := sorted(set(range(len(names))) - names.keys()):
        raise DataError(f"{path}: {len(names)} classes, but none with index {missing[0]}, counted from 0")
    return _unique(path, [names[index] for index in sorted(names)])


def _unique(path: Path, names: Sequence[str]) -> tuple[str, ...]:
    keys: dict[str, str] = {}
    for name in names:
        if key(name) in keys:
            raise DataError(f"{path}: class '{name}' is given twice")
        keys[key(name)] = name
    if not names:
        raise DataError(f"{path}: no class names")
    return tuple(names)
