"""Frames out of one video: by decoding in order (PyAV), or by seeking where that gives the same frames.

Seeking is fast in long files, and on several real formats silently wrong: AVI and MPEG-4 with B-frames, WMV, MPEG
streams, open groups of pictures, edit lists give frames a few places off, and a frame count that is too high. So
decoding in order is the truth here, and `inspect_video` decides once per file whether a decoder's seeking reproduces
it bit by bit. A file that fails this test is simply read in order: which decoder read a clip never changes a pixel.

A file that is damaged is refused: frames that FFmpeg had to make up, and frames that it says it couldn't decode whole,
look like any other frame to whoever reads them later, and what follows such a frame is built on it.

A folder of numbered images is a video too, whose frames are read one by one. Any video is opened for one call, with one
decoding thread, and dropped: an open reader survives neither fork nor pickle.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import av
import av.logging
import numpy as np
from av.stream import Disposition

from dualformer.data.config import AUTO
from dualformer.data.decoders import DECODERS, Images, Seeker, chosen_decoder
from dualformer.data.files import likely_place
from dualformer.data.opening import address, open_container
from dualformer.errors import first_line

_DECODING_ERRORS = (av.FFmpegError, OSError, ValueError, LookupError, RuntimeError, MemoryError)
# What FFmpeg answers with the numbers of the system's errors, though it judges the file: not a number, out of range,
# a value that makes no sense, a feature that it lacks.
_VERDICTS = frozenset([errno.EDOM, errno.ERANGE, errno.EINVAL, errno.ENOSYS])
_LAST_ERRNO = max(errno.errorcode)  # FFmpeg's own are far above

_Errors = list[tuple[int, str, str]]
"""What FFmpeg reports, as PyAV gives it: level, who says so, what."""

_CHUNK = 16  # frames held in memory at once while a file is compared


class VideoError(Exception):
    """A video that can't be used: missing, empty, broken, damaged, without pictures, too short.

    Attributes:
        path: the file.
        reason: one line.
        passing: whether it says something about the moment (no permission, no memory, a disk that fails), so that the
            file may be fine another time; else it is a decoder's verdict about the file.
    """

    def __init__(self, path: str | os.PathLike[str], reason: str, passing: bool = False):
        super().__init__(os.fspath(path), reason, passing)
        self.path, self.reason, self.passing = Path(path), reason, passing

    def __str__(self) -> str:
        return f"{os.fsencode(self.path).decode(errors='backslashreplace')}: {self.reason}"


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """What a video holds, as decoding it in order found.

    Attributes:
        num_frames: frames that can be decoded; headers and decoders' counts may promise more.
        height: pixels, after rotation.
        width: pixels, after rotation.
        seekable: whether the decoder it was inspected for seeks to the same frames, bit by bit.
        seconds: from when the first frame appears to when the last one goes, by timestamps; None where there are none.
        times: when each frame appears, in seconds after the first; only where the rate varies, None elsewhere.
    """

    num_frames: int
    height: int
    width: int
    seekable: bool
    seconds: float | None = None
    times: tuple[float, ...] | None = None


def read_in_order(
    path: str | os.PathLike[str], indices: Sequence[int], time_limit_s: float | None = None
) -> np.ndarray:
    """Returns the frames at `indices`, decoded from the start with PyAV: uint8 RGB [len(indices), H, W, 3].

    Args:
        path: a file, or a folder of images.
        indices: frame indices from 0, in any order, repeats allowed.
        time_limit_s: gives up after it, between two frames.

    Raises:
        VideoError: the video is missing, empty, broken, damaged up to there, holds no pictures, or fewer frames than
            asked for, or takes too long.
    """
    wanted, frames = set(map(int, indices)), {}
    with _explained(path):
        if Path(path).is_dir():
            return Images(path).frames([*map(int, indices)])
        for index, frame in enumerate(_in_time(_decode(path), path, time_limit_s)):
            if frame.is_corrupt:  # what follows is built on it
                raise VideoError(path, f"frame {index} is damaged")
            if index in wanted:
                frames[index] = _to_rgb(frame)
                if len(frames) == len(wanted):
                    break
        if missing := wanted - frames.keys():
            raise VideoError(path, f"no frame {min(missing)}")
        return np.stack([frames[int(index)] for index in indices])


def read_by_seeking(path: str | os.PathLike[str], indices: Sequence[int], decoder: str = "decord") -> np.ndarray:
    """As `read_in_order`, with a decoder that seeks: trust it only where `VideoInfo.seekable` says so for it."""
    indices = [*map(int, indices)]
    with _explained(path):
        if Path(path).is_dir():
            return Images(path).frames(indices)
        with address(path) as place:
            return _seeker(decoder)(place).frames(indices)


def _seeker(decoder: str) -> Callable[[str], Seeker]:
    opener = DECODERS[chosen_decoder(decoder) if decoder == AUTO else decoder]
    if opener is None:
        raise ValueError(f"{decoder} reads in order and doesn't seek")
    return opener


def inspect_video(path: str | os.PathLike[str], decoder: str = "decord") -> VideoInfo:
    """Decodes a whole video in order, and finds out whether a decoder can seek in it.

    A decoder finds a frame by seeking to the key frame before it and counting on from there, so what goes wrong with
    the count goes wrong by groups of pictures. Each group is therefore entered by two seeks, to its last and to its
    first frame, from the end of the file backwards. All frames are compared, since some files decode to slightly other
    pixels in another FFmpeg. This costs about three decodes of the file, once; one, where the decoder doesn't seek.

    Args:
        path: a file, or a folder of images.
        decoder: a key of `DECODERS`.

    Raises:
        VideoError: as `read_in_order`; also where decoding fails part-way, frames are damaged, or differ in size.
    """
    decoder = chosen_decoder(decoder) if decoder == AUTO else decoder
    with _explained(path):
        if Path(path).is_dir():
            return _inspect_images(path)
        with _errors_heard() as errors:
            return _inspect_file(path, DECODERS[decoder], errors)


def _inspect_file(
    path: str | os.PathLike[str], decoder: Callable[[str | os.PathLike[str]], Seeker] | None, errors: _Errors
) -> VideoInfo:
    frames = _decode(path, on_open=errors.clear)  # of its header FFmpeg complains where nothing is amiss with pictures
    first = next(frames, None)  # before decord opens the file, which prints about files that aren't videos
    if first is None:
        raise VideoError(path, "no frame can be decoded")
    shape = _to_rgb(first).shape
    sought = _digests_by_seeking(path, decoder) or {}
    stamps, damaged, heard, same = [], 0, 0, True
    for index, frame in enumerate(itertools.chain([first], frames)):
        stamps.append(_stamp(frame))
        damaged, heard = damaged + (frame.is_corrupt or len(errors) > heard), len(errors)
        picture = _to_rgb(frame)
        _check_size(path, f"frame {index}", picture, shape)
        same = same and sought.get(index) == _digest(picture)
    damaged += len(errors) > heard  # by the end of the file, after its last frame
    if damaged:
        raise VideoError(path, f"damaged: {damaged} of {len(stamps)} frames ({damaged / len(stamps):.1%})")
    seconds, times = _clock(stamps)
    seekable = same and len(stamps) == len(sought)
    return VideoInfo(len(stamps), shape[0], shape[1], seekable=seekable, seconds=seconds, times=times)


@contextlib.contextmanager
def _errors_heard() -> Iterator[_Errors]:
    """What FFmpeg reports as an error while PyAV decodes in this thread: not every decoder marks the frame as well."""
    level, skips = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)  # each frame's trouble counts, be it the same again
    try:
        with av.logging.Capture() as errors:
            yield errors
    finally:
        av.logging.set_skip_repeated(skips)
        av.logging.set_level(level)


def _inspect_images(path: str | os.PathLike[str]) -> VideoInfo:
    images = Images(path)
    shape = images.frame(0).shape
    for index, image in enumerate(images.paths):
        _check_size(path, image.name, images.frame(index), shape)
    return VideoInfo(len(images), shape[0], shape[1], seekable=True)


def _check_size(path: str | os.PathLike[str], name: str, frame: np.ndarray, shape: Sequence[int]) -> None:
    if frame.shape != shape:
        sizes = [f"{height}x{width}" for height, width, _ in (frame.shape, shape)]
        raise VideoError(path, f"{name} is {sizes[0]}, the first is {sizes[1]}")


def _digests_by_seeking(
    path: str | os.PathLike[str], decoder: Callable[[str | os.PathLike[str]], Seeker] | None
) -> dict[int, bytes] | None:
    """Digest of every frame as a decoder finds it, None where it can't read the file or contradicts itself."""
    if decoder is None:
        return None
    try:
        with address(path) as place:
            return _digests(decoder(place))
    except _DECODING_ERRORS:
        return None


