"""Damaged files: what is returned is what an undisturbed decode gives, or the file is counted, with what is lost."""

from __future__ import annotations

import re

import av
import numpy as np
import pytest

from dualformer.data.inspection import inspect_all
from dualformer.data.reader import VideoError, VideoInfo, inspect_video, read_by_seeking, read_in_order
from tests.dualformer.data.test_odd_files import each
from tests.helpers.videos import write_video

KINDS = {
    "h264.mp4": ("libx264", {"g": "12"}),
    "h264.mkv": ("libx264", {"g": "12"}),
    "h264.ts": ("libx264", {"g": "12"}),
    "mpeg4.avi": ("mpeg4", {"g": "12"}),
    "mpeg2.mpg": ("mpeg2video", {"g": "12"}),
    "vp9.webm": ("libvpx-vp9", {"g": "12", "deadline": "realtime", "cpu-used": "8"}),
}
SEEDS = range(5)  # of each kind: 30 copies in all


def moving(frames: int = 24, height: int = 48, width: int = 64) -> np.ndarray:
    """Coloured blocks that move under noise, so that every frame needs what comes before it."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (height // 8, width // 8, 3)).repeat(8, 0).repeat(8, 1)
    clip = np.stack([np.roll(blocks, 2 * index, axis=1) for index in range(frames)])
    return np.clip(clip + rng.normal(0, 6, clip.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    return {name: write_video(folder / name, moving(), codec, **options) for name, (codec, options) in KINDS.items()}


def fuzzed(data: bytes, seed: int) -> bytes:
    rng, damaged = np.random.default_rng(seed), bytearray(data)
    for place in rng.integers(len(data) // 8, len(data), 1 + 3 * seed):
        damaged[place] = int(rng.integers(256))
    return bytes(damaged)


def undisturbed(path) -> list[np.ndarray] | None:
    """All frames as PyAV alone decodes them in order; None where it says that anything is wrong."""
    frames = []
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            for frame in container.decode(stream):
                if frame.is_corrupt:
                    return None
                frames.append(frame.to_ndarray(format="rgb24"))
    except (av.FFmpegError, IndexError, ValueError):
        return None
    return frames or None


@pytest.mark.parametrize("decoder", each("decord", "pyav", "torchcodec"))
@pytest.mark.parametrize("name", KINDS)
def test_every_frame_of_a_fuzzed_file_is_right_or_the_file_is_counted(tmp_path, monkeypatch, originals, name, decoder):
    monkeypatch.setenv("DUALFORMER_CACHE", str(tmp_path / "cache"))
    data = originals[name].read_bytes()
    files = [f"{seed}-{name}" for seed in SEEDS]
    for seed, file in zip(SEEDS, files):
        (tmp_path / file).write_bytes(fuzzed(data, seed))
    found = inspect_all(tmp_path, files, decoder=decoder)
    for file, outcome in found.items():
        truth = undisturbed(tmp_path / file)
        if isinstance(outcome, VideoError):
            assert re.match(r"damaged: |decoding fails after |can't be decoded|no |frame \d+ is ", outcome.reason)
            continue
        assert truth is not None, f"{file} is damaged, and was taken"
        assert outcome.num_frames == len(truth)
        everything = range(len(truth))
        assert np.array_equal(read_in_order(tmp_path / file, everything), truth)
        if outcome.seekable:
            assert np.array_equal(read_by_seeking(tmp_path / file, everything, decoder), truth)


def test_the_fuzzing_damages_most_files_and_spares_some(tmp_path, originals):
    """Or the test above would show nothing."""
    outcomes = []
    for name, path in originals.items():
        for seed in SEEDS:
            (tmp_path / name).write_bytes(fuzzed(path.read_bytes(), seed))
            outcomes.append(undisturbed(tmp_path / name) is None)
    assert 10 < sum(outcomes) < len(outcomes)


@pytest.mark.parametrize("name", KINDS)
def test_undamaged_files_are_never_called_damaged(originals, name):
    assert isinstance(inspect_video(originals[name]), VideoInfo)


def with_block_repeated(data: bytes, block: int = 512) -> bytes:
    """As a disk gives a file back that read one of its blocks twice."""
    begin = len(data) // 2 // block * block
    return data[: begin + block] + data[begin : begin + block] + data[begin + 2 * block :]


DAMAGES = {
    "bytes_flipped": lambda data: fuzzed(data, 60),
    "block_repeated": with_block_repeated,
    "block_of_zeros": lambda data: data[: len(data) // 2] + bytes(600) + data[len(data) // 2 + 600 :],
    "bytes_lost": lambda data: data[: len(data) // 2] + data[len(data) // 2 + 700 :],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("name", ["mpeg4.avi", "mpeg2.mpg"])
def test_each_way_to_damage_a_file_that_still_plays_is_found(tmp_path, name, damage):
    """In frames of some kilobytes, so that none is lost as a whole: nobody misses a frame that left no trace."""
    frames = np.random.default_rng(0).integers(0, 256, (24, 96, 128, 3), dtype=np.uint8)
    codec, options = KINDS[name]
    path = write_video(tmp_path / name, frames, codec, b="6000000", **options)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(VideoError) as caught:
        inspect_video(path)
    assert re.match(r"damaged: \d+ of \d+ frames \(\d+\.\d%\)$|decoding fails after \d+ frames", caught.value.reason)
    assert not caught.value.passing


def test_how_much_is_damaged_is_said(tmp_path):
    path = write_video(tmp_path / "clip.avi", moving(), "mpeg4", g="1")  # each frame by itself
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    for pos, size in packets[3:12:4]:
        data[pos + size // 2 : pos + size // 2 + 60] = bytes(60)
    path.write_bytes(data)
    with pytest.raises(VideoError, match=r"damaged: 3 of 24 frames \(12\.5%\)$"):
        inspect_video(path)
    assert read_in_order(path, [0, 2]).shape == (2, 48, 64, 3)
    with pytest.raises(VideoError, match=r"frame 3 is damaged$"):
        read_in_order(path, [5])


def test_what_a_decoder_only_complains_of_counts_as_well(tmp_path):
    """Motion JPEG fills in what it can't decode, and says so without marking the frame."""
    path = write_video(tmp_path / "clip.avi", moving(), "mjpeg", pixels="yuvj420p")
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    for pos, size in packets[3:12:4]:
        data[pos + size * 2 // 3 : pos + size * 2 // 3 + 40] = b"\xfe" * 40
    path.write_bytes(data)
    with pytest.raises(VideoError, match=r"damaged: \d+ of 24 frames"):
        inspect_video(path)
