"""Tell the most probable classes of a video.

Views are averaged.

    dualformer predict runs/0123456789ab clip.mp4 ...                   a run's model, as the run evaluated it
    dualformer predict weights.pth clip.mp4 --model dualformer_tiny     released or own weights of a model by name

Exit status: 1 where some of several videos can't be read.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dualformer.arguments import one_line, positive
from dualformer.commands import single_video

_SHOWN = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    single_video.add_model_options(parser, "videos, each a file or a folder of images")
    parser.add_argument(
        "--num-clips",
        type=positive,
        metavar="N",
        help=f"clips spread over the video (default: the run's, or {single_video.NUM_CLIPS})",
    )
    parser.add_argument("--num-crops", type=int, choices=(1, 3), help="crops of each clip (default: the run's, or 1)")


def run(options: argparse.Namespace) -> int:
    """Prints up to five classes of each video, the most probable first; returns 0, or 1 where one can't be read."""
    from dualformer.data.reader import VideoError

    viewer, videos = single_video.viewer_and_videos(options)
    if len(videos) == 1:
        print("\n".join(_lines(viewer, videos[0])))
        return 0
    failures = 0
    for video in videos:
        try:
            print("\n".join([f"{video}:", *_lines(viewer, video)]), flush=True)
        except VideoError as error:
            failures += 1
            print(f"dualformer predict: {one_line(str(error))}", file=sys.stderr)
    return 1 if failures else 0


def _lines(viewer: single_video.Viewer, video: Path) -> list[str]:
    import torch

    clips, _ = viewer.views(video)
    with torch.inference_mode():
        logits = torch.cat([viewer.model(clip[None]) for clip in clips])
    if viewer.average == "score":
        probabilities = logits.mean(dim=0).softmax(dim=-1)
    else:
        probabilities = logits.softmax(dim=-1).mean(dim=0)
    top = probabilities.topk(min(_SHOWN, len(probabilities)))
    return [
        f"{probability:7.2%}  {viewer.classes[label]}"
        for probability, label in zip(top.values.tolist(), top.indices.tolist())
    ]
