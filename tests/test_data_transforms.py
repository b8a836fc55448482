"""Pixels: sizes, places and levels that can be worked out by hand, and all frames of a clip treated alike."""

import pytest
import torch

from dualformer.data import transforms
from dualformer.data.transforms import EvalTransform, TrainTransform

MEAN, STD = (10.0, 20.0, 30.0), (1.0, 2.0, 4.0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def coordinates(height, width, frames=2):
    """Frames whose red level is the row, green the column, blue the frame: uint8 [frames, 3, height, width]."""
    row, column = torch.arange(height)[:, None].expand(height, width), torch.arange(width).expand(height, width)
    return torch.stack([torch.stack([row, column, torch.full_like(row, t)]) for t in range(frames)]).to(torch.uint8)


@pytest.mark.parametrize(
    ("size", "shape"), [(None, (40, 60)), (20, (20, 30)), (100, (100, 150)), ((32, 32), (32, 32)), (33, (33, 50))]
)
def test_resize(size, shape):
    frames = coordinates(40, 60)
    resized = transforms.resize(frames, size)
    assert resized.dtype == torch.uint8
    assert tuple(resized.shape) == (2, 3, *shape) == (2, 3, *transforms.resized_shape(40, 60, size))
    assert abs(int(resized[0, 0, -1, 0]) - 39) <= 1  # the last row stays the last row


def test_resize_averages_what_it_drops():
    stripes = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    stripes[..., ::2, :] = 200
    assert (transforms.resize(stripes, 8)[..., 1:-1, :].int() - 100).abs().max() <= 2


def test_random_crops_reach_every_place_and_no_frame_moves_alone():
    frames = coordinates(10, 12, frames=4)
    corners = set()
    for seed in range(300):
        crop = transforms.random_crop(frames, (8, 8), generator(seed))
        top, left = int(crop[0, 0, 0, 0]), int(crop[0, 1, 0, 0])
        assert torch.equal(crop, frames[..., top : top + 8, left : left + 8])
        corners.add((top, left))
    assert corners == {(top, left) for top in range(3) for left in range(5)}


@pytest.mark.parametrize(
    ("shape", "corners"),
    [((20, 50), [(2, 0), (2, 17), (2, 34)]), ((50, 20), [(0, 2), (17, 2), (34, 2)]), ((16, 16), [(0, 0)] * 3)],
)
def test_three_crops_are_spread_along_the_long_side(shape, corners):
    crops = transforms.test_crops(coordinates(*shape), (16, 16), 3)
    assert [(int(crop[0, 0, 0, 0]), int(crop[0, 1, 0, 0])) for crop in crops] == corners
    (centre,) = transforms.test_crops(coordinates(*shape), (16, 16), 1)
    assert torch.equal(centre, crops[1])


def test_flip_is_a_coin_for_the_whole_clip():
    frames = coordinates(4, 6)
    flipped = [transforms.random_flip(frames, generator(seed)) for seed in range(200)]
    assert all(torch.equal(clip, frames) or torch.equal(clip, frames.flip(-1)) for clip in flipped)
    assert 70 < sum(torch.equal(clip, frames) for clip in flipped) < 130


def test_normalise_is_per_colour():
    clip = transforms.normalise(torch.full((2, 3, 4, 5), 40, dtype=torch.uint8), MEAN, STD)
    assert clip.dtype == torch.float32
    assert clip.shape == (3, 2, 4, 5)
    assert clip[:, 0, 0, 0].tolist() == [30.0, 10.0, 2.5]


def test_resized_crops_cover_the_area_asked_for():
    frames = coordinates(100, 100, frames=1)
    for seed in range(50):
        crop = transforms.random_resized_crop(frames, (32, 32), (0.25, 0.36), generator(seed))[0].int()
        height, width = (int(crop[colour].max() - crop[colour].min()) for colour in (0, 1))
        assert crop.shape == (3, 32, 32)
        assert 0.2 <= height * width / 100**2 <= 0.4
        assert 0.65 <= width / height <= 1.55


@pytest.mark.parametrize("crop_area", [None, (0.3, 1.0)])
def test_training_depends_on_its_generator_alone(crop_area):
    transform = TrainTransform(crop_size=(16, 24), mean=MEAN, std=STD, flip=True, crop_area=crop_area)
    frames = coordinates(40, 60)
    first, again, other = (transform(frames, generator(seed)) for seed in (1, 1, 2))
    assert first.shape == (3, 2, 16, 24)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_evaluation_gives_all_crops_of_a_clip():
    frames = coordinates(16, 30)
    views = EvalTransform(crop_size=(16, 16), mean=MEAN, std=STD, num_crops=3)(frames)
    assert views.shape == (3, 3, 2, 16, 16)
    assert torch.equal(views[2], transforms.normalise(frames[..., 14:], MEAN, STD))
