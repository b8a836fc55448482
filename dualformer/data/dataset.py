"""A data set as torch sees it: one `DataConfig` in, normalised clips with labels out.

    dataset = VideoDataset(DataConfig(root="clips"), "train", num_frames=16, crop_size=(112, 112), seed=0)
    loader = DataLoader(dataset, batch_sampler=TrainBatches(len(dataset), batch_size=8, seed=0), collate_fn=collate)

What happens to videos that can't be used: all files are inspected (once, see `inspection`) when the data set is made.
Those that are missing, broken, or too short for the clip are left out and listed in `failures`, by name and reason;
more of them than `DataConfig.max_failed_share` is an error. Should a file fail later, while it is read, its sample
carries a `failure` in place of a clip, and `collate` passes it on. Nothing is ever replaced by another video.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dualformer.config import ConfigError
from dualformer.data import sampling, transforms, two_scale
from dualformer.data.augment import mix
from dualformer.data.cache import CacheError, cache_dir, cache_error
from dualformer.data.config import EMBEDDED, DataConfig
from dualformer.data.files import DataError, utf8
from dualformer.data.handover import stacked
from dualformer.data.inspection import inspect_all
from dualformer.data.manifest import Entry, Manifest, read_manifest
from dualformer.data.reader import VideoError, VideoInfo, read_by_seeking, read_in_order


def load_manifest(config: DataConfig) -> Manifest:
    """Returns what the data set holds; draws the embedded one first where the cache lacks it.

    Raises:
        DataError: as `read_manifest`.
        CacheError: the embedded data set can't be written.
    """
    if config.root == EMBEDDED:
        try:
            return read_manifest(two_scale.ensure(config.embedded, cache_dir()))
        except OSError as error:
            raise error if isinstance(error, CacheError) else cache_error(error) from error
    return read_manifest(Path(utf8(config.root, Path())))


class VideoDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """One split of a data set.

    A sample is a dict: `clip` float32 [3, T, H, W], `label` int, `index` int; with `views`, `clip` is
    [num_clips * num_crops, 3, T, H, W], the crops of a clip side by side. It depends on (seed, epoch, index) and
    nothing else, so workers, their number and their order don't matter. Where training clips are mixed (see
    `AugmentConfig.mixup`), a sample also has `target`, float32 [classes]: the share of each class, which add up to 1.

    Attributes:
        classes: class names; a label indexes them.
        factors: by name, each class's value of a factor that is scored separately; empty for most data sets.
        entries: the usable videos; an index indexes them.
        failures: the videos left out, with reasons.
        num_expected: videos that the split should have: usable and left out together.
        sample_bytes: size of a sample's clip, all views together.
    """

    def __init__(
        self,
        config: DataConfig,
        split: Literal["train", "test"],
        *,
        num_frames: int,
        crop_size: tuple[int, int],
        views: tuple[int, int] | None = None,
        seed: int = 0,
    ):
        """Reads the manifest and inspects the files of the split.

        Args:
            config: the data set and how to read it.
            split: "train" or "test".
            num_frames: frames of a clip (T).
            crop_size: (height, width) of a clip in pixels.
            views: None for training clips, drawn at random; (num_clips, num_crops) for the fixed views of a test, with
                1 or 3 crops.
            seed: of the random clips.

        Raises:
            DataError: the data set can't be used (see `read_manifest` and `Manifest.split`), too many of its videos
                can't, none of a class can (for training), or frames are smaller than the crop.
        """
        if views is not None and (views[0] < 1 or views[1] not in (1, 3)):
            raise ConfigError(f"views must be at least one clip times 1 or 3 crops, got {views[0]} x {views[1]}")
        manifest = load_manifest(config)
        for note in manifest.notes:
            _tell_once(note)
        self.root, self.classes, self.factors = manifest.root, manifest.classes, dict(manifest.factors)
        self.config, self.num_frames, self.views, self.seed = config, num_frames, views, seed
        entries = manifest.split(split, config.holdout, config.fold)
        infos, self.failures = _usable(manifest.root, entries, config, num_frames)
        self.entries = tuple(entry for entry in entries if entry.file in infos)
        self.infos = tuple(infos[entry.file] for entry in self.entries)
        self.num_expected = len(entries)
        self.sample_bytes = 4 * 3 * num_frames * math.prod(crop_size) * math.prod(views or (1,))
        self._check_classes(entries)
        self._check_crop(crop_size)
        self._augment = transforms.TrainTransform(crop_size, config.mean, config.std, config.augment)
        self._mixes = views is None and (config.augment.mixup > 0 or config.augment.cutmix > 0)
        self._views = transforms.EvalTransform(crop_size, config.mean, config.std, views[1] if views else 1)
        self._decoded: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """Returns the sample at an index, or at (epoch, index) as `TrainBatches` asks; an index alone is epoch 0."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        sample = {"label": self.entries[index].label, "index": index}
        try:
            if self._mixes:
                return {**self._mixed(epoch, index), **sample}
            return {"clip": self._clip(epoch, index), **sample}
        except VideoError as error:
            return {"failure": str(error), **sample}

    def _clip(self, epoch: int, index: int) -> Tensor:
        if self.views is None:
            generator = _generator(self.seed, epoch, index)
            return self._augment(self._frames(index, self._train_indices(index, generator)), generator)
        indices = self._test_indices(index, self.views[0])
        clips = self._frames(index, indices.ravel()).split(self.num_frames)
        return torch.cat([self._views(clip) for clip in clips])

    def _mixed(self, epoch: int, index: int) -> dict[str, Tensor]:
        """A training clip with another one mixed in, and its target; raises `VideoError` naming the one that fails."""
        # Not the generator of the clip: what it draws remains the same whether clips are mixed or not.
        generator = _generator(self.seed, epoch, index, 1)
        partner = (index + int(torch.randint(1, len(self), (), generator=generator))) % len(self)
        clips = (self._clip(epoch, index), self._clip(epoch, partner))
        clip, share = mix(*clips, self.config.augment, generator)
        target = torch.zeros(len(self.classes))
        target[self.entries[index].label] += share
        target[self.entries[partner].label] += 1 - share
        return {"clip": clip, "target": target}

    def _train_indices(self, index: int, generator: torch.Generator) -> np.ndarray:
        """Frames of a random clip: int64 [T]."""
        info, config = self.infos[index], self.config
        if config.sampling == "spread":
            return sampling.spread_train_indices(info.num_frames, self.num_frames, generator)
        indices = sampling.train_indices(
            info.num_frames, self.num_frames, config.frame_stride, generator, config.short_video
        )
        return sampling.at_average_rate(indices, info.times, info.seconds)

    def _test_indices(self, index: int, num_clips: int) -> np.ndarray:
        """Frames of the fixed clips: int64 [num_clips, T]."""
        info, config = self.infos[index], self.config
        if config.sampling == "spread":
            return sampling.spread_test_indices(info.num_frames, self.num_frames, num_clips)
        indices = sampling.test_indices(
            info.num_frames, self.num_frames, config.frame_stride, num_clips, config.short_video
        )
        return sampling.at_average_rate(indices, info.times, info.seconds)

    def _frames(self, index: int, indices: np.ndarray) -> Tensor:
        """Resized frames of a video: uint8 [len(indices), 3, H, W]."""
        if not self.config.cache_decoded:
            return self._read(index, indices)
        if index not in self._decoded:
            self._decoded[index] = self._read(index, np.arange(self.infos[index].num_frames))
        return self._decoded[index][torch.from_numpy(indices)]

    def _read(self, index: int, indices: np.ndarray) -> Tensor:
        path = self.root / self.entries[index].file
        if self.infos[index].seekable:
            frames = read_by_seeking(path, indices.tolist(), self.config.decoder)
        else:
            frames = read_in_order(path, indices.tolist(), self.config.time_limit_s)
        # [T, H, W, 3] seen as [T, 3, H, W]: resizing is fastest where the colours of a pixel are neighbours.
        return transforms.resize(torch.from_numpy(frames).permute(0, 3, 1, 2), self._resize)

    @property
    def _resize(self) -> int | tuple[int, int] | None:
        """The size that frames get when they are read."""
        if self.views is None:
            return None if self.config.augment.short_side else self.config.resize
        return self.config.resize if self.config.test_resize is None else self.config.test_resize

    def _check_classes(self, expected: Sequence[Entry]) -> None:
        lost = {entry.label for entry in expected} - {entry.label for entry in self.entries}
        if lost and self.views is None:
            names = ", ".join(self.classes[label] for label in sorted(lost))
            raise DataError(f"no usable training clip of class {names}:\n" + "\n".join(map(str, self.failures[:10])))

    def _check_crop(self, crop_size: tuple[int, int]) -> None:
        if self.config.augment.crop_area and self.views is None:
            return
        jitter = self.config.augment.short_side if self.views is None else None
        size = jitter[0] if jitter else self._resize
        for entry, info in zip(self.entries, self.infos):
            shape = transforms.resized_shape(info.height, info.width, size)
            if shape[0] < crop_size[0] or shape[1] < crop_size[1]:
                raise DataError(
                    f"{self.root / entry.file}: its frames are {info.height}x{info.width}, {shape[0]}x{shape[1]} at "
                    f"resize {size}: smaller than the crop {crop_size[0]}x{crop_size[1]}; "
                    "resize to at least the crop"
                )


