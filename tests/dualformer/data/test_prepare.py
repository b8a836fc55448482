"""From a published data set to a manifest and on to clips: nothing lost, nothing twice, errors that say what."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dualformer.cli import main
from dualformer.data import inspection, prepare
from dualformer.data.csv_files import read_csv
from dualformer.data.dataset import DataConfig, VideoDataset
from dualformer.data.manifest import read_manifest
from sweeps.launching.grid import load_grid
from tests.helpers import stand_ins
from tests.helpers.videos import shown_numbers, write_audio, write_video

ROOT = Path(__file__).parents[3]
SHARED = ROOT.parent / "shared"
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}  # clips hold levels, so that numbers can be read back


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DUALFORMER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def rows(path):
    return read_csv(Path(path))[1]


def recorded(tmp_path, kind):
    """Files in a record of the cache, once for every time that one was worked on."""
    lines = [
        json.loads(line)
        for path in (tmp_path / "cache" / kind).glob("*")
        for line in path.read_text().split("\n")
        if line
    ]
    return sorted(line["file"] if isinstance(line, dict) else line[0] for line in lines)


@pytest.mark.parametrize("name", stand_ins.ALL)
def test_every_format_gets_to_clips(tmp_path, monkeypatch, name):
    stand_in = stand_ins.ALL[name](tmp_path / "set")
    assert main([*stand_in.arguments, "--out", "set/manifest.csv", "--workers", "2"]) == 0
    listed = rows("set/manifest.csv")
    assert len(listed) == stand_in.num_clips
    for row in listed:
        data = Path("set", row["file"]).read_bytes()
        assert (int(row["bytes"]), row["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        assert (row["frames"], row["seconds"]) == ("12", "0.480")
        assert stand_in.classes[int(row["class_index"])] == row["label"]
    monkeypatch.setattr(inspection, "inspect_video", None)  # training finds every file in the record
    config = DataConfig(root="set/manifest.csv", frame_stride=2, **PLAIN)
    train, test = (VideoDataset(config, split, num_frames=4, crop_size=(48, 64)) for split in ("train", "test"))
    assert train.classes == stand_in.classes
    assert (train.failures, test.failures, len(train) + len(test)) == ((), (), stand_in.num_clips)
    assert {entry.label for entry in train.entries} == set(range(len(stand_in.classes)))
    sample = train[1]
    brightness = sample["clip"][:, :, 20:].mean()
    assert 35 * sample["label"] < brightness - 40 < 35 * sample["label"] + 15
    first, *others = shown_numbers(sample["clip"][:, :, :12].permute(1, 2, 3, 0).numpy())
    assert others == [first + 2, first + 4, first + 6]


def test_official_indices_are_kept(tmp_path):
    stand_in = stand_ins.something_something_v2(tmp_path / "set", frames=2)
    assert main([*stand_in.arguments, "--out", "m.csv"]) == 0
    assert list(stand_in.classes) != sorted(stand_in.classes)
    assert read_manifest("m.csv").classes == stand_in.classes
    names = "archery\nabseiling\napplauding\nair drumming\n"  # as in a released checkpoint
    Path("classes.txt").write_text(names)
    stand_in = stand_ins.kinetics(tmp_path / "k400", frames=2)
    assert main([*stand_in.arguments, "--classes", "classes.txt", "--out", "m.csv"]) == 0
    assert read_manifest("m.csv").classes == tuple(names.splitlines())


def test_a_manifest_names_files_from_where_it_lies(tmp_path):
    stand_in = stand_ins.folders(tmp_path / "set", frames=2)
    assert main([*stand_in.arguments, "--out", "set/manifest.csv"]) == 0
    (tmp_path / "elsewhere").mkdir()
    assert main(["prepare", "folders", "--videos", "set", "--out", "elsewhere/m.csv"]) == 0
    below, absolute = rows("set/manifest.csv"), rows("elsewhere/m.csv")
    assert [str(tmp_path / "set" / row["file"]) for row in below] == [row["file"] for row in absolute]
    dataset = VideoDataset(
        DataConfig(root="elsewhere/m.csv", short_video="loop"), "test", num_frames=4, crop_size=(9, 9)
    )
    assert dataset[0]["clip"].shape == (3, 4, 9, 9)


def test_the_order_and_the_bytes_are_the_same_for_any_number_of_workers(tmp_path, monkeypatch):
    stand_in = stand_ins.ucf101(tmp_path / "set", frames=2)
    written = []
    for workers, cache in (("1", "one"), ("3", "three")):
        monkeypatch.setenv("DUALFORMER_CACHE", str(tmp_path / cache))
        assert main([*stand_in.arguments, "--workers", workers, "--fold", "2"]) == 0
        written.append(Path("manifest.csv").read_bytes())
    assert written[0] == written[1]
    assert [(row["split"], row["file"]) for row in rows("manifest.csv")] == sorted(
        ((row["split"], row["file"]) for row in rows("manifest.csv")), key=lambda row: (row[0] == "test", row[1])
    )
    assert {row["group"] for row in rows("manifest.csv") if row["split"] == "test"} == {
        "ApplyEyeMakeup_g02", "HandstandPushups_g02", "YoYo_g02"
    }  # fmt: skip


def test_folders_of_images_are_prepared(tmp_path):
    stand_in = stand_ins.kinetics(tmp_path / "set", classes=2, rawframes=True)
    flow = [image.with_name(f"flow_x_{image.name}") for image in stand_in.videos.rglob("*.jpg")]
    for image in flow:
        image.write_bytes(b"optical flow, as other tools leave beside the frames")
    assert main([*stand_in.arguments, "--rawframes", "--out", "set/manifest.csv"]) == 0
    for row in rows("set/manifest.csv"):
        images = sorted(Path("set", row["file"]).glob("img_*"))
        text = "".join(f"{hashlib.sha256(image.read_bytes()).hexdigest()}  {image.name}\n" for image in images)
        assert row["sha256"] == hashlib.sha256(text.encode()).hexdigest()
        assert (row["frames"], int(row["bytes"])) == ("12", sum(image.stat().st_size for image in images))
    dataset = VideoDataset(DataConfig(root="set/manifest.csv", **PLAIN), "test", num_frames=8, crop_size=(48, 64))
    numbers = shown_numbers(dataset[0]["clip"][:, :, :12].permute(1, 2, 3, 0).numpy())
    assert numbers == list(range(numbers[0], numbers[0] + 8))


def test_what_can_not_be_used_is_put_aside_with_its_reason(tmp_path, capsys):
    stand_in = stand_ins.kinetics(tmp_path / "set", train=4)
    clips = sorted((stand_in.videos / "train" / "archery").iterdir())
    clips[0].write_bytes(b"")
    write_audio(clips[1])
    clips[2].unlink()
    assert main([*stand_in.arguments, "--out", "set/m.csv", "--max-failed-share", "0.2"]) == 1
    output = capsys.readouterr().out.splitlines()
    assert rows("set/m_quarantine.csv") == [
        {"file": clips[2].stem, "reason": "not there"},
        {"file": f"videos/train/archery/{clips[0].name}", "reason": "empty file (0 bytes)"},
        {"file": f"videos/train/archery/{clips[1].name}", "reason": "no video stream"},
    ]
    assert sorted(output[:3]) == ["      1  empty file (N bytes)", "      1  no video stream", "      1  not there"]
    assert output[-1].startswith("17 clips of 4 classes (train: 13, val: 4) are in ")
    assert len(rows("set/m.csv")) == 17


def test_too_many_missing_clips_end_it_before_any_is_decoded(tmp_path, capsys):
    stand_in = stand_ins.kinetics(tmp_path / "set")
    gone = sorted((stand_in.videos / "train" / "archery").iterdir())[:2]
    for path in gone:
        path.unlink()
    Path("manifest.csv").write_text("an older one")
    assert main(stand_in.arguments) == 2
    error = capsys.readouterr().err
    assert "2 of 16 listed clips can't be used, more than --max-failed-share 0.05" in error
    assert f"{gone[0].stem} (train.csv, line 11): not there" in error
    assert [row["file"] for row in rows("manifest_quarantine.csv")] == [path.stem for path in gone]
    assert Path("manifest.csv").read_text() == "an older one"
    assert not recorded(tmp_path, "inspected")


def test_a_class_without_a_usable_clip_is_an_error(tmp_path, capsys):
    stand_in = stand_ins.folders(tmp_path / "set")
    for path in (tmp_path / "set").glob("*/jump/*"):
        path.write_bytes(b"")
    assert main([*stand_in.arguments, "--max-failed-share", "1"]) == 2
    assert "no usable clip of class jump" in capsys.readouterr().err
    assert not Path("manifest.csv").exists()
    assert len(rows("manifest_quarantine.csv")) == 4


def test_what_a_person_should_know_is_noted(tmp_path, capsys):
    stand_in = stand_ins.diving48(tmp_path / "set")
    clips = json.loads(stand_in.annotations[0].read_text())
    clips[0]["end_frame"] = 14
    stand_in.annotations[0].write_text(json.dumps(clips))
    os.rename(stand_in.videos / "_8Vy3dltest0_00000.mp4", stand_in.videos / "_8Vy3dltrain0_00009.mp4")
    tests = json.loads(stand_in.annotations[1].read_text())
    tests[0]["vid_name"] = "_8Vy3dltrain0_00009"
    stand_in.annotations[1].write_text(json.dumps(tests))
    assert main(stand_in.arguments) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert notes == [
        "note: 1 of 12 clips have another number of frames than listed, such as _8Vy3dltrain0_00000: 12, not 14",
        "note: 1 recordings have clips in more than one split, such as _8Vy3dltrain0",
    ]


def test_the_same_file_under_two_names_is_noted(tmp_path, capsys):
    stand_ins.folders(tmp_path / "set", frames=2)
    shutil.copy("set/train/jump/0.mp4", "set/test/run/again.mp4")
    assert main(["prepare", "folders", "--videos", "set"]) == 0
    pair = "such as set/train/jump/0.mp4 and set/test/run/again.mp4"
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert notes == [f"note: 1 clips are, byte for byte, ones of another {what}, {pair}" for what in ("split", "class")]


@pytest.mark.data
@pytest.mark.skipif(not (SHARED / "action_clips").is_dir(), reason="no real recordings in ../shared/action_clips")
def test_real_files_hold_what_others_found_in_them(tmp_path):
    known = {
        str(SHARED / "action_clips" / row["file"]): row for row in rows(SHARED / "action_clips/manifest.csv")[::10]
    }
    Path("list.csv").write_text("".join(f"{file},{row['label']}\n" for file, row in known.items()))
    assert main(["prepare", "list", "--videos", ".", "--annotations", "list.csv"]) == 0
    written = {row["file"]: row for row in rows("manifest.csv")}
    assert written.keys() == known.keys()
    for file, row in known.items():
        assert written[file]["sha256"] == row["sha256"]
        assert written[file]["frames"] == row["frames_decoded"]
        assert float(written[file]["seconds"]) == pytest.approx(float(row["duration_s"]), abs=0.1)


def start(arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "dualformer", *arguments], env={**os.environ, "PYTHONPATH": str(ROOT)}
    )


def kill_when(process, condition):
    """Kills a process that is still at work when the condition comes true."""
    deadline = time.monotonic() + 60
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_killed_anywhere_it_goes_on_and_does_nothing_twice(tmp_path, monkeypatch):
    stand_in = stand_ins.folders(tmp_path / "set", train=6, frames=60, size=(96, 128))
    # Its tail of zeros takes a second to hash and no time to decode, so that hashing can be caught at it.
    with open(tmp_path / "set/train/walk/5.mp4", "ab") as file:
        file.truncate(1 << 29)
    arguments = [*stand_in.arguments, "--workers", "1"]

    kill_when(start(arguments), lambda: len(recorded(tmp_path, "inspected")) >= 4)
    assert 4 <= len(recorded(tmp_path, "inspected")) < stand_in.num_clips
    assert not recorded(tmp_path, "hashed")

    kill_when(start(arguments), lambda: len(recorded(tmp_path, "hashed")) >= stand_in.num_clips - 1)
    assert not Path("manifest.csv").exists()
    assert len(recorded(tmp_path, "hashed")) == stand_in.num_clips - 1

    assert main(arguments) == 0
    files = sorted(str(path.relative_to(tmp_path)) for path in (tmp_path / "set").rglob("*.mp4"))
    assert sorted(row["file"] for row in rows("manifest.csv")) == files
    assert recorded(tmp_path, "inspected") == recorded(tmp_path, "hashed") == files
    resumed = Path("manifest.csv").read_bytes()
    monkeypatch.setenv("DUALFORMER_CACHE", str(tmp_path / "undisturbed"))
    assert main(arguments) == 0
    assert Path("manifest.csv").read_bytes() == resumed
    assert not list(tmp_path.glob(".*.part"))


def test_a_changed_file_is_hashed_again_and_a_torn_record_is_no_obstacle(tmp_path):
    stand_in = stand_ins.folders(tmp_path / "set", frames=2)
    assert main(stand_in.arguments) == 0
    before = {row["file"]: row["sha256"] for row in rows("manifest.csv")}
    (record,) = (tmp_path / "cache/hashed").iterdir()
    record.write_bytes(record.read_bytes()[:-30])
    stand_ins.write_clip(tmp_path / "set/train/jump/0.mp4", 5, 5, frames=3)
    assert main(stand_in.arguments) == 0
    after = {row["file"]: row["sha256"] for row in rows("manifest.csv")}
    assert [file for file in before if after[file] != before[file]] == ["set/train/jump/0.mp4"]
    assert len(recorded(tmp_path, "inspected")) == 13


def test_an_error_while_hashing_leaves_the_rest_alone(tmp_path, monkeypatch):
    stand_in = stand_ins.folders(tmp_path / "set", frames=2)
    hashed = []

    def fails(path):
        hashed.append(path)
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(prepare, "_sha256", fails)
    assert main([*stand_in.arguments, "--workers", "1"]) == 2
    assert len(hashed) < 12
    assert not Path("manifest.csv").exists()


def test_a_grid_takes_a_manifest_file_as_its_data(tmp_path):
    stand_in = stand_ins.folders(tmp_path / "set", frames=2)
    assert main([*stand_in.arguments, "--out", "mine.csv"]) == 0
    Path("grid.yaml").write_text("base: {data.root: mine.csv}")
    (planned,) = load_grid("grid.yaml").runs
    assert planned.config.data.root == "mine.csv"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["folders", "--videos", "sett"], "sett: no such folder; did you mean 'set'"),
        (["folders", "--videos", "set", "--out", "no/m.csv"], "no: no such folder to write m.csv to"),
        (["folders", "--videos", "set", "--fold", "2"], "folders has a single split"),
        (["folders", "--videos", "set", "--annotations", "a.txt"], "a.txt: no such file"),
        (["folders", "--videos", "set/train/jump"], "no clips; a data set is"),
        (["list", "--videos", "set"], "no annotations given: this format needs .txt or"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_errors_are_one_line_and_status_2(tmp_path, capsys, arguments, message):
    stand_ins.folders(tmp_path / "set", train=1, frames=1)
    assert main(["prepare", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("dualformer prepare: ") and message in line
    assert not list(tmp_path.glob("*.csv"))


def test_an_unknown_format_is_wrong_usage(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["prepare", "kinetix", "--videos", "set"])
    assert caught.value.code == 2
    assert "'kinetix'; did you mean 'kinetics'" in capsys.readouterr().err


@pytest.mark.parametrize("option", [("--fold", "0"), ("--max-failed-share", "5"), ("--workers", "many")])
def test_wrong_usage_is_status_2(option):
    with pytest.raises(SystemExit) as caught:
        main(["prepare", "folders", "--videos", ".", *option])
    assert caught.value.code == 2


def test_a_split_may_be_said_with_the_file(tmp_path):
    stand_in = stand_ins.plain_list(tmp_path / "set", frames=2)
    one, two = (path.rename(tmp_path / name) for path, name in zip(stand_in.annotations, ("one.txt", "two.txt")))
    arguments = ["prepare", "list", "--videos", str(stand_in.videos), "--annotations", f"training={one}", f"test={two}"]
    assert main(arguments) == 0
    assert [row["split"] for row in rows("manifest.csv")] == ["train"] * 9 + ["test"] * 3


def test_part_of_an_official_test_set_is_prepared_and_scored_with_all_classes(tmp_path, capsys):
    stand_in = stand_ins.kinetics(tmp_path / "set")
    Path("classes.txt").write_text("\n".join(sorted([*stand_in.classes, "zumba", "aaa"])))
    annotations = [path for path in stand_in.annotations if "val" in Path(path).name]
    command = ["prepare", "kinetics", "--videos", str(stand_in.videos), "--annotations", *map(str, annotations)]
    assert main([*command, "--classes", "classes.txt", "--out", "m.csv"]) == 0
    assert "no clip of class aaa" in capsys.readouterr().out
    dataset = VideoDataset(DataConfig(root="m.csv", **PLAIN), "test", num_frames=4, crop_size=(48, 64), views=(1, 1))
    assert dataset.entries[0].label >= 1  # after one that has no clip
    assert {dataset.classes[entry.label] for entry in dataset.entries} <= set(stand_in.classes)


def test_files_whose_names_are_formulas_are_listed_harmlessly_and_still_found(tmp_path):
    for label in ("=1+1", "y"):
        for split in ("train", "test"):
            write_video(tmp_path / split / label / "a.mp4", 8)
    assert main(["prepare", "folders", "--videos", ".", "--out", "m.csv"]) == 0
    assert "\n=" not in Path("m.csv").read_text() and ",=" not in Path("m.csv").read_text()
    for name in ("=x", "-x", "@x"):
        write_video(tmp_path / "flat" / f"{name}.mp4", 8)
    Path("flat/list.txt").write_text("=x.mp4 0\n-x.mp4 1\n@x.mp4 1")
    assert (
        main(["prepare", "list", "--videos", "flat", "--annotations", "train=flat/list.txt", "--out", "flat/m.csv"])
        == 0
    )
    assert [line.split(",")[0] for line in Path("flat/m.csv").read_text().splitlines()[1:]] == [
        "./-x.mp4", "./=x.mp4", "./@x.mp4"]  # fmt: skip
    manifest = read_manifest("flat/m.csv")
    assert [entry.file for entry in manifest.entries] == ["-x.mp4", "=x.mp4", "@x.mp4"]
    assert read_manifest("m.csv").classes == ("=1+1", "y")
