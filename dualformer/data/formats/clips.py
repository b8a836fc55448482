"""Clips below the videos' folder, found by their name or by their path."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from pathlib import Path

from dualformer.data.files import VIDEO_SUFFIXES, DataError, frame_folders, same_in_unicode, video_files
from dualformer.data.formats.listing import Source
from dualformer.data.formats.names import composed, join, key, stem_of
from dualformer.data.manifest import SPLITS


class Tree:
    """Every clip below the videos' folder, found by its name without suffix."""

    def __init__(self, source: Source):
        self.root, self.files = source.videos, defaultdict(list)
        for file in frame_folders(source.videos) if source.rawframes else video_files(source.videos):
            name = file.rpartition("/")[2]
            self.files[composed(name if source.rawframes else stem_of(name))].append(file)

    def find(self, place: str, stem: str, *hints: str | None) -> str | None:
        """The clip of that name, None if there is none. Among several, the one whose folders are named by the hints."""
        found = self.files.get(composed(stem), [])
        for hint in hints:
            if len(found) > 1 and hint:
                found = [file for file in found if _lies_in(file, hint)] or found
        if len(found) > 1:
            raise DataError(f"{place}: '{stem}' could be any of {join(found)} in {self.root}")
        return found[0] if found else None


def clip_at(source: Source, name: str) -> str | None:
    """The clip at a path below the videos' folder, or absolute; the suffix of a video may be missing."""
    name = os.path.normpath(name)
    suffixes = [""] if source.rawframes or Path(name).suffix.lower() in VIDEO_SUFFIXES else ["", *VIDEO_SUFFIXES]
    for suffix in sorted(suffixes):
        if os.path.exists(source.videos / (name + suffix)):  # a name may be longer than any file's
            return Path(name + suffix).as_posix()
        if other := same_in_unicode(source.videos / (name + suffix)):
            return Path(os.path.relpath(other, source.videos)).as_posix()
    return None


def _lies_in(file: str, hint: str) -> bool:
    """Whether one of the file's folders is named so, or has the split's name among its words."""
    names = file.split("/")[:-1]
    return any(
        key(name) == key(hint) or hint in {SPLITS.get(word) for word in re.split(r"[^a-z]+", name.lower())}
        for name in names
    )
