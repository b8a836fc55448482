"""What a data set's annotations come to, whatever their format: where it lies, its clips, its classes."""

from __future__ import annotations

import dataclasses
from pathlib import Path


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
