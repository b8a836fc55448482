"""Formats that go by paths: folders of classes, and plain lists."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from dualformer.data.files import VIDEO_SUFFIXES, DataError
from dualformer.data.formats.annotations import annotation_files, lines_of, split_of
from dualformer.data.formats.classes import Classes, read_classes
from dualformer.data.formats.clips import clip_at
from dualformer.data.formats.listing import Clip, Listing, Source
from dualformer.data.manifest import MOST_CLASSES, class_order, read_folders, whole_number

_PATH_HEADERS = frozenset(["path", "file", "filename", "video", "video_path", "video_name", "name"])


def folders(source: Source) -> Listing:
    """A folder per class, `class/**/clip`, optionally inside `train/`, `val/`, `test/`: see `manifest`."""
    if source.annotations:
        raise DataError(f"{source.annotations[0][1]}: folders has no annotations: the folders' names are the classes")
    manifest = read_folders(source.videos, source.rawframes or None)
    classes = Classes(read_classes(source.classes) if source.classes else manifest.classes)
    clips = (
        Clip(e.file, e.file, classes.index(manifest.classes[e.label], e.file), e.split, e.file)
        for e in manifest.entries
    )
    return Listing(classes.names, tuple(clips), notes=manifest.notes)


def plain_list(source: Source) -> Listing:
    """Text files with a line `path label` a clip; mmaction2's for frames are `folder num_frames label`.

    Separated by spaces, tabs or commas; paths may hold spaces, or stand in quotes; they are below the videos' folder or
    absolute, and may lack the suffix. Labels count from 0, or are class names; a first line such as `path,label` is a
    header. Without a file of classes they are named by their numbers. The split is that of the file: `train=FILE`, or
    as its name tells. Documented at mmaction2.readthedocs.io, "Prepare Dataset"; PySlowFast's `DATASET.md` has the same
    form for videos.
    """
    files = annotation_files(source, ".txt", ".csv", ".tsv", ".lst")
    rows = []
    for split, path in files:
        split = split_of(path, split)
        if split is None and len(files) > 1:
            raise DataError(f"{path}: which split is this? Its name doesn't tell; write train={path.name} or the like")
        rows += [(*row, split) for row in _list_rows(path, source)]
    numbered = [whole_number(label) is not None for _, _, label, _, _ in rows]
    if any(numbered) and not all(numbered):
        _, _, label, place, _ = rows[numbered.index(False)]
        raise DataError(f"{place}: label '{label}' is not a whole number from 0, as labels of other lines are")
    given = read_classes(source.classes) if source.classes else None
    if all(numbered):
        numbers = [number for _, _, label, _, _ in rows if (number := whole_number(label)) is not None]
        count = len(given) if given else 1 + max(numbers, default=-1)
        if count > MOST_CLASSES:
            place = rows[numbers.index(count - 1)][3]
            raise DataError(f"{place}: label {count - 1}, and there can be {MOST_CLASSES} classes")
        classes = Classes(given or [str(label) for label in range(count)], counted_from_1=0 not in numbers)
        labels = [classes.number(label, place) for _, _, label, place, _ in rows]
    else:
        classes = Classes(given or class_order({label for _, _, label, _, _ in rows}, files[0][1]))
        labels = [classes.index(label, place) for _, _, label, place, _ in rows]
    clips = (
        Clip(name, clip_at(source, name), label, split, place, frames=frames)
        for (name, frames, _, place, split), label in zip(rows, labels, strict=True)
    )
    return Listing(classes.names, tuple(clips))


def _list_rows(path: Path, source: Source) -> Iterator[tuple[str, int | None, str, str]]:
    """Name, frames, label as written, and place of each line of a list."""
    quoted = re.compile(r"""(?:"([^"]+)"|'([^']+)')[\s,]+(?:(\d+)[\s,]+)?(.+)""")
    for number, (place, line) in enumerate(lines_of(path)):
        if match := quoted.fullmatch(line):
            yield match[1] or match[2], int(match[3]) if match[3] else None, match[4], place
            continue
        separator = next((character for character in "\t," if character in line), None)
        parts = line.rsplit(separator, 2)
        name, label = line.removesuffix(parts[-1]).rstrip(f"{separator or ''} "), parts[-1].strip()
        if not name or not label:
            raise DataError(f"{place}: '{line}' is not PATH LABEL (separated by space, tab or comma)")
        if number == 0 and name.lower() in _PATH_HEADERS:
            continue
        if _has_frame_count(name, parts, source):
            yield parts[0].strip(), int(parts[1]), label, place
        else:
            yield name, None, label, place


def _has_frame_count(name: str, parts: Sequence[str], source: Source) -> bool:
    """Whether `folder 12 3` means 12 frames, and not a video whose name ends with a number after a space."""
    if len(parts) < 3 or not (parts[1].strip().isdecimal() and parts[2].strip().isdecimal()):
        return False
    if Path(name).suffix.lower() in VIDEO_SUFFIXES:
        return False
    return (source.videos / parts[0].strip()).is_dir() or clip_at(source, name) is None
