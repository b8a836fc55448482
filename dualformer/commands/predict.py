"""The most probable classes of a video, views averaged."""

from __future__ import annotations

import argparse

from dualformer.arguments import positive
from dualformer.commands import single_video


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    single_video.add_model_options(parser)
    parser.add_argument("--num-clips", type=positive, default=4, help="clips spread over the video")
    parser.add_argument("--num-crops", type=int, choices=(1, 3), default=1, help="crops of each clip")


def run(options: argparse.Namespace) -> int:
    """Prints up to five classes, the most probable first; returns 0."""
    import torch

    model, names = single_video.model_and_classes(options)
    clips, _ = single_video.views(options, model)
    with torch.inference_mode():
        probabilities = torch.cat([model(clip[None]) for clip in clips]).softmax(dim=-1).mean(dim=0)
    for probability, label in zip(*(values.tolist() for values in probabilities.topk(min(5, len(probabilities))))):
        print(f"{probability:7.2%}  {names[label]}")
    return 0
