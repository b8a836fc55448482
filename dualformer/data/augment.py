"""How training clips are varied at random: the same for every frame, and a function of (seed, epoch, sample)."""

from __future__ import annotations

import dataclasses

from dualformer.config import Config, ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentConfig(Config):
    """What is drawn at random for a training clip. Everything is off by default: it may change a label.

    Attributes:
        short_side: None, or (least, greatest) length in pixels of the short side that a clip is resized to before it is
            cropped, in place of `data.resize`.
        crop_area: None cuts crops of the model's size; (least, greatest) cuts such shares of the frame's area, at
            aspects from 3:4 to 4:3, and resizes them.
        flip: whether clips are mirrored left to right, with probability one half.
        colour: strength of random brightness, contrast, saturation (each by a factor from 1 - colour to 1 + colour) and
            hue (a quarter of it).
        grey: probability that a clip loses its colours.
        randaugment_ops: number of operations that RandAugment (arXiv 1909.13719) applies; 0 is none.
        randaugment_magnitude: of 10.
        erasing: probability that a rectangle of the clip is erased (arXiv 1708.04896).
        mixup: alpha of Beta(alpha, alpha), from which the share of another clip is drawn that is added to a clip (arXiv
            1710.09412); 0 is none. The other clip is read for that, so reading costs twice as much.
        cutmix: likewise, but a rectangle of the other clip is put in, in all frames (arXiv 1905.04899). Where both are
            given, each clip takes one of them at random.
    """

    short_side: tuple[int, int] | None = None
    crop_area: tuple[float, float] | None = None
    flip: bool = False
    colour: float = 0.0
    grey: float = 0.0
    randaugment_ops: int = 0
    randaugment_magnitude: int = 7
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def check(self) -> None:
        if self.short_side is not None and not 0 < self.short_side[0] <= self.short_side[1]:
            raise ConfigError(f"short_side must be two rising lengths in pixels, got {self.short_side}")
        if self.crop_area is not None and not 0 < self.crop_area[0] <= self.crop_area[1] <= 1:
            raise ConfigError(f"crop_area must be two rising shares of at most 1, got {self.crop_area}")
        for field in ("colour", "grey", "erasing"):
            if not 0 <= getattr(self, field) <= 1:
                raise ConfigError(f"{field} must be from 0 to 1, got {getattr(self, field)}")
        for field in ("mixup", "cutmix", "randaugment_ops"):
            if getattr(self, field) < 0:
                raise ConfigError(f"{field} can't be negative, got {getattr(self, field)}")
        if not 0 <= self.randaugment_magnitude <= 10:
            raise ConfigError(f"randaugment_magnitude must be from 0 to 10, got {self.randaugment_magnitude}")