def _digests(seeker: Seeker) -> dict[int, bytes] | None:
    starts = seeker.entries()
    digests: dict[int, bytes] = {}
    for start, stop in reversed(list(zip(starts, [*starts[1:], len(seeker)]))):
        last = _digest(seeker.frames([stop - 1])[0])
        for begin in range(start, stop, _CHUNK):
            chunk = range(begin, min(begin + _CHUNK, stop))
            digests |= zip(chunk, map(_digest, seeker.frames(chunk)))
        if digests[stop - 1] != last:
            return None
    return digests


def _in_time(
    frames: Iterator[av.VideoFrame], path: str | os.PathLike[str], time_limit_s: float | None
) -> Iterator[av.VideoFrame]:
    begin_s = time.monotonic()
    for frame in frames:
        yield frame
        if time_limit_s and time.monotonic() > begin_s + time_limit_s:
            raise too_slow(path, time_limit_s)


def too_slow(path: str | os.PathLike[str], time_limit_s: float) -> VideoError:
    """Returns the error of a video that was given up."""
    return VideoError(path, f"took longer than {time_limit_s:g} s")


def _decode(path: str | os.PathLike[str], on_open: Callable[[], None] = lambda: None) -> Iterator[av.VideoFrame]:
    with open_container(path) as container:
        on_open()
        stream = container.streams.best("video")  # as decord chooses, where a file has several
        if not isinstance(stream, av.VideoStream):
            raise VideoError(path, "no video stream")
        if Disposition.attached_pic in stream.disposition:
            raise VideoError(path, "no video stream, only an attached picture (a cover)")
        stream.codec_context.thread_count = 1
        count = 0
        try:
            for frame in container.decode(stream):
                yield frame
                count += 1
        except av.FFmpegError as error:
            raise VideoError(path, f"decoding fails after {count} frames: {error.strerror}", _passes(error)) from error


