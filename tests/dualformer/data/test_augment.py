"""Levels held to Pillow and to arithmetic, chance that depends on its generator alone, and clips that are mixed."""

import colorsys
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from dualformer.config import ConfigError
from dualformer.data import augment
from dualformer.data.augment import AugmentConfig, cutmix, mix, randaugment, vary_levels

FRAMES, HEIGHT, WIDTH = 3, 24, 32
ON_LEVELS, ON_PLACES = augment._operations()
EVERYTHING = AugmentConfig(colour=0.4, grey=0.5, randaugment_ops=3, randaugment_magnitude=7)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def frames():
    """Smooth and coloured frames that differ, none of which has all levels: uint8 [T, 3, H, W]."""
    coarse = torch.rand((FRAMES, 3, 5, 6), generator=generator(7)) * 150 + torch.tensor([20, 50, 80]).view(3, 1, 1, 1)
    return torch.nn.functional.interpolate(coarse, (HEIGHT, WIDTH), mode="bilinear").to(torch.uint8)


def still(frames):
    """The first frame, again and again."""
    return frames[:1].expand_as(frames).contiguous()


def to_clip(frames):
    return frames.transpose(0, 1).float() / 255


def to_pillow(frames):
    """All frames as one picture, one below the other."""
    return Image.fromarray(np.concatenate(frames.permute(0, 2, 3, 1).numpy()))


def levels(picture):
    """Back from `to_pillow`, or from a picture of floats [3, T * H, W]."""
    if isinstance(picture, Image.Image):
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float()
    return picture * 255


@pytest.mark.parametrize(
    ("name", "strength", "expected"),
    [
        ("identity", 1.0, lambda picture: picture),
        ("autocontrast", 1.0, ImageOps.autocontrast),
        ("equalize", 1.0, ImageOps.equalize),
        ("posterize", 0.5, lambda picture: ImageOps.posterize(picture, 6)),
        ("posterize", -1.0, lambda picture: ImageOps.posterize(picture, 4)),
        ("solarize", 0.6, lambda picture: ImageOps.solarize(picture, 103)),
        ("brightness", 0.5, lambda picture: ImageEnhance.Brightness(picture).enhance(1.45)),
        ("brightness", -1.0, lambda picture: ImageEnhance.Brightness(picture).enhance(0.1)),
        ("contrast", 1.0, lambda picture: ImageEnhance.Contrast(picture).enhance(1.9)),
        ("contrast", -0.5, lambda picture: ImageEnhance.Contrast(picture).enhance(0.55)),
        ("colour", 1.0, lambda picture: ImageEnhance.Color(picture).enhance(1.9)),
        ("colour", -0.5, lambda picture: ImageEnhance.Color(picture).enhance(0.55)),
    ],
)
def test_operations_on_levels_equal_pillows_on_the_whole_clip(frames, name, strength, expected):
    for clip in (frames, torch.full_like(frames, 70)):
        changed = levels(ON_LEVELS[name](to_clip(clip).flatten(1, 2), strength))
        # Pillow rounds after each step, its lookups to whole levels: two levels are nothing.
        assert (changed - levels(expected(to_pillow(clip)))).abs().max() <= 2


@pytest.mark.parametrize(
    ("name", "strength", "expected"),
    [
        ("sharpness", 1.0, lambda frame: ImageEnhance.Sharpness(frame).enhance(1.9)),
        ("sharpness", -0.5, lambda frame: ImageEnhance.Sharpness(frame).enhance(0.55)),
        ("rotate", 0.5, lambda frame: frame.rotate(15, Image.BILINEAR, fillcolor=(128,) * 3)),
        ("rotate", -1.0, lambda frame: frame.rotate(-30, Image.BILINEAR, fillcolor=(128,) * 3)),
        # Pillow takes, for each place of the result, where it comes from.
        ("shear_x", 1.0, lambda frame: moved(frame, (1, -0.3, 0, 0, 1, 0))),
        ("shear_y", -0.5, lambda frame: moved(frame, (1, 0, 0, 0.15, 1, 0))),
        ("translate_x", 1.0, lambda frame: moved(frame, (1, 0, -0.45 * WIDTH, 0, 1, 0))),
        ("translate_y", -0.5, lambda frame: moved(frame, (1, 0, 0, 0, 1, 0.225 * HEIGHT))),
    ],
)
def test_operations_on_places_equal_pillows_on_each_frame(frames, name, strength, expected):
    changed = ON_PLACES[name](to_clip(frames).flatten(0, 1)[None], strength).reshape(3, FRAMES, HEIGHT, WIDTH) * 255
    for index in range(FRAMES):
        difference = (changed[:, index] - levels(expected(to_pillow(frames[index : index + 1])))).abs()
        assert difference.median() <= 2
        assert (difference > 20).float().mean() < 0.12  # at the edges half a pixel may be inside or not


