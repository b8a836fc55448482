"""What holds for every listing: clips are there, once each, and every class that is trained on has some."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

from dualformer.data.files import DataError, frame_folders, likely_place, passed_over_note, video_files
from dualformer.data.formats.listing import Clip, Listing, Source
from dualformer.data.formats.names import join, key
from dualformer.data.manifest import shortened


def checked(listing: Listing, source: Source) -> Listing:
    """The listing, with a note where that is enough; raises `DataError` where it isn't."""
    where = join(path.name for _, path in source.annotations) or str(source.videos)
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
    if rest and key(folder) == key(source.videos.resolve().name):
        return f"; the listed path repeats the folder's name: --videos {source.videos.parent} may be meant"
    return ""
