"""One manifest out of any format: which clips a data set lists, what each file holds, and which can't be used.

    python -m dualformer prepare kinetics --videos k400 --annotations train.csv val.csv --out k400/manifest.csv

The manifest (columns as `COLUMNS`) is what `manifest` reads; a row's `frames` and `seconds` are what decoding found,
never what a header or an annotation says. Clips that aren't there or can't be decoded are in the quarantine file, with
their reasons. Both are written whole or not at all, in an order that depends on names only.

It goes on where it was stopped: what files hold is in the record of `inspection`, which training reads too, and their
hashes are in a record beside it. A line of either holds as long as the file's size and time do.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from dualformer.data.config import AUTO
from dualformer.data.csv_files import write_csv
from dualformer.data.files import DataError, is_frame
from dualformer.data.formats import Clip, Listing, Source, list_clips
from dualformer.data.inspection import inspect_all, opened_record, read_record, record_path
from dualformer.data.manifest import read_manifest, shortened
from dualformer.data.progress import Progress
from dualformer.data.reader import VideoError, VideoInfo
from dualformer.results.files import inert, parse

COLUMNS = ("file", "label", "class_index", "split", "group", "frames", "seconds", "bytes", "sha256")
"""Of the manifest; `split` and `group` (the recording) only where the format knows them.

`sha256` of a folder of images is that of the text that `sha256sum` prints for them in the order of their names.
"""
NOT_THERE = "not there"

_SPLIT_ORDER = ("train", "val", "test", None)
_FAILURES_SHOWN = 10


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What `prepare` wrote.

    Attributes:
        manifest: the file.
        quarantine: the file that lists what can't be used.
        classes: names, in the order of their indices.
        counts: usable clips by split.
        failures: for each clip that can't be used, the reason.
        notes: what else a person should know, a line each.
    """

    manifest: Path
    quarantine: Path
    classes: tuple[str, ...]
    counts: Mapping[str | None, int]
    failures: Mapping[str, str]
    notes: tuple[str, ...]

    @property
    def reasons(self) -> dict[str, int]:
        """How many clips can't be used for which reason, most frequent first; numbers in reasons are left out."""
        return dict(Counter(re.sub(r"\d+", "N", reason) for reason in self.failures.values()).most_common())


def prepare(
    name: str,
    source: Source,
    out: Path,
    *,
    quarantine: Path | None = None,
    workers: int = 1,
    max_failed_share: float = 0.05,
) -> Prepared:
    """Writes the manifest of a data set, and the list of what can't be used.

    Args:
        name: of the format, a key of `formats.FORMATS`.
        source: where the data set lies.
        out: the manifest to write. Its rows name files relative to its folder, or absolute where they lie elsewhere.
        quarantine: the list to write; None puts it beside the manifest.
        workers: files decoded or hashed at the same time.
        max_failed_share: share of the listed clips that may be missing or unusable.

    Raises:
        DataError: as `formats.list_clips`; more failures than allowed; no usable clip, or a class without one in data
            that is trained on. There is no new manifest then; what failed is in the quarantine file all the same.
        OSError: a file can't be read or written.
    """
    out = Path(os.path.abspath(out))
    quarantine = quarantine or out.with_name(f"{out.stem}_quarantine.csv")
    if not out.parent.is_dir():
        raise DataError(f"{out.parent}: no such folder to write {out.name} to")
    listing = list_clips(name, source)
    failures = {clip.name: NOT_THERE for clip in listing.clips if clip.file is None}
    _put_aside(quarantine, failures, listing, source, max_failed_share)  # before hours of decoding
    clips = {_file_in_manifest(source.videos, clip.file, out.parent): clip for clip in listing.clips if clip.file}
    found = inspect_all(out.parent, clips, workers, decoder=AUTO)
    failures |= {file: outcome.reason for file, outcome in found.items() if isinstance(outcome, VideoError)}
    _put_aside(quarantine, failures, listing, source, max_failed_share)
    usable = {file: info for file, info in found.items() if isinstance(info, VideoInfo)}
    hashes = hash_all(out.parent, usable, workers)
    rows = [_row(file, clips[file], listing, usable[file], *hashes[file]) for file in sorted(hashes)]
    lost = _lost_classes(rows, listing, failures)
    rows.sort(key=lambda row: (_SPLIT_ORDER.index(row["split"]), row["file"]))
    _write_manifest(out, rows)
    counts = Counter(row["split"] for row in rows)
    infos = {clips[file].name: info for file, info in usable.items()}
    notes = [*listing.notes, *lost, *_notes(listing, infos), *_same_bytes(rows)]
    return Prepared(out, quarantine, listing.classes, counts, dict(sorted(failures.items())), tuple(notes))


def hash_all(root: Path, files: Iterable[str], workers: int = 1) -> dict[str, tuple[int, str]]:
    """Returns size in bytes and SHA-256 of files, most of them from the record.

    Args:
        root: folder that relative paths are below.
        files: files, or folders of images.
        workers: threads that hash at the same time.

    Raises:
        OSError: a file can't be read, or the record can't be written.
    """
    record = record_path("hashed", root.resolve())
    known = _load(record)
    keys = {file: _key(root / file) for file in files}
    found = {file: known[file][1] for file, key in keys.items() if file in known and known[file][0] == key}
    if new := [file for file in keys if file not in found]:
        with opened_record(record) as sink, Progress(f"hashing {root}", len(new)) as progress:
            for file, sha256 in _in_threads(lambda file: _sha256(root / file), new, workers):
                found[file] = sha256
                # As in `inspection`: closes a line that was cut off, and keeps lines of several processes whole.
                sink.write(f"\n{json.dumps([file, keys[file], sha256])}\n".encode())
                progress.step()
    return {file: (keys[file][0], found[file]) for file in keys}


