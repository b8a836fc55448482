"""How training clips are varied at random: the same for every frame, and a function of (seed, epoch, sample).

Here is what changes levels and what mixes clips; what changes places (crops, mirroring, erasing) is in `transforms`.

The operations on levels are kornia's functions, with numbers drawn here. Its augmentation classes (0.9) don't serve:
they draw from torch's global generator; their RandAugment can't treat all frames of a clip alike (VideoSequential
refuses it), shears by up to 54 degrees where the paper has 17, and adds to levels where the paper multiplies them; and
contrast and equalisation would follow each frame's own levels, so that clips flicker. Seen as one tall picture, a clip
has one histogram, and every frame is changed by the same function.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from dualformer.data.config import AugmentConfig

# Strongest RandAugment: turns in degrees, shears as factors, shifts as shares of a side, and distance from 1 of the
# factors of brightness, contrast, colour and sharpness.
_TURN, _SHEAR, _SHIFT, _FACTOR = 30.0, 0.3, 0.45, 0.9


def vary_levels(frames: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Applies RandAugment, colour and grey, as far as `config` asks for them: uint8 [T, 3, H, W] -> the same."""
    grey = config.grey > 0 and uniform(0, 1, generator) < config.grey
    if not (config.randaugment_ops or config.colour or grey):
        return frames
    # Floats from the first operation to the last, with the frames of a colour one below the other in memory.
    clip = frames.transpose(0, 1).to(torch.float32, memory_format=torch.contiguous_format).div_(255)
    if config.randaugment_ops:
        clip = randaugment(clip, config.randaugment_ops, config.randaugment_magnitude, generator)
    if config.colour:
        clip = vary_colours(clip, config.colour, generator)
    if grey:
        clip = drop_colours(clip)
    return (clip * 255).round_().to(torch.uint8).transpose(0, 1)


def randaugment(clip: Tensor, ops: int, magnitude: float, generator: torch.Generator) -> Tensor:
    """Applies `ops` operations, each drawn from all, with a random sign where it has one.

    Strengths grow with the magnitude, as in torchvision and timm ("inc"). The paper's own code has some that shrink:
    its brightness, contrast and colour change nothing in the middle of the scale.

    Args:
        clip: float32 [3, T, H, W], levels from 0 to 1.
        ops: how many.
        magnitude: from 0 to 10.
        generator: the only source of chance.
    """
    on_levels, on_places = _operations()
    names = (*on_levels, *on_places)
    for _ in range(ops):
        name = names[int(torch.randint(len(names), (), generator=generator))]
        strength = magnitude / 10 * (1 if uniform(0, 1, generator) < 0.5 else -1)
        changed = (
            on_levels[name](_tall(clip), strength)
            if name in on_levels
            else on_places[name](clip.flatten(0, 1)[None], strength)
        )
        clip = changed.reshape(clip.shape)
    return clip


