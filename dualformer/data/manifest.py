"""What is in a data set: which files, which labels, and which clips are held out.

A data set is of either form:

* a manifest, `manifest.csv` in a folder or a csv file anywhere, with columns `file` (path below the manifest's folder,
  or absolute) and `label` (class name). Optional columns: `split`; `class_index` (the class's place among all classes,
  from 0; classes are sorted by name without it); `group` and `sequence` (clips cut from one recording: never split
  apart); `factor_<name>` (a property of the class that is scored separately). Other columns are for people.
  `prepare` writes manifests from the formats in which data sets are published (see `formats`).
* a folder per class, `class/**/*.mp4`, optionally inside `train/` and `test/` (or `val/`).

A clip is a file, or a folder of its frames as numbered images; folders of classes hold the one kind or the other.

The split is the `split` column or folder where there is one. Else a share is held out: whole recordings where the
manifest names them, else clips of each class; which ones depends on names alone, so every machine draws the same.
"""

from __future__ import annotations

import dataclasses
import decimal
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dualformer.config import nearest
from dualformer.data.csv_files import read_csv
from dualformer.data.files import DataError, frame_folders, passed_over_note, video_files, visible_folders

MANIFEST_NAME = "manifest.csv"
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What a split may be called, in lower case, and its name here."""
MOST_CLASSES = 100_000
_MOST_DIGITS = 4000  # of a number that is a class; `1e999999999` would fill the memory
_FACTOR_PREFIX = "factor_"
_NUMERIC = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One labelled video.

    Attributes:
        file: path below the data set's folder, or absolute; of a file, or of a folder of images.
        label: index into the data set's classes.
        split: "train", "val", "test", or None where the data set leaves it open.
        recording: name of what the clip was cut from, None where unknown.
    """

    file: str
    label: int
    split: str | None = None
    recording: str | None = None


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A data set.

    Attributes:
        root: folder that holds the files of `entries`.
        classes: names; a label indexes them.
        entries: the clips.
        factors: by name, each class's value of that factor.
        notes: what else a person should know, a line each.
    """

    root: Path
    classes: tuple[str, ...]
    entries: tuple[Entry, ...]
    factors: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def split(self, name: str, holdout: float, fold: int = 0) -> tuple[Entry, ...]:
        """Returns the entries of "train" or "test" (a data set with a validation split only tests on that).

        Args:
            name: "train" or "test".
            holdout: share to hold out where the data set has no split of its own.
            fold: which share: folds 0, 1, ... hold out different clips, for cross-validation.

        Raises:
            DataError: a split without clips, a class without a training clip, too few clips to hold any out. A data set
                whose own split has nothing to train on can be tested on, with weights from elsewhere; it may lack clips
                of some classes.
        """
        if name not in ("train", "test"):
            raise DataError(f"unknown split '{name}'{nearest(name, ('train', 'test'))}")
        train, test = self._own_splits(name) if self.entries[0].split else self._held_out(holdout, fold)
        if train:
            self._check_trained(train, test)
        return train if name == "train" else test

    def _check_trained(self, train: Sequence[Entry], test: Sequence[Entry]) -> None:
        """Refuses what would be tested, or has a place among the classes, and is never learnt."""
        trained, listed = {entry.label for entry in train}, {entry.label for entry in self.entries}
        lacking = ({entry.label for entry in test} | set(range(len(self.classes))) - listed) - trained
        if lacking:
            names = shortened(self.classes[label] for label in sorted(lacking))
            hint = "" if lacking <= listed else "; data that is only tested on says so: split=test"
            raise DataError(f"{self.root}: no training clip of class {names}{hint}")

    def _own_splits(self, name: str) -> tuple[tuple[Entry, ...], tuple[Entry, ...]]:
        by_split = _grouped(self.entries, lambda entry: entry.split)
        train, test = by_split.get("train", []), by_split.get("test") or by_split.get("val", [])
        if not test or (not train and name == "train"):
            raise DataError(f"{self.root}: its split has {len(train)} clips to train and {len(test)} to test on")
        return tuple(train), tuple(test)

    def _held_out(self, holdout: float, fold: int) -> tuple[tuple[Entry, ...], tuple[Entry, ...]]:
        if all(entry.recording for entry in self.entries):
            recordings = _chosen({entry.recording for entry in self.entries if entry.recording}, holdout, fold)
            files = {entry.file for entry in self.entries if entry.recording in recordings}
        else:
            by_class = _grouped(self.entries, lambda entry: entry.label)
            files = set().union(*(_chosen({e.file for e in clips}, holdout, fold) for clips in by_class.values()))
        train = tuple(entry for entry in self.entries if entry.file not in files)
        test = tuple(entry for entry in self.entries if entry.file in files)
        if not train or not test:
            raise DataError(
                f"{self.root}: holding out {holdout:.0%} of {len(self.entries)} clips (fold {fold}) leaves "
                f"{len(train)} to train and {len(test)} to test on"
            )
        return train, test


def read_manifest(root: Path | str) -> Manifest:
    """Reads what a data set holds; opens no video.

    Args:
        root: its folder, or a manifest file.

    Raises:
        DataError: no such folder, no clips, missing columns or values, an unknown split, a file listed twice, a factor
            that differs within a class.
    """
    root = Path(root)
    if root.is_file():
        return _from_csv(root)
    if not root.is_dir():
        raise DataError(f"{root}: no such data set (neither a folder nor a manifest file)")
    if (root / MANIFEST_NAME).is_file():
        return _from_csv(root / MANIFEST_NAME)
    return read_folders(root)


def listed_files(folder: Path) -> list[str]:
    """Returns the files that the folder's manifest names, whatever else is in it; none without a manifest."""
    path = folder / MANIFEST_NAME
    return [row["file"] for row in read_csv(path, {"file"})[1] if row["file"]] if path.is_file() else []


