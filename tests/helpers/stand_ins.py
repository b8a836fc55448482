"""Small data sets of real video files in the layouts that published ones have, for tests of all that comes after.

Each function writes one below a folder and returns a `StandIn`: what `python -m dualformer prepare` needs to read it.
Clips of a class have its brightness, and a counter that runs in binary: classes can be learnt, frames be told apart.
"""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import av
import numpy as np
from PIL import Image

SIZE = (48, 64)  # height, width

_OPTIONS = {
    "libx264": {"preset": "ultrafast", "bf": "0"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "b": "200k"},
    "mpeg4": {"q": "5"},
}
_CODECS = {".mp4": "libx264", ".webm": "libvpx-vp9", ".avi": "mpeg4"}


@dataclasses.dataclass(frozen=True)
class StandIn:
    """A data set: its format, the folder of its videos, its annotation files, and how many clips they list."""

    format: str
    videos: Path
    annotations: tuple[Path, ...]
    classes: tuple[str, ...]
    num_clips: int

    @property
    def arguments(self) -> list[str]:
        """What follows `python -m dualformer`."""
        annotations = ["--annotations", *map(str, self.annotations)] if self.annotations else []
        return ["prepare", self.format, "--videos", str(self.videos), *annotations]


def clip_frames(label: int, clip: int, frames: int, size: tuple[int, int]) -> np.ndarray:
    """Frames of a class's brightness, below a strip of eight fields that count frames: uint8 [frames, H, W, 3]."""
    height, width = size
    rng = np.random.default_rng((label, clip))
    shown = np.full((frames, height, width, 3), 40 + 35 * (label % 6), np.uint8)
    shown += rng.integers(0, 12, (1, height, width, 1), dtype=np.uint8)
    bits = np.arange(frames)[:, None] >> np.arange(8) & 1
    shown[:, : height // 4] = np.where(bits[:, np.arange(width) * 8 // width], 230, 20)[:, None, :, None]
    return shown


def write_clip(path: Path, label: int, clip: int, frames: int = 12, size: tuple[int, int] = SIZE) -> Path:
    """Encodes a clip; the suffix chooses container and codec, none means a folder of numbered images."""
    pictures = clip_frames(label, clip, frames, size)
    if not path.suffix:
        path.mkdir(parents=True)
        for number, picture in enumerate(pictures, 1):
            Image.fromarray(picture).save(path / f"img_{number:05d}.jpg", quality=95)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    codec = _CODECS[path.suffix]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=_OPTIONS[codec])
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def kinetics(
    folder: Path,
    *,
    classes: int = 4,
    train: int = 3,
    val: int = 1,
    frames: int = 12,
    size: tuple[int, int] = SIZE,
    class_folders: bool = True,
    rawframes: bool = False,
) -> StandIn:
    """Kinetics: `train/class name/{id}_{start:06d}_{end:06d}.mp4`, and a csv per split.

    Args:
        folder: where to write.
        classes: number of classes, at most 8.
        train: clips of each class to train on.
        val: likewise to validate on.
        frames: of every clip.
        size: height and width in pixels.
        class_folders: whether classes have folders of their own below the split's.
        rawframes: write folders of images in place of videos.
    """
    names = ("abseiling", "air drumming", "applauding", "archery", "arm wrestling", "baking cookies", "bowling", "yoga")
    annotations = []
    for split, clips in (("train", train), ("val", val)):
        rows = []
        for label, name in enumerate(names[:classes]):
            for clip in range(clips):
                youtube_id, start = f"-{split[0]}_{label:02d}{clip:04d}xyz", 7 * clip
                inside = folder / "videos" / split / (name if class_folders else "")
                stem = f"{youtube_id}_{start:06d}_{start + 10:06d}"
                write_clip(inside / (stem if rawframes else f"{stem}.mp4"), label, _nth(split, clip), frames, size)
                rows.append((name, youtube_id, start, start + 10, split))
        annotations.append(
            _csv(folder / f"{split}.csv", ("label", "youtube_id", "time_start", "time_end", "split"), rows)
        )
    return StandIn("kinetics", folder / "videos", tuple(annotations), names[:classes], classes * (train + val))


def something_something_v2(folder: Path, *, train: int = 3, val: int = 1, **clip: int) -> StandIn:
    """Something-Something V2: `{id}.webm` in one folder; JSON lists with templates, and classes that aren't sorted."""
    templates = (
        "Pushing [something] from left to right",
        "Holding [something] next to [something]",
        "Folding [something]",
    )
    names = tuple(template.replace("[", "").replace("]", "") for template in templates)
    annotations, number = [], 100
    for split, clips in (("train", train), ("validation", val)):
        entries = []
        for label, template in enumerate(templates):
            for index in range(clips):
                number += 1
                write_clip(folder / "videos" / f"{number}.webm", label, _nth(split, index), **clip)
                text = template.replace("[something]", "a cup").lower()
                entries.append({"id": str(number), "label": text, "template": template, "placeholders": ["a cup"]})
        annotations.append(_json(folder / f"something-something-v2-{split}.json", entries))
    labels = {name: str(label) for label, name in enumerate(names)}
    annotations.append(_json(folder / "something-something-v2-labels.json", labels))
    annotations.append(_json(folder / "something-something-v2-test.json", [{"id": "900"}, {"id": "901"}]))
    return StandIn("something_something_v2", folder / "videos", tuple(annotations), names, 3 * (train + val))


