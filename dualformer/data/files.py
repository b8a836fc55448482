"""Which names in a folder are clips, which are passed over and counted, and where a missing one may lie instead."""

from __future__ import annotations

import functools
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

# fmt: off
VIDEO_SUFFIXES = frozenset([
    ".264", ".265", ".3g2", ".3gp", ".asf", ".av1", ".avi", ".dav", ".divx", ".dv", ".f4v", ".flv", ".gif", ".h264",
    ".h265", ".hevc", ".ivf", ".m1v", ".m2p", ".m2t", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov",
    ".mp4", ".mp4v", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".nut", ".obu", ".ogm", ".ogv", ".ogx", ".qt", ".rm",
    ".rmvb", ".tod", ".ts", ".vob", ".webm", ".wmv", ".xvid", ".y4m",
])
# fmt: on
IMAGE_SUFFIXES = frozenset([".jpeg", ".jpg", ".png"])
HIDDEN = "hidden"
"""In counts of what is passed over: names that begin with a dot, and those of `SYSTEM_NAMES`."""
SYSTEM_NAMES = frozenset(
    ["$recycle.bin", "#recycle", "#snapshot", "@eadir", "__macosx", "__pycache__", "lost+found"]
    + ["desktop.ini", "system volume information", "thumbs.db"]
)
"""What operating systems and servers leave in any folder, in lower case; others begin with a dot."""


_MOST_CHARACTERS = 3000


class DataError(ValueError):
    """A data set that can't be used as it is. What the message quotes may be of any length, and is cut."""

    def __init__(self, message: str) -> None:
        super().__init__(message if len(message) <= _MOST_CHARACTERS else f"{message[:_MOST_CHARACTERS]}...")


def is_hidden(name: str) -> bool:
    """Whether a name is none that a person gave: `._clip.mp4`, `.Trash-0`, `.ipynb_checkpoints`, `__MACOSX`."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def is_frame(name: str) -> bool:
    """Whether a file in a folder of images is a frame: `flow_x_00001.jpg` beside it is its optical flow."""
    suffix = os.path.splitext(name)[1].lower()
    return suffix in IMAGE_SUFFIXES and not name.lower().startswith("flow_") and not is_hidden(name)


def video_files(folder: Path, passed_over: Counter[str] | None = None) -> list[str]:
    """Returns the paths below `folder` of everything named like a video, sorted. Links to folders are followed.

    Args:
        folder: where to look.
        passed_over: counts everything else in it, by suffix, and what is hidden as `HIDDEN`.

    Raises:
        DataError: a clip's name isn't UTF-8.
    """
    others: Counter[str] = Counter() if passed_over is None else passed_over
    found, pending = list[str](), [""]
    seen: set[tuple[int, int]] = set()
    while pending:
        below = pending.pop()
        for name, is_folder in _listing(folder / below, seen, others):
            suffix = os.path.splitext(name)[1].lower()
            if suffix in VIDEO_SUFFIXES:
                found.append(utf8(below + name, folder))
            elif is_folder:
                pending.append(f"{below}{name}/")
            else:
                others[suffix or "no suffix"] += 1
    return sorted(found)


def frame_folders(folder: Path, depth: int = 1, passed_over: Counter[str] | None = None) -> list[str]:
    """Returns the paths of the folders below `folder` that hold frames, sorted: each is a clip.

    What lies deeper inside of such a folder is not looked at, nor are more of its images than the first.

    Args:
        folder: where to look.
        depth: how far below it clips begin: 2 means inside of its folders.
        passed_over: counts what is hidden, as `HIDDEN`.

    Raises:
        DataError: a clip's name isn't UTF-8.
    """
    hidden: Counter[str] = Counter() if passed_over is None else passed_over
    found, pending = list[str](), [""]
    seen: set[tuple[int, int]] = set()
    while pending:
        below = pending.pop()
        folders = []
        for name, is_folder in _listing(folder / below, seen, hidden):
            if below.count("/") >= depth and not is_folder and is_frame(name):
                found.append(utf8(below.removesuffix("/"), folder))
                break
            if is_folder:
                folders.append(f"{below}{name}/")
        else:
            pending += folders
    return sorted(found)


def visible_folders(folder: Path) -> list[str]:
    """Returns the names of the folders in `folder` that aren't hidden, sorted."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not is_hidden(entry.name))


def passed_over_note(folder: Path, passed_over: Mapping[str, int]) -> str:
    """Returns a line that says what was passed over, empty where nothing was."""
    hidden = passed_over.get(HIDDEN, 0)
    kinds = [f"{hidden} hidden {'name' if hidden == 1 else 'names'}"] if hidden else []
    kinds += [f"{count} {kind}" for kind, count in sorted(passed_over.items()) if kind != HIDDEN and count]
    return f"{folder}: passed over, as no clips of it: {', '.join(kinds)}" if kinds else ""


def utf8(name: str, folder: Path) -> str:
    """Returns a name that lists, tables and records can hold.

    Raises:
        DataError: it can't be written as UTF-8.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(name).decode("ascii", "backslashreplace")
        raise DataError(
            f"{ascii(os.fspath(folder))[1:-1]}: the name of '{shown}' isn't UTF-8, so no list can hold it; rename it "
            "(convmv does so for whole folders)"
        ) from None
    return name


def same_in_unicode(path: Path) -> Path | None:
    """Returns the file that a path names in another Unicode form (é as one character or two), None if there is none."""
    found = _alike(path)
    return found if found and _composed(os.fspath(found)) == _composed(os.fspath(path)) else None


def likely_place(path: Path) -> str:
    """Returns `; there is ...` for what a path that leads nowhere was likely meant to name, empty if nothing is."""
    if other := same_in_unicode(path):
        return f"; there is '{other.name}', which is the same text in another Unicode form (NFC, NFD)"
    if other := _alike(path):
        return f"; there is '{other}', in other case"
    for place, (one, following) in enumerate(zip(path.parts, path.parts[1:])):
        shorter = Path(*path.parts[:place], *path.parts[place + 1 :])
        if one == following and shorter.exists():
            return f"; there is '{shorter}': the listed path repeats the folder's name '{one}'"
    return ""


def _alike(path: Path) -> Path | None:
    """What a path leads to where case and Unicode form of its names don't matter; None where it leads nowhere."""
    missing = []
    while not os.path.exists(path):
        if path == path.parent:
            return None
        missing.append(path.name)
        path = path.parent
    for name in reversed(missing):
        try:
            names = _names(path, path.stat().st_mtime_ns)
        except OSError:
            return None
        if (key := _composed(name).casefold()) not in names:
            return None
        path = path / names[key]
    return path


@functools.lru_cache(maxsize=16)
def _names(folder: Path, _changed_ns: int) -> dict[str, str]:
    """Names in a folder, by what remains of them without case and Unicode form."""
    return {_composed(name).casefold(): name for name in sorted(os.listdir(folder), reverse=True)}


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _listing(folder: Path, seen: set[tuple[int, int]], passed_over: Counter[str]) -> Iterator[tuple[str, bool]]:
    """Names in a folder and whether they are folders; nothing where `seen` has it, which links can lead back to."""
    status = os.stat(folder)
    place = status.st_dev, status.st_ino
    if place in seen:
        return
    seen.add(place)
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_hidden(entry.name):
                passed_over[HIDDEN] += 1
            else:
                yield entry.name, entry.is_dir()
