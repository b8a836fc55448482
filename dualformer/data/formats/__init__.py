"""What a published data set lists: which clips, which classes in which order, which split; one parser per format.

`list_clips` reads annotations only and opens no video. A format is a function in `FORMATS`, whose docstring tells what
its files look like and where that is documented. All of them find clips by name in the folder of the videos, whatever
folders lie between and whatever the suffix, except `list` and `folders`, which go by paths. With `rawframes` a clip is
a folder with at least one image directly in it, named as the video would be without its suffix.

Labels count from 0, in the order that the data set's own files give, or else in alphabetical order: the order that
released weights follow.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path

from dualformer.config import nearest
from dualformer.data.files import DataError
from dualformer.data.formats.checks import checked
from dualformer.data.formats.classes import read_classes
from dualformer.data.formats.json_lists import diving48, something_something_v2
from dualformer.data.formats.kinetics_csv import kinetics
from dualformer.data.formats.listing import Clip, Listing, Source
from dualformer.data.formats.names import join
from dualformer.data.formats.paths import folders, plain_list
from dualformer.data.formats.split_lists import hmdb51, ucf101

__all__ = ["FOLDS", "FORMATS", "Clip", "Listing", "Source", "list_clips", "read_classes"]

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
        raise DataError(f"{name} has a single split, so fold {source.fold} means nothing; with folds: {join(FOLDS)}")
    if source.fold is not None and not 1 <= source.fold <= FOLDS[name]:
        raise DataError(f"{name} has no fold {source.fold}; it has 1 to {FOLDS[name]}")
    return checked(FORMATS[name](source), source)


def _close_names(path: Path, folders: bool = False) -> str:
    """`; did you mean ...?` from what lies beside a path that doesn't exist; nothing where nothing is like it."""
    if not path.parent.is_dir():
        return ""
    beside = [entry.name for entry in path.parent.iterdir() if entry.is_dir() or not folders]
    close = difflib.get_close_matches(path.name, beside, n=1, cutoff=0.5)
    return f"; did you mean '{path.parent / close[0]}'?" if close else ""
