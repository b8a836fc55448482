"""Which frames of a video make a clip: the rules of mmaction2's `SampleFrames` for dense 3-D sampling.

A clip is `num_frames` frames, `frame_stride` apart. Its *span* is their product; starts are chosen so that the whole
span fits, as in the code vendored by sail-sg/dualformer@058c10c (later mmaction2 releases count one stride less when
testing, and spread clips differently).
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch

ShortVideo = Literal["error", "repeat_last", "loop"]


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
    starts = max(total - num_frames * frame_stride + 1, 1)
    start = int(torch.randint(starts, (), generator=generator))
    return fit(start + np.arange(num_frames) * frame_stride, total, short_video)


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
    starts = max(total - num_frames * frame_stride + 1, 0)
    first = ((np.arange(num_clips) + 0.5) * starts / num_clips).astype(np.int64)
    return fit(first[:, None] + np.arange(num_frames) * frame_stride, total, short_video)


test_indices.__test__ = False  # the name says "for testing a model"; pytest shall not collect it


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
