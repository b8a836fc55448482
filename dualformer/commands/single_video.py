"""What commands that look at one video with one model share: their options, the model, and the views of the video."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dualformer.arguments import positive
from dualformer.config import ConfigError
from dualformer.data.files import DataError

if TYPE_CHECKING:
    from torch import Tensor, nn


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say which model looks at which video."""
    parser.add_argument("video", type=Path, metavar="VIDEO", help="file of the video, or folder of its images")
    parser.add_argument(
        "--model",
        required=True,
        metavar="NAME",
        help="a name of `dualformer models`, or package.module:function of your own",
    )
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="in any layout of dualformer.load_weights (default: random)"
    )
    parser.add_argument("--classes", type=Path, metavar="FILE", help="class names, one a line (default: 400 numbers)")
    parser.add_argument("--attention", metavar="PATTERN", help="of dualformer_*, such as LG (default: as published)")
    parser.add_argument("--num-frames", type=positive, metavar="T", help="frames of a clip (default: as published)")
    parser.add_argument("--crop-size", type=positive, metavar="PX", help="side of a clip (default: as published)")
    parser.add_argument("--frame-stride", type=positive, default=2, help="distance between frames")
    parser.add_argument("--resize", type=positive, metavar="PX", help="short side before the crop (default: the crop)")


def model_and_classes(options: argparse.Namespace) -> tuple[nn.Module, list[str]]:
    """The model in eval mode, and a name for each of its classes."""
    from dualformer.registry import create_model
    from dualformer.weights import load_weights

    names = _class_names(options.classes)
    model = create_model(
        options.model,
        num_classes=len(names),
        num_frames=options.num_frames,
        crop_size=options.crop_size,
        attention=options.attention,
    )
    if options.weights:
        load_weights(model, options.weights)
    else:
        print("dualformer: warning: no --weights, so what follows comes from random ones", file=sys.stderr)
    return model.eval(), names


def views(options: argparse.Namespace, model: nn.Module) -> tuple[Tensor, Tensor]:
    """All views of the video, normalised [V, 3, T, H, W], and the levels of the first one, uint8 [T, 3, H, W]."""
    import torch

    from dualformer.data import transforms
    from dualformer.data.config import DataConfig
    from dualformer.data.reader import inspect_video, read_in_order
    from dualformer.data.sampling import at_average_rate, test_indices
    from dualformer.model_contract import config_of

    config, (_, num_frames, height, width) = DataConfig(), config_of(model).clip_shape
    info = inspect_video(options.video, "pyav")
    indices = test_indices(info.num_frames, num_frames, options.frame_stride, options.num_clips, "repeat_last")
    indices = at_average_rate(indices, info.times, info.seconds)
    frames = torch.from_numpy(read_in_order(options.video, indices.ravel().tolist())).permute(0, 3, 1, 2)
    frames = transforms.resize(frames, options.resize or max(height, width))
    if min(frames.shape[-2:]) < max(height, width):
        raise ConfigError(f"--resize {options.resize} is smaller than the crop {height}x{width}")
    transform = transforms.EvalTransform((height, width), config.mean, config.std, options.num_crops)
    clips = frames.split(num_frames)
    first_view = transforms.test_crops(clips[0], (height, width), options.num_crops)[0]
    return torch.cat([transform(clip) for clip in clips]), first_view


def _class_names(path: Path | None) -> list[str]:
    if path is None:
        return [f"class {label}" for label in range(400)]
    names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not names:
        raise DataError(f"{path}: no class names")
    return names
