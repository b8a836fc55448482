"""Pixels: sizes, places and levels that can be worked out by hand, and all frames of a clip treated alike."""

import pytest
import torch

from dualformer.data import transforms
from dualformer.data.augment import AugmentConfig
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


def test_short_sides_are_drawn_from_the_whole_range_and_keep_the_aspect():
    frames = coordinates(40, 60)
    shapes = {tuple(transforms.random_short_side(frames, (20, 24), generator(seed)).shape[-2:]) for seed in range(60)}
    assert shapes == {(20, 30), (21, 32), (22, 33), (23, 34), (24, 36)}


def test_erasing_fills_one_rectangle_with_the_same_noise_in_all_frames():
    frames = coordinates(60, 80, frames=3) // 2 + 100  # levels from 100 to 140
    shares = []
    for seed in range(200):
        erased = transforms.random_erasing(frames, generator(seed))
        changed = (erased != frames).any(dim=(0, 1))
        rows, columns = (changed.any(dim=dim).nonzero().ravel() for dim in (1, 0))
        place = (..., slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        assert changed[place].float().mean() > 0.95  # noise may hit the old level
        assert all(torch.equal(frame[place], erased[0][place]) for frame in erased)
        shares.append(erased[0][place].numel() / frames[0].numel())
    assert 0.015 < min(shares) < 0.05
    assert 0.3 < max(shares) <= 0.41
    assert 100 < erased[place].float().mean() < 155 and erased[place].float().std() > 60  # uniform: 127 and 74
    assert frames.min() == 100 and frames.max() <= 140  # the input is left alone


def test_erasing_happens_as_often_as_asked():
    transform = TrainTransform((40, 60), MEAN, STD, AugmentConfig(erasing=0.3))
    frames = coordinates(40, 60)
    plain = transforms.normalise(frames, MEAN, STD)
    assert 40 < sum(not torch.equal(transform(frames, generator(seed)), plain) for seed in range(200)) < 80


def test_jittered_crops_show_more_or_less_of_the_frame():
    transform = TrainTransform((16, 16), (0.0,) * 3, (1.0,) * 3, AugmentConfig(short_side=(16, 32)))
    heights = []
    for seed in range(100):
        clip = transform(coordinates(64, 96), generator(seed))
        assert clip.shape == (3, 2, 16, 16)
        height, width = (float(clip[colour, 0].max() - clip[colour, 0].min()) for colour in (0, 1))
        assert abs(height - width) <= 2  # no aspect is changed
        heights.append(height)
    assert 28 <= min(heights) <= 34  # half of the 64 rows, at 32
    assert 58 <= max(heights) <= 63  # all of them, at 16


def test_jitter_comes_before_resized_crops():
    transform = TrainTransform((16, 16), MEAN, STD, AugmentConfig(short_side=(2, 2), crop_area=(0.3, 1.0)))
    stripes = torch.zeros(1, 3, 40, 60, dtype=torch.uint8)
    stripes[..., ::2, :] = 100
    assert (transform(stripes, generator())[0] + MEAN[0] - 50).abs().max() <= 3  # two rows are left, both grey


@pytest.mark.parametrize(("mean", "std"), [((114.75,) * 3, (57.375,) * 3), ((104.0, 117.0, 128.0), (1.0,) * 3)])
def test_recipes_normalise_as_they_say(mean, std):
    frames = coordinates(16, 16) * 15
    clip = TrainTransform((16, 16), mean, std)(frames, generator())
    if std == (57.375,) * 3:  # stated for levels from 0 to 1: mean 0.45, std 0.225
        assert torch.allclose(clip, (frames.transpose(0, 1) / 255 - 0.45) / 0.225, atol=1e-5)
    else:
        assert [float(clip[colour].min() + mean[colour]) for colour in range(3)] == [0, 0, 0]


@pytest.mark.parametrize("crop_area", [None, (0.3, 1.0)])
def test_training_depends_on_its_generator_alone(crop_area):
    augment = AugmentConfig(flip=True, crop_area=crop_area)
    transform = TrainTransform(crop_size=(16, 24), mean=MEAN, std=STD, augment=augment)
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
