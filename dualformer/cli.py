"""`python -m dualformer`: classify a video, see what a model looked at, check a folder of videos, prepare a data set.

`compare` and `verify` look at results of sweeps and live in `analysis`.

Errors are one line on stderr and exit status 2. `check-videos` and `prepare` end with 1 where a video can't be used.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from dualformer.config import ConfigError
from dualformer.data import transforms
from dualformer.data.dataset import DataConfig
from dualformer.data.decoders import DECODERS
from dualformer.data.formats import FOLDS, FORMATS, Source
from dualformer.data.inspection import TIME_LIMIT_S, inspect_all
from dualformer.data.manifest import SPLITS, DataError, frame_folders, listed_files, video_files
from dualformer.data.prepare import prepare
from dualformer.data.reader import VideoError, VideoInfo, inspect_video, read_in_order
from dualformer.data.sampling import at_average_rate, test_indices
from dualformer.gradcam import gradcam
from dualformer.registry import create_model
from dualformer.weights import WeightsError, load_weights

FRAMES_DRAWN = 8

ELSEWHERE = {
    "check": "dualformer.check:main",
    "compare": "analysis.compare:main",
    "verify": "analysis.verify:main",
}
"""Commands of other packages, named as models are in the registry, because the library imports nothing built on it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    command, *rest = (sys.argv[1:] if argv is None else argv) or [""]
    if command in ELSEWHERE:
        module, function = ELSEWHERE[command].split(":")
        return getattr(importlib.import_module(module), function)(rest)
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except (ConfigError, DataError, VideoError, WeightsError, OSError, ValueError) as error:
        print(f"dualformer: error: {'; '.join(str(error).splitlines())}", file=sys.stderr)
        return 2


def predict(arguments: argparse.Namespace) -> int:
    """Prints the most probable classes of a video, views averaged."""
    model, names = _model(arguments)
    clips, _ = _views(arguments, model)
    with torch.inference_mode():
        probabilities = torch.cat([model(clip[None]) for clip in clips]).softmax(dim=-1).mean(dim=0)
    for probability, label in zip(*(values.tolist() for values in probabilities.topk(min(5, len(probabilities))))):
        print(f"{probability:7.2%}  {names[label]}")
    return 0


def draw_gradcam(arguments: argparse.Namespace) -> int:
    """Draws frames of a clip beside what spoke for a class, to a PNG file."""
    model, names = _model(arguments)
    arguments.num_clips = arguments.num_crops = 1
    (clip,), frames = _views(arguments, model)
    target = None if arguments.target is None else _class_index(arguments.target, names)
    evidence, logits = gradcam(model, clip[None], target)
    target = int(logits.argmax()) if target is None else target
    title = f"{arguments.model}: evidence for {names[target]} (probability {logits.softmax(dim=-1)[target]:.1%})"
    _draw_evidence(frames, evidence, title, arguments.out)
    print(f"{title}; drawn to {arguments.out}")
    return 0


def check_videos(arguments: argparse.Namespace) -> int:
    """Decodes every video of a folder; tells which can't be used, and which can be sought in."""
    root = arguments.root
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    files = sorted({*(video_files(root) or frame_folders(root)), *listed_files(root)})
    if not files:
        raise DataError(f"{root}: no videos")
    limits = {"workers": arguments.workers, "time_limit_s": arguments.time_limit_s}
    found = {name: inspect_all(root, files, decoder=name, **limits) for name in dict.fromkeys(arguments.decoder)}
    outcomes = [(file, name, outcome) for name, of_files in found.items() for file, outcome in of_files.items()]
    broken = {file: outcome.reason for file, _, outcome in outcomes if isinstance(outcome, VideoError)}
    _write_quarantine(arguments.quarantine, broken)
    if arguments.report:
        _write_report(arguments.report, outcomes)
    for line in _summary(root, outcomes):
        print(line)
    for file, reason in broken.items():
        print(f"{file}: {reason}")
    print(f"{len(broken)} of {len(files)} videos can't be used (listed in {arguments.quarantine})")
    return 1 if broken else 0


