"""What commands that look at single videos with one model share: which model, from what, and the views of a video.

The model is that of a run (its folder, or its id in --runs): its last or best weights, its classes, and videos are seen
as the run saw its held-out ones. Or it is a name with a file of weights, and all else is said by options.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualformer.arguments import positive
from dualformer.config import ConfigError
from dualformer.data.config import DataConfig
from dualformer.data.files import DataError
from dualformer.model_contract import config_of
from dualformer.results import layout
from dualformer.results.files import read_object

if TYPE_CHECKING:
    from torch import Tensor, nn

NUM_CLIPS = 4
"""Clips spread over a video that no run says anything about."""


@dataclasses.dataclass(frozen=True)
class Viewer:
    """A model and how it is shown a video.

    Attributes:
        model: in eval mode.
        classes: a name for each of its logits.
        data: how frames become clips.
        num_clips: clips spread over a video.
        num_crops: crops of each clip, 1 or 3.
        average: what is averaged over views, "probability" or "score".
    """

    model: nn.Module
    classes: list[str]
    data: DataConfig
    num_clips: int
    num_crops: int
    average: str = "probability"

    def views(self, video: Path) -> tuple[Tensor, Tensor]:
        """All views of a video, normalised [V, 3, T, H, W], and the levels of the first one, uint8 [T, 3, H, W].

        Raises:
            VideoError: the video can't be read.
            ConfigError: its frames are smaller than the crop.
        """
        import torch

        from dualformer.data import transforms
        from dualformer.data.reader import inspect_video, read_in_order

        _, num_frames, *sides = config_of(self.model).clip_shape
        crop_size = (sides[0], sides[1])
        info = inspect_video(video, "pyav")
        indices = self._indices(info, num_frames)
        frames = torch.from_numpy(read_in_order(video, indices.ravel())).permute(0, 3, 1, 2)
        resize = self.data.resize if self.data.test_resize is None else self.data.test_resize
        frames = transforms.resize(frames, resize)
        height, width = frames.shape[-2:]
        if height < crop_size[0] or width < crop_size[1]:
            told = f"--resize {resize} is" if isinstance(resize, int) else f"{video}: frames of {height}x{width} are"
            raise ConfigError(f"{told} smaller than the crop {crop_size[0]}x{crop_size[1]}")
        transform = transforms.EvalTransform(crop_size, self.data.mean, self.data.std, self.num_crops)
        clips = frames.split(num_frames)
        first_view = transforms.test_crops(clips[0], crop_size, self.num_crops)[0]
        return torch.cat([transform(clip) for clip in clips]), first_view

    def _indices(self, info: Any, num_frames: int) -> Any:
        """Frames of the clips: int64 [num_clips, T]."""
        from dualformer.data import sampling

        if self.data.sampling == "spread":
            return sampling.spread_test_indices(info.num_frames, num_frames, self.num_clips)
        stride, short_video = self.data.frame_stride, self.data.short_video
        indices = sampling.test_indices(info.num_frames, num_frames, stride, self.num_clips, short_video)
        return sampling.at_average_rate(indices, info.times, info.seconds)


def add_model_options(parser: argparse.ArgumentParser, videos: str) -> None:
    """Adds the words and options that say which model looks at what, and how; `videos` says what those may be."""
    parser.add_argument(
        "words",
        nargs="+",
        metavar="RUN|WEIGHTS|VIDEO",
        help=f"a run (folder or id) or a file of weights, where --model doesn't say it all; then {videos}",
    )
    parser.add_argument(
        "--model", metavar="NAME", help="of `dualformer models`, or package.module:function (default: the run's)"
    )
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="in any layout of dualformer.load_weights (default: the run's, or random)",
    )
    parser.add_argument(
        "--weight-set",
        metavar="SET",
        help="which weights to take of a file that holds several sets, such as model_ema (default: those trained)",
    )
    parser.add_argument(
        "--classes", type=Path, metavar="FILE", help="class names, one a line (default: the run's, or 400 numbers)"
    )
    parser.add_argument("--attention", metavar="PATTERN", help="of dualformer_*, such as LG (default: as published)")
    parser.add_argument("--num-frames", type=positive, metavar="T", help="frames of a clip (default: as published)")
    parser.add_argument("--crop-size", type=positive, metavar="PX", help="side of a clip (default: as published)")
    parser.add_argument(
        "--frame-stride", type=positive, metavar="N", help="distance between frames (default: the run's, or 2)"
    )
    parser.add_argument(
        "--resize", type=positive, metavar="PX", help="short side before the crop (default: the run's, or the crop)"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where run folders are")


def viewer_and_videos(options: argparse.Namespace) -> tuple[Viewer, list[Path]]:
    """Sorts what was typed into a model and the videos that it is shown.

    Args:
        options: `words` is what was typed: a run or a file of weights where there is one, and videos; `num_clips` and
            `num_crops` are None where the run's are meant; the others are those of `add_model_options`.

    Raises:
        ConfigError, DataError, WeightsError, OSError: no such model, run, weights or classes; a flag is missing.
    """
    first, *others = options.words
    if (run := _run_folder(first, options.runs)) is not None:
        weights = Path(first) if Path(first).is_file() else None
        viewer, videos = _of_run(run, weights, options), others
    elif Path(first).suffix in layout.WEIGHTS_SUFFIXES:
        options.weights = options.weights or Path(first)
        viewer, videos = _of_name(options), others
    else:
        viewer, videos = _of_name(options), options.words
    if not videos:
        raise ConfigError(f"{first} is no video; give videos after it")
    return viewer, [Path(video) for video in videos]


def _run_folder(name: str, runs: Path) -> Path | None:
    """The folder of a run that a path leads to or into, or that an id or the beginning of one names."""
    path = Path(name)
    for folder in (path, path.parent) if path.suffix in layout.WEIGHTS_SUFFIXES else (path,):
        if _is_run(folder):
            return folder
    if path.exists() or not name.isalnum():
        return None
    found = [config.parent for config in runs.glob(f"{name}*/{layout.CONFIG}")]
    if len(found) > 1:
        raise ConfigError(f"{len(found)} runs in '{runs}' begin with '{name}'")
    return found[0] if found else None


def _is_run(folder: Path) -> bool:
    """Whether a folder is a run's; other projects put a `config.json` beside weights as well."""
    try:
        config = read_object(folder / layout.CONFIG)
    except (OSError, ValueError):
        return False
    return {"model", "data", "evaluate"} <= set(config)


