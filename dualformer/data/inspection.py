"""What each file of a data set turned out to hold, found once by decoding it and recorded for every later run.

The record is a file of JSON lines in the cache, one line per video and decoder. A line holds as long as the file's
path, size and modification time and the decoders' versions do; of a folder of images these are the folder's own, so an
image that is replaced under its name is not noticed. An interrupted inspection goes on where it stopped, and several
processes may write at once.

Only a decoder's verdict is recorded. What says something about the moment (a file that isn't there or mustn't be read,
a disk that fails, a machine without memory) is found out anew every time.

Files are decoded in processes of their own, because a broken file may hang its decoder or bring it down. Such a process
is ended, the file has a reason, and the others go on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import signal
import sys
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, as_completed
from pathlib import Path
from typing import Any, BinaryIO

import pebble

from dualformer.data.cache import cache_dir, cache_error, cache_folder
from dualformer.data.config import TIME_LIMIT_S
from dualformer.data.decoders import chosen_decoder, decoder_versions
from dualformer.data.progress import Progress
from dualformer.data.reader import VideoError, VideoInfo, inspect_video, too_slow
from dualformer.results.files import parse

INSPECTION_VERSION = 5  # raise it when an unchanged file would be judged differently: what is recorded is then void
_NAME_SHOWN = 60  # characters of a folder's name in that of its record, which a file system lets have 255 bytes


def inspect_all(
    root: Path, files: Iterable[str], workers: int = 1, *, decoder: str = "decord", time_limit_s: float = TIME_LIMIT_S
) -> dict[str, VideoInfo | VideoError]:
    """Inspects videos, most of them from the record, and tells about progress on stderr where it takes long.

    Args:
        root: folder of the data set.
        files: paths below `root`.
        workers: processes that decode at the same time.
        decoder: which one shall seek; a key of `DECODERS`, or "auto".
        time_limit_s: longest time for one file.

    Returns:
        For each file what it holds, or why it can't be used.

    Raises:
        ConfigError: this machine lacks the decoder.
        CacheError: the record can't be read or written.
    """
    decoder = chosen_decoder(decoder)
    root = root.resolve()
    record = record_path("inspected", root)
    known = _load(record)
    versions = [INSPECTION_VERSION, *decoder_versions(decoder).values()]
    keys = {file: _key(root / file, versions) for file in files}
    recorded = {file: known[file, decoder] for file in keys if (file, decoder) in known}
    found = {file: line.outcome(root) for file, line in recorded.items() if line.holds(keys[file], time_limit_s)}
    new = [file for file in keys if file not in found]
    if not new:
        return found
    lines = _inspected(root, new, workers, decoder, time_limit_s)
    with opened_record(record) as sink, contextlib.closing(lines), Progress(f"inspecting {root}", len(new)) as progress:
        for line, lasts in lines:
            found[line.file] = line.outcome(root)
            if lasts and keys[line.file] is not None:  # a missing file may come back any time
                sink.write(dataclasses.replace(line, key=keys[line.file]).text())
            progress.step()
    return {file: found[file] for file in keys}


def opened_record(record: Path) -> BinaryIO:
    """Opens a record of the cache to add lines to, unbuffered.

    Raises:
        CacheError: it can't be written.
    """
    cache_folder(record.parent.name)
    try:
        return open(record, "ab", buffering=0)
    except OSError as error:
        raise cache_error(error) from error


@dataclasses.dataclass(frozen=True)
class _Line:
    """What was found of a file: `info` or `error`; `time_limit_s` if the error is that it took longer."""

    file: str
    decoder: str
    key: list[Any] | None = None
    info: dict[str, Any] | None = None
    error: str | None = None
    time_limit_s: float | None = None

    def holds(self, key: list[Any] | None, time_limit_s: float) -> bool:
        return self.key == key and (self.time_limit_s is None or self.time_limit_s >= time_limit_s)

    def outcome(self, root: Path) -> VideoInfo | VideoError:
        if self.info is None:
            return VideoError(root / self.file, self.error or "no reason was recorded")
        times = self.info["times"] and tuple(self.info["times"])  # JSON knows lists only
        return VideoInfo(**{**self.info, "times": times})

    def text(self) -> bytes:
        # A leading newline closes a line that an interrupted writer left open; one write keeps concurrent lines whole.
        return f"\n{json.dumps(dataclasses.asdict(self))}\n".encode()


def _inspected(
    root: Path, files: Sequence[str], workers: int, decoder: str, time_limit_s: float
) -> Generator[tuple[_Line, bool], None, None]:
    """A line for each file, as they get done, and whether it is worth recording."""
    # Forked: a process that starts anew would import all that the main module does, torch among it, to decode a file.
    context = multiprocessing.get_context("fork")
    pool = pebble.ProcessPool(min(workers, len(files)), initializer=_settle, context=context)
    try:
        jobs: dict[Future[VideoInfo | VideoError], str] = {
            pool.schedule(_inspect, (root / file, decoder), timeout=time_limit_s): file for file in files
        }
        for job in as_completed(jobs):
            file = jobs.pop(job)
            try:
                outcome = job.result()
            except TimeoutError:
                reason = too_slow(root / file, time_limit_s).reason
                yield _Line(file, decoder, error=reason, time_limit_s=time_limit_s), True
            except pebble.ProcessExpired as error:  # or the machine ran out of memory, so it is tried again next time
                yield _Line(file, decoder, error=f"brings its decoder down ({_end(error.exitcode)})"), False
            else:
                if isinstance(outcome, VideoError):
                    yield _Line(file, decoder, error=outcome.reason), not outcome.passing
                else:
                    yield _Line(file, decoder, info=dataclasses.asdict(outcome)), True
    finally:
        pool.stop()  # where not all is done, something went wrong, and nobody waits for the rest
        pool.join()


def _settle() -> None:
    """Drops what a forked process has from its parent: threads, which didn't come along, and answers to signals."""
    if "torch" in sys.modules:  # some decoders use it, and it would wait for its threads
        sys.modules["torch"].set_num_threads(1)
    for number in (signal.SIGUSR1, signal.SIGUSR2):  # a cluster's warning is for the parent, which answers by leaving
        signal.signal(number, signal.SIG_IGN)


def _inspect(path: Path, decoder: str) -> VideoInfo | VideoError:
    try:
        return inspect_video(path, decoder)
    except VideoError as error:
        return VideoError(error.path, error.reason, error.passing)  # without its cause, which may not survive the way


def _end(exit_code: int) -> str:
    return signal.Signals(-exit_code).name if exit_code < 0 else f"exit status {exit_code}"


def _key(path: Path, versions: Sequence[Any]) -> list[Any] | None:
    """What must be unchanged for a recorded line to hold, None for a file that can't be reached."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [*versions, status.st_size, status.st_mtime_ns]


def read_record(record: Path) -> bytes:
    """Returns what a record of the cache holds, nothing where there is none.

    Raises:
        CacheError: it is there and can't be read.
    """
    try:
        return record.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise cache_error(error) from error


def record_path(kind: str, root: Path) -> Path:
    """Returns the file of the cache that holds what is known of a folder: "inspected" or "hashed"."""
    name = hashlib.sha256(str(root).encode()).hexdigest()[:12]
    return cache_dir() / kind / f"{root.name[:_NAME_SHOWN]}-{name}.jsonl"


def _load(record: Path) -> dict[tuple[str, str], _Line]:
    lines = {}
    for text in read_record(record).splitlines():
        try:
            line = _Line(**parse(text))
        except (ValueError, TypeError):
            continue  # cut off when a process was killed: that file is inspected again
        lines[line.file, line.decoder] = line
    return lines
