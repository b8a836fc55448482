"""Data sets on disk: both forms, every way to split them, and a clear word on those that can't be used."""

from collections import Counter
from pathlib import Path

import pytest

from dualformer.data.manifest import DataError, read_manifest
from tests.helpers.videos import write_manifest

SHARED = Path(__file__).parents[4] / "shared"


def touch(folder, *files):
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    return folder


def files(entries):
    return [entry.file for entry in entries]


def classes_of_clips(count, classes=("jump", "run")):
    return [f"{name}/{clip:02d}.mp4,{name}" for name in classes for clip in range(count)]


def test_a_folder_per_class(tmp_path):
    root = touch(tmp_path, "run/b.mp4", "run/deep/c.AVI", "jump/a.mp4", "jump/notes.txt", "readme.mp4")
    manifest = read_manifest(root)
    assert manifest.classes == ("jump", "run")
    assert [(entry.file, entry.label) for entry in manifest.entries] == [
        ("jump/a.mp4", 0),
        ("run/b.mp4", 1),
        ("run/deep/c.AVI", 1),
    ]


def test_a_folder_beside_split_folders_is_no_class(tmp_path):
    root = touch(tmp_path, "train/run/a.mp4", "train/jump/b.mp4", "test/run/c.mp4", "notes/about.txt")
    assert read_manifest(root).classes == ("jump", "run")
    touch(root, "cache/run/d.mp4")
    with pytest.raises(DataError, match="clips lie in test, train, and in cache, which is no split"):
        read_manifest(root)


@pytest.mark.parametrize("held_out", ["test", "val", "validation"])
def test_split_folders_are_the_split(tmp_path, held_out):
    root = touch(tmp_path, "train/run/a.mp4", "train/jump/b.mp4", f"{held_out}/run/c.mp4")
    manifest = read_manifest(root)
    assert manifest.classes == ("jump", "run")
    assert files(manifest.split("train", holdout=0.5)) == ["train/jump/b.mp4", "train/run/a.mp4"]
    assert files(manifest.split("test", holdout=0.5)) == [f"{held_out}/run/c.mp4"]


def test_the_test_split_is_preferred_to_validation(tmp_path):
    root = write_manifest(tmp_path, "file,label,split", "a,x,train", "b,y,train", "c,x,val", "d,x,test")
    manifest = read_manifest(root)
    assert files(manifest.split("train", 0.5)) == ["a", "b"]
    assert files(manifest.split("test", 0.5)) == ["d"]


def test_the_manifest_file_may_be_given_itself(tmp_path):
    folder = write_manifest(tmp_path, "label,file,notes", "x,a.mp4,some", "y,b.mp4,")
    manifest = read_manifest(folder / "manifest.csv")
    assert (manifest.root, manifest.classes) == (folder, ("x", "y"))


def test_numbered_classes_are_in_the_order_of_their_numbers(tmp_path):
    root = write_manifest(tmp_path, "file,label", "a,10", "b,9", "c,0")
    assert read_manifest(root).classes == ("0", "9", "10")


def test_a_share_of_each_class_is_held_out(tmp_path):
    manifest = read_manifest(write_manifest(tmp_path, "file,label", *classes_of_clips(20)))
    train, test = (manifest.split(name, holdout=0.25) for name in ("train", "test"))
    assert Counter(entry.label for entry in test) == {0: 5, 1: 5}
    assert sorted(files(train) + files(test)) == sorted(files(manifest.entries))


def test_the_holdout_depends_on_names_alone(tmp_path):
    rows = classes_of_clips(20)
    there = read_manifest(write_manifest(tmp_path / "there", "file,label", *rows)).split("test", 0.25)
    elsewhere = read_manifest(write_manifest(tmp_path / "elsewhere", "file,label", *reversed(rows))).split("test", 0.25)
    assert sorted(files(there)) == sorted(files(elsewhere))


def test_folds_hold_out_every_clip_once(tmp_path):
    manifest = read_manifest(write_manifest(tmp_path, "file,label", *classes_of_clips(20)))
    held_out = [file for fold in range(4) for file in files(manifest.split("test", 0.25, fold))]
    assert sorted(held_out) == sorted(files(manifest.entries))


def test_recordings_are_never_split_apart(tmp_path):
    rows = [f"{name}-{group}-{sequence}.mp4,{name},{group},{sequence}"
            for name in ("x", "y") for group in "ab" for sequence in range(6)]  # fmt: skip
    manifest = read_manifest(write_manifest(tmp_path, "file,label,group,sequence", *rows))
    train, test = (manifest.split(name, holdout=0.25) for name in ("train", "test"))
    assert len(test) == 2 * 3
    assert not {entry.recording for entry in train} & {entry.recording for entry in test}