def _from_csv(path: Path) -> Manifest:
    columns, rows = read_csv(path, {"file", "label"})
    for number, row in enumerate(rows, start=1):
        if not row["file"] or not row["label"]:
            raise DataError(f"{path}: row {number} lacks a file or a label")
    names = {row["label"] for row in rows}
    classes = _given_order(path, rows) if "class_index" in columns else class_order(names, path)
    labels = {name: label for label, name in enumerate(classes)}
    entries = tuple(
        Entry(
            file=row["file"],
            label=labels[row["label"]],
            split=_split_name(row["split"], path) if "split" in columns else None,
            recording=_recording(row),
        )
        for row in rows
    )
    notes = _notes(path, classes, {entry.label for entry in entries})
    return _checked(Manifest(path.parent, classes, entries, _factors(path, columns, rows, classes), notes))


def read_folders(root: Path, rawframes: bool | None = None) -> Manifest:
    """Reads class folders, or class folders inside split folders: `class/clip` or `split/class/clip`.

    Args:
        root: their folder.
        rawframes: whether clips are folders of images; None means where there are no videos.

    Raises:
        DataError: as `read_manifest`.
    """
    folders = visible_folders(root)
    splits = {name: SPLITS[name.lower()] for name in folders if name.lower() in SPLITS}
    # Classes may be called like splits, but hardly like the one to train on and another one.
    split_folders = bool(splits) and (len(splits) == len(folders) or {"train"} < set(splits.values()))
    depth = 2 if split_folders else 1
    parts, passed_over = _clips_below(root, depth, rawframes)
    if split_folders and (strays := {names[0] for names in parts.values()} - set(splits)):
        raise DataError(f"{root}: clips lie in {', '.join(sorted(splits))}, and in {min(strays)}, which is no split")
    classes = class_order({names[depth - 1] for names in parts.values()}, root)
    labels = {name: label for label, name in enumerate(classes)}
    entries = tuple(
        Entry(file, labels[names[depth - 1]], _split_name(names[0], root) if split_folders else None)
        for file, names in parts.items()
    )
    note = passed_over_note(root, passed_over)
    return _checked(Manifest(root, classes, entries, notes=(note,) if note else ()))


def _clips_below(root: Path, depth: int, rawframes: bool | None) -> tuple[dict[str, list[str]], Counter[str]]:
    """Each clip that lies `depth` folders down or deeper, with the parts of its path; and what was passed over."""
    passed_over: Counter[str] = Counter()
    files = [] if rawframes else video_files(root, passed_over)
    if rawframes or (not files and rawframes is None):
        passed_over.clear()
        files = frame_folders(root, depth + 1, passed_over)
    parts = {file: file.split("/") for file in files}
    inside = {file: names for file, names in parts.items() if len(names) > depth}
    if outside := len(parts) - len(inside):
        passed_over["in no folder of a class"] = outside
    return inside, passed_over


