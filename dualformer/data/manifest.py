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

import csv
import dataclasses
import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from dualformer.config import nearest

MANIFEST_NAME = "manifest.csv"
VIDEO_SUFFIXES = frozenset(
    [".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv"]
)
IMAGE_SUFFIXES = frozenset([".jpeg", ".jpg", ".png"])
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What a split may be called, in lower case, and its name here."""
_FACTOR_PREFIX = "factor_"


class DataError(ValueError):
    """A data set that can't be used as it is."""


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
    """A data set: `root` holds the `entries`' files; `factors` gives, by name, each class's value of that factor."""

    root: Path
    classes: tuple[str, ...]
    entries: tuple[Entry, ...]
    factors: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    def split(self, name: str, holdout: float, fold: int = 0) -> tuple[Entry, ...]:
        """Returns the entries of "train" or "test" (a data set with a validation split only tests on that).

        Args:
            name: "train" or "test".
            holdout: share to hold out where the data set has no split of its own.
            fold: which share: folds 0, 1, ... hold out different clips, for cross-validation.

        Raises:
            DataError: a split without clips, a class without a training clip, too few clips to hold any out. A data set
                whose own split has nothing to train on can be tested on, with weights from elsewhere.
        """
        if name not in ("train", "test"):
            raise DataError(f"unknown split '{name}'{nearest(name, ('train', 'test'))}")
        train, test = self._own_splits(name) if self.entries[0].split else self._held_out(holdout, fold)
        trained = {entry.label for entry in train}
        untrained = sorted({self.classes[entry.label] for entry in test if entry.label not in trained})
        if train and untrained:
            raise DataError(f"{self.root}: no training clip of class {', '.join(untrained)}")
        return train if name == "train" else test

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


def video_files(folder: Path) -> list[str]:
    """Returns the paths below `folder` of everything named like a video, sorted. Links to folders are followed."""
    found, pending = list[str](), [""]
    seen: set[tuple[int, int]] = set()
    while pending:
        below = pending.pop()
        for name, is_folder in _listing(folder / below, seen):
            if Path(name).suffix.lower() in VIDEO_SUFFIXES:
                found.append(below + name)
            elif is_folder:
                pending.append(f"{below}{name}/")
    return sorted(found)


def is_frame(name: str) -> bool:
    """Whether a file in a folder of images is a frame: `flow_x_00001.jpg` beside it is its optical flow."""
    return Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.lower().startswith("flow_")


def frame_folders(folder: Path, depth: int = 1) -> list[str]:
    """Returns the paths of the folders below `folder` that hold frames, sorted: each is a clip.

    What lies deeper inside of such a folder is not looked at, nor are more of its images than the first.

    Args:
        folder: where to look.
        depth: how far below it clips begin: 2 means inside of its folders.
    """
    found, pending = list[str](), [""]
    seen: set[tuple[int, int]] = set()
    while pending:
        below = pending.pop()
        folders = []
        for name, is_folder in _listing(folder / below, seen):
            if below.count("/") >= depth and not is_folder and is_frame(name):
                found.append(below.removesuffix("/"))
                break
            if is_folder:
                folders.append(f"{below}{name}/")
        else:
            pending += folders
    return sorted(found)


def _listing(folder: Path, seen: set[tuple[int, int]]) -> Iterator[tuple[str, bool]]:
    """Names in a folder and whether they are folders; nothing where `seen` has it, which links can lead back to."""
    status = os.stat(folder)
    place = status.st_dev, status.st_ino
    if place in seen:
        return
    seen.add(place)
    with os.scandir(folder) as entries:
        for entry in entries:
            yield entry.name, entry.is_dir()


def listed_files(folder: Path) -> list[str]:
    """Returns the files that the folder's manifest names, whatever else is in it; none without a manifest."""
    path = folder / MANIFEST_NAME
    return [row["file"] for row in _rows(path, {"file"})[1] if row["file"]] if path.is_file() else []


