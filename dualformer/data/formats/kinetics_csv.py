"""Kinetics: csv files that name a video and a span of seconds."""

from __future__ import annotations

from dualformer.data.files import DataError
from dualformer.data.formats.annotations import annotation_files, csv_rows, split_named, split_of, wrong_columns
from dualformer.data.formats.classes import Classes, read_classes
from dualformer.data.formats.clips import Tree
from dualformer.data.formats.listing import Clip, Listing, Source


def kinetics(source: Source) -> Listing:
    """Kinetics-400, -600 and -700: the csv files of the data set's authors.

    Columns `label,youtube_id,time_start,time_end,split`, in some files also `is_cc`; a clip's file is named
    `{youtube_id}_{time_start:06d}_{time_end:06d}`, or without the zeros, flat or in folders by class (spaces or
    underscores) and by split. Test files of some releases have no labels; those clips are left out. Papers report the
    validation split, so leave a labelled test file out to score what they score. Classes are in alphabetical order.
    Documented at github.com/cvdfoundation/kinetics-dataset; file names as in ActivityNet's Kinetics crawler.
    """
    rows, unlabelled = [], 0
    for split, path in annotation_files(source, ".csv"):
        columns, lines = csv_rows(path)
        if missing := {"youtube_id", "time_start", "time_end"} - set(columns):
            raise DataError(wrong_columns(path, missing, columns))
        if "label" not in columns and split_of(path, split) != "test":
            raise DataError(wrong_columns(path, {"label"}, columns))
        for place, row in lines:
            written = split or row.get("split") or split_of(path, split)
            if not row.get("label"):
                if written is None or split_named(written, place) != "test":
                    raise DataError(f"{place}: no label")
                unlabelled += 1
                continue
            times = [_seconds(row[column], column, place) for column in ("time_start", "time_end")]
            rows.append((row["label"].strip('"'), row["youtube_id"], times, split_named(written, place), place))
    classes = Classes(read_classes(source.classes) if source.classes else sorted({label for label, *_ in rows}))
    tree, clips = Tree(source), []
    for label, youtube_id, (start, end), split, place in rows:
        name = f"{youtube_id}_{start:06d}_{end:06d}"
        file = tree.find(place, name, label, split) or tree.find(place, f"{youtube_id}_{start}_{end}", label, split)
        clips.append(Clip(name, file, classes.index(label, place), split, place, recording=youtube_id))
    return Listing(classes.names, tuple(clips), unlabelled)


def _seconds(text: str, column: str, place: str) -> int:
    try:
        return int(float(text))
    except (ValueError, OverflowError):
        raise DataError(f"{place}: {column} '{text}' is not a number of seconds") from None