def _in_threads(work: Callable[[str], str], items: Iterable[str], workers: int) -> Iterator[tuple[str, str]]:
    """Each item with what `work` makes of it, as they get done; an error ends it, without working off the rest."""
    pool = ThreadPoolExecutor(workers)
    try:
        jobs = {pool.submit(work, item): item for item in items}
        for job in as_completed(jobs):
            yield jobs[job], job.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _file_in_manifest(videos: Path, file: str, folder: Path) -> str:
    """A clip's path relative to the manifest's folder where it lies below that, else absolute."""
    path = Path(os.path.normpath(os.path.join(os.path.abspath(videos), file)))
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.as_posix()


def _row(file: str, clip: Clip, listing: Listing, info: VideoInfo, num_bytes: int, sha256: str) -> dict[str, Any]:
    return {
        "file": f"./{file}" if inert(file) != file else file,  # the same path, and no formula to a spreadsheet
        "label": listing.classes[clip.label],
        "class_index": clip.label,
        "split": clip.split,
        "group": clip.recording or "",
        "frames": info.num_frames,
        "seconds": "" if info.seconds is None else f"{info.seconds:.3f}",
        "bytes": num_bytes,
        "sha256": sha256,
    }


def _write_manifest(out: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    unknown = {column for column in ("split", "group") if not any(row[column] for row in rows)}
    columns = [column for column in COLUMNS if column not in unknown]
    # Read back before it gets its name, so that what is written is what training accepts.
    write_csv(out, columns, ([row[column] for column in columns] for row in rows), check=read_manifest)


def _put_aside(
    quarantine: Path, failures: Mapping[str, str], listing: Listing, source: Source, max_failed_share: float
) -> None:
    """Writes the list of failures, and refuses too many of them."""
    write_csv(quarantine, ("file", "reason"), sorted(failures.items()))
    if len(failures) <= max_failed_share * len(listing.clips):
        return
    places = {clip.name: f" ({clip.place})" for clip in listing.clips}
    lines = [f"{file}{places.get(file, '')}: {reason}" for file, reason in list(failures.items())[:_FAILURES_SHOWN]]
    if len(failures) > _FAILURES_SHOWN:
        lines.append(f"and {len(failures) - _FAILURES_SHOWN} more")
    raise DataError(
        f"{source.videos}: {len(failures)} of {len(listing.clips)} listed clips can't be used, more than "
        f"--max-failed-share {max_failed_share}; all are listed in {quarantine}:\n" + "\n".join(lines)
    )


def _lost_classes(rows: Sequence[Mapping[str, Any]], listing: Listing, failures: Mapping[str, str]) -> list[str]:
    """A note on classes whose clips all failed; an error where they are to be learnt, or where nothing is left."""
    listed = {clip.label for clip in listing.clips if clip.file}
    lost = sorted(listed - {row["class_index"] for row in rows})
    if not lost:
        return []
    text = f"no usable clip of class {shortened(listing.classes[label] for label in lost)}"
    if listing.only_tested and rows:
        return [text]
    raise DataError(f"{text}:\n" + "\n".join(map(": ".join, list(failures.items())[:5])))


def _notes(listing: Listing, infos: Mapping[str, VideoInfo]) -> Iterator[str]:
    if listing.unlabelled:
        yield f"{listing.unlabelled} clips are listed without a label and left out"
    told = [clip for clip in listing.clips if clip.frames is not None and clip.name in infos]
    if other := [clip for clip in told if infos[clip.name].num_frames != clip.frames]:
        first = other[0]
        yield (
            f"{len(other)} of {len(told)} clips have another number of frames than listed, such as {first.name}: "
            f"{infos[first.name].num_frames}, not {first.frames}"
        )
    splits = defaultdict(set)
    for clip in listing.clips:
        splits[clip.recording].add(clip.split)
    if shared := [name for name, seen in splits.items() if name and len(seen) > 1]:
        yield f"{len(shared)} recordings have clips in more than one split, such as {shared[0]}"


def _same_bytes(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What is tested on under one name and trained on under another."""
    same = defaultdict(list)
    for row in rows:
        same[row["sha256"]].append(row)
    for what, column in (("split", "split"), ("class", "label")):
        pairs = [(twins[0], row) for twins in same.values() for row in twins if row[column] != twins[0][column]]
        if pairs:
            one, other = (row["file"] for row in pairs[0])
            yield f"{len(pairs)} clips are, byte for byte, ones of another {what}, such as {one} and {other}"


def _sha256(path: Path) -> str:
    if not path.is_dir():
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    lines = (f"{_sha256(image)}  {image.name}\n" for image in _images(path))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if is_frame(path.name))


def _key(path: Path) -> list[int]:
    """Size in bytes, latest time of change in ns, and number of files."""
    states = [image.stat() for image in _images(path)] if path.is_dir() else [path.stat()]
    return [
        sum(state.st_size for state in states),
        max((state.st_mtime_ns for state in states), default=0),
        len(states),
    ]


def _load(record: Path) -> dict[str, tuple[list[int], str]]:
    known = {}
    for text in read_record(record).splitlines():
        try:
            file, key, sha256 = parse(text)
            known[file] = (key, sha256)
        except (ValueError, TypeError):
            continue  # cut off when a process was killed: that file is hashed again
    return known