def prepare_data(arguments: argparse.Namespace) -> int:
    """Writes the manifest of a data set in a published format; tells what can't be used, by reason."""
    source = Source(
        arguments.videos, tuple(arguments.annotations), arguments.classes, arguments.fold, arguments.rawframes
    )
    options = {"workers": arguments.workers, "max_failed_share": arguments.max_failed_share}
    done = prepare(arguments.format, source, arguments.out, quarantine=arguments.quarantine, **options)
    for reason, count in done.reasons.items():
        print(f"{count:7}  {reason}")
    for note in done.notes:
        print(f"note: {note}")
    if done.failures:
        print(f"{len(done.failures)} clips can't be used (listed in {done.quarantine})")
    counts = ", ".join(f"{split or 'no split'}: {count}" for split, count in done.counts.items())
    print(f"{sum(done.counts.values())} clips of {len(done.classes)} classes ({counts}) are in {done.manifest}")
    return 1 if done.failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dualformer", description="Video models on single videos.")
    parser.epilog = f"About results of sweeps: {', '.join(ELSEWHERE)}; each has its own --help."
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = _command(commands, "predict", predict, "the five most probable classes of a video")
    _add_model_options(command)
    command.add_argument("--num-clips", type=_positive, default=4, help="clips spread over the video (default: 4)")
    command.add_argument("--num-crops", type=int, choices=(1, 3), default=1, help="crops of each clip (default: 1)")

    command = _command(commands, "gradcam", draw_gradcam, "draw which parts of a video speak for a class")
    _add_model_options(command)
    command.add_argument("--class", dest="target", metavar="CLASS", help="name or number (default: the predicted one)")
    command.add_argument("--out", type=Path, required=True, metavar="PNG", help="the picture to write")

    command = _command(commands, "check-videos", check_videos, "decode every video of a folder and report")
    command.add_argument("root", type=Path, metavar="ROOT", help="folder of a data set, or of any videos")
    command.add_argument("--workers", type=_positive, default=1, help="videos decoded at the same time (default: 1)")
    command.add_argument(
        "--quarantine",
        type=Path,
        default=Path("quarantine.csv"),
        metavar="CSV",
        help="list of unusable videos with reasons (default: quarantine.csv)",
    )
    command.add_argument("--report", type=Path, metavar="CSV", help="also write what was found about every video")
    command.add_argument(
        "--decoder", nargs="+", choices=tuple(DECODERS), default=["decord"], help="which may seek (default: decord)"
    )
    command.add_argument(
        "--time-limit-s",
        type=_seconds,
        default=TIME_LIMIT_S,
        metavar="S",
        help=f"longest time for one video, in seconds (default: {TIME_LIMIT_S:g})",
    )

    command = _command(commands, "prepare", prepare_data, "write one manifest of a data set in any published format")
    command.epilog = "What each format looks like: dualformer/data/formats.py. Stopped, it goes on where it was."
    command.add_argument("format", metavar="FORMAT", help=", ".join(FORMATS))
    command.add_argument("--videos", type=Path, required=True, metavar="DIR", help="folder of the videos")
    command.add_argument(
        "--annotations",
        type=_annotations,
        nargs="+",
        default=[],
        metavar="[SPLIT=]FILE",
        help="the data set's own lists, or folders of them; SPLIT where neither content nor name tells it",
    )
    command.add_argument("--classes", type=Path, metavar="FILE", help="class names in their order, one a line, or JSON")
    folds = ", ".join(f"{name} has {count}" for name, count in FOLDS.items())
    command.add_argument("--fold", type=_positive, metavar="N", help=f"which official split ({folds}; default: 1)")
    command.add_argument("--rawframes", action="store_true", help="clips are folders of images")
    command.add_argument(
        "--out", type=Path, default=Path("manifest.csv"), metavar="CSV", help="what to write (default: manifest.csv)"
    )
    command.add_argument(
        "--quarantine", type=Path, metavar="CSV", help="list of unusable clips (default: OUT_quarantine.csv)"
    )
    cores = len(os.sched_getaffinity(0))
    command.add_argument("--workers", type=_positive, default=cores, help="files at the same time (default: cores)")
    command.add_argument(
        "--max-failed-share",
        type=_share,
        default=0.05,
        metavar="S",
        help="more missing or unusable clips are an error (default: 0.05)",
    )
    return parser


