"""Frame indices: exact tables, worked out by hand from the rule, and what holds for every video length."""

import numpy as np
import pytest
import torch

from dualformer.data.sampling import fit, frames_needed, test_indices, train_indices


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# Starts of the clips: (i + 1/2) * (total - span + 1) / num_clips, rounded down; the span is num_frames * frame_stride.
@pytest.mark.parametrize(
    ("total", "num_frames", "frame_stride", "num_clips", "starts"),
    [
        (300, 32, 2, 1, [118]),
        (300, 32, 2, 4, [29, 88, 148, 207]),
        (300, 32, 2, 10, [11, 35, 59, 82, 106, 130, 154, 177, 201, 225]),
        (300, 8, 32, 1, [22]),
        (300, 8, 32, 3, [7, 22, 37]),
        (240, 16, 4, 4, [22, 66, 110, 154]),
        (65, 32, 2, 4, [0, 0, 1, 1]),
        (64, 32, 2, 4, [0, 0, 0, 0]),
        (8, 8, 1, 1, [0]),
        (11, 8, 1, 2, [1, 3]),
    ],
)
def test_clips_are_spread_evenly(total, num_frames, frame_stride, num_clips, starts):
    indices = test_indices(total, num_frames, frame_stride, num_clips)
    assert indices.tolist() == [[start + frame_stride * step for step in range(num_frames)] for start in starts]


@pytest.mark.parametrize(("total", "num_frames", "frame_stride"), [(40, 8, 2), (16, 8, 2), (100, 4, 16), (9, 8, 1)])
def test_every_start_that_fits_is_drawn(total, num_frames, frame_stride):
    clips = [train_indices(total, num_frames, frame_stride, generator(seed)) for seed in range(800)]
    assert all((np.diff(clip) == frame_stride).all() for clip in clips)
    assert {int(clip[0]) for clip in clips} == set(range(total - num_frames * frame_stride + 1))


def test_a_generator_decides_the_clip():
    first, again = (train_indices(1000, 8, 4, generator(3)) for _ in range(2))
    assert first.tolist() == again.tolist() != train_indices(1000, 8, 4, generator(4)).tolist()


def test_a_video_without_the_last_gap_still_fits():
    total = frames_needed(8, 4)
    assert total == 29
    assert train_indices(total, 8, 4, generator()).tolist() == list(range(0, 29, 4))
    assert test_indices(total, 8, 4, 2).tolist() == [list(range(0, 29, 4))] * 2


@pytest.mark.parametrize(
    ("short_video", "expected"),
    [("repeat_last", [0, 2, 4, 4, 4, 4, 4, 4]), ("loop", [0, 2, 4, 1, 3, 0, 2, 4])],
)
def test_short_videos_are_filled_up(short_video, expected):
    assert train_indices(5, 8, 2, generator(), short_video).tolist() == expected
    assert test_indices(5, 8, 2, 1, short_video).tolist() == [expected]


def test_short_videos_are_refused_by_default():
    with pytest.raises(ValueError, match="needs frame 14, but the video has 14 frames"):
        train_indices(14, 8, 2, generator())
    with pytest.raises(ValueError, match="needs frame 14, but the video has 5 frames"):
        test_indices(5, 8, 2, 1)


@pytest.mark.parametrize(("total", "short_video", "message"), [(0, "loop", "no frames"), (3, "mirror", "repeat_last")])
def test_impossible_requests_are_refused(total, short_video, message):
    with pytest.raises(ValueError, match=message):
        fit(np.arange(8), total, short_video)
