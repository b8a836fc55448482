"""What a published data set lists: which clips, which classes in which order, which split; one parser per format.

`list_clips` reads annotations only and opens no video. A format is a function in `FORMATS`, whose docstring tells what
its files look like and where that is documented. All of them find clips by name in the folder of the videos, whatever
folders lie between and whatever the suffix, except `list` and `folders`, which go by paths. With `rawframes` a clip is
a folder with at least one image directly in it, named as the video would be without its suffix.

Labels count from 0, in the order that the data set's own files give, or else in alphabetical order: the order that
released weights follow.
"""

from __future__ import annotations

import csv
import dataclasses
import difflib
import json
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dualformer.config import nearest
from dualformer.data.files import (
    VIDEO_SUFFIXES,
    DataError,
    frame_folders,
    is_hidden,
    likely_place,
    passed_over_note,
    same_in_unicode,
    video_files,
)
from dualformer.data.manifest import MOST_CLASSES, SPLITS, class_order, read_folders, shortened, whole_number
from dualformer.results.files import parse

_FIRST_FOLD = 1
_NAMES_SHOWN = 5
_PATH_HEADERS = frozenset(["path", "file", "filename", "video", "video_path", "video_name", "name"])


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a data set lies.

    Attributes:
        videos: folder of its clips.
        annotations: files, or folders of them, each with the split that all of its clips are in; None where the
            file's content or name tells.
        classes: file of class names, in the order of their indices (see `read_classes`).
        fold: which of the official splits, from 1, for formats that have several; None means the first.
        rawframes: whether clips are folders of images.
    """

    videos: Path
    annotations: tuple[tuple[str | None, Path], ...] = ()
    classes: Path | None = None
    fold: int | None = None
    rawframes: bool = False


@dataclasses.dataclass(frozen=True)
class Clip:
    """One clip as it is listed.

    Attributes:
        name: what the annotations call it.
        file: path below the videos' folder, or absolute; None where it isn't there.
        label: index into the classes.
        split: "train", "val", "test", or None where nothing tells.
        place: file and line of the annotations, for messages.
        recording: name of what it was cut from, None where unknown.
        frames: how many it should have, None where unknown.
    """

    name: str
    file: str | None
    label: int
    split: str | None
    place: str
    recording: str | None = None
    frames: int | None = None


@dataclasses.dataclass(frozen=True)
class Listing:
    """All clips of a data set.

    Attributes:
        classes: names, in the order of their indices.
        clips: as they are listed.
        unlabelled: how many are listed without a label, for a hidden test.
        notes: what else a person should know, a line each.
    """

    classes: tuple[str, ...]
    clips: tuple[Clip, ...]
    unlabelled: int = 0
    notes: tuple[str, ...] = ()

    @property
    def only_tested(self) -> bool:
        """Whether no clip is there to train on, so that classes may lack clips."""
        return all(clip.split in ("val", "test") for clip in self.clips)


def list_clips(name: str, source: Source) -> Listing:
    """Reads what a data set lists.

    Args:
        name: of a format, a key of `FORMATS`.
        source: where it lies.

    Raises:
        DataError: unknown format, missing folder or file, no annotations of this format or of this fold, a line that
            isn't as the format has it, an unknown class or a label out of range, an empty list, a clip listed twice or
            in two splits, no clip found at all, a class without a clip in data that is trained on.
    """
    if name not in FORMATS:
        raise DataError(f"unknown format '{name}'{nearest(name, FORMATS)}")
    if not source.videos.is_dir():
        raise DataError(f"{source.videos}: no such folder{_close_names(source.videos, folders=True)}")
    for path in [*(path for _, path in source.annotations), *([source.classes] if source.classes else [])]:
        if not path.exists():
            raise DataError(f"{path}: no such file{_close_names(path)}")
    if source.fold is not None and name not in FOLDS:
        raise DataError(f"{name} has a single split, so fold {source.fold} means nothing; with folds: {_join(FOLDS)}")
    if source.fold is not None and not 1 <= source.fold <= FOLDS[name]:
        raise DataError(f"{name} has no fold {source.fold}; it has 1 to {FOLDS[name]}")
    return _checked(FORMATS[name](source), source)


def read_classes(path: Path) -> tuple[str, ...]:
    """Reads class names in the order of their indices.

    The file is text with a name a line, or a name and its index (csv with a header such as `id,name`), or JSON: a list
    of names (or of a name's words, as Diving48 has them), or a mapping from name to index.

    Raises:
        DataError: not such a file, an index that is missing or given twice, a name given twice.
    """
    if path.suffix.lower() == ".json":
        return _classes_of_json(path, _json(path))
    lines = [(number, line.strip()) for number, line in enumerate(_text(path).splitlines(), 1) if line.strip()]
    header = [column.strip().lower() for column in lines[0][1].split(",")] if lines else []
    if path.suffix.lower() == ".csv" and len(header) == 2 and {"id", "index", "label_id"} & set(header):
        first = 0 if header[0] in ("id", "index", "label_id") else 1
        pairs = []
        for row in csv.reader(line for _, line in lines[1:]):
            pairs.append((row[1 - first] if len(row) == 2 else "", row[first] if row else ""))
        return _by_index(path, pairs)
    return _unique(path, [line for _, line in lines])


def kinetics(source: Source) -> Listing:
    """Kinetics-400, -600 and -700: the csv files of the data set's authors.

    Columns `label,youtube_id,time_start,time_end,split`, in some files also `is_cc`; a clip's file is named
    `{youtube_id}_{time_start:06d}_{time_end:06d}`, or without the zeros, flat or in folders by class (spaces or
    underscores) and by split. Test files of some releases have no labels; those clips are left out. Papers report the
    validation split, so leave a labelled test file out to score what they score. Classes are in alphabetical order.
    Documented at github.com/cvdfoundation/kinetics-dataset; file names as in ActivityNet's Kinetics crawler.
    """
    rows, unlabelled = [], 0
    for split, path in _files(source, ".csv"):
        columns, lines = _csv(path)
        if missing := {"youtube_id", "time_start", "time_end"} - set(columns):
            raise DataError(_wrong_columns(path, missing, columns))
        if "label" not in columns and _split_of(path, split) != "test":
            raise DataError(_wrong_columns(path, {"label"}, columns))
        for place, row in lines:
            written = split or row.get("split") or _split_of(path, split)
            if not row.get("label"):
                if written is None or _split(written, place) != "test":
                    raise DataError(f"{place}: no label")
                unlabelled += 1
                continue
            times = [_seconds(row[column], column, place) for column in ("time_start", "time_end")]
            rows.append((row["label"].strip('"'), row["youtube_id"], times, _split(written, place), place))
    classes = _Classes(read_classes(source.classes) if source.classes else sorted({label for label, *_ in rows}))
    tree, clips = _Tree(source), []
    for label, youtube_id, (start, end), split, place in rows:
        name = f"{youtube_id}_{start:06d}_{end:06d}"
        file = tree.find(place, name, label, split) or tree.find(place, f"{youtube_id}_{start}_{end}", label, split)
        clips.append(Clip(name, file, classes.index(label, place), split, place, recording=youtube_id))
    return Listing(classes.names, tuple(clips), unlabelled)


def folders(source: Source) -> Listing:
    """A folder per class, `class/**/clip`, optionally inside `train/`, `val/`, `test/`: see `manifest`."""
    if source.annotations:
        raise DataError(f"{source.annotations[0][1]}: folders has no annotations: the folders' names are the classes")
    manifest = read_folders(source.videos, source.rawframes or None)
    classes = _Classes(read_classes(source.classes) if source.classes else manifest.classes)
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
    files = _files(source, ".txt", ".csv", ".tsv", ".lst")
    rows = []
    for split, path in files:
        split = _split_of(path, split)
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
        classes = _Classes(given or [str(label) for label in range(count)], counted_from_1=0 not in numbers)
        labels = [classes.number(label, place) for _, _, label, place, _ in rows]
    else:
        classes = _Classes(given or class_order({label for _, _, label, _, _ in rows}, files[0][1]))
        labels = [classes.index(label, place) for _, _, label, place, _ in rows]
    clips = (
        Clip(name, _at(source, name), label, split, place, frames=frames)
        for (name, frames, _, place, split), label in zip(rows, labels, strict=True)
    )
    return Listing(classes.names, tuple(clips))


def something_something_v2(source: Source) -> Listing:
    """Something-Something V2: JSON lists of clips, and a JSON mapping from class to index.

    A clip is `{"id", "label", "template", "placeholders"}`; its class is the template without its brackets, its file
    `{id}.webm`. The test list has ids only; those clips are left out, unless `test-answers.csv` (lines `id;class`, in
    later downloads) is given as well. Papers report the validation split. Files are told apart by content and name
    (`something-something-v2-train.json`, or `train.json` in later downloads). Documented in the data set's technical
    report, "Moving Objects Dataset: Something-Something v. 2", at its download page.
    """
    lists, mapping = [], source.classes
    answers: dict[str, str] = {}
    for split, path in _files(source, ".json", ".csv"):
        if "answers" in path.name:
            answers |= {line.split(";", 1)[0]: line.split(";", 1)[1] for _, line in _lines(path) if ";" in line}
            continue
        content = _json(path)
        if isinstance(content, dict):
            mapping = path
        else:
            lists.append((_split_of(path, split), path, content))
    if mapping is None:
        raise DataError(f"{_join(path.name for _, path, _ in lists)}: no JSON mapping from class to index among them")
    classes, clips, unlabelled, tree = _Classes(read_classes(mapping)), [], 0, _Tree(source)
    for split, path, content in lists:
        for place, entry in _entries(path, content, "id"):
            if split is None:
                raise DataError(f"{path}: which split is this? Its name doesn't tell; write train={path.name} or alike")
            name = str(entry["id"])
            template = entry.get("template", answers.get(name))
            if template is None:
                if split != "test":
                    raise DataError(f"{place}: no 'template'; it has: {_join(entry)}")
                unlabelled += 1
                continue
            label = classes.index(re.sub(r"[\[\]]", "", str(template)), place)
            clips.append(Clip(name, tree.find(place, name, split), label, split, place))
    return Listing(classes.names, tuple(clips), unlabelled)


def ucf101(source: Source) -> Listing:
    """UCF101: `trainlist01.txt` and `testlist01.txt` of one of three splits, and `classInd.txt`.

    Lines are `Class/v_Class_g08_c01.avi 1` to train on and without the number to test on; numbers count from 1, as in
    `classInd.txt` (`1 Class`). Clips of a group (`g08`) come from one recording. Documented at
    crcv.ucf.edu/data/UCF101.php.
    """
    fold, index_file, lists = source.fold or _FIRST_FOLD, None, {}
    for _, path in _files(source, ".txt"):
        if path.name.lower() == "classind.txt":
            index_file = path
        elif match := re.fullmatch(r"(train|test)list(\d+)\.txt", path.name.lower()):
            lists[match[1], int(match[2])] = path
    chosen = {split: _of_fold(lists, split, fold, f"{split}list{fold:02d}.txt") for split in ("train", "test")}
    if source.classes:
        classes = _Classes(read_classes(source.classes))
    elif index_file:
        classes = _Classes(_class_ind(index_file))
    else:
        raise DataError(f"{chosen['train'].parent}: no classInd.txt among the annotations, and no file of classes")
    tree, clips = _Tree(source), []
    for split, path in chosen.items():
        for place, line in _lines(path):
            name, number = re.findall(r"^(.*?)(?:\s+(\d+))?$", line)[0]
            folder, slash, file_name = name.rpartition("/")
            if not slash:
                raise DataError(f"{place}: '{line}' is not Class/file.avi")
            label = classes.index(folder.rpartition("/")[2], place)
            if number and classes.number(number, place, first=1) != label:
                raise DataError(f"{place}: {number} is class {classes.names[int(number) - 1]}, the folder is {folder}")
            stem = _stem(file_name)
            group = re.search(r"(_g\d+)_c\d+$", stem)
            recording = f"{folder}{group[1]}" if group else None
            file = tree.find(place, stem, folder)
            if file is None and group:  # some copies spell HandStandPushups as its folder
                file = tree.find(place, f"v_{folder}{group[0]}", folder)
            clips.append(Clip(name, file, label, split, place, recording))
    return Listing(classes.names, tuple(clips))


def hmdb51(source: Source) -> Listing:
    """HMDB51: a file `{class}_test_split{1,2,3}.txt` per class and split.

    Lines are `file.avi N`: 1 to train on, 2 to test on, 0 not in this split. Names begin with the film that the clip
    was cut from, `{film}_{class}_...`. Classes are in alphabetical order. Documented in the `readme.txt` of the splits,
    at serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database.
    """
    fold, lists = source.fold or _FIRST_FOLD, {}
    for _, path in _files(source, ".txt"):
        if match := re.fullmatch(r"(.+)_test_split(\d+)\.txt", path.name):
            lists[match[1], int(match[2])] = path
    names = sorted({name for name, _ in lists})
    if not names:
        raise DataError(f"{source.annotations[0][1]}: no files named CLASS_test_split{fold}.txt")
    classes = _Classes(read_classes(source.classes) if source.classes else names)
    tree, clips = _Tree(source), []
    for name in names:
        path = _of_fold(lists, name, fold, f"{name}_test_split{fold}.txt")
        for place, line in _lines(path):
            file_name, use = ("", *line.rsplit(maxsplit=1))[-2:]
            if not file_name or use not in ("0", "1", "2"):
                raise DataError(f"{place}: '{line}' is not a file and 1 (train), 2 (test) or 0 (unused)")
            if use != "0":
                stem = _stem(file_name)
                film, found, _ = stem.rpartition(f"_{name}_")
                split = "train" if use == "1" else "test"
                file, label = tree.find(place, stem, name), classes.index(name, place)
                clips.append(Clip(f"{name}/{file_name}", file, label, split, place, film if found else None))
    return Listing(classes.names, tuple(clips))


def diving48(source: Source) -> Listing:
    """Diving48: JSON lists for training and testing, and the vocabulary, a JSON list of the four words of each class.

    A clip is `{"vid_name", "label", "start_frame", "end_frame"}`, its file `{vid_name}.mp4`, already cut: the frames
    say how many it has. Labels index the vocabulary from 0. `vid_name` ends with the number of the clip within its
    recording. Where lists of V1 and V2 lie side by side, V2 is taken, which corrects the labels. Documented at
    www.svcl.ucsd.edu/projects/resound/dataset.html.
    """
    contents = [(split, path, _json(path)) for split, path in _files(source, ".json")]
    vocabulary = [path for _, path, content in contents if _is_list_of((list, str), content)]
    lists = [entry for entry in contents if entry[1] not in vocabulary]
    lists = [entry for entry in lists if "_v2_" in entry[1].name.lower()] or lists
    if not vocabulary and source.classes is None:
        raise DataError(f"{_join(path.name for _, path, _ in lists)}: no vocabulary (Diving48_vocab.json) among them")
    classes, tree, clips = _Classes(read_classes(source.classes or vocabulary[0])), _Tree(source), []
    for split, path, content in lists:
        split = _split_of(path, split)
        if split is None:
            raise DataError(f"{path}: which split is this? Its name doesn't tell; write train={path.name} or the like")
        for place, entry in _entries(path, content, "vid_name", "label"):
            name, frames = str(entry["vid_name"]), None
            if isinstance(entry.get("start_frame"), int) and isinstance(entry.get("end_frame"), int):
                frames = entry["end_frame"] - entry["start_frame"]
            label = classes.number(str(entry["label"]), place)
            recording = re.sub(r"_\d+$", "", name)
            clips.append(Clip(name, tree.find(place, name, split), label, split, place, recording, frames))
    return Listing(classes.names, tuple(clips))


FORMATS: Mapping[str, Callable[[Source], Listing]] = {
    "kinetics": kinetics,
    "folders": folders,
    "list": plain_list,
    "something_something_v2": something_something_v2,
    "ucf101": ucf101,
    "hmdb51": hmdb51,
    "diving48": diving48,
}

FOLDS: Mapping[str, int] = {"ucf101": 3, "hmdb51": 3}
"""How many official splits a format has, where it has several."""


class _Classes:
    """Class names in their order, found whatever their case, and whether words are joined by spaces or underscores."""

    def __init__(self, names: Sequence[str], counted_from_1: bool = False):
        self.names = tuple(names)
        self._hint = "; no label is 0: the list counts from 1, and must count from 0" if counted_from_1 else ""
        self._labels = {_key(name): label for label, name in enumerate(self.names)}

    def index(self, name: str, place: str) -> int:
        if _key(name) not in self._labels:
            close = difflib.get_close_matches(name, self.names, n=1, cutoff=0.5)
            raise DataError(
                f"{place}: unknown class '{name}'" + (f"; did you mean '{close[0]}'?" if close else f"{self._some()}")
            )
        return self._labels[_key(name)]

    def number(self, text: str, place: str, first: int = 0) -> int:
        last, number = first + len(self.names) - 1, whole_number(text)
        if number is None or not first <= number <= last:
            raise DataError(
                f"{place}: label {text} is out of range: {len(self.names)} classes, {first} to {last}{self._hint}"
            )
        return number - first

    def _some(self) -> str:
        return f"; there are {len(self.names)}, such as {_join(self.names[:_NAMES_SHOWN])}"


class _Tree:
    """Every clip below the videos' folder, found by its name without suffix."""

    def __init__(self, source: Source):
        self.root, self.files = source.videos, defaultdict(list)
        for file in frame_folders(source.videos) if source.rawframes else video_files(source.videos):
            name = file.rpartition("/")[2]
            self.files[_composed(name if source.rawframes else _stem(name))].append(file)

    def find(self, place: str, stem: str, *hints: str | None) -> str | None:
        """The clip of that name, None if there is none. Among several, the one whose folders are named by the hints."""
        found = self.files.get(_composed(stem), [])
        for hint in hints:
            if len(found) > 1 and hint:
                found = [file for file in found if _lies_in(file, hint)] or found
        if len(found) > 1:
            raise DataError(f"{place}: '{stem}' could be any of {_join(found)} in {self.root}")
        return found[0] if found else None


def _checked(listing: Listing, source: Source) -> Listing:
    """The listing, with a note where that is enough; raises `DataError` where it isn't."""
    where = _join(path.name for _, path in source.annotations) or str(source.videos)
    if not listing.clips:
        unlabelled = f" ({listing.unlabelled} without a label)" if listing.unlabelled else ""
        raise DataError(f"{where}: no clips listed{unlabelled}")
    seen: dict[str, Clip] = {}
    for clip in listing.clips:
        earlier = seen.setdefault(clip.file or clip.name, clip)
        if earlier is not clip and earlier.split == clip.split:
            raise DataError(f"{clip.name} is listed twice: {earlier.place} and {clip.place}")
        if earlier is not clip:
            raise DataError(f"{clip.name} is in {earlier.split} ({earlier.place}) and in {clip.split} ({clip.place})")
    unsplit = [clip for clip in listing.clips if clip.split is None]
    if 0 < len(unsplit) < len(listing.clips):
        raise DataError(f"{unsplit[0].place}: nothing says which split this is, as of others; write train=FILE")
    if not any(clip.file for clip in listing.clips):
        raise DataError(_nothing_there(listing, source))
    present = {clip.label for clip in listing.clips if clip.file}
    absent = [name for label, name in enumerate(listing.classes) if label not in present]
    if not absent:
        return listing
    lacks = f"{where}: no clip of class {shortened(absent)}, of {len(listing.classes)}"
    if missing := [clip for clip in listing.clips if clip.file is None]:
        lacks = f"{_missing(missing, listing, source)}; so there is {lacks.removeprefix(f'{where}: ')}"
    elif absent == [listing.classes[0]] and source.classes is None:
        lacks += "; does the list count its labels from 1? They must count from 0"
    if not listing.only_tested:
        raise DataError(lacks)
    return dataclasses.replace(listing, notes=(*listing.notes, lacks))


def _nothing_there(listing: Listing, source: Source) -> str:
    kind = "folders of images" if source.rawframes else "videos"
    passed_over: Counter[str] = Counter()
    look = frame_folders if source.rawframes else video_files
    present = look(source.videos, passed_over=passed_over)
    example = f", such as {present[0]}" if present else ""
    if not present and not source.rawframes and frame_folders(source.videos):
        example = "; it has folders of images, for which --rawframes is meant"
    note = passed_over_note(source.videos, passed_over)
    return f"{_missing(listing.clips, listing, source)}; the folder has {len(present)} {kind}{example}" + (
        f" ({note.partition(': ')[2]})" if note else ""
    )


def _missing(missing: Sequence[Clip], listing: Listing, source: Source) -> str:
    """How many clips aren't where they should be, the first of them, and why that is likely so."""
    first = missing[0]
    count = f"none of the {len(listing.clips)} listed clips is there"
    if len(missing) < len(listing.clips):
        count = f"{len(missing)} of the {len(listing.clips)} listed clips are not there"
    return f"{source.videos}: {count}, the first being {first.name} ({first.place}){_likely_reason(first, source)}"


def _likely_reason(clip: Clip, source: Source) -> str:
    if hint := likely_place(source.videos / clip.name):
        return hint
    folder, _, rest = clip.name.partition("/")
    if rest and _key(folder) == _key(source.videos.resolve().name):
        return f"; the listed path repeats the folder's name: --videos {source.videos.parent} may be meant"
    return ""


def _files(source: Source, *suffixes: str) -> list[tuple[str | None, Path]]:
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


def _of_fold(lists: Mapping[tuple[str, int], Path], name: str, fold: int, wanted: str) -> Path:
    if (name, fold) in lists:
        return lists[name, fold]
    others = sorted(f"{path.name} is of fold {other}" for (kind, other), path in lists.items() if kind == name)
    raise DataError("; ".join([f"no {wanted} among the annotations, which fold {fold} needs", *others]))


def _split_of(path: Path, given: str | None) -> str | None:
    """The split of all clips of a file: as given, else as its name tells."""
    words = re.split(r"[^a-z]+", path.stem.lower())
    named = {SPLITS[word] for word in words if word in SPLITS}
    return given or (named.pop() if len(named) == 1 else None)


def _split(written: str | None, place: str) -> str | None:
    if written is not None and written.lower() not in SPLITS:
        raise DataError(f"{place}: unknown split '{written}'{nearest(written, SPLITS)}")
    return SPLITS[written.lower()] if written else None


def _list_rows(path: Path, source: Source) -> Iterator[tuple[str, int | None, str, str]]:
    """Name, frames, label as written, and place of each line of a list."""
    quoted = re.compile(r"""(?:"([^"]+)"|'([^']+)')[\s,]+(?:(\d+)[\s,]+)?(.+)""")
    for number, (place, line) in enumerate(_lines(path)):
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
    return (source.videos / parts[0].strip()).is_dir() or _at(source, name) is None


def _at(source: Source, name: str) -> str | None:
    """The clip at a path below the videos' folder, or absolute; the suffix of a video may be missing."""
    name = os.path.normpath(name)
    suffixes = [""] if source.rawframes or Path(name).suffix.lower() in VIDEO_SUFFIXES else ["", *VIDEO_SUFFIXES]
    for suffix in sorted(suffixes):
        if os.path.exists(source.videos / (name + suffix)):  # a name may be longer than any file's
            return Path(name + suffix).as_posix()
        if other := same_in_unicode(source.videos / (name + suffix)):
            return Path(os.path.relpath(other, source.videos)).as_posix()
    return None


def _class_ind(path: Path) -> tuple[str, ...]:
    pairs = []
    for place, line in _lines(path):
        number, _, name = line.partition(" ")
        position = whole_number(number)
        if not position or not name:
            raise DataError(f"{place}: '{line}' is not a number from 1 and a class")
        pairs.append((name.strip(), str(position - 1)))
    return _by_index(path, pairs)


def _classes_of_json(path: Path, content: Any) -> tuple[str, ...]:
    if isinstance(content, dict):
        return _by_index(path, [(str(name), str(index)) for name, index in content.items()])
    if isinstance(content, list) and not _is_list_of(dict, content):
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
        if _key(name) in keys:
            raise DataError(f"{path}: class '{name}' is given twice")
        keys[_key(name)] = name
    if not names:
        raise DataError(f"{path}: no class names")
    return tuple(names)


def _csv(path: Path) -> tuple[tuple[str, ...], Iterator[tuple[str, dict[str, str]]]]:
    """Columns, and the rows with their places, of a csv file with a header."""
    reader = csv.DictReader(_text(path).splitlines(keepends=True))
    columns = tuple(name.strip() for name in reader.fieldnames or ())
    reader.fieldnames = columns

    def rows() -> Iterator[tuple[str, dict[str, str]]]:
        for row in reader:
            place = f"{path.name}, line {reader.line_num}"
            if None in row or None in row.values():
                count = sum(value is not None for value in row.values()) + len(row.get(None, [None])) - 1
                raise DataError(f"{place}: {count} columns, the header has {len(columns)}: {_join(columns)}")
            yield place, {column: value.strip() for column, value in row.items()}

    return columns, rows()


def _wrong_columns(path: Path, missing: set[str], columns: Sequence[str]) -> str:
    name = min(missing)
    close = difflib.get_close_matches(name, columns, n=1, cutoff=0.5)
    hint = f"; is it '{close[0]}'?" if close else ""
    return f"{path}, line 1: no column {' or '.join(sorted(missing))}{hint} It has: {_join(columns) or 'nothing'}"


def _seconds(text: str, column: str, place: str) -> int:
    try:
        return int(float(text))
    except (ValueError, OverflowError):
        raise DataError(f"{place}: {column} '{text}' is not a number of seconds") from None


def _entries(path: Path, content: Any, *fields: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if not isinstance(content, list):
        raise DataError(f"{path}: a JSON list of clips is expected, this is a {type(content).__name__}")
    for number, entry in enumerate(content, 1):
        place = f"{path.name}, entry {number}"
        if not isinstance(entry, dict):
            raise DataError(f"{place}: {json.dumps(entry)[:60]} is not a mapping with {_join(fields)}")
        if missing := [field for field in fields if field not in entry]:
            raise DataError(f"{place}: no '{missing[0]}'; it has: {_join(entry)}")
        yield place, entry


def _json(path: Path) -> Any:
    try:
        return parse(_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not valid JSON: {error.msg}") from None
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON: {error}") from None


def _lines(path: Path) -> list[tuple[str, str]]:
    """Place and text of the lines that aren't empty."""
    lines = enumerate(_text(path).splitlines(), 1)
    return [(f"{path.name}, line {number}", line.strip()) for number, line in lines if line.strip()]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file (byte {error.start} isn't UTF-8)") from None
    except IsADirectoryError:
        raise DataError(f"{path}: a folder, where a file is expected") from None


def _is_list_of(kind: type | tuple[type, ...], content: Any) -> bool:
    return isinstance(content, list) and bool(content) and isinstance(content[0], kind)


def _lies_in(file: str, hint: str) -> bool:
    """Whether one of the file's folders is named so, or has the split's name among its words."""
    names = file.split("/")[:-1]
    return any(
        _key(name) == _key(hint) or hint in {SPLITS.get(word) for word in re.split(r"[^a-z]+", name.lower())}
        for name in names
    )


def _stem(file_name: str) -> str:
    """A name without the suffix of a video; other dots are part of the name."""
    stem, suffix = os.path.splitext(file_name)
    return stem if suffix.lower() in VIDEO_SUFFIXES else file_name


def _key(name: str) -> str:
    return re.sub(r"[\s_]+", "_", _composed(name.strip())).lower()


def _composed(name: str) -> str:
    """One spelling of names that are the same text: some systems write é as two characters."""
    return unicodedata.normalize("NFC", name)


def _close_names(path: Path, folders: bool = False) -> str:
    """`; did you mean ...?` from what lies beside a path that doesn't exist; nothing where nothing is like it."""
    if not path.parent.is_dir():
        return ""
    beside = [entry.name for entry in path.parent.iterdir() if entry.is_dir() or not folders]
    close = difflib.get_close_matches(path.name, beside, n=1, cutoff=0.5)
    return f"; did you mean '{path.parent / close[0]}'?" if close else ""


def _join(names: Iterable[Any]) -> str:
    return ", ".join(map(str, names))
