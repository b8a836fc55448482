"""What can be said about data, as frozen dataclasses. Imports neither torch nor a decoder."""

from __future__ import annotations

import dataclasses
from typing import Literal

from dualformer.config import Config, ConfigError, irrelevant

AUTO = "auto"
"""In place of a decoder's name: the best of them that this machine has."""

TIME_LIMIT_S = 300.0
"""Longest time that looking into one video may take."""

EMBEDDED = "embedded"
"""In place of a folder: the data set that the project draws itself."""

ShortVideo = Literal["error", "repeat_last", "loop"]

RELATIONS = ("same", "different")
MOTIONS = ("horizontal", "vertical")
FACTORS = {"relation": RELATIONS, "motion": MOTIONS}
"""The two factors of the embedded data set; its classes are the pairs."""

SITE_PX = 4
"""Side of the square that a dot of the embedded data set hops in, twice a dot's."""
MOST_PX = 16_384
"""Longest side of a frame, in pixels."""
MOST_DRAWN = 1_000_000
"""Clips of each split of the embedded data set."""
MOST_DRAWN_PX = 2**25
"""Pixels of all frames of an embedded clip, which is drawn as a whole, in float64."""
BALANCED_GROUP = len(RELATIONS) * len(MOTIONS) * 2
"""Clips in which every class is there with the first event bright, and dark."""


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
            hue (by up to a quarter of it, in turns of the colour circle), in random order.
        grey: probability that a clip loses its colours.
        randaugment_ops: number of operations that RandAugment (arXiv 1909.13719) applies; 0 is none.
        randaugment_magnitude: of 10. More changes more, either way: what has a strength does nothing at 0.
        erasing: probability that a rectangle of the clip is erased (arXiv 1708.04896): filled with noise.
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
        if self.short_side is not None and not 0 < self.short_side[0] <= self.short_side[1] <= MOST_PX:
            raise ConfigError(f"short_side must be two rising lengths of at most {MOST_PX} px, got {self.short_side}")
        if self.crop_area is not None and not 0 < self.crop_area[0] <= self.crop_area[1] <= 1:
            raise ConfigError(f"crop_area must be two rising shares of at most 1, got {self.crop_area}")
        for field in ("colour", "grey", "erasing"):
            if not 0 <= getattr(self, field) <= 1:
                raise ConfigError(f"{field} must be from 0 to 1, got {getattr(self, field)}")
        for field in ("mixup", "cutmix", "randaugment_ops"):
            if not 0 <= getattr(self, field) <= 100:
                raise ConfigError(f"{field} must be from 0 to 100, got {getattr(self, field)}")
        if not 0 <= self.randaugment_magnitude <= 10:
            raise ConfigError(f"randaugment_magnitude must be from 0 to 10, got {self.randaugment_magnitude}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwoScaleConfig(Config):
    """Size and look of the embedded data set.

    Attributes:
        num_train: clips in split "train"; a multiple of 8, so that factors are balanced exactly.
        num_test: clips in split "test"; likewise.
        num_frames: frames of a clip (T); a multiple of 4, since events keep to its first and last quarter.
        height: of a frame in pixels (H); a multiple of 4, the grid of sites.
        width: of a frame in pixels (W); likewise.
        fps: frames per second that the files declare.
        seed: two data sets of different seeds share no clip.
        event_width: width of the side that flashes in pixels, at most half of `width`.
        num_targets: tinted squares.
        clutter: chance of each other site to hold an untinted square.
        event_contrast: mean brightness of a bright event above (a dark one below) the background, of 255.
        dot_contrast: brightness of a dot above (of its twin below) the background, of 255.
        tint_contrast: strength of the tint, of 255.
        noise: standard deviation of the pixel noise, drawn anew for each frame, of 255.
    """

    num_train: int = 4096
    num_test: int = 512
    num_frames: int = 8
    height: int = 16
    width: int = 32
    fps: int = 8
    seed: int = 0
    event_width: int = 16
    num_targets: int = 10
    clutter: float = 0.2
    event_contrast: float = 60.0
    dot_contrast: float = 60.0
    tint_contrast: float = 40.0
    noise: float = 5.0

    def check(self) -> None:
        for field in ("num_train", "num_test"):
            if not BALANCED_GROUP <= (value := getattr(self, field)) <= MOST_DRAWN or value % BALANCED_GROUP:
                raise ConfigError(f"{field} must be a multiple of {BALANCED_GROUP} up to {MOST_DRAWN}, got {value}")
        for field, step in (("num_frames", 4), ("height", SITE_PX), ("width", SITE_PX)):
            if (value := getattr(self, field)) < step or value % step:
                raise ConfigError(f"{field} must be a positive multiple of {step}, got {value}")
        if (pixels := self.num_frames * self.height * self.width) > MOST_DRAWN_PX:
            shape = f"{self.num_frames} x {self.height} x {self.width}"
            raise ConfigError(f"a clip of {shape} has {pixels} pixels; at most {MOST_DRAWN_PX}")
        if not 1 <= self.fps <= 1000 or self.seed < 0:
            raise ConfigError(f"fps must be from 1 to 1000 and seed not negative, got {self.fps} and {self.seed}")
        for field, most in (("event_width", self.width // 2), ("num_targets", self.num_sites)):
            if not 1 <= (value := getattr(self, field)) <= most:
                raise ConfigError(
                    f"{field} must be from 1 to {most} in frames of {self.height} x {self.width}, got {value}"
                )
        if not 0 <= self.clutter <= 1:
            raise ConfigError(f"clutter is a chance, from 0 to 1, got {self.clutter}")
        for field in ("event_contrast", "dot_contrast", "tint_contrast", "noise"):
            if not 0 <= (value := getattr(self, field)) <= 80:
                raise ConfigError(f"{field} must be from 0 to 80 of 255, got {value}")

    @property
    def num_sites(self) -> int:
        """Places of the grid that a square can take."""
        return (self.height // SITE_PX) * (self.width // SITE_PX)

    @property
    def num_clips(self) -> int:
        """Clips in both splits together."""
        return self.num_train + self.num_test


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig(Config):
    """Which videos, and how frames become clips. Number and size of frames come from the model.

    Attributes:
        root: folder of the data set or manifest file (see `manifest`), or "embedded" for the one that the project draws
            itself.
        sampling: "dense" takes consecutive frames, `frame_stride` apart; "spread" cuts the video into as many parts as
            the clip has frames and takes one of each: a random one to train, the middle one to test.
        frame_stride: distance between the frames of a dense clip, in frames of the video; where a video's rate varies,
            in frames of its average rate.
        resize: before cropping: an int is the length of the short side in pixels; (height, width) is taken exactly, for
            data sets whose aspect ratio tells the class; None keeps the size of the file.
        test_resize: likewise for test clips, where that differs; None means `resize`.
        augment: what is varied at random in training.
        mean: of red, green and blue, in levels from 0 to 255; the default is ImageNet's, as in the released recipes.
        std: likewise.
        short_video: what to do with a video that has fewer frames than a clip needs: leave it out as failed, show its
            last frame again, or start it over.
        holdout: share of clips to test on, where the data set has no split of its own.
        fold: which share is held out (0, 1, ...), for cross-validation.
        decoder: "decord" and "torchcodec" seek in the files where that gives the frames that decoding in order gives;
            "pyav" decodes every file in order. The frames are the same, bit by bit. "auto" takes the first of decord,
            torchcodec and pyav that the machine has, and the run's row says which.
        time_limit_s: longest time that a file may take to be inspected, after which it counts as unusable.
        max_failed_share: share of a split's videos that may be unusable; more is an error.
        cache_decoded: keep decoded, resized videos in memory (whole, once per loader worker): for small data sets.
        embedded: the embedded data set; used only if `root` is "embedded".
    """

    root: str = EMBEDDED
    sampling: Literal["dense", "spread"] = "dense"
    frame_stride: int = 1
    resize: int | tuple[int, int] | None = None
    test_resize: int | tuple[int, int] | None = None
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    short_video: ShortVideo = "error"
    holdout: float = 0.25
    fold: int = 0
    decoder: Literal["decord", "pyav", "torchcodec", "auto"] = "decord"
    time_limit_s: float = irrelevant(300.0)
    max_failed_share: float = 0.05
    cache_decoded: bool = False
    embedded: TwoScaleConfig = dataclasses.field(default_factory=TwoScaleConfig)

    def check(self) -> None:
        if not 1 <= self.frame_stride <= 1_000_000:
            raise ConfigError(f"frame_stride must be from 1 to 1000000, got {self.frame_stride}")
        for field in ("resize", "test_resize"):
            sides = size if isinstance(size := getattr(self, field), tuple) else (size or 1,)
            if size == 0 or not 1 <= min(sides) <= max(sides) <= MOST_PX:
                raise ConfigError(f"{field} must be from 1 to {MOST_PX} px, got {size}")
        if not 0 < self.time_limit_s <= 1e6:
            raise ConfigError(f"time_limit_s must be positive and at most a million, got {self.time_limit_s}")
        if not 1e-3 <= min(self.std) <= max(self.std) <= 1e6:
            raise ConfigError(f"std must be from 0.001 to a million, got {self.std}")
        if max(map(abs, self.mean)) > 1e6:
            raise ConfigError(f"mean must be within a million of 0, got {self.mean}")
        if not 0 < self.holdout < 1:
            raise ConfigError(f"holdout must be between 0 and 1, got {self.holdout}")
        if self.fold < 0 or (self.fold + 1) * self.holdout > 1 + 1e-6:
            raise ConfigError(f"fold {self.fold} doesn't exist: holdout {self.holdout} makes {int(1 / self.holdout)}")
        if not 0 <= self.max_failed_share <= 1:
            raise ConfigError(f"max_failed_share must be from 0 to 1, got {self.max_failed_share}")
