"""Which frames of a video make a clip: the rules of mmaction2's `SampleFrames`.

A *dense* clip is `num_frames` frames, `frame_stride` apart. Its *span* is their product; starts are chosen so that the
whole span fits, as in the code vendored by sail-sg/dualformer@058c10c (later mmaction2 releases count one stride less
when testing, and spread clips differently). Indices are of frames shown at a constant rate; `at_average_rate` finds the
frames of a video whose rate varies.

A *spread* clip takes one frame from each of `num_frames` equal parts of the video: the rule `frame_uniform` of the
SampleFrames that SwinTransformer/Video-Swin-Transformer vendors, with which it trains on Something-Something.

Deviation: where a video is too short, "repeat_last" shows the video's last frame, mmaction2 the last one that a whole
number of strides reaches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np
import torch

from dualformer.data.config import ShortVideo


def frames_needed(num_frames: int, frame_stride: int) -> int:
    """Returns the least number of frames a video must have to fill a clip without repeating any."""
    return (num_frames - 1) * frame_stride + 1


def train_indices(
    total: int, num_frames: int, frame_stride: int, generator: torch.Generator, short_video: ShortVideo = "error"
) -> np.ndarray:
    """Returns the frame indices of one clip at a random place: int64 [num_frames].

    Every start that leaves room for the whole span is equally likely.

    Args:
        total: frames of the video.
        num_frames: frames of the clip (T).
        frame_stride: distance between them, in frames.
        generator: the only source of chance.
        short_video: what to do with a video too short for the clip; see `fit`.

    Raises:
        ValueError: as `fit`.
    """
    (start,) = train_starts(total, num_frames * frame_stride, 1, generator)
    return fit(start + np.arange(num_frames) * frame_stride, total, short_video)


def train_starts(total: int, span: int, num_clips: int, generator: torch.Generator) -> np.ndarray:
    """Returns the first frames of random clips: int64 [num_clips], rising.

    The starts that leave room for the whole span are cut into `num_clips` equal parts of whole frames (what remains at
    the end is not used), and each clip starts anywhere in its part. With fewer starts than clips, clips share starts:
    drawn at random, or evenly spread where the video has no more frames than the span or than there are clips.

    Args:
        total: frames of the video.
        span: frames of the video that a clip stretches over, the last stride included.
        num_clips: clips, one in each part.
        generator: the only source of chance.
    """
    starts, clips = total - span + 1, np.arange(num_clips)
    if starts >= num_clips:
        part = starts // num_clips
        return clips * part + torch.randint(part, (num_clips,), generator=generator).numpy()
    if total > max(num_clips, span):
        return np.sort(torch.randint(starts, (num_clips,), generator=generator).numpy())
    return np.around(clips * (max(starts, 0) / num_clips)).astype(np.int64)


def test_indices(
    total: int, num_frames: int, frame_stride: int, num_clips: int, short_video: ShortVideo = "error"
) -> np.ndarray:
    """Returns the frame indices of evenly spread clips: int64 [num_clips, num_frames].

    The starts that leave room for the whole span are cut into `num_clips` equal parts; each clip starts in the middle
    of its part, rounded down.

    Args:
        total: frames of the video.
        num_frames: frames of a clip (T).
        frame_stride: distance between them, in frames.
        num_clips: clips per video.
        short_video: what to do with a video too short for the clip; see `fit`.

    Raises:
        ValueError: as `fit`.
    """
    part = max(total - num_frames * frame_stride + 1, 0) / num_clips
    first = (np.arange(num_clips) * part + part / 2).astype(np.int64)  # in mmaction2's order, so rounded as there
    return fit(first[:, None] + np.arange(num_frames) * frame_stride, total, short_video)


test_indices.__test__ = False  # type: ignore[attr-defined]  # the name says "for testing a model"; pytest shall not collect it


def spread_train_indices(total: int, num_frames: int, generator: torch.Generator) -> np.ndarray:
    """Returns a random frame of each part of the video, its ends included: int64 [num_frames].

    A video of fewer frames than the clip shows some of them again.

    Args:
        total: frames of the video.
        num_frames: frames of the clip (T).
        generator: the only source of chance.

    Raises:
        ValueError: an empty video.
    """
    ends = _parts(total, num_frames)
    choices = torch.from_numpy(np.diff(ends) + 1)
    # Not torch.randint, whose upper end is one number: here each part has its own.
    draws = torch.rand(num_frames, dtype=torch.float64, generator=generator)
    return ends[:-1] + (draws * choices).long().numpy()


def spread_test_indices(total: int, num_frames: int, num_clips: int = 1) -> np.ndarray:
    """Returns the middle frame of each part, rounded down: int64 [num_clips, num_frames].

    Of several clips, each takes another place in all parts, evenly spread around the middle.

    Args:
        total: frames of the video.
        num_frames: frames of a clip (T).
        num_clips: clips per video.

    Raises:
        ValueError: an empty video.
    """
    ends = _parts(total, num_frames)
    odd = 2 * np.arange(num_clips)[:, None] + 1
    return ends[:-1] + np.diff(ends) * odd // (2 * num_clips)


def _parts(total: int, num_frames: int) -> np.ndarray:
    """Ends of the parts of a video, from its first frame to its last: int64 [num_frames + 1]."""
    if total < 1:
        raise ValueError("the video has no frames")
    return np.around(np.arange(num_frames + 1) * ((total - 1) / num_frames)).astype(np.int64)


def at_average_rate(indices: np.ndarray, times: Sequence[float] | None, seconds: float | None) -> np.ndarray:
    """Turns indices at a constant rate into the frames that are shown at these times: int64, as `indices`.

    Args:
        indices: frame indices, as if each frame were shown for the same time; any shape.
        times: when each frame appears in seconds (`VideoInfo.times`); None leaves the indices as they are.
        seconds: length of the video.
    """
    if times is None or seconds is None:
        return indices
    # A hundredth of a frame later, so that a frame is there at its own time whatever rounding did to either.
    moments = (indices + 0.01) * (seconds / len(times))
    return np.searchsorted(times, moments, side="right") - 1


def fit(indices: np.ndarray, total: int, short_video: ShortVideo) -> np.ndarray:
    """Brings indices past the last frame back into the video.

    Args:
        indices: frame indices, any shape.
        total: frames of the video.
        short_video: "repeat_last" shows the last frame again, "loop" starts over, "error" refuses.

    Raises:
        ValueError: an empty video, one too short where `short_video` is "error", or an unknown `short_video`.
    """
    if total < 1:
        raise ValueError("the video has no frames")
    if short_video not in get_args(ShortVideo):
        raise ValueError(f"short_video must be one of {', '.join(get_args(ShortVideo))}, got {short_video!r}")
    if indices.max() < total:
        return indices
    if short_video == "repeat_last":
        return np.minimum(indices, total - 1)
    if short_video == "loop":
        return indices % total
    raise ValueError(f"the clip needs frame {int(indices.max())}, but the video has {total} frames")