def moved(frame, source):
    return frame.transform(frame.size, Image.AFFINE, source, Image.BILINEAR, fillcolor=(128,) * 3)


@pytest.mark.parametrize("name", [*ON_LEVELS, *ON_PLACES])
@pytest.mark.parametrize("strength", [0.7, -0.7])
def test_each_operation_treats_all_frames_alike(frames, name, strength):
    clip = to_clip(still(frames))
    on = ON_LEVELS if name in ON_LEVELS else ON_PLACES
    view = clip.flatten(1, 2) if name in ON_LEVELS else clip.flatten(0, 1)[None]
    changed = on[name](view, strength).reshape(clip.shape)
    assert all(torch.equal(changed[:, index], changed[:, 0]) for index in range(FRAMES))
    assert name == "identity" or not torch.allclose(changed, clip, atol=0.01)


@pytest.mark.parametrize("name", [*ON_LEVELS])
def test_a_level_becomes_the_same_in_every_frame(frames, name):
    """A dark frame beside a bright one: no frame is stretched by its own levels."""
    frames = torch.stack([torch.full((3, 8, 8), level) for level in (40, 90, 200)]).to(torch.uint8)
    frames[:, :, 0] = 120
    changed = ON_LEVELS[name](to_clip(frames).flatten(1, 2), 0.7).reshape(3, 3, 8, 8)
    assert len(set(changed[:, :, 0].ravel().tolist())) == 1


@pytest.mark.parametrize("name", sorted({*ON_LEVELS, *ON_PLACES} - {"autocontrast", "equalize"}))
def test_no_magnitude_changes_nothing(frames, name, monkeypatch):
    frames[0, :, 0] = 255  # solarising must leave white alone too
    only = [{name: table[name]} if name in table else {} for table in (ON_LEVELS, ON_PLACES)]
    monkeypatch.setattr(augment, "_operations", lambda: only)
    unchanged, changed = (
        vary_levels(frames, AugmentConfig(randaugment_ops=1, randaugment_magnitude=magnitude), generator())
        for magnitude in (0, 10)
    )
    assert torch.equal(unchanged, frames)
    assert name == "identity" or not torch.equal(changed, frames)


def test_randaugment_draws_all_operations_equally_often_with_either_sign(monkeypatch):
    drawn = []
    recording = [
        {name: lambda view, strength, name=name: drawn.append((name, strength)) or view for name in table}
        for table in (ON_LEVELS, ON_PLACES)
    ]
    monkeypatch.setattr(augment, "_operations", lambda: recording)
    for seed in range(350):
        randaugment(torch.zeros(3, 1, 2, 2), 4, 7, generator(seed))
    assert len(drawn) == 1400
    counts = {name: sum(name == other for other, _ in drawn) for name, _ in drawn}
    assert len(counts) == 14
    assert all(65 < count < 140 for count in counts.values())
    assert {strength for _, strength in drawn} == {0.7, -0.7}
    assert 600 < sum(strength > 0 for _, strength in drawn) < 800


def test_hues_turn_within_their_bounds():
    frames = torch.tensor([200, 120, 60], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 4, 4)
    hues = []
    for seed in range(100):
        changed = vary_levels(frames, AugmentConfig(colour=0.2), generator(seed))
        assert changed.shape == frames.shape
        assert changed.dtype == torch.uint8
        assert (changed == changed[:1, :, :1, :1]).all()
        hues.append(colorsys.rgb_to_hsv(*changed[0, :, 0, 0].tolist())[0] - colorsys.rgb_to_hsv(200, 120, 60)[0])
    assert -0.053 < min(hues) < -0.04  # a quarter of 0.2, in turns
    assert 0.04 < max(hues) < 0.053


def test_brightness_changes_within_its_bounds():
    frames = torch.full((2, 3, 4, 4), 100, dtype=torch.uint8)  # nothing but brightness changes plain grey
    means = [
        float(vary_levels(frames, AugmentConfig(colour=0.2), generator(seed)).float().mean()) for seed in range(99)
    ]
    assert 80 <= min(means) < 82
    assert 118 < max(means) <= 120


def test_full_colour_strength_stays_within_the_levels(frames):
    changed = [vary_levels(frames, AugmentConfig(colour=1.0), generator(seed)) for seed in range(20)]
    assert len({float(clip.float().mean()) for clip in changed}) == 20
    spread = [float(clip.float().std()) for clip in changed]
    assert min(spread) < float(frames.float().std()) < max(spread)


