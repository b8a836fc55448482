"""What is a clip and what isn't: names that nobody gave, names in other spellings, names that mean something else."""

from __future__ import annotations

import csv
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from dualformer.data.config import DataConfig
from dualformer.data.csv_files import read_csv, write_csv
from dualformer.data.dataset import VideoDataset
from dualformer.data.files import DataError, frame_folders, video_files
from dualformer.data.inspection import inspect_all
from dualformer.data.manifest import read_manifest
from dualformer.data.reader import VideoError, VideoInfo, inspect_video, read_in_order
from dualformer.results.files import inert
from tests.helpers.videos import write_images, write_manifest, write_video

ACCENTED = unicodedata.normalize("NFC", "écho.mp4"), unicodedata.normalize("NFD", "écho.mp4")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DUALFORMER_CACHE", str(tmp_path / "cache"))


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


NOBODY_GAVE = [
    ".ipynb_checkpoints/a-checkpoint.mp4",
    "__MACOSX/a/b.mp4",
    ".Trash-0/files/a.mp4",
    "a/._x.mp4",
    "@eaDir/a/x.mp4",
    "a/.hidden/x.mp4",
    "$RECYCLE.BIN/x/y.mp4",
    "lost+found/x/y.mp4",
]


@pytest.mark.parametrize("name", NOBODY_GAVE)
def test_what_systems_leave_is_neither_class_nor_clip_and_counted(tmp_path, name):
    manifest = read_manifest(touch(tmp_path / "set", "a/x.mp4", "b/y.mp4", name))
    assert manifest.classes == ("a", "b")
    assert [entry.file for entry in manifest.entries] == ["a/x.mp4", "b/y.mp4"]
    assert manifest.notes == (f"{tmp_path / 'set'}: passed over, as no clips of it: 1 hidden name",)


def test_what_systems_leave_among_split_folders_and_images_is_passed_over_too(tmp_path):
    split = touch(tmp_path / "a", "train/x/1.mp4", "train/y/2.mp4", "test/x/3.mp4", "__MACOSX/train/x/1.mp4")
    assert {entry.split for entry in read_manifest(split).entries} == {"train", "test"}
    images = write_images(tmp_path / "b/x/clip", 3).parents[1]
    write_images(tmp_path / "b/y/clip", 3)
    touch(images, "x/clip/._frame_1.png", "x/.thumbnails/1.png")
    assert frame_folders(images) == ["x/clip", "y/clip"]
    assert inspect_video(images / "x/clip").num_frames == 3


@pytest.mark.parametrize(
    ("suffix", "codec", "pixels"),
    [
        (".gif", "gif", "rgb8"),
        (".y4m", "wrapped_avframe", "yuv420p"),
        (".m2ts", "libx264", "yuv420p"),
        (".vob", "mpeg2video", "yuv420p"),
        (".GIF", "gif", "rgb8"),
        (".nut", "mpeg4", "yuv420p"),
    ],
)
def test_every_kind_of_video_in_a_class_folder_is_read(tmp_path, suffix, codec, pixels):
    path = write_video(tmp_path / "a" / f"x{suffix}", 6, codec, pixels=pixels)
    touch(tmp_path, "b/y.mp4")
    assert [entry.file for entry in read_manifest(tmp_path).entries] == [f"a/x{suffix}", "b/y.mp4"]
    assert inspect_video(path).num_frames == 6


def test_what_is_no_video_is_counted_by_its_suffix(tmp_path, capsys):
    for label in "ab":
        for clip in range(4):
            write_video(tmp_path / "set" / label / f"{clip}.mp4", 8)
    touch(tmp_path / "set", "a/readme.txt", "a/0.srt", "b/0.srt", "b/0.mp4.part", "LICENSE")
    write_video(tmp_path / "set/stray.mp4", 8)
    (note,) = read_manifest(tmp_path / "set").notes
    assert note.endswith(": 1 .part, 2 .srt, 1 .txt, 1 in no folder of a class, 1 no suffix")
    VideoDataset(DataConfig(root=str(tmp_path / "set")), "train", num_frames=4, crop_size=(48, 64))
    assert capsys.readouterr().err.count(note) == 1


