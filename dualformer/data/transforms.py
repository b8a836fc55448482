"""From decoded frames to the clip that a model sees: resize, crop, flip, vary, erase, normalise.

Frames are uint8 [T, 3, H, W] until `normalise`, which gives float32 [3, T, H, W]. Whatever is drawn at random is drawn
once per clip, from the generator passed in, so all frames of a clip are treated alike and a clip is reproducible.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from dualformer.data.augment import uniform, vary_levels
from dualformer.data.config import AugmentConfig

# Range of a random crop's width over height before it is resized: torchvision's and mmaction2's RandomResizedCrop.
_ASPECT_RANGE = (3 / 4, 4 / 3)
# Of random erasing: shares of the area and width over height, as in its paper.
_ERASED_AREA, _ERASED_ASPECT_RANGE = (0.02, 0.4), (0.3, 1 / 0.3)


def resized_shape(height: int, width: int, size: int | tuple[int, int] | None) -> tuple[int, int]:
    """Returns the (height, width) that `resize` gives for frames of `height` x `width`."""
    if size is None:
        return height, width
    if isinstance(size, tuple):
        return size
    scale = size / min(height, width)
    return round(height * scale), round(width * scale)


def resize(frames: Tensor, size: int | tuple[int, int] | None) -> Tensor:
    """Resizes frames, bilinear and antialiased.

    Args:
        frames: uint8 [T, 3, H, W].
        size: an int is the length of the short side, the aspect ratio is kept; (height, width) is taken as it is, and
            hides the aspect ratio; None changes nothing.

    Returns:
        uint8 [T, 3, H', W'].
    """
    height, width = frames.shape[-2:]
    shape = resized_shape(height, width, size)
    if shape == (height, width):
        return frames
    return functional.interpolate(frames, shape, mode="bilinear", antialias=True)


def random_short_side(frames: Tensor, lengths: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Resizes [T, 3, H, W] so that the short side has a random length, from the least to the greatest of `lengths`."""
    least, greatest = lengths
    return resize(frames, int(torch.randint(least, greatest + 1, (), generator=generator)))


def random_crop(frames: Tensor, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Cuts `size` (height, width) out of [..., H, W] at a random place."""
    return _cut(frames, *_random_place(frames, size, generator), size)


def random_resized_crop(
    frames: Tensor, size: tuple[int, int], area: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """Cuts a random part of random aspect (3:4 to 4:3) out of [T, 3, H, W] and resizes it to `size`.

    Args:
        frames: uint8 [T, 3, H, W].
        size: (height, width) of the result.
        area: least and greatest share of the frame's area that the part covers.
        generator: the only source of chance.
    """
    return resize(random_crop(frames, _random_part(frames, area, _ASPECT_RANGE, generator), generator), size)


def test_crops(frames: Tensor, size: tuple[int, int], num_crops: int) -> list[Tensor]:
    """Cuts the views of a test clip: the centre, or three places spread along the longer side.

    Args:
        frames: [..., H, W].
        size: (height, width) of a crop.
        num_crops: 1 or 3.
    """
    spare_height, spare_width = (full - part for full, part in zip(frames.shape[-2:], size))
    along_height = frames.shape[-2] > frames.shape[-1]
    shares = {1: (0.5,), 3: (0.0, 0.5, 1.0)}[num_crops]
    return [
        _cut(
            frames,
            int(spare_height * (share if along_height else 0.5)),
            int(spare_width * (0.5 if along_height else share)),
            size,
        )
        for share in shares
    ]


test_crops.__test__ = False  # type: ignore[attr-defined]  # the name says "for testing a model"; pytest shall not collect it


def random_flip(frames: Tensor, generator: torch.Generator) -> Tensor:
    """Mirrors [..., W] left to right, all frames or none, with probability one half."""
    return frames.flip(-1) if torch.rand((), generator=generator) < 0.5 else frames


def random_erasing(frames: Tensor, generator: torch.Generator) -> Tensor:
    """Fills a random rectangle of uint8 [T, 3, H, W] with noise, the same in all frames."""
    part = _random_part(frames, _ERASED_AREA, _ERASED_ASPECT_RANGE, generator)
    erased = frames.clone()
    place = _cut(erased, *_random_place(frames, part, generator), part)
    place[:] = torch.randint(256, place.shape[1:], generator=generator, dtype=torch.uint8)
    return erased


def normalise(frames: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Turns uint8 frames [T, 3, H, W] into a clip [3, T, H, W] of float32, (level - mean) / std per colour."""
    centre, width = (torch.tensor(values, dtype=torch.float32).view(3, 1, 1, 1) for values in (mean, std))
    return ((frames.transpose(0, 1).float() - centre) / width).contiguous()


@dataclasses.dataclass(frozen=True)
class TrainTransform:
    """Random crop and whatever else is varied, normalise: uint8 [T, 3, H, W] -> float32 [3, T, h, w].

    Attributes:
        crop_size: (height, width) of the clip in pixels.
        mean: of red, green and blue, in levels from 0 to 255.
        std: likewise.
        augment: what is varied; mixing needs two clips and comes later.
    """

    crop_size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)

    def __call__(self, frames: Tensor, generator: torch.Generator) -> Tensor:
        augment = self.augment
        if augment.short_side:
            frames = random_short_side(frames, augment.short_side, generator)
        if augment.crop_area:
            frames = random_resized_crop(frames, self.crop_size, augment.crop_area, generator)
        else:
            frames = random_crop(frames, self.crop_size, generator)
        if augment.flip:
            frames = random_flip(frames, generator)
        frames = vary_levels(frames, augment, generator)
        if augment.erasing and uniform(0, 1, generator) < augment.erasing:
            frames = random_erasing(frames, generator)
        return normalise(frames, self.mean, self.std)


@dataclasses.dataclass(frozen=True)
class EvalTransform:
    """Fixed crops, normalise: uint8 [T, 3, H, W] -> float32 [num_crops, 3, T, h, w]; attributes as above."""

    crop_size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    num_crops: int = 1

    def __call__(self, frames: Tensor) -> Tensor:
        crops = test_crops(frames, self.crop_size, self.num_crops)
        return torch.stack([normalise(crop, self.mean, self.std) for crop in crops])


def _cut(frames: Tensor, top: int, left: int, size: tuple[int, int]) -> Tensor:
    return frames[..., top : top + size[0], left : left + size[1]]


def _random_place(frames: Tensor, size: tuple[int, int], generator: torch.Generator) -> tuple[int, int]:
    """Where `size` (height, width) fits in [..., H, W]: (top, left)."""
    top, left = (
        int(torch.randint(full - part + 1, (), generator=generator)) for full, part in zip(frames.shape[-2:], size)
    )
    return top, left


def _random_part(
    frames: Tensor, area: tuple[float, float], aspects: tuple[float, float], generator: torch.Generator
) -> tuple[int, int]:
    """A (height, width) that covers a random share of [..., H, W]; both ranges are (least, greatest)."""
    height, width = frames.shape[-2:]
    share = uniform(*area, generator)
    narrowest, widest = aspects
    aspect = math.exp(uniform(math.log(narrowest), math.log(widest), generator))
    # A part that doesn't fit is cut down, not drawn again: one draw per clip keeps clips reproducible and cheap.
    return (
        min(max(round(math.sqrt(share * height * width / aspect)), 1), height),
        min(max(round(math.sqrt(share * height * width * aspect)), 1), width),
    )
