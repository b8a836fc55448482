"""Inspection of files that hang or kill what decodes them, and the record that later runs rely on."""

from __future__ import annotations

import faulthandler
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import Mock

import psutil
import pytest

from dualformer.config import ConfigError
from dualformer.data import inspection, progress, reader
from dualformer.data.decoders import DECODERS, Decord
from dualformer.data.inspection import inspect_all
from dualformer.data.reader import VideoError, VideoInfo, read_in_order
from tests.helpers.videos import write_images, write_video

GOOD = ("a.mp4", "b.mp4", "c.mp4")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DUALFORMER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path):
    for name in (*GOOD, "bad.mp4"):
        write_video(tmp_path / "set" / name, 8)
    return tmp_path / "set"


@pytest.fixture
def plant(monkeypatch):
    """Makes decord do something to the process that opens bad.mp4."""

    def put(act):
        def opened(path):
            if os.fspath(path).endswith("bad.mp4"):
                act()
            return Decord(path)

        monkeypatch.setitem(DECODERS, "decord", opened)

    return put


def hang():
    time.sleep(600)


def hang_deaf():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    time.sleep(600)


def die(number):
    def act():
        faulthandler.disable()  # pytest's, which would write pages about a death that is meant
        os.kill(os.getpid(), number)

    return act


def no_pool(*_, **__):
    raise AssertionError("a file was decoded again")


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE}


@pytest.mark.parametrize(("act", "workers"), [(hang, 2), (hang_deaf, 1)])
def test_a_file_that_hangs_is_given_up_and_the_others_go_on(folder, plant, act, workers):
    plant(act)
    before = children()
    found = inspect_all(folder, [GOOD[0], "bad.mp4", *GOOD[1:]], workers, time_limit_s=1.5)
    assert str(found["bad.mp4"]) == f"{folder / 'bad.mp4'}: took longer than 1.5 s"
    assert [found[name].num_frames for name in GOOD] == [8, 8, 8]
    assert list(found) == [GOOD[0], "bad.mp4", *GOOD[1:]]
    assert children() <= before


@pytest.mark.parametrize(
    ("act", "end"),
    [(die(signal.SIGSEGV), "SIGSEGV"), (die(signal.SIGKILL), "SIGKILL"), (lambda: os._exit(3), "exit status 3")],
    ids=["segfault", "killed", "exit"],
)
def test_a_file_that_brings_its_decoder_down_is_a_reason(folder, plant, act, end):
    plant(act)
    found = inspect_all(folder, [*GOOD, "bad.mp4"], 2)
    assert found["bad.mp4"].reason == f"brings its decoder down ({end})"
    assert [found[name].num_frames for name in GOOD] == [8, 8, 8]


def test_an_accident_is_not_held_against_a_file(folder, plant):
    plant(die(signal.SIGKILL))
    inspect_all(folder, ["bad.mp4"])
    plant(lambda: None)
    assert inspect_all(folder, ["bad.mp4"])["bad.mp4"].num_frames == 8


def test_a_file_given_up_is_tried_again_only_with_more_time(folder, plant, monkeypatch):
    plant(hang)
    first = inspect_all(folder, ["bad.mp4"], time_limit_s=1.0)
    with monkeypatch.context() as patch:
        patch.setattr(inspection.pebble, "ProcessPool", no_pool)
        for limit in (0.5, 1.0):
            assert str(inspect_all(folder, ["bad.mp4"], time_limit_s=limit)) == str(first)
    plant(lambda: None)
    assert inspect_all(folder, ["bad.mp4"], time_limit_s=30)["bad.mp4"].num_frames == 8


def test_each_decoder_is_tried_once(folder, monkeypatch):
    sought, in_order = (inspect_all(folder, GOOD, decoder=name) for name in ("decord", "pyav"))
    assert all(info.seekable for info in sought.values())
    assert not any(info.seekable for info in in_order.values())
    monkeypatch.setattr(inspection.pebble, "ProcessPool", no_pool)
    assert inspect_all(folder, GOOD, decoder="decord") == sought
    assert inspect_all(folder, GOOD, decoder="pyav") == in_order


def test_varying_rates_survive_the_record(folder):
    write_video(folder / "varying.mp4", 4, times_ms=[0, 20, 800, 900])
    first, again = (inspect_all(folder, ["varying.mp4"])["varying.mp4"] for _ in range(2))
    assert first.times == (0.0, 0.02, 0.8, 0.9)
    assert again == first


def test_folders_of_images_are_recorded_until_one_is_added(folder):
    write_images(folder / "clip", 3)
    assert inspect_all(folder, ["clip"])["clip"] == VideoInfo(3, 48, 64, seekable=True)
    write_images(folder / "clip", 5)
    assert inspect_all(folder, ["clip"])["clip"].num_frames == 5