def test_factors_are_read_by_class(tmp_path):
    rows = ("a,same_up,same,up", "b,same_down,same,down", "c,different_up,different,up")
    manifest = read_manifest(write_manifest(tmp_path, "file,label,factor_relation,factor_motion", *rows))
    assert manifest.classes == ("different_up", "same_down", "same_up")
    assert manifest.factors == {"relation": ("different", "same", "same"), "motion": ("up", "down", "up")}


@pytest.mark.parametrize(
    ("columns", "rows", "message"),
    [
        ("path,label", ["a,x"], "no column file; it has: path, label"),
        ("file,label", [], "no clips"),
        ("file,label", ["a,x", ",y"], "row 2 lacks a file or a label"),
        ("file,label", ["a,x", "b,y", "a,y"], "listed more than once: a"),
        ("file,label", ["a,x", "b,x"], "a single class"),
        ("file,label,split", ["a,x,train", "b,y,tset"], "unknown split 'tset'; did you mean 'test'"),
        ("file,label,factor_size", ["a,x,big", "b,x,small", "c,y,big"], "factor_size differs within class x"),
    ],
)
def test_unusable_manifests_are_refused(tmp_path, columns, rows, message):
    with pytest.raises(DataError, match=message):
        read_manifest(write_manifest(tmp_path, columns, *rows))


def test_folders_without_videos_are_refused(tmp_path):
    with pytest.raises(DataError, match="neither a folder nor a manifest"):
        read_manifest(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no clips; a data set is a folder with manifest\.csv"):
        read_manifest(touch(tmp_path, "loose.mp4"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["a,x,train", "b,y,train"], "2 clips to train and 0 to test"),
        (["a,x,train", "b,x,train", "c,y,test"], "no training clip of class y"),
    ],
)
def test_splits_that_can_not_be_used_are_refused(tmp_path, rows, message):
    manifest = read_manifest(write_manifest(tmp_path, "file,label,split", *rows))
    with pytest.raises(DataError, match=message):
        manifest.split("train", 0.25)


def test_what_has_nothing_to_train_on_can_be_tested_on(tmp_path):
    manifest = read_manifest(write_manifest(tmp_path, "file,label,split", "a,x,val", "b,y,val"))
    assert files(manifest.split("test", 0.25)) == ["a", "b"]
    with pytest.raises(DataError, match="0 clips to train and 2 to test"):
        manifest.split("train", 0.25)


def test_nothing_can_be_held_out_of_single_clips(tmp_path):
    manifest = read_manifest(write_manifest(tmp_path, "file,label", "a,x", "b,y"))
    with pytest.raises(DataError, match="leaves 2 to train and 0 to test on"):
        manifest.split("test", 0.5)


@pytest.mark.data
@pytest.mark.skipif(not (SHARED / "action_clips").is_dir(), reason="no real recordings in ../shared/action_clips")
def test_real_clips_are_split_by_recording():
    manifest = read_manifest(SHARED / "action_clips")
    train, test = (manifest.split(name, holdout=0.25) for name in ("train", "test"))
    assert (len(manifest.classes), len(train) + len(test)) == (6, 120)
    assert len({entry.recording for entry in test}) == 5
    assert not {entry.recording for entry in train} & {entry.recording for entry in test}
    assert all((manifest.root / entry.file).is_file() for entry in manifest.entries)