def ucf101(folder: Path, *, groups: int = 4, clips: int = 2, **clip: int) -> StandIn:
    """UCF101: `Class/v_Class_g01_c01.avi` and three splits, the n-th of which tests on group n."""
    names = ("ApplyEyeMakeup", "HandstandPushups", "YoYo")
    lists: dict[str, list[str]] = {}
    for label, name in enumerate(names):
        for group in range(1, groups + 1):
            for number in range(1, clips + 1):
                # One class of the real data set is spelt otherwise in its files' names.
                file = f"{name}/v_{name.replace('Handst', 'HandSt')}_g{group:02d}_c{number:02d}.avi"
                write_clip(folder / "UCF-101" / file, label, 10 * group + number, **clip)
                for fold in (1, 2, 3):
                    split, suffix = ("test", "") if group == fold else ("train", f" {label + 1}")
                    lists.setdefault(f"{split}list{fold:02d}.txt", []).append(file + suffix)
    lists["classInd.txt"] = [f"{label} {name}" for label, name in enumerate(names, 1)]
    for name, lines in lists.items():
        _text(folder / "ucfTrainTestlist" / name, "".join(f"{line}\r\n" for line in lines))  # as published
    return StandIn("ucf101", folder / "UCF-101", (folder / "ucfTrainTestlist",), names, len(names) * groups * clips)


def hmdb51(folder: Path, *, films: int = 4, clips: int = 2, **clip: int) -> StandIn:
    """HMDB51: `class/film_class_....avi` and a file per class and split; a film is in no split's test but its own."""
    names = ("brush_hair", "kick", "kick_ball")
    for label, name in enumerate(names):
        lines: dict[int, list[str]] = {1: [], 2: [], 3: []}
        for film in range(1, films + 1):
            for number in range(clips):
                file = f"The_Film_{film}_{name}_u_nm_np1_fr_med_{number}.avi"
                write_clip(folder / "videos" / name / file, label, 10 * film + number, **clip)
                for fold in lines:
                    use = 2 if film == fold else 0 if film == 4 and fold == 3 else 1
                    lines[fold].append(f"{file} {use} ")
        for fold, texts in lines.items():
            _text(folder / "testTrainMulti_7030_splits" / f"{name}_test_split{fold}.txt", "\n".join(texts) + "\n")
    splits = folder / "testTrainMulti_7030_splits"
    return StandIn("hmdb51", folder / "videos", (splits,), names, len(names) * films * clips)


def diving48(folder: Path, *, train: int = 3, test: int = 1, frames: int = 12, **clip: int) -> StandIn:
    """Diving48: `{vid_name}.mp4` in one folder, JSON lists and the vocabulary, whose classes aren't sorted."""
    vocabulary = (
        ("Back", "15som", "05Twis", "FREE"),
        ("Back", "Dive", "NoTwis", "PIKE"),
        ("Back", "15som", "15Twis", "FREE"),
    )
    annotations = []
    for split, clips in (("train", train), ("test", test)):
        entries = []
        for label in range(len(vocabulary)):
            for index in range(clips):
                name = f"_8Vy3dl{split}{label}_{index:05d}"
                write_clip(folder / "rgb" / f"{name}.mp4", label, _nth(split, index), frames, **clip)
                entries.append({"vid_name": name, "label": label, "start_frame": 0, "end_frame": frames})
        annotations.append(_json(folder / f"Diving48_V2_{split}.json", entries))
    annotations.append(_json(folder / "Diving48_vocab.json", vocabulary))
    names = tuple(" ".join(words) for words in vocabulary)
    return StandIn("diving48", folder / "rgb", tuple(annotations), names, 3 * (train + test))


def folders(folder: Path, *, train: int = 3, test: int = 1, rawframes: bool = False, **clip: int) -> StandIn:
    """A folder per class inside of `train` and `test`."""
    names = ("jump", "run", "walk")
    for split, clips in (("train", train), ("test", test)):
        for label, name in enumerate(names):
            for index in range(clips):
                write_clip(
                    folder / split / name / f"{index}{'' if rawframes else '.mp4'}", label, _nth(split, index), **clip
                )
    return StandIn("folders", folder, (), names, 3 * (train + test))


def plain_list(folder: Path, *, train: int = 3, val: int = 1, rawframes: bool = False, frames: int = 12) -> StandIn:
    """mmaction2's lists `path label`, or of folders `folder num_frames label`, with a space in every path."""
    names = ("0", "1", "2")
    annotations = []
    for split, clips in (("train", train), ("val", val)):
        lines = []
        for label in range(len(names)):
            for index in range(clips):
                file = f"{split} clips/{label}/{index}{'' if rawframes else '.mp4'}"
                write_clip(folder / "videos" / file, label, _nth(split, index), frames)
                lines.append(f"{file} {f'{frames} ' if rawframes else ''}{label}")
        kind = "rawframes" if rawframes else "videos"
        annotations.append(_text(folder / f"mine_{split}_list_{kind}.txt", "\n".join(lines) + "\n"))
    return StandIn("list", folder / "videos", tuple(annotations), names, 3 * (train + val))


ALL = {
    "kinetics": kinetics,
    "folders": folders,
    "list": plain_list,
    "something_something_v2": something_something_v2,
    "ucf101": ucf101,
    "hmdb51": hmdb51,
    "diving48": diving48,
}


def _nth(split: str, index: int) -> int:
    """Which of its class's clips: no two splits show the same one."""
    return index if split == "train" else 1000 + index


def _csv(path: Path, columns: tuple[str, ...], rows: list[tuple]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def _json(path: Path, content: object) -> Path:
    return _text(path, json.dumps(content))


def _text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path
