"""Files as they turn up in real data sets: each gives all its frames or one clear reason, whichever decoder is asked.

The odd files of ../shared were made by FFmpeg from a real clip. The test writes the same kinds itself, so that they are
checked where there is no ../shared.
"""

from __future__ import annotations

import csv
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from dualformer.config import ConfigError
from dualformer.data.dataset import DataConfig, VideoDataset, collate
from dualformer.data.decoders import check_decoder
from dualformer.data.inspection import inspect_all
from dualformer.data.reader import VideoError, VideoInfo, inspect_video, read_by_seeking, read_in_order
from tests.helpers.videos import (
    numbered_frames,
    shown_numbers,
    write_audio,
    write_damaged,
    write_flipped,
    write_images,
    write_truncated,
    write_turned,
    write_video,
)

ROOT = Path(__file__).parents[3]
SHARED = ROOT.parent / "shared/videos/odd"
VARYING_MS = [0, 20, 40, 60, 80, 100, 600, 1100, 1600, 2100, 2120, 2140]


def why_not(decoder: str) -> str:
    """Why a decoder can't be tested on this machine, empty where it can."""
    if decoder == "torchcodec" and importlib.util.find_spec("torchcodec") is None:
        return "torchcodec is not installed"
    try:
        check_decoder(decoder)
    except ConfigError as error:
        return str(error)
    return ""


def each(*decoders: str):
    return [
        pytest.param(name, marks=pytest.mark.skipif(bool(why_not(name)), reason=why_not(name))) for name in decoders
    ]


def video(frames, codec="libx264", **options):
    return lambda path: write_video(path, frames, codec, **options)


def frames_of(suffix):
    return lambda path: write_images(path, 6, suffix)


def text(path: Path) -> None:
    path.write_text("no video\n" * 1000)


def two_sizes(path: Path) -> None:
    """Two transport streams one after the other, as a recorder writes that was told to change its resolution."""
    parts = [write_video(path.with_name(f"part_{height}.ts"), numbered_frames(10, height)) for height in (48, 32)]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))


WRITTEN = {
    "pipe.mp4": (os.mkfifo, "neither a file nor a folder of images"),  # opening it would wait for ever
    "two_sizes.ts": (two_sizes, "frame [0-9]+ is 32x64, the first is 48x64"),
    "zero_bytes.mp4": (Path.touch, "empty file"),
    "text.mp4": (text, "can't be decoded"),
    "index_lost.mp4": (write_truncated, "can't be decoded"),
    "damaged.mp4": (write_damaged, "decoding fails after [0-9]+ frames"),
    "audio_only.mp4": (write_audio, "no video stream"),
    "empty_folder": (Path.mkdir, "no images in the folder"),
    "flipped_bits.mp4": (write_flipped, r"damaged: [0-9]+ of 120 frames \([0-9]+\.[0-9]%\)"),
    "one_frame.mp4": (video(1), (1, 48, 64)),
    "five_frames.mp4": (video(5), (5, 48, 64)),
    "turned.mp4": (write_turned, (12, 64, 48)),
    "odd_size.avi": (video(numbered_frames(40, 49, 65), "mpeg4", bf="2", g="12"), (40, 49, 65)),
    "b_frames.avi": (video(60, "mpeg4", bf="2", g="12"), (60, 48, 64)),
    "varying_rate.mp4": (video(12, times_ms=VARYING_MS), (12, 48, 64)),
    "ten_bits.mp4": (video(30, pixels="yuv420p10le"), (30, 48, 64)),
    "hevc_ten_bits.mp4": (
        video(30, "libx265", pixels="yuv420p10le", **{"x265-params": "log-level=none"}),
        (30, 48, 64),
    ),
    "av1.webm": (video(20, "libsvtav1"), (20, 48, 64)),
    "images.png": (frames_of(".png"), (6, 48, 64)),
    "images.jpg": (frames_of(".jpg"), (6, 48, 64)),
}
"""By name: what writes the file, and what is expected: (frames, height, width) or a reason."""

GIVEN = {
    "audio_only.mp4": "no video stream",
    "av1.webm": (60, 256, 340),
    "bitflips_300.mp4": "decoding fails after [0-9]+ frames",
    "five_frames.mp4": (5, 256, 340),
    "hevc_10bit.mp4": (90, 256, 340),
    "odd_341x255_mpeg4.avi": (90, 255, 341),
    "one_frame.mp4": (1, 256, 340),
    "rotated90.mp4": (327, 340, 256),
    "text_not_video.mp4": "can't be decoded",
    "truncated_half.avi": r"damaged: 1 of 121 frames \(0\.8%\)",
    "truncated_half_moov_last.mp4": "can't be decoded",
    "vfr.mp4": (82, 256, 340),
    "zero_bytes.mp4": "empty file",
}