def test_grey_clips_have_one_channel_thrice_as_often_as_asked(frames):
    changed = [vary_levels(frames, AugmentConfig(grey=0.3), generator(seed)) for seed in range(200)]
    grey = [clip for clip in changed if not torch.equal(clip, frames)]
    assert 40 < len(grey) < 80
    luma = (frames * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(dim=1, keepdim=True)
    assert all((clip - luma).abs().max() <= 1 and (clip == clip[:, :1]).all() for clip in grey)


def test_chance_comes_from_the_generator_alone(frames):
    """Whatever torch's own state is, which is left alone, and whatever the number of threads."""
    frames, outcomes = frames.repeat(1, 1, 8, 6), []  # large enough for torch to share it among threads
    for number, seed in ((1, 0), (2, 1)):
        torch.manual_seed(seed)
        torch.set_num_threads(number)
        before = torch.get_rng_state()
        outcomes.append([vary_levels(frames, EVERYTHING, generator(seed)) for seed in range(40)])
        assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one, other) for one, other in zip(*outcomes, strict=True))
    assert len({clip.numpy().tobytes() for clip in outcomes[0]}) >= 39


def test_all_frames_are_varied_alike(frames):
    for seed in range(60):
        changed = vary_levels(still(frames), EVERYTHING, generator(seed))
        assert (changed == changed[:1]).all()


def test_mixup_adds_shares():
    clip, other = torch.rand(2, 3, 4, 8, 8, generator=generator())
    shares = []
    for seed in range(300):
        mixed, share = mix(clip, other, AugmentConfig(mixup=0.8), generator(seed))
        assert torch.allclose(mixed, other + share * (clip - other), atol=1e-6)
        shares.append(share)
    assert 0.45 < np.mean(shares) < 0.55
    assert abs(np.var(shares) - 1 / (4 * (2 * 0.8 + 1))) < 0.02  # of Beta(0.8, 0.8)


def test_cutmix_puts_in_a_rectangle_of_the_area_it_says():
    clip, other = torch.zeros(3, 4, 20, 30), torch.ones(3, 4, 20, 30)
    shares = []
    for seed in range(300):
        mixed, share = mix(clip, other, AugmentConfig(cutmix=1.0), generator(seed))
        assert float(mixed.mean()) == pytest.approx(1 - share)
        assert (mixed == mixed[:1, :1]).all()
        rows, columns = (mixed[0, 0].amax(dim=dim) for dim in (1, 0))
        assert torch.equal(mixed[0, 0], rows[:, None] * columns)  # a rectangle
        shares.append(share)
    assert min(shares) < 0.2 and max(shares) > 0.9
    assert not clip.any()


def test_cutmix_centres_lie_anywhere_and_its_sides_follow_the_share():
    clip, other = torch.zeros(1, 20, 20), torch.ones(1, 20, 20)
    cuts = [cutmix(clip, other, 0.75, generator(seed)) for seed in range(300)]
    assert min(share for _, share in cuts) == 0.75  # 10 x 10, where nothing is cut off
    assert max(share for _, share in cuts) > 0.9  # at a corner
    assert sum(mixed for mixed, _ in cuts).min() > 0  # no place is always spared
    assert torch.equal(cutmix(clip, other, 1.0, generator())[0], clip)


def test_either_mixing_is_as_likely_where_both_are_given():
    clip, other = torch.zeros(1, 1, 20, 20), torch.ones(1, 1, 20, 20)
    mixed = [mix(clip, other, AugmentConfig(mixup=1.0, cutmix=1.0), generator(seed))[0] for seed in range(200)]
    assert 75 < sum(bool(((clip == 0) | (clip == 1)).all()) for clip in mixed) < 125


def test_nothing_is_imported_for_what_is_off():
    code = (
        "import sys, torch; from dualformer.data.transforms import TrainTransform\n"
        "from dualformer.data.augment import AugmentConfig\n"
        "augment = AugmentConfig(flip=True, short_side=(8, 9), erasing=1.0)\n"
        "frames = torch.zeros(2, 3, 9, 9, dtype=torch.uint8)\n"
        "TrainTransform((8, 8), (0.0,) * 3, (1.0,) * 3, augment)(frames, torch.Generator())\n"
        "sys.exit('kornia' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"short_side": [320, 256]}, "short_side must be two rising lengths"),
        ({"colour": 1.5}, "colour must be from 0 to 1"),
        ({"grey": -0.1}, "grey must be from 0 to 1"),
        ({"erasing": 2.0}, "erasing must be from 0 to 1"),
        ({"mixup": -1.0}, "mixup must be from 0 to 100"),
        ({"randaugment_ops": -1}, "randaugment_ops must be from 0 to 100"),
        ({"randaugment_magnitude": 11}, "randaugment_magnitude must be from 0 to 10"),
        ({"colours": 0.1}, "unknown field 'colours'; did you mean 'colour'"),
    ],
)
def test_configs_that_make_no_sense_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        AugmentConfig.from_dict(values)