def _from_csv(path: Path) -> Manifest:
    columns, rows = _rows(path, {"file", "label"})
    for number, row in enumerate(rows, start=1):
        if not row["file"] or not row["label"]:
            raise DataError(f"{path}: row {number} lacks a file or a label")
    names = {row["label"] for row in rows}
    classes = _given_order(path, rows) if "class_index" in columns else _class_order(names)
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
    return _checked(Manifest(path.parent, classes, entries, _factors(path, columns, rows, classes)))


def _rows(path: Path, needed: set[str]) -> tuple[tuple[str, ...], list[dict[str, str]]]:
    """Columns and rows of a CSV file that must have the `needed` columns."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, restval="")
        columns, rows = tuple(reader.fieldnames or ()), list(reader)
    if missing := needed - set(columns):
        raise DataError(f"{path}: no column {' or '.join(sorted(missing))}; it has: {', '.join(columns) or 'none'}")
    return columns, rows


def read_folders(root: Path, rawframes: bool | None = None) -> Manifest:
    """Reads class folders, or class folders inside split folders: `class/clip` or `split/class/clip`.

    Args:
        root: their folder.
        rawframes: whether clips are folders of images; None means where there are no videos.

    Raises:
        DataError: as `read_manifest`.
    """
    folders = sorted(path.name for path in root.iterdir() if path.is_dir())
    splits = {name: SPLITS[name.lower()] for name in folders if name.lower() in SPLITS}
    # Classes may be called like splits, but hardly like the one to train on and another one.
    split_folders = bool(splits) and (len(splits) == len(folders) or {"train"} < set(splits.values()))
    depth = 2 if split_folders else 1
    files = [] if rawframes else video_files(root)
    if rawframes or (not files and rawframes is None):
        files = frame_folders(root, depth + 1)
    parts = {file: file.split("/") for file in files}
    parts = {file: names for file, names in parts.items() if len(names) > depth}
    if split_folders and (strays := {names[0] for names in parts.values()} - set(splits)):
        raise DataError(f"{root}: clips lie in {', '.join(sorted(splits))}, and in {min(strays)}, which is no split")
    classes = _class_order({names[depth - 1] for names in parts.values()})
    labels = {name: label for label, name in enumerate(classes)}
    entries = tuple(
        Entry(file, labels[names[depth - 1]], _split_name(names[0], root) if split_folders else None)
        for file, names in parts.items()
    )
    return _checked(Manifest(root, classes, entries))


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


def _class_order(names: Iterable[str]) -> tuple[str, ...]:
    """Sorted by name; class names that are all numbers, by number."""
    names = set(names)
    return tuple(sorted(names, key=int if all(name.isdecimal() for name in names) else str))


def _given_order(path: Path, rows: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
    """Classes by the column `class_index`."""
    names: dict[int, str] = {}
    indices: dict[str, int] = {}
    for number, row in enumerate(rows, start=1):
        text, name = row["class_index"], row["label"]
        if not text.isdecimal():
            raise DataError(f"{path}: row {number}: class_index '{text}' is not a whole number from 0")
        index = int(text)
        if names.setdefault(index, name) != name or indices.setdefault(name, index) != index:
            other = f"class {names[index]}" if names[index] != name else f"class_index {indices[name]}"
            raise DataError(f"{path}: row {number}: class {name} with class_index {index}, but an earlier row: {other}")
    if missing := [index for index in range(max(names, default=-1)) if index not in names]:
        raise DataError(f"{path}: no clip of class_index {', '.join(map(str, missing[:5]))}, the largest: {max(names)}")
    return tuple(names[index] for index in sorted(names))


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
        factors[column.removeprefix(_FACTOR_PREFIX)] = tuple(next(iter(values[name])) for name in classes)
    return factors


def _chosen(names: Iterable[str], share: float, fold: int) -> set[str]:
    """The share of names that a fold holds out: a slice of their order by hash. One name alone is never held out."""
    order = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    if len(order) < 2:
        return set()
    size = min(max(round(share * len(order)), 1), len(order) - 1)
    return {order[position % len(order)] for position in range(fold * size, (fold + 1) * size)}


_Key = TypeVar("_Key", bound=Hashable)


def _grouped(entries: Iterable[Entry], key: Callable[[Entry], _Key]) -> dict[_Key, list[Entry]]:
    groups: dict[_Key, list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[key(entry)].append(entry)
    return groups