def _checked(manifest: Manifest) -> Manifest:
    if not manifest.entries:
        raise DataError(
            f"{manifest.root}: no clips; a data set is a folder with {MANIFEST_NAME}, or one folder of videos per class"
        )
    repeated = [file for file, same in _grouped(manifest.entries, lambda entry: entry.file).items() if len(same) > 1]
    if repeated:
        raise DataError(f"{manifest.root}: listed more than once: {', '.join(sorted(repeated)[:5])}")
    if len(manifest.classes) < 2:
        raise DataError(f"{manifest.root}: a single class ({manifest.classes[0]}): there is nothing to tell apart")
    return manifest


def class_order(names: Iterable[str], source: Path) -> tuple[str, ...]:
    """Returns class names sorted; those that are all numbers (`10`, `10.0`), by number.

    Raises:
        DataError: numbers that aren't whole, or two that are the same: nobody can say which index is meant.
    """
    names = set(names)
    if not names or not all(_NUMERIC.fullmatch(name) for name in names):
        return tuple(sorted(names))
    numbers: dict[int, str] = {}
    for name in sorted(names):
        if (number := _whole(name)) is None:
            raise DataError(
                f"{source}: classes are numbers, and '{name}' isn't whole; a column class_index says the order"
            )
        if (other := numbers.setdefault(number, name)) != name:
            raise DataError(f"{source}: classes '{other}' and '{name}' are the same number")
    return tuple(numbers[number] for number in sorted(numbers))


def whole_number(text: str) -> int | None:
    """Returns the whole number from 0 that a text is, else None; `3.0` is one: some programs know no integers."""
    number = _whole(text.strip())
    return None if number is None or number < 0 else number


def _whole(text: str) -> int | None:
    if not _NUMERIC.fullmatch(text):
        return None
    number = decimal.Decimal(text)
    if not number.is_finite() or number.adjusted() > _MOST_DIGITS or number != number.to_integral_value():
        return None
    return int(number)


def _given_order(path: Path, rows: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
    """Classes by the column `class_index`; a place without a clip has a name that says so."""
    names: dict[int, str] = {}
    indices: dict[str, int] = {}
    for number, row in enumerate(rows, start=1):
        text, name = row["class_index"], row["label"]
        index = whole_number(text)
        if index is None or index >= MOST_CLASSES:
            raise DataError(
                f"{path}: row {number}: class_index '{text}' is not a whole number from 0 to {MOST_CLASSES - 1}"
            )
        if names.setdefault(index, name) != name or indices.setdefault(name, index) != index:
            other = f"class {names[index]}" if names[index] != name else f"class_index {indices[name]}"
            raise DataError(f"{path}: row {number}: class {name} with class_index {index}, but an earlier row: {other}")
    return tuple(names.get(index, f"(class_index {index})") for index in range(max(names, default=-1) + 1))


def _notes(path: Path, classes: Sequence[str], labels: set[int]) -> tuple[str, ...]:
    absent = [name for label, name in enumerate(classes) if label not in labels]
    if not absent:
        return ()
    return (f"{path}: no clip of {len(absent)} of {len(classes)} classes: {shortened(absent)}",)


def shortened(names: Iterable[str], shown: int = 5) -> str:
    """Returns the first few names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{', '.join(names[:shown])}{more}"


def _split_name(written: str, source: Path) -> str:
    if written.lower() not in SPLITS:
        raise DataError(f"{source}: unknown split '{written}'{nearest(written, SPLITS)}")
    return SPLITS[written.lower()]


def _recording(row: Mapping[str, str]) -> str | None:
    names = [row[column] for column in ("group", "sequence") if row.get(column)]
    return "/".join(names) or None


def _factors(
    path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, str]], classes: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    factors = {}
    for column in (column for column in columns if column.startswith(_FACTOR_PREFIX)):
        values = {name: {row[column] for row in rows if row["label"] == name} for name in classes}
        if mixed := [name for name, seen in values.items() if len(seen) > 1]:
            raise DataError(f"{path}: {column} differs within class {', '.join(mixed)}")
        factors[column.removeprefix(_FACTOR_PREFIX)] = tuple(next(iter(values[name]), "") for name in classes)
    return factors


def _chosen(names: Iterable[str], share: float, fold: int) -> set[str]:
    """The share of names that a fold holds out: a slice of their order by hash. One name alone is never held out."""
    order = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    if len(order) < 2:
        return set()
    size = min(max(round(share * len(order)), 1), len(order) - 1)
    return {order[position % len(order)] for position in range(fold * size, (fold + 1) * size)}


def _grouped(entries: Iterable[Entry], key: Callable[[Entry], Any]) -> dict[Any, list[Entry]]:
    groups: dict[Any, list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[key(entry)].append(entry)
    return groups
