"""What each file of a data set turned out to hold, found once by decoding it and recorded for every later run.

The record is a file of JSON lines in the cache, one line a video. A line holds as long as the file's path, size and
modification time and the decoders' versions do. An interrupted inspection goes on where it stopped, and several
processes may write at once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from dualformer.data.reader import VideoError, VideoInfo, decoder_versions, inspect_video

INSPECTION_VERSION = 3  # raise it when an unchanged file would be judged differently: what is recorded is then void
PROGRESS_INTERVAL_S = 10


def cache_dir() -> Path:
    """Returns where generated and derived data lives: `$DUALFORMER_CACHE`, else dualformer/ in the user's cache."""
    if chosen := os.environ.get("DUALFORMER_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dualformer"


def inspect_all(root: Path, files: Iterable[str], workers: int = 1) -> dict[str, VideoInfo | VideoError]:
    """Inspects videos, most of them from the record, and tells about progress on stderr where it takes long.

    Args:
        root: folder of the data set.
        files: paths below `root`.
        workers: threads that decode at the same time.

    Returns:
        For each file what it holds, or why it can't be used.

    Raises:
        OSError: the record can't be written.
    """
    root = root.resolve()
    record = _record_path(root)
    known = _load(record)
    keys = {file: _key(root / file) for file in files}
    found = {file: known[file].outcome(root) for file, key in keys.items() if file in known and known[file].key == key}
    new = [file for file in keys if file not in found]
    if not new:
        return found
    record.parent.mkdir(parents=True, exist_ok=True)
    progress = _Progress(root, len(new))
    with open(record, "ab", buffering=0) as sink, ThreadPoolExecutor(workers) as pool:
        jobs = {pool.submit(_inspect, root / file): file for file in new}
        for job in as_completed(jobs):
            file = jobs[job]
            found[file] = job.result()
            if keys[file] is not None:  # a missing file may come back any time
                sink.write(_line(file, keys[file], found[file]))
            progress.step()
    return {file: found[file] for file in keys}


@dataclasses.dataclass(frozen=True)
class _Line:
    file: str
    key: list[Any]
    info: dict[str, Any] | None = None
    error: str | None = None

    def outcome(self, root: Path) -> VideoInfo | VideoError:
        if self.info is None:
            return VideoError(root / self.file, self.error)
        times = self.info["times"] and tuple(self.info["times"])  # JSON knows lists only
        return VideoInfo(**{**self.info, "times": times})


def _inspect(path: Path) -> VideoInfo | VideoError:
    try:
        return inspect_video(path)
    except VideoError as error:
        return error


def _key(path: Path) -> list[Any] | None:
    """What must be unchanged for a recorded line to hold, None for a file that can't be reached."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [INSPECTION_VERSION, status.st_size, status.st_mtime_ns, *decoder_versions().values()]


def _record_path(root: Path) -> Path:
    name = hashlib.sha256(str(root).encode()).hexdigest()[:12]
    return cache_dir() / "inspected" / f"{root.name}-{name}.jsonl"


def _load(record: Path) -> dict[str, _Line]:
    if not record.exists():
        return {}
    lines = {}
    for text in record.read_bytes().splitlines():
        try:
            line = _Line(**json.loads(text))
        except (ValueError, TypeError):
            continue  # cut off when a process was killed: that file is inspected again
        lines[line.file] = line
    return lines


def _line(file: str, key: list[Any], outcome: VideoInfo | VideoError) -> bytes:
    if isinstance(outcome, VideoError):
        line = _Line(file, key, error=outcome.reason)
    else:
        line = _Line(file, key, info=dataclasses.asdict(outcome))
    # A leading newline closes a line that an interrupted writer left open; one write keeps concurrent lines whole.
    return f"\n{json.dumps(dataclasses.asdict(line))}\n".encode()


class _Progress:
    def __init__(self, root: Path, total: int):
        self.root, self.total, self.done = root, total, 0
        self.due_s = time.monotonic() + PROGRESS_INTERVAL_S

    def step(self) -> None:
        self.done += 1
        if time.monotonic() >= self.due_s:
            print(f"inspecting {self.root}: {self.done}/{self.total} videos", file=sys.stderr, flush=True)
            self.due_s = time.monotonic() + PROGRESS_INTERVAL_S