def test_what_was_found_before_an_interruption_is_kept(folder, plant, monkeypatch):
    plant(hang)
    before = children()

    class Interrupted(inspection.Progress):
        def step(self):
            super().step()
            if self.done == len(GOOD):
                raise KeyboardInterrupt

    monkeypatch.setattr(inspection, "Progress", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        inspect_all(folder, [*GOOD, "bad.mp4"], 2)
    assert children() <= before
    monkeypatch.setattr(inspection.pebble, "ProcessPool", no_pool)
    assert [info.num_frames for info in inspect_all(folder, GOOD).values()] == [8, 8, 8]


def test_unknown_and_missing_decoders_are_refused_at_once(folder, monkeypatch):
    with pytest.raises(ConfigError, match="unknown decoder 'pyva'; did you mean 'pyav'"):
        inspect_all(folder, GOOD, decoder="pyva")
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    with pytest.raises(ConfigError, match="'torchcodec' needs the package torchcodec"):
        inspect_all(folder, GOOD, decoder="torchcodec")


def test_reading_in_order_ends_in_time(folder):
    with pytest.raises(VideoError, match=r"a.mp4: took longer than 1e-09 s$"):
        read_in_order(folder / "a.mp4", [7], time_limit_s=1e-9)
    assert len(read_in_order(folder / "a.mp4", [7], time_limit_s=60)) == 1


def test_a_clusters_warning_does_not_reach_what_decodes(folder, plant):
    """As Slurm does: the signal goes to all processes of a job, and the parent alone answers it."""
    plant(lambda: os.kill(os.getpid(), signal.SIGUSR2))
    before = signal.signal(signal.SIGUSR2, lambda *_: os._exit(9))
    try:
        assert inspect_all(folder, ["bad.mp4"])["bad.mp4"].num_frames == 8
    finally:
        signal.signal(signal.SIGUSR2, before)


@pytest.fixture
def not_root():
    """Permissions mean nothing to root."""
    if os.geteuid() == 0:
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)
    else:
        yield


def test_only_verdicts_of_a_decoder_are_remembered(folder, monkeypatch, cache):
    """An error of the system passes: permissions are given back, disks get well."""
    write_images(folder / "images", 3)
    names = ["a.mp4", "images"]
    for error in (PermissionError(13, "Permission denied"), OSError(5, "Input/output error"), MemoryError()):
        with monkeypatch.context() as patch:
            patch.setattr(reader, "_look_at", Mock(side_effect=error))
            found = inspect_all(folder, names)
            message = getattr(error, "strerror", None) or "MemoryError"
            assert {outcome.reason for outcome in found.values()} == {f"can't be read: {message}"}
    assert [outcome.num_frames for outcome in inspect_all(folder, names).values()] == [8, 3]


def test_a_file_that_mustnt_be_read_is_tried_again_although_nothing_about_it_changed(tmp_path, not_root, monkeypatch):
    root = Path(tempfile.mkdtemp())
    monkeypatch.setenv("DUALFORMER_CACHE", str(root / "cache"))
    for path in (write_video(root / "set/clip.mp4", 8), write_images(root / "set/images", 3) / "frame_2.png"):
        path.chmod(0)
        name = path.name if path.suffix == ".mp4" else "images"
        assert inspect_all(root / "set", [name])[name].reason == "can't be read: Permission denied"
        path.chmod(0o644)
        assert isinstance(inspect_all(root / "set", [name])[name], VideoInfo)
    shutil.rmtree(root)


def test_what_a_decoder_says_of_the_file_is_remembered(folder, monkeypatch):
    (folder / "text.mp4").write_text("no video\n" * 1000)
    first = inspect_all(folder, ["text.mp4"])["text.mp4"]
    monkeypatch.setattr(inspection.pebble, "ProcessPool", no_pool)
    assert str(inspect_all(folder, ["text.mp4"])["text.mp4"]) == str(first)


def test_waiting_is_told_from_the_first_second_on_though_nothing_gets_done(folder, plant, monkeypatch, capfd):
    monkeypatch.setattr(progress, "FIRST_AFTER_S", 0.1)
    monkeypatch.setattr(progress, "INTERVAL_S", 0.2)
    plant(hang)
    inspect_all(folder, ["bad.mp4"], time_limit_s=1.5)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) >= 3
    assert lines[0] == f"inspecting {folder}: 0/1 files"
    assert lines[-1] == f"inspecting {folder}: 1/1 files"


def test_it_is_told_often_enough():
    assert progress.FIRST_AFTER_S <= 1 and progress.INTERVAL_S < 15


def test_the_record_of_a_folder_with_the_longest_of_names_is_kept(folder, monkeypatch):
    long = folder.rename(folder.parent / ("é" * 127))
    first = inspect_all(long, GOOD)
    monkeypatch.setattr(inspection.pebble, "ProcessPool", no_pool)
    assert inspect_all(long, GOOD) == first
