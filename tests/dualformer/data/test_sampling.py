"""Frame indices: exact tables, worked out by hand from the rule, and what holds for every video length."""

import numpy as np
import pytest
import torch

from dualformer.data.sampling import (
    at_average_rate,
    fit,
    frames_needed,
    spread_test_indices,
    spread_train_indices,
    test_indices,
    train_indices,
    train_starts,
)


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
        (100, 32, 2, 3, [6, 18, 30]),
        (66, 32, 2, 4, [0, 1, 1, 2]),
        (67, 32, 2, 10, [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]),
        (10, 8, 1, 3, [0, 1, 2]),
        (9, 8, 1, 3, [0, 1, 1]),
        # The eighth clip would start at 7.5 * 2.8 = 21; in binary mmaction2's 7 * 2.8 + 1.4 falls short of it.
        (28, 1, 1, 10, [1, 4, 7, 9, 12, 15, 18, 20, 23, 26]),
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


# A video of `total` frames, clips that span `span` of them: least and greatest start of each clip, by mmaction2's rule.
@pytest.mark.parametrize(
    ("total", "span", "num_clips", "least", "greatest"),
    [
        (300, 64, 1, [0], [236]),
        (300, 64, 4, [0, 59, 118, 177], [58, 117, 176, 235]),
        (300, 64, 10, [23 * clip for clip in range(10)], [23 * clip + 22 for clip in range(10)]),
        (100, 64, 3, [0, 12, 24], [11, 23, 35]),
        (67, 64, 4, [0, 1, 2, 3], [0, 1, 2, 3]),
        (10, 8, 3, [0, 1, 2], [0, 1, 2]),
        (66, 64, 4, [0, 0, 0, 0], [2, 2, 2, 2]),  # three starts for four clips: any, sorted
        (9, 8, 3, [0, 0, 0], [1, 1, 1]),
        (64, 64, 4, [0, 0, 0, 1], [0, 0, 0, 1]),  # one start: what follows it is rounded from 0, 0.25, 0.5, 0.75
        (8, 8, 3, [0, 0, 1], [0, 0, 1]),
        (5, 4, 6, [0, 0, 1, 1, 1, 2], [0, 0, 1, 1, 1, 2]),
        (63, 64, 4, [0, 0, 0, 0], [0, 0, 0, 0]),
        (3, 8, 3, [0, 0, 0], [0, 0, 0]),
        (1, 1, 1, [0], [0]),
    ],
)
def test_training_clips_start_anywhere_in_their_part(total, span, num_clips, least, greatest):
    drawn = np.stack([train_starts(total, span, num_clips, generator(seed)) for seed in range(1500)])
    assert drawn.min(axis=0).tolist() == least
    assert drawn.max(axis=0).tolist() == greatest
    assert (np.diff(drawn) >= 0).all()


# Ends of the parts: i * (total - 1) / num_frames, rounded, halves to even; a frame is drawn from one end to the next.
SPREAD = [
    (1, 4, [0, 0, 0, 0, 0], [0, 0, 0, 0]),
    (2, 4, [0, 0, 0, 1, 1], [0, 0, 0, 1]),
    (3, 4, [0, 0, 1, 2, 2], [0, 0, 1, 2]),
    (4, 4, [0, 1, 2, 2, 3], [0, 1, 2, 2]),
    (5, 4, [0, 1, 2, 3, 4], [0, 1, 2, 3]),
    (9, 4, [0, 2, 4, 6, 8], [1, 3, 5, 7]),
    (10, 4, [0, 2, 4, 7, 9], [1, 3, 5, 8]),
    (32, 8, [0, 4, 8, 12, 16, 19, 23, 27, 31], [2, 6, 10, 14, 17, 21, 25, 29]),
    (37, 8, [0, 4, 9, 14, 18, 22, 27, 32, 36], [2, 6, 11, 16, 20, 24, 29, 34]),
]


@pytest.mark.parametrize(("total", "num_frames", "ends", "middles"), SPREAD)
def test_spread_clips_take_the_middle_to_test(total, num_frames, ends, middles):
    assert spread_test_indices(total, num_frames).tolist() == [middles]


@pytest.mark.parametrize(("total", "num_frames", "ends", "middles"), SPREAD)
def test_spread_clips_take_any_frame_of_a_part_to_train(total, num_frames, ends, middles):
    clips = np.stack([spread_train_indices(total, num_frames, generator(seed)) for seed in range(300)])
    for part in range(num_frames):
        assert set(clips[:, part].tolist()) == set(range(ends[part], ends[part + 1] + 1))


def test_several_spread_clips_take_different_places():
    assert spread_test_indices(37, 8, 2).tolist() == [[1, 5, 10, 15, 19, 23, 28, 33], [3, 7, 12, 17, 21, 25, 30, 35]]
    assert spread_test_indices(41, 4, 3).tolist() == [[1, 11, 21, 31], [5, 15, 25, 35], [8, 18, 28, 38]]


def test_the_frame_shown_at_a_time_is_the_last_that_appeared():
    times, seconds = (0.0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.6, 1.1, 1.6, 2.1, 2.12, 2.36), 2.4
    at_rate = at_average_rate(np.arange(12), times, seconds)
    assert at_rate.tolist() == [0, 5, 5, 6, 6, 6, 7, 7, 8, 8, 8, 10]
    assert at_average_rate(np.array([[3, 11], [0, 1]]), times, seconds).tolist() == [[6, 10], [0, 5]]
    indices = np.arange(5)
    assert at_average_rate(indices, None, None) is indices


def test_frames_of_a_constant_rate_are_their_own_at_any_rate():
    for rate in (24000 / 1001, 25, 29.97, 30, 60, 7.4697):
        times = np.round(np.arange(500) / rate, 6).tolist()
        assert at_average_rate(np.arange(500), times, round(500 / rate, 6)).tolist() == list(range(500))


@pytest.mark.parametrize("sample", [spread_test_indices, lambda *size: spread_train_indices(*size, generator())])
def test_spread_clips_need_a_frame(sample):
    with pytest.raises(ValueError, match="no frames"):
        sample(0, 4)