needs_given = pytest.mark.skipif(not SHARED.is_dir(), reason="no odd files in ../shared/videos/odd")


def check(path: Path, decoder: str, expected: tuple[int, int, int] | str) -> None:
    """Inspects a file, and reads it as a data set would."""
    if isinstance(expected, str):
        with pytest.raises(VideoError, match=expected) as caught:
            inspect_video(path, decoder)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)
        return
    info = inspect_video(path, decoder)
    assert (info.num_frames, info.height, info.width) == expected
    indices = np.linspace(info.num_frames - 1, 0, 5).astype(int)
    frames = read_in_order(path, indices)
    assert frames.shape == (5, info.height, info.width, 3)
    if info.seekable:
        assert np.array_equal(read_by_seeking(path, indices, decoder), frames)
    with pytest.raises(VideoError):
        read_in_order(path, [info.num_frames])


@pytest.mark.parametrize("decoder", each("decord", "pyav", "torchcodec"))
@pytest.mark.parametrize("name", WRITTEN)
def test_written_files_give_all_their_frames_or_a_reason(tmp_path, name, decoder):
    write, expected = WRITTEN[name]
    path = tmp_path / name
    write(path)
    check(path, decoder, expected)
    if name == "turned.mp4" or isinstance(expected, str):
        return
    numbers = list(range(expected[0]))
    assert shown_numbers(read_in_order(path, numbers)) == numbers


@pytest.mark.data
@needs_given
@pytest.mark.parametrize("decoder", each("decord", "pyav", "torchcodec"))
@pytest.mark.parametrize("name", GIVEN)
def test_given_files_give_all_their_frames_or_a_reason(name, decoder):
    check(SHARED / name, decoder, GIVEN[name])


@pytest.mark.data
@needs_given
def test_every_given_file_is_expected_to_be_something():
    assert {path.name for path in SHARED.iterdir()} == set(GIVEN)


def test_a_turned_picture_is_upright(tmp_path):
    path = write_turned(tmp_path / "clip.mp4", 7)
    as_stored = np.rot90(read_in_order(path, [5]), axes=(1, 2))
    assert shown_numbers(as_stored) == [5]


@pytest.mark.data
@needs_given
def test_the_rate_of_the_given_file_varies():
    info = inspect_video(SHARED / "vfr.mp4")
    assert info.seconds == pytest.approx(10.9776, abs=1e-4)
    assert info.times[30] == pytest.approx(2.1355, abs=1e-4)  # 4.02 at the average rate
    assert inspect_video(SHARED / "rotated90.mp4").times is None


def test_all_kinds_in_one_folder_stop_nothing(tmp_path):
    for name, (write, _) in WRITTEN.items():
        write(tmp_path / name)
    found = inspect_all(tmp_path, WRITTEN, workers=2)
    unusable = {name for name, (_, expected) in WRITTEN.items() if isinstance(expected, str)}
    assert {name for name, outcome in found.items() if isinstance(outcome, VideoError)} == unusable
    assert all(isinstance(found[name], VideoInfo) for name in WRITTEN.keys() - unusable)
    process = subprocess.run(
        [sys.executable, "-m", "dualformer", "check-videos", str(tmp_path), "--quarantine", str(tmp_path / "bad.csv")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (process.returncode, process.stderr) == (1, "")
    with open(tmp_path / "bad.csv", newline="") as file:
        reasons = dict(list(csv.reader(file))[1:])
    assert set(reasons) == unusable - {"empty_folder"}
    others = {"part_48.ts", "part_32.ts"}
    assert f"{len(reasons)} of {len(WRITTEN) - 3 + len(others)} videos can't be used" in process.stdout


@pytest.mark.parametrize("decoder", each("pyav", "torchcodec"))
def test_loader_workers_give_the_same_clips_with_any_decoder(tmp_path, monkeypatch, decoder):
    monkeypatch.setenv("DUALFORMER_CACHE", str(tmp_path / "cache"))
    formats = {
        "h264.mp4": ("libx264", {}),
        "b_frames.avi": ("mpeg4", {"bf": "2", "g": "12"}),
        "windows.wmv": ("wmv2", {}),
    }
    for label in ("x", "y"):
        for name, (codec, options) in formats.items():
            write_video(tmp_path / "set" / label / name, 40, codec, **options)
    clips = []
    for name in ("decord", decoder):
        config = DataConfig(root=str(tmp_path / "set"), decoder=name, frame_stride=3)
        dataset = VideoDataset(config, "train", num_frames=4, crop_size=(48, 64))
        clips.append([batch["clip"] for batch in DataLoader(dataset, batch_size=2, collate_fn=collate, num_workers=2)])
    assert all(torch.equal(one, other) for one, other in zip(*clips, strict=True))
