"""Real video files for tests, written with PyAV: each frame shows its own number, so a wrong frame is seen."""

from __future__ import annotations

import csv
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

NUMBER_BITS = 8


def numbered_frames(count: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Frames that show their index in binary, a bright or dark column per bit: uint8 [count, height, width, 3]."""
    bits = np.arange(count)[:, None] >> np.arange(NUMBER_BITS) & 1
    columns = np.where(bits[:, np.arange(width) * NUMBER_BITS // width], 220, 30).astype(np.uint8)
    return np.broadcast_to(columns[:, None, :, None], (count, height, width, 3)).copy()


def shown_numbers(frames: np.ndarray) -> list[int]:
    """Reads the numbers back from frames [T, H, W, 3] of any size."""
    width = frames.shape[2]
    centres = ((np.arange(NUMBER_BITS) + 0.5) * width / NUMBER_BITS).astype(int)
    bright = frames[:, :, centres].mean(axis=(1, 3)) > 128
    return (bright << np.arange(NUMBER_BITS)).sum(axis=1).tolist()


def write_video(
    path: Path,
    frames: np.ndarray | int,
    codec: str = "libx264",
    *,
    pixels: str = "yuv420p",
    times_ms: Sequence[int] | None = None,
    **options: str,
) -> Path:
    """Encodes frames [T, H, W, 3] (an int: that many numbered ones); the suffix chooses the container.

    Args:
        path: the file; its folder is made.
        frames: uint8 RGB, or how many numbered frames.
        codec: FFmpeg's name of the encoder.
        pixels: FFmpeg's name of the pixel format.
        times_ms: when each frame appears, in milliseconds; None is 25 frames per second.
        **options: the encoder's options, such as `bf="2"` for B-frames.
    """
    frames = numbered_frames(frames) if isinstance(frames, int) else frames
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixels
        if times_ms is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for index, pixel_values in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixel_values, format="rgb24")
            if times_ms is not None:
                frame.pts, frame.time_base = times_ms[index], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_images(folder: Path, frames: np.ndarray | int, suffix: str = ".png") -> Path:
    """Writes frames [T, H, W, 3] (an int: that many numbered ones) as `frame_1.png`, `frame_2.png` ..."""
    folder.mkdir(parents=True, exist_ok=True)
    frames = numbered_frames(frames) if isinstance(frames, int) else frames
    for number, frame in enumerate(frames, start=1):
        Image.fromarray(frame).save(folder / f"frame_{number}{suffix}")
    return folder


def write_audio(path: Path) -> Path:
    """Writes a file with sound and no pictures."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_truncated(path: Path, frames: int = 60) -> Path:
    """Writes the first half of an mp4 file, whose index would have followed at the end."""
    whole = write_video(path, frames).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return path


def write_damaged(path: Path, frames: int = 120) -> Path:
    """Writes a file whose header and index are sound, but whose pictures are overwritten from the middle on."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (frames, 48, 64, 3), dtype=np.uint8)
    data = bytearray(write_video(path, noise).read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4000] = rng.bytes(4000)
    path.write_bytes(bytes(data))
    return path


def write_turned(path: Path, frames: int = 12) -> Path:
    """Writes an mp4 file whose header says to turn its frames by a quarter, clockwise."""
    data = bytearray(write_video(path, frames).read_bytes())
    matrix = data.index(b"tkhd") + 44  # of ISO/IEC 14496-12, version 0: after the box's name
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 48 << 16, 0, 1 << 30)
    path.write_bytes(data)
    return path


def write_flipped(path: Path, frames: int = 120) -> Path:
    """Writes a file with single bits of its pictures flipped."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (frames, 48, 64, 3), dtype=np.uint8)
    data = bytearray(write_video(path, noise).read_bytes())
    for place in rng.integers(len(data) // 4, len(data) * 3 // 4, 300):
        data[place] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)
    return path


def write_manifest(folder: Path, columns: str, *rows: str) -> Path:
    """Writes manifest.csv from comma-separated texts."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "manifest.csv", "w", newline="") as file:
        csv.writer(file).writerows(line.split(",") for line in (columns, *rows))
    return folder


def write_classes(folder: Path, classes: int = 2, clips: int = 4, frames: int = 12) -> Path:
    """Writes a data set of class folders: `class_0/clip_0.mp4`, ..."""
    for label in range(classes):
        for clip in range(clips):
            write_video(folder / f"class_{label}" / f"clip_{clip}.mp4", frames)
    return folder