def _of_run(folder: Path, weights: Path | None, options: argparse.Namespace) -> Viewer:
    """The model of a run, which sees videos as the run's evaluation does."""
    _refuse_beside_a_run(folder, options)
    config = read_object(folder / layout.CONFIG)
    choice, evaluation = config["model"], config["evaluate"]
    changes = {name: choice[name] for name in ("num_frames", "crop_size", "attention")} | choice["overrides"]
    data = DataConfig.from_dict(config["data"])
    seen = {"frame_stride": options.frame_stride, "test_resize": options.resize}
    data = data.changed(**{name: value for name, value in seen.items() if value is not None})
    classes = _class_names(options.classes) if options.classes else _classes_of_run(folder)
    weights = options.weights or weights or _weights_of_run(folder)
    model = _model(choice["name"], classes, weights, options.weight_set, **changes)
    clips, crops = options.num_clips or evaluation["num_clips"], options.num_crops or evaluation["num_crops"]
    return Viewer(model, classes, data, clips, crops, evaluation["average"])


def _of_name(options: argparse.Namespace) -> Viewer:
    if options.model is None:
        raise ConfigError("which model? give a run (its folder or id) before the video, or --model NAME")
    classes = _class_names(options.classes)
    shape = {name: getattr(options, name) for name in ("num_frames", "crop_size", "attention")}
    model = _model(options.model, classes, options.weights, options.weight_set, **shape)
    data = DataConfig(
        frame_stride=options.frame_stride or 2,
        resize=options.resize or max(config_of(model).clip_shape[2:]),
        short_video="repeat_last",
    )
    return Viewer(model, classes, data, options.num_clips or NUM_CLIPS, options.num_crops or 1)


def _model(name: str, classes: list[str], weights: Path | None, weight_set: str | None, **changes: Any) -> nn.Module:
    from dualformer.registry import create_model
    from dualformer.weights import load_weights

    if weight_set is not None and weights is None:
        raise ConfigError(f"--weight-set: no --weights to take '{weight_set}' from")
    model = create_model(name, num_classes=len(classes), **changes)
    if weights:
        load_weights(model, weights, weight_set=weight_set)
    else:
        print("dualformer: warning: no --weights, so what follows comes from random ones", file=sys.stderr)
    return model.eval()


def _refuse_beside_a_run(folder: Path, options: argparse.Namespace) -> None:
    """What a run's config says can't be said again."""
    for name in ("model", "attention", "num_frames", "crop_size"):
        if getattr(options, name) is not None:
            raise ConfigError(
                f"--{name.replace('_', '-')}: the run {folder} has its own; leave out the one or the other"
            )


def _weights_of_run(folder: Path) -> Path:
    for name in (layout.BEST_WEIGHTS, layout.WEIGHTS):
        if (folder / name).is_file():
            return folder / name
    raise ConfigError(f"{folder} kept no weights; --set train.save_every=N keeps those of a run")


def _classes_of_run(folder: Path) -> list[str]:
    """Names of the classes, which the header of a run's predictions has after `file` and `label`."""
    path = folder / layout.PREDICTIONS
    if not path.is_file():
        raise ConfigError(f"{folder} was not evaluated, so names of its classes are not known; give --classes FILE")
    with open(path, newline="", encoding="utf-8") as file:
        return next(csv.reader(file), [])[2:]


def _class_names(path: Path | None) -> list[str]:
    if path is None:
        return [f"class {label}" for label in range(400)]
    names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not names:
        raise DataError(f"{path}: no class names")
    return names