def test_a_column_of_indices_orders_the_classes(tmp_path):
    rows = ("a,run,1,train", "b,jump,2,train", "c,walk,0,train", "d,walk,0,test")
    manifest = read_manifest(write_manifest(tmp_path, "file,label,class_index,split", *rows))
    assert manifest.classes == ("walk", "run", "jump")
    assert [entry.label for entry in manifest.entries] == [1, 2, 0, 0]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["a,x,0", "b,y,one"], "row 2: class_index 'one' is not a whole number from 0"),
        (["a,x,0", "b,y,0"], "row 2: class y with class_index 0, but an earlier row: class x"),
        (["a,x,0", "b,y,1", "c,x,2"], "row 3: class x with class_index 2, but an earlier row: class_index 0"),
        (["a,x,0", "b,y,100000"], "row 2: class_index '100000' is not a whole number from 0 to 99999"),
        (["a,x,0", "b,y,-1"], "row 2: class_index '-1' is not a whole number"),
        (["a,x,0", "b,y,0.5"], "row 2: class_index '0.5' is not a whole number"),
        (["a,x,0", "b,y,1e999999999"], "row 2: class_index '1e999999999' is not a whole number"),
    ],
)
def test_indices_that_contradict_each_other_are_refused(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        read_manifest(write_manifest(tmp_path, "file,label,class_index", *rows))


def test_what_only_people_need_is_ignored_and_files_may_lie_elsewhere(tmp_path):
    row = "/there/a.mp4,x,12,0.480,4165,77a7"
    root = write_manifest(tmp_path, "file,label,frames,seconds,bytes,sha256", row, "b.mp4,y,,,,")
    manifest = read_manifest((root / "manifest.csv").rename(root / "other.csv"))
    assert [manifest.root / entry.file for entry in manifest.entries] == [Path("/there/a.mp4"), root / "b.mp4"]


def test_a_folder_of_images_per_clip(tmp_path):
    frames = (f"{name}/{clip}/img_{number:05d}.jpg" for name in ("run", "jump") for clip in "ab" for number in (1, 2))
    root = touch(tmp_path, *frames, "run/a/flow_x_00001.jpg", "run/flow/flow_x_00001.jpg", "run/cover.png")
    assert files(read_manifest(root).entries) == ["jump/a", "jump/b", "run/a", "run/b"]


def labelled(folder, *labels, columns="file,label"):
    return write_manifest(folder, columns, *(f"{number}.mp4,{label}" for number, label in enumerate(labels)))


@pytest.mark.parametrize(
    "labels",
    [
        [f"{number}.0" for number in range(12)],
        [str(number) for number in range(12)],
        [f"{number}e0" for number in range(12)],
        [f"{number}." for number in range(12)],
        ["-1.0", "0.0", "1.0", "2.0", "10.0"],
    ],
)
def test_classes_that_are_numbers_are_in_their_order_however_they_are_written(tmp_path, labels):
    assert read_manifest(labelled(tmp_path, *reversed(labels))).classes == tuple(labels)
    for label in labels:
        (tmp_path / "set" / label).mkdir(parents=True)
        (tmp_path / "set" / label / "x.mp4").touch()
    assert read_manifest(tmp_path / "set").classes == tuple(labels)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["0.5", "1.0"], "classes are numbers, and '0.5' isn't whole; a column class_index says the order"),
        (["0", "1", "nan"], "'nan' isn't whole"),
        (["0", "inf"], "'inf' isn't whole"),
        (["1", "1.0"], "classes '1' and '1.0' are the same number"),
        (["1", "01", "2"], "classes '01' and '1' are the same number"),
        (["1e999999999", "2"], "'1e999999999' isn't whole"),
    ],
)
def test_numbers_that_say_no_order_are_refused(tmp_path, labels, message):
    with pytest.raises(DataError, match=message):
        read_manifest(labelled(tmp_path, *labels))


@pytest.mark.parametrize("labels", [["nan", "cat"], ["1_0", "1_1"], ["v1.5", "v1.10"], ["10", "9", "ten"]])
def test_names_that_are_no_numbers_stay_in_alphabetical_order(tmp_path, labels):
    assert read_manifest(labelled(tmp_path, *labels)).classes == tuple(sorted(labels))


def test_indices_may_be_whole_floats(tmp_path):
    manifest = read_manifest(write_manifest(tmp_path, "file,label,class_index", "a,run,1.0", "b,jump,0.0"))
    assert manifest.classes == ("jump", "run")


def test_data_that_is_only_tested_on_may_lack_clips_of_most_classes(tmp_path):
    rows = ("a,archery,0,test", "b,zumba,399,val")
    root = write_manifest(tmp_path, "file,label,class_index,split", *rows)
    manifest = read_manifest(root)
    assert len(manifest.classes) == len(set(manifest.classes)) == 400
    assert (manifest.classes[0], manifest.classes[399]) == ("archery", "zumba")
    assert [entry.label for entry in manifest.split("test", 0.25)] == [0]
    assert manifest.notes[0].startswith(f"{root / 'manifest.csv'}: no clip of 398 of 400 classes")


@pytest.mark.parametrize(
    ("columns", "rows"),
    [
        ("file,label,class_index,split", ["a,x,0,train", "b,y,3,train", "c,y,3,test"]),
        ("file,label,class_index", ["a,x,0", "b,x,0", "c,y,3", "d,y,3"]),
    ],
)
def test_data_that_is_trained_on_may_not(tmp_path, columns, rows):
    manifest = read_manifest(write_manifest(tmp_path, columns, *rows))
    message = r"no training clip of class \(class_index 1\), \(class_index 2\); data that is only tested on says so"
    for split in ("train", "test"):
        with pytest.raises(DataError, match=message):
            manifest.split(split, 0.5)


def test_a_factor_of_a_class_without_clips_is_empty(tmp_path):
    root = write_manifest(tmp_path, "file,label,class_index,split,factor_speed", "a,x,0,test,slow", "b,y,2,test,fast")
    assert read_manifest(root).factors == {"speed": ("slow", "", "fast")}