class TrainBatches(torch.utils.data.Sampler[list[tuple[int, int]]]):
    """An endless stream of batches, each a list of (epoch, index), for `DataLoader(batch_sampler=...)`.

    Epochs are permutations, one after another without a gap, so that every clip is seen equally often and every batch
    is full. Batch n depends on (seed, n) alone: a run that starts again at batch n goes on as if it never stopped.
    """

    def __init__(self, num_samples: int, batch_size: int, *, seed: int = 0, start: int = 0):
        """Makes the stream.

        Args:
            num_samples: length of the data set.
            batch_size: samples per batch.
            seed: of the order.
            start: number of the first batch, to resume.
        """
        if num_samples < 1 or batch_size < 1:
            raise ValueError(f"can't draw batches of {batch_size} from {num_samples} samples")
        self.num_samples, self.batch_size, self.seed, self.start = num_samples, batch_size, seed, start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        draws = self._draws(*divmod(self.start * self.batch_size, self.num_samples))
        while True:
            yield [next(draws) for _ in range(self.batch_size)]

    def _draws(self, epoch: int, position: int) -> Iterator[tuple[int, int]]:
        while True:
            order = torch.randperm(self.num_samples, generator=_generator(self.seed, epoch)).tolist()
            yield from ((epoch, index) for index in order[position:])
            epoch, position = epoch + 1, 0