@pytest.mark.parametrize("name", ["clips:2026", "http:", "concat:a|b", "a%03d", "-v", "pipe:0", "data:x,y"])
def test_a_folder_means_the_same_whatever_its_name_looks_like(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for label in "xy":
        for clip in range(2):
            write_video(tmp_path / name / label / f"{clip}:%d.avi", 8, "mpeg4", bf="2")
    config = DataConfig(root=name, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), holdout=0.5)
    for decoder in ("decord", "pyav"):
        found = inspect_all(Path(name), video_files(Path(name)), decoder=decoder)
        assert all(isinstance(outcome, VideoInfo) for outcome in found.values())
        dataset = VideoDataset(config.changed(decoder=decoder), "train", num_frames=4, crop_size=(48, 64))
        assert [sorted(sample) for sample in dataset] == [["clip", "index", "label"]] * 2


def latin_1(text: str) -> str:
    return os.fsdecode(text.encode("latin-1"))


def test_a_name_that_is_not_utf_8_is_named_at_once_in_a_data_set_and_read_alone(tmp_path, monkeypatch):
    clip = tmp_path / "set/a" / latin_1("café.mp4")
    write_video(tmp_path / "set/a/good.mp4", 8)
    os.rename(write_video(tmp_path / "x.mp4", 8), clip)
    touch(tmp_path, "set/b/c.mp4")
    with pytest.raises(DataError, match=r"the name of 'a/caf\\xe9\.mp4' isn't UTF-8, .*rename it"):
        read_manifest(tmp_path / "set")
    assert inspect_video(clip).num_frames == 8
    assert np.array_equal(read_in_order(clip, [3]), read_in_order(tmp_path / "set/a/good.mp4", [3]))
    with pytest.raises(VideoError) as caught:
        read_in_order(clip, [9])
    str(caught.value).encode()


def test_other_places_of_such_a_name_are_refused_as_clearly(tmp_path):
    write_images(tmp_path / "frames" / latin_1("über") / "clip", 2)
    with pytest.raises(DataError, match=r"'\\xfcber/clip' isn't UTF-8"):
        frame_folders(tmp_path / "frames")
    with pytest.raises(DataError, match="isn't UTF-8"):
        VideoDataset(DataConfig(root=latin_1("détail")), "train", num_frames=4, crop_size=(8, 8))
    (tmp_path / "manifest.csv").write_bytes("file,label\na.mp4,x\né.mp4,y\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"manifest\.csv, line 3: not UTF-8"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("listed", "there", "hint"),
    [
        (ACCENTED[0], ACCENTED[1], "the same text in another Unicode form"),
        (ACCENTED[1], ACCENTED[0], "the same text in another Unicode form"),
        ("clip.mp4", "Clip.MP4", "; there is '.*/Clip.MP4', in other case"),
        ("set/clip.mp4", "clip.mp4", "the listed path repeats the folder's name 'set'"),
        ("clip.mp4", "other.mp4", r"no such file$"),
    ],
)
def test_a_missing_file_comes_with_the_likely_reason(tmp_path, listed, there, hint):
    root = touch(tmp_path / "set", there)
    write_manifest(root, "file,label,split", f"{listed},a,train", f"{there},b,test")
    with pytest.raises(VideoError, match=f"no such file.*{hint}" if "$" not in hint else hint):
        inspect_video(root / listed)


FORMULAS = ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1+1", "'=1", "''-x"]


@pytest.mark.parametrize("text", [*FORMULAS, "plain", "'quoted'", "-1", "1e5", "", "a,b", 'say "x"', "a\nb"])
def test_no_cell_is_a_formula_and_all_are_read_back(tmp_path, text):
    write_csv(tmp_path / "a.csv", ("file", "reason"), [(text, 3)])
    with open(tmp_path / "a.csv", newline="", encoding="utf-8") as file:
        cell = list(csv.reader(file))[1][0]
    assert cell in ("-1",) or not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝"))
    assert inert(text) == cell
    assert read_csv(tmp_path / "a.csv", ["file"])[1] == [{"file": text, "reason": "3"}]


def test_a_csv_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.csv"
    write_csv(path, ("a",), [("old",)])
    with pytest.raises(ZeroDivisionError):
        write_csv(path, ("a",), [("new",)], check=lambda _: 1 / 0)
    assert path.read_text() == "a\nold\n"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"\xff\xfef\x00", b"", b"name,class\n"])
def test_what_is_no_list_is_named(tmp_path, content):
    (tmp_path / "manifest.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"manifest\.csv"):
        read_manifest(tmp_path)