def _command(
    commands: argparse._SubParsersAction, name: str, run: Callable[[argparse.Namespace], int], text: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    command.set_defaults(run=run)
    return command


def _add_model_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("video", type=Path, metavar="VIDEO")
    command.add_argument("--model", required=True, metavar="NAME", help="a name of dualformer.list_models()")
    command.add_argument("--weights", type=Path, metavar="FILE", help="without it weights are random")
    command.add_argument("--classes", type=Path, metavar="FILE", help="class names, one a line (default: 400 numbers)")
    command.add_argument("--attention", metavar="PATTERN", help="for dualformer_*, such as LG")
    command.add_argument("--num-frames", type=_positive, metavar="T", help="frames of a clip (default: as published)")
    command.add_argument("--crop-size", type=_positive, metavar="PX", help="side of a clip (default: as published)")
    command.add_argument("--frame-stride", type=_positive, default=2, help="distance between frames (default: 2)")
    command.add_argument(
        "--resize", type=_positive, metavar="PX", help="short side before the crop (default: the crop)"
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of seconds")
    return seconds


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share from 0 to 1")
    return share


def _annotations(text: str) -> tuple[str | None, Path]:
    """A file, or `SPLIT=FILE`."""
    split, equals, path = text.partition("=")
    if equals and split.lower() in SPLITS:
        return SPLITS[split.lower()], Path(path)
    return None, Path(text)


def _model(arguments: argparse.Namespace) -> tuple[nn.Module, list[str]]:
    """The model in eval mode, and a name for each of its classes."""
    names = _class_names(arguments.classes)
    model = create_model(
        arguments.model,
        num_classes=len(names),
        num_frames=arguments.num_frames,
        crop_size=arguments.crop_size,
        attention=arguments.attention,
    )
    if arguments.weights:
        load_weights(model, arguments.weights)
    else:
        print("dualformer: warning: no --weights, so what follows comes from random ones", file=sys.stderr)
    return model.eval(), names


def _class_names(path: Path | None) -> list[str]:
    if path is None:
        return [f"class {label}" for label in range(400)]
    names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not names:
        raise DataError(f"{path}: no class names")
    return names


def _class_index(name: str, names: Sequence[str]) -> int:
    if name in names:
        return names.index(name)
    if name.isdecimal() and int(name) < len(names):
        return int(name)
    raise ConfigError(f"no class '{name}' among {len(names)}")


def _views(arguments: argparse.Namespace, model: nn.Module) -> tuple[Tensor, Tensor]:
    """All views of the video, normalised [V, 3, T, H, W], and the levels of the first one, uint8 [T, 3, H, W]."""
    config, (_, num_frames, *crop_size) = DataConfig(), model.config.clip_shape
    info = inspect_video(arguments.video, "pyav")
    indices = test_indices(info.num_frames, num_frames, arguments.frame_stride, arguments.num_clips, "repeat_last")
    indices = at_average_rate(indices, info.times, info.seconds)
    frames = torch.from_numpy(read_in_order(arguments.video, indices.ravel())).permute(0, 3, 1, 2)
    frames = transforms.resize(frames, arguments.resize or max(crop_size))
    if min(frames.shape[-2:]) < max(crop_size):
        raise ConfigError(f"--resize {arguments.resize} is smaller than the crop {crop_size[0]}x{crop_size[1]}")
    transform = transforms.EvalTransform(tuple(crop_size), config.mean, config.std, arguments.num_crops)
    clips = frames.split(num_frames)
    first_view = transforms.test_crops(clips[0], tuple(crop_size), arguments.num_crops)[0]
    return torch.cat([transform(clip) for clip in clips]), first_view


def _draw_evidence(frames: Tensor, evidence: Tensor, title: str, path: Path) -> None:
    """Two rows of pictures: frames [T, 3, H, W], and the same under their evidence [T, H, W]."""
    from matplotlib.figure import Figure  # half a second that no other command needs

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


def _access(outcome: VideoInfo | VideoError) -> str:
    if isinstance(outcome, VideoError):
        return "unusable"
    return "sought" if outcome.seekable else "in order"


def _summary(root: Path, outcomes: Sequence[tuple[str, str, VideoInfo | VideoError]]) -> list[str]:
    """How many files of each format each decoder seeks in, as far as that gave the frames of a full decode."""
    counts = Counter((_format(root, file), decoder, _access(outcome)) for file, decoder, outcome in outcomes)
    columns = ("sought", "in order", "unusable")
    lines = [f"{'format':8}{'decoder':12}" + "".join(f"{column:>10}" for column in columns)]
    for name, decoder in sorted({(name, decoder) for name, decoder, _ in counts}):
        lines.append(f"{name:8}{decoder:12}" + "".join(f"{counts[name, decoder, column]:10}" for column in columns))
    return lines


def _format(root: Path, file: str) -> str:
    return "images" if (root / file).is_dir() else Path(file).suffix.lower()


def _write_quarantine(path: Path, broken: Mapping[str, str]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "reason"))
        writer.writerows(broken.items())


def _write_report(path: Path, outcomes: Sequence[tuple[str, str, VideoInfo | VideoError]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "decoder", "access", "frames", "height", "width", "seconds", "rate", "reason"))
        for name, decoder, outcome in outcomes:
            row = (name, decoder, _access(outcome))
            if isinstance(outcome, VideoError):
                writer.writerow((*row, *[""] * 5, outcome.reason))
            else:
                size = (outcome.num_frames, outcome.height, outcome.width)
                seconds = "" if outcome.seconds is None else f"{outcome.seconds:.3f}"
                rate = "" if outcome.seconds is None else "varies" if outcome.times else "constant"
                writer.writerow((*row, *size, seconds, rate, ""))
