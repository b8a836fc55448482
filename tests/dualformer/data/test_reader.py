"""Frames out of real files: the right ones in every format, and a reason for every file that has none."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dualformer.data.decoders import decoder_versions
from dualformer.data.reader import VideoError, VideoInfo, inspect_video, read_by_seeking, read_in_order
from tests.helpers.videos import (
    shown_numbers,
    write_audio,
    write_damaged,
    write_images,
    write_truncated,
    write_video,
)

SHARED = Path(__file__).parents[4] / "shared"
OPEN_GROUPS = {"x264-params": "open-gop=1:keyint=12:bframes=3:scenecut=0"}
needs_recordings = pytest.mark.skipif(not (SHARED / "videos").is_dir(), reason="no real recordings in ../shared/videos")


def recordings(pattern):
    """Real files that decode within a second."""
    paths = sorted((SHARED / "videos").glob(pattern))
    return [pytest.param(path, id=path.name) for path in paths if path.stat().st_size < 1e6]


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("h264.mp4", "libx264", {"g": "12"}),
        ("h264.mkv", "libx264", {"g": "12"}),
        ("vp9.webm", "libvpx-vp9", {"g": "12"}),
        ("no_b_frames.avi", "mpeg4", {"g": "12"}),
    ],
)
def test_sound_formats_are_sought_in(tmp_path, name, codec, options):
    path = write_video(tmp_path / name, 60, codec, **options)
    info = inspect_video(path)
    assert (info.num_frames, info.height, info.width, info.seekable) == (60, 48, 64, True)
    indices = [50, 3, 17, 17, 59]
    assert shown_numbers(read_by_seeking(path, indices)) == indices
    assert np.array_equal(read_by_seeking(path, indices), read_in_order(path, indices))


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("b_frames.avi", "mpeg4", {"bf": "2", "g": "12"}),
        ("b_frames.mp4", "mpeg4", {"bf": "2", "g": "12"}),
        ("stream.mpg", "mpeg1video", {"bf": "2", "g": "12"}),
        ("windows.wmv", "wmv2", {}),
        ("open_groups.mp4", "libx264", OPEN_GROUPS),
    ],
)
def test_formats_where_seeking_goes_wrong_are_found(tmp_path, name, codec, options):
    path = write_video(tmp_path / name, 100, codec, **options)
    indices = list(range(5, 95, 7))
    assert shown_numbers(read_by_seeking(path, indices)) != indices, "decord learnt to seek here: test another format"
    info = inspect_video(path)
    assert (info.num_frames, info.seekable) == (100, False)
    assert shown_numbers(read_in_order(path, indices)) == indices


def test_one_frame_is_enough(tmp_path):
    path = write_video(tmp_path / "one.mp4", 1)
    assert inspect_video(path).num_frames == 1
    assert read_in_order(path, [0, 0]).shape == (2, 48, 64, 3)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path, "no such file"),
        (lambda path: path.mkdir(), "no images in the folder"),
        (lambda path: path.touch(), r"empty file \(0 bytes\)"),
        (lambda path: path.write_text("no video\n" * 1000), "can't be decoded"),
        (write_audio, "no video stream"),
        (write_truncated, "can't be decoded"),
        (write_damaged, "decoding fails after [0-9]+ frames"),
    ],
    ids=["missing", "folder", "zero_bytes", "text", "audio_only", "truncated", "damaged"],
)
def test_unusable_files_are_named_with_a_reason(tmp_path, make, reason):
    path = tmp_path / "clip.mp4"
    make(path)
    with pytest.raises(VideoError, match=reason) as caught:
        inspect_video(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("read", [read_in_order, read_by_seeking])
def test_a_frame_past_the_end_is_an_error(tmp_path, read):
    path = write_video(tmp_path / "clip.mp4", 10)
    with pytest.raises(VideoError):
        read(path, [3, 10])


def test_a_decoder_that_reads_in_order_says_that_it_does_not_seek(tmp_path):
    path = write_video(tmp_path / "clip.mp4", 10)
    with pytest.raises(VideoError, match="pyav reads in order"):
        read_by_seeking(path, [3], "pyav")


def test_images_are_ordered_by_number(tmp_path):
    folder = write_images(tmp_path / "clip", 12)  # frame_10 comes before frame_2 by name
    (folder / "notes.txt").write_text("not a frame")
    assert inspect_video(folder) == VideoInfo(12, 48, 64, seekable=True)
    for read in (read_in_order, read_by_seeking):
        assert shown_numbers(read(folder, [11, 2, 2, 0])) == [11, 2, 2, 0]
        with pytest.raises(VideoError, match="no frame 12"):
            read(folder, [12])


def test_images_in_grey_become_colour(tmp_path):
    Image.fromarray(np.full((4, 6), 90, np.uint8)).save(tmp_path / "1.png")
    assert read_in_order(tmp_path, [0]).tolist() == np.full((1, 4, 6, 3), 90).tolist()


def image(name, size=(64, 48)):
    return lambda folder: Image.new("RGB", size).save(folder / name)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (image("frame_3.png", (64, 24)), "frame_3.png is 24x64, the first is 48x64"),
        (image("x_03.jpg"), "frame_3.png and x_03.jpg have the same number"),
        (image("cover.png"), "cover.png has no number that tells its place"),
        (lambda folder: (folder / "frame_3.png").write_bytes(b"text"), "frame_3.png: cannot identify image file"),
    ],
    ids=["size", "number_twice", "no_number", "broken"],
)
def test_folders_that_are_no_video_are_named_with_a_reason(tmp_path, change, reason):
    folder = write_images(tmp_path / "clip", 4)
    change(folder)
    with pytest.raises(VideoError, match=f"{reason}$") as caught:
        inspect_video(folder)
    assert str(caught.value).startswith(f"{folder}: ")


def test_the_length_is_told_by_timestamps(tmp_path):
    even, uneven = write_video(tmp_path / "a.mp4", 50), tmp_path / "b.mp4"
    write_video(uneven, 4, times_ms=[0, 40, 1000, 1040], bf="0")
    assert (inspect_video(even).seconds, inspect_video(even).times) == (2.0, None)
    assert (inspect_video(uneven).seconds, inspect_video(uneven).times) == (1.08, (0.0, 0.04, 1.0, 1.04))


def test_frames_close_to_a_constant_grid_count_as_constant(tmp_path):
    jitter = [0, 33, 66, 100, 133, 170, 200, 230, 266, 300]
    assert inspect_video(write_video(tmp_path / "a.mkv", 10, times_ms=jitter)).times is None


def test_errors_travel_between_processes():
    error = pickle.loads(pickle.dumps(VideoError("a/b.mp4", "no such file")))
    assert (str(error), error.reason) == ("a/b.mp4: no such file", "no such file")


def test_decoders_are_named_for_the_record():
    versions = decoder_versions()
    assert set(versions) == {"decord", "pyav", "ffmpeg"}
    assert all(version[0].isdigit() or version[0] == "n" for version in versions.values())
    assert set(decoder_versions("pyav")) == {"pyav", "ffmpeg"}


@pytest.mark.data
@pytest.mark.skipif(not (SHARED / "hockey_fights").is_dir(), reason="no real recordings in ../shared/hockey_fights")
@pytest.mark.parametrize(("name", "seekable"), [("fi14.avi", True), ("fi42.avi", False)])
def test_files_that_decord_decodes_to_other_pixels_are_found(name, seekable):
    """Both have one group of pictures and the right count; only pixels in its middle differ."""
    path = SHARED / "hockey_fights/test/fight" / name
    everything = range(inspect_video(path).num_frames)
    assert inspect_video(path).seekable == seekable
    assert np.array_equal(read_by_seeking(path, everything), read_in_order(path, everything)) == seekable


@pytest.mark.data
@needs_recordings
@pytest.mark.parametrize("path", recordings("*.avi") + recordings("*.m[ko]v"))
def test_real_recordings_read_the_same_however_they_are_read(path):
    info = inspect_video(path)
    indices = np.linspace(0, info.num_frames - 1, 6).astype(int)
    in_order = read_in_order(path, indices)
    assert in_order.shape == (6, info.height, info.width, 3)
    if info.seekable:
        assert np.array_equal(read_by_seeking(path, indices), in_order)
        assert np.array_equal(read_by_seeking(path, indices[3:]), in_order[3:])