def vary_colours(clip: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Changes brightness, contrast, saturation and hue, in random order; see `AugmentConfig.colour`.

    Args:
        clip: float32 [3, T, H, W], levels from 0 to 1.
        strength: from 0 to 1.
        generator: the only source of chance.
    """
    from kornia import enhance

    brightness, contrast, saturation = (uniform(1 - strength, 1 + strength, generator) for _ in range(3))
    angle = 2 * math.pi * uniform(-strength / 4, strength / 4, generator)
    changes = (
        lambda picture: _brighten(picture, brightness),
        lambda picture: _contrast(picture, contrast),
        lambda picture: enhance.adjust_saturation_with_gray_subtraction(picture, saturation),
        lambda picture: enhance.adjust_hue(picture, angle),
    )
    picture = _tall(clip)
    for index in torch.randperm(len(changes), generator=generator).tolist():
        picture = changes[index](picture)
    return picture.reshape(clip.shape)


def drop_colours(clip: Tensor) -> Tensor:
    """Gives all colours of a clip [3, T, H, W] the level of its luma (BT.601)."""
    from kornia.color import rgb_to_grayscale

    return rgb_to_grayscale(_tall(clip)).reshape(1, *clip.shape[1:]).expand_as(clip)


def mix(clip: Tensor, other: Tensor, config: AugmentConfig, generator: torch.Generator) -> tuple[Tensor, float]:
    """Mixes another clip into a clip, by mixup or cutmix, whichever is given; by one of them at random, if both are.

    Args:
        clip: float32 [3, T, H, W].
        other: likewise.
        config: gives the shares' distributions.
        generator: the only source of chance.

    Returns:
        The mixed clip, and the first clip's share of it.
    """
    up = config.mixup > 0 and (config.cutmix == 0 or uniform(0, 1, generator) < 0.5)
    share = _beta(config.mixup if up else config.cutmix, generator)
    if up:
        return share * clip + (1 - share) * other, share
    return cutmix(clip, other, share, generator)


def cutmix(clip: Tensor, other: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, float]:
    """Puts a rectangle of `other` in `clip`, at the same place of all frames.

    Args:
        clip: [..., H, W].
        other: likewise.
        share: of the area that should remain of `clip`. The rectangle's centre may be anywhere, and what reaches over
            the border is cut off, so more may remain.
        generator: the only source of chance.

    Returns:
        The new clip, and the share that did remain.
    """
    bounds = []
    for length in clip.shape[-2:]:
        side = round(length * math.sqrt(1 - share))
        start = int(torch.randint(length, (), generator=generator)) - side // 2
        bounds.append(slice(max(start, 0), min(start + side, length)))
    mixed = clip.clone()
    mixed[..., bounds[0], bounds[1]] = other[..., bounds[0], bounds[1]]
    (height, width), (rows, columns) = clip.shape[-2:], (part.stop - part.start for part in bounds)
    return mixed, 1 - rows * columns / (height * width)


def uniform(low: float, high: float, generator: torch.Generator) -> float:
    """A number from `low` to `high`."""
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))


@functools.cache
def _operations() -> tuple[dict[str, Callable[[Tensor, float], Tensor]], dict[str, Callable[[Tensor, float], Tensor]]]:
    """RandAugment's 14 operations, by name, of a signed strength from -1 to 1.

    Returns:
        Those that map levels and see a clip as one picture [3, T * H, W], and those that need places and see it as a
        picture of many channels [1, 3 * T, H, W].
    """
    from kornia import enhance  # takes most of a second, which nobody pays who doesn't use it
    from kornia.geometry import transform

    def moved(function: Callable[..., Tensor], planes: Tensor, parameters: float | tuple[float, float]) -> Tensor:
        # What comes in from outside is 0: mid-grey, for levels around 0.
        return function(planes - 0.5, torch.tensor([parameters]), align_corners=True) + 0.5

    on_levels = {
        "identity": lambda picture, strength: picture,
        "autocontrast": lambda picture, strength: _stretch(picture),
        "equalize": lambda picture, strength: enhance.equalize(picture),
        "posterize": lambda picture, strength: enhance.posterize(picture, 8 - round(4 * abs(strength))),
        # Not kornia's, which inverts white even where it should do nothing.
        "solarize": lambda picture, strength: torch.where(picture > 1 - abs(strength), 1 - picture, picture),
        "brightness": lambda picture, strength: _brighten(picture, 1 + _FACTOR * strength),
        "contrast": lambda picture, strength: _contrast(picture, 1 + _FACTOR * strength),
        "colour": lambda picture, strength: enhance.adjust_saturation_with_gray_subtraction(
            picture, 1 + _FACTOR * strength
        ),
    }
    on_places = {
        "sharpness": lambda planes, strength: enhance.sharpness(planes, 1 + _FACTOR * strength),
        "rotate": lambda planes, strength: moved(transform.rotate, planes, _TURN * strength),
        "shear_x": lambda planes, strength: moved(transform.shear, planes, (_SHEAR * strength, 0.0)),
        "shear_y": lambda planes, strength: moved(transform.shear, planes, (0.0, _SHEAR * strength)),
        "translate_x": lambda planes, strength: moved(
            transform.translate, planes, (_SHIFT * strength * planes.shape[-1], 0.0)
        ),
        "translate_y": lambda planes, strength: moved(
            transform.translate, planes, (0.0, _SHIFT * strength * planes.shape[-2])
        ),
    }
    return on_levels, on_places


def _brighten(picture: Tensor, factor: float) -> Tensor:
    return (picture * factor).clamp_(0, 1)


def _stretch(picture: Tensor) -> Tensor:
    """Gives each colour of [3, H, W] all levels from 0 to 1; plain ones stay (kornia's normalize_min_max blackens)."""
    low, high = picture.amin((1, 2), keepdim=True), picture.amax((1, 2), keepdim=True)
    return torch.where(high > low, (picture - low) / (high - low), picture)


def _contrast(picture: Tensor, factor: float) -> Tensor:
    """Moves levels [3, H, W] away from the picture's mean luma, or towards it."""
    from kornia.color import rgb_to_grayscale

    # Whole numbers add up to the same sum in any order, floats don't: the number of threads must not change a clip.
    luma = rgb_to_grayscale(picture).mul_(255).round_().to(torch.int64)
    return torch.lerp((luma.sum() / luma.numel() / 255).to(picture.dtype), picture, factor).clamp_(0, 1)


def _tall(clip: Tensor) -> Tensor:
    """A clip [3, T, H, W] as one picture [3, T * H, W], frame below frame."""
    return clip.flatten(1, 2)


def _beta(alpha: float, generator: torch.Generator) -> float:
    """A draw of Beta(alpha, alpha); torch's own takes no generator."""
    return float(np.random.default_rng(int(torch.randint(2**63 - 1, (), generator=generator))).beta(alpha, alpha))
