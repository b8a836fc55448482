"""The embedded data set: small videos whose label needs attention at two scales, drawn and encoded on the spot.

A clip of T frames of H x W pixels holds, over a noisy background of random colour,

* two *events*: one side of the frame flashes brighter or darker than the background in the first quarter of the
  frames, the other side in the last. The first factor, `relation`, is whether the two agree.
* *targets*: tinted squares of 4 x 4 pixels at random sites of a grid, in each a bright dot of 2 x 2 with its dark twin
  in the opposite corner. They hop by two pixels every frame, back and forth and all together. The second factor,
  `motion`, is whether they hop horizontally or vertically. (So a mirrored clip keeps its label.)
* *clutter*: squares like the targets', without the tint, each hopping its own way.

The four classes are the four pairs. What each factor needs follows from how a clip is drawn:

* No frame shows both events and each event is as often bright as dark under either relation. So one frame, or any
  window of at most half the frames or half the width, looks the same under both relations, and a score that adds up
  what such windows saw has no reason to prefer one: agreement is an exclusive-or, which no sum expresses.
* In any one frame the bright dot is in each corner equally often under either motion, so that only two frames taken
  together tell. A square's mean brightness is the same wherever its dots are: blurred to squares, none of it shows.

The factors and the first event's polarity are balanced exactly within each split.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from einops import rearrange
from filelock import FileLock, Timeout

from dualformer.data.config import MOTIONS, RELATIONS, SITE_PX, TwoScaleConfig
from dualformer.data.csv_files import write_csv
from dualformer.data.manifest import MANIFEST_NAME
from dualformer.data.progress import Progress

CLASSES = tuple(f"{relation}_{motion}" for relation in RELATIONS for motion in MOTIONS)

DRAWING_VERSION = 1  # part of the cache's name; raise it when the same config would be drawn or encoded differently
_TINT = np.array((1.0, -0.5, -0.5))  # reddish, about as bright as without it
# Near-lossless, so that small dots survive; one thread, so that the bytes depend on the clip alone.
_ENCODER_OPTIONS = {"crf": "10", "preset": "veryfast", "threads": "1"}


class Factors(NamedTuple):
    """What a clip shows: indices into `RELATIONS` and `MOTIONS`, and whether the first event is bright."""

    relation: int
    motion: int
    first_bright: bool

    @property
    def label(self) -> int:
        """Index into `CLASSES`."""
        return self.relation * len(MOTIONS) + self.motion

    @property
    def last_bright(self) -> bool:
        """Whether the last event is bright."""
        return self.first_bright == (RELATIONS[self.relation] == "same")


def factors(index: int) -> Factors:
    """Returns the factors of the clip at `index`: every 8 clips in a row hold each combination once."""
    return Factors(relation=index % 2, motion=index // 2 % 2, first_bright=bool(index // 4 % 2))


def draw(config: TwoScaleConfig, index: int) -> tuple[np.ndarray, Factors]:
    """Draws one clip; depends on its arguments alone.

    Args:
        config: the data set.
        index: train clips come first, test clips from `num_train` on.

    Returns:
        The clip as uint8 RGB [T, H, W, 3], and its factors.

    Raises:
        IndexError: no such clip.
    """
    if not 0 <= index < config.num_clips:
        raise IndexError(f"clip {index} of {config.num_clips}")
    shown = factors(index)
    return render(config, shown, np.random.default_rng((config.seed, index))), shown


def render(config: TwoScaleConfig, shown: Factors, rng: np.random.Generator) -> np.ndarray:
    """Draws a clip that shows the given factors; everything else comes from `rng`, in the same order for all factors.

    So clips rendered from equal generators differ in nothing but their factors.

    Returns:
        uint8 RGB [T, H, W, 3].
    """
    clip = _background(config, rng)
    _add_events(clip, config, shown, rng)
    _add_squares(clip, config, shown, rng)
    clip += rng.normal(0, config.noise, clip.shape)
    return clip.clip(0, 255).round().astype(np.uint8)


def ensure(config: TwoScaleConfig, cache_dir: Path | str) -> Path:
    """Encodes the data set under `cache_dir`, unless it is there already, and returns its folder.

    The folder holds `train/*.mp4`, `test/*.mp4` and `manifest.csv`, a row a clip: file, label (a name of `CLASSES`),
    split, factor_relation, factor_motion. It is named by a hash of the config and appears complete or not at all:
    clips are encoded in a temporary folder beside it, which is then renamed. Of several processes one does so while the
    others wait for it, by a file lock, which the system frees when its holder dies.

    Raises:
        OSError: `cache_dir` can't be written (disk full, no permission); nothing half-written is left or used.
    """
    folder = Path(cache_dir) / f"two_scale_{fingerprint(config)}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _alone(folder, config.num_clips):
        if not folder.is_dir():
            _build_beside(config, folder)
    return folder


@contextlib.contextmanager
def _alone(folder: Path, total: int) -> Iterator[None]:
    """No other process is in this block for the same folder of `total` clips, unless the file system has no locks."""

    def drawn() -> int:
        """How far the other process is."""
        return max((len(list(part.glob("*/*.mp4"))) for part in folder.parent.glob(f"{folder.name}.*.part")), default=0)

    lock = FileLock(folder.with_name(f"{folder.name}.lock"), mode=0o666)  # a cache may be shared by several people
    with contextlib.ExitStack() as held:
        # Without a lock each process builds the same clips, and those of the first to be through are taken.
        with contextlib.suppress(NotImplementedError, OSError):
            try:
                held.enter_context(lock.acquire(timeout=0.1))
            except Timeout:
                with Progress(f"another process draws {folder.name}, waiting for it", total, "clips", drawn):
                    held.enter_context(lock.acquire())
        yield


def _build_beside(config: TwoScaleConfig, folder: Path) -> None:
    """Encodes the data set in a temporary folder that becomes `folder` at once."""
    building = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".part", dir=folder.parent))
    try:
        _build(config, building)
        building.chmod(0o755)  # mkdtemp lets nobody else in
        try:
            building.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster, with the same clips
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


def fingerprint(config: TwoScaleConfig) -> str:
    """Returns 12 hexadecimal digits that name a config's clips."""
    text = json.dumps([DRAWING_VERSION, config.to_dict()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def write_mp4(path: Path | str, frames: np.ndarray, fps: int) -> None:
    """Encodes uint8 RGB frames [T, H, W, 3] (H, W even) as H.264 in yuv420p; equal frames give equal bytes."""
    import av  # not needed to draw, and heavy to import

    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=fps, options=_ENCODER_OPTIONS)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _background(config: TwoScaleConfig, rng: np.random.Generator) -> np.ndarray:
    """A random, slightly tinted colour, shaded linearly across the frame, still over time: [T, H, W, 3]."""
    colour = rng.uniform(110, 140) + rng.uniform(-8, 8, 3)
    down, across = (np.linspace(-1, 1, size) * rng.uniform(-8, 8) for size in (config.height, config.width))
    frame = colour + (down[:, None] + across)[..., None]
    return np.repeat(frame[None], config.num_frames, axis=0)


def _add_events(clip: np.ndarray, config: TwoScaleConfig, shown: Factors, rng: np.random.Generator) -> None:
    """Flashes one side in the first quarter of the frames and the other in the last; which is first means nothing."""
    quarter = config.num_frames // 4
    spans = (slice(quarter), slice(-quarter, None))
    sides = (slice(config.event_width), slice(-config.event_width, None))
    for span, side, bright in zip(spans, rng.permutation(2), (shown.first_bright, shown.last_bright)):
        change = config.event_contrast * rng.uniform(0.75, 1.25, 3)  # how strong, and which tint, means nothing
        clip[span, :, sides[side]] += change if bright else -change


def _add_squares(clip: np.ndarray, config: TwoScaleConfig, shown: Factors, rng: np.random.Generator) -> None:
    """Puts targets on random sites of the grid and clutter on others."""
    sites = config.num_sites
    is_target = rng.permutation(sites) < config.num_targets
    is_square = is_target | (rng.random(sites) < config.clutter)
    motion = np.where(is_target, shown.motion, rng.integers(2, size=sites))
    start = np.where(
        is_target, rng.integers(2, size=(2, 1)), rng.integers(2, size=(2, sites))
    )  # (down, across): 0 or 1

    hopped = np.arange(config.num_frames)[:, None] % 2  # [T, 1]: every other frame
    down = (start[0] + hopped * (motion == MOTIONS.index("vertical"))) % 2  # [T, sites]
    across = (start[1] + hopped * (motion == MOTIONS.index("horizontal"))) % 2
    change = config.dot_contrast * (_dots()[down, across] * is_square[:, None, None])[..., None] * np.ones(3)
    change[:, is_target] += config.tint_contrast * _TINT  # change: [T, sites, p, q, 3]
    clip += rearrange(change, "t (y x) p q c -> t (y p) (x q) c", y=config.height // SITE_PX)


def _dots() -> np.ndarray:
    """A square for each corner (down, across) of its bright dot: 1 there, -1 in the opposite corner. [2, 2, p, q]"""
    near = np.repeat(np.eye(2), SITE_PX // 2, axis=1)  # [corner, p]: which pixels of an axis are on the corner's side
    near, far = np.einsum("ap,bq->abpq", near, near), np.einsum("ap,bq->abpq", near[::-1], near[::-1])
    return near - far


def _build(config: TwoScaleConfig, folder: Path) -> None:
    with Progress("embedded data set: drawing and encoding", config.num_clips, "clips", tells_end=True) as progress:
        rows = [_encode(config, folder, index, progress) for index in range(config.num_clips)]
    write_csv(folder / MANIFEST_NAME, ("file", "label", "split", "factor_relation", "factor_motion"), rows)


def _encode(config: TwoScaleConfig, folder: Path, index: int, progress: Progress) -> tuple[str, ...]:
    """Draws a clip into its file; returns its row of the manifest."""
    frames, shown = draw(config, index)
    split = "train" if index < config.num_train else "test"
    path = folder / split / f"{index:06d}.mp4"
    path.parent.mkdir(exist_ok=True)
    write_mp4(path, frames, config.fps)
    progress.step()
    return f"{split}/{path.name}", CLASSES[shown.label], split, RELATIONS[shown.relation], MOTIONS[shown.motion]