def collate(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Stacks the samples that have a clip; samples that failed are named instead.

    Returns:
        `clip` float32 [B, ...], `label` and `index` int64 [B], and `failures`, a list of strings; where clips are mixed
        `target` too, float32 [B, classes]. B is 0, and `clip` is an empty tensor, where every sample failed.

    Raises:
        HandoverError: in a loader worker, where what it made can't be handed to the process that trains.
    """
    good = [sample for sample in samples if "clip" in sample]
    mixed = {"target": stacked([sample["target"] for sample in good])} if good and "target" in good[0] else {}
    return {
        **mixed,
        "clip": stacked([sample["clip"] for sample in good]) if good else torch.empty(0),
        "label": stacked([torch.tensor(sample["label"]) for sample in good], torch.int64),
        "index": stacked([torch.tensor(sample["index"]) for sample in good], torch.int64),
        "failures": [sample["failure"] for sample in samples if "failure" in sample],
    }


def _usable(
    root: Path, entries: Sequence[Entry], config: DataConfig, num_frames: int
) -> tuple[dict[str, VideoInfo], tuple[VideoError, ...]]:
    """What the usable files hold, and the failures of the others."""
    found = inspect_all(
        root,
        [entry.file for entry in entries],
        workers=torch.get_num_threads(),
        decoder=config.decoder,
        time_limit_s=config.time_limit_s,
    )
    stride = config.frame_stride if config.sampling == "dense" else 1
    needed = sampling.frames_needed(num_frames, stride)
    for file, info in found.items():
        if config.short_video == "error" and isinstance(info, VideoInfo) and info.num_frames < needed:
            reason = (
                f"has {info.num_frames} frames, {num_frames} frames at stride {stride} need {needed} "
                "(short_video chooses what to do)"
            )
            found[file] = VideoError(root / file, reason)
    failures = tuple(outcome for outcome in found.values() if isinstance(outcome, VideoError))
    if len(failures) == len(entries) or len(failures) > config.max_failed_share * len(entries):
        raise DataError(
            f"{len(failures)} of {len(entries)} videos can't be used (max_failed_share is {config.max_failed_share}):\n"
            + "\n".join(map(str, failures[:10]))
            + (f"\nand {len(failures) - 10} more" if len(failures) > 10 else "")
        )
    return {file: info for file, info in found.items() if isinstance(info, VideoInfo)}, failures


@functools.cache
def _tell_once(note: str) -> None:
    print(note, file=sys.stderr, flush=True)


def _generator(*key: int) -> torch.Generator:
    """A generator seeded by all parts of the key."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return size if isinstance(size, tuple) else (size, size)
