"""Draw which parts of a video speak for a class.

Frames of a clip stand beside what spoke for the class, in a PNG file.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dualformer.commands import single_video
from dualformer.config import ConfigError
from dualformer.model_contract import name_of

if TYPE_CHECKING:
    from torch import Tensor

FRAMES_DRAWN = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    single_video.add_model_options(parser, "one video, a file or a folder of images")
    parser.add_argument("--class", dest="target", metavar="CLASS", help="name or number (default: the predicted one)")
    parser.add_argument("--out", type=Path, required=True, metavar="PNG", help="the picture to write")


def run(options: argparse.Namespace) -> int:
    """Draws the picture; returns 0."""
    from dualformer.gradcam import gradcam

    options.num_clips = options.num_crops = 1
    viewer, videos = single_video.viewer_and_videos(options)
    if len(videos) > 1:
        raise ConfigError(f"one video makes one picture, got {len(videos)}")
    (clip,), frames = viewer.views(videos[0])
    target = None if options.target is None else _class_index(options.target, viewer.classes)
    evidence, logits = gradcam(viewer.model, clip[None], target)
    target = int(logits.argmax()) if target is None else target
    probability = logits.softmax(dim=-1)[target]
    name = name_of(viewer.model)
    title = f"{name}: evidence for {viewer.classes[target]} (probability {probability:.1%})"
    _draw_evidence(frames, evidence, title, options.out)
    print(f"{title}; drawn to {options.out}")
    return 0


def _class_index(name: str, names: Sequence[str]) -> int:
    if name in names:
        return names.index(name)
    if name.isdecimal() and int(name) < len(names):
        return int(name)
    raise ConfigError(f"no class '{name}' among {len(names)}")


def _draw_evidence(frames: Tensor, evidence: Tensor, title: str, path: Path) -> None:
    """Two rows of pictures: frames [T, 3, H, W], and the same under their evidence [T, H, W]."""
    import torch
    from matplotlib.figure import Figure

    shown = torch.linspace(0, len(frames) - 1, min(FRAMES_DRAWN, len(frames))).round().long().tolist()
    figure = Figure(figsize=(1.6 * len(shown), 3.8), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(2, len(shown), squeeze=False)
    for column, index in enumerate(shown):
        for row in range(2):
            axes[row, column].imshow(frames[index].permute(1, 2, 0))
            axes[row, column].set_axis_off()
        axes[0, column].set_title(f"frame {index}", fontsize="small")
        heat = axes[1, column].imshow(evidence[index], cmap="inferno", alpha=0.6, vmin=0, vmax=1)
    figure.colorbar(heat, ax=axes[1, :].tolist(), label="evidence")
    figure.savefig(path, format="png", dpi=120)