def _passes(error: BaseException) -> bool:
    """Whether an error says something about the moment or the machine, rather than about the file."""
    number = getattr(error, "errno", None)
    return isinstance(error, MemoryError) or (
        isinstance(error, (OSError, av.FFmpegError))
        and number is not None
        and abs(number) <= _LAST_ERRNO
        and abs(number) not in _VERDICTS
    )


def _stamp(frame: av.VideoFrame) -> tuple[float, float] | None:
    """When a frame appears and how long it stays (0 where unknown), in seconds; None without a timestamp."""
    if frame.pts is None or not frame.time_base:
        return None
    return float(frame.pts * frame.time_base), float((frame.duration or 0) * frame.time_base)


def _clock(stamps: Sequence[tuple[float, float] | None]) -> tuple[float | None, tuple[float, ...] | None]:
    """`VideoInfo.seconds` and `VideoInfo.times` from what `_stamp` says of each frame.

    The rate varies where some frame is more than half the average distance off its place on a constant grid: below
    that, the frame of an index is the one nearest to its time anyway. Timestamps that don't rise (AVI with B-frames
    has them in the order of decoding) say how long a file is, but not when a frame appears.
    """
    if None in stamps:
        return None, None
    starts, durations = np.array(stamps).T
    gaps = np.diff(starts)
    last = int(starts.argmax())
    stays = durations[last] or (np.ptp(starts) / len(gaps) if len(gaps) else 0.0)
    seconds = float(np.ptp(starts) + stays)
    times = (starts - starts[0]).round(6)
    step = seconds / len(starts)
    varies = (gaps > 0).all() and np.abs(times - step * np.arange(len(times))).max() > step / 2
    return round(seconds, 6) or None, tuple(times.tolist()) if varies else None


def _to_rgb(frame: av.VideoFrame) -> np.ndarray:
    """One frame the right way up: uint8 [H, W, 3]."""
    return np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))


def _digest(frame: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(frame).data, digest_size=16).digest()


@contextlib.contextmanager
def _explained(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns everything that decoders raise into a `VideoError`, after a look at the file itself."""
    path = Path(path)
    try:
        _look_at(path)
        yield
    except _DECODING_ERRORS as error:
        message = getattr(error, "strerror", None) or first_line(error)
        passing = _passes(error)
        raise VideoError(path, f"can't be {'read' if passing else 'decoded'}: {message[-160:]}", passing) from error


def _look_at(path: Path) -> None:
    """Finds what is no decoder's business: a file that isn't there, or that the system doesn't let be read."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise VideoError(path, f"no such file{likely_place(path)}", passing=True) from None
    if path.is_dir():
        os.scandir(path).close()
        return
    if not path.is_file():
        raise VideoError(path, "neither a file nor a folder of images")
    with open(path, "rb") as file:
        if not file.read(1):
            raise VideoError(path, "empty file (0 bytes)")
