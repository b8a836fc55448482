"""What published data sets list: every layout, the variants people have, and one clear word on what is wrong."""

import shutil

import pytest

from dualformer.data.formats import FOLDS, FORMATS, Source, list_clips, read_classes
from dualformer.data.manifest import DataError, read_manifest
from tests.helpers import stand_ins
from tests.helpers.annotations import read, touch, write


def found(listing, split=None):
    """File and class of each clip, of a split or all."""
    chosen = [clip for clip in listing.clips if split in (None, clip.split)]
    return {clip.file: listing.classes[clip.label] for clip in chosen}


@pytest.mark.parametrize("name", FORMATS)
def test_every_official_layout_is_read(tmp_path, name):
    stand_in = stand_ins.ALL[name](tmp_path)
    listing = read(name, stand_in.videos, *stand_in.annotations)
    assert listing.classes == stand_in.classes
    assert len(listing.clips) == len({clip.file for clip in listing.clips}) == stand_in.num_clips
    assert all((stand_in.videos / clip.file).is_file() for clip in listing.clips)
    assert {clip.split for clip in listing.clips} in ({"train", "val"}, {"train", "test"})


@pytest.mark.parametrize(
    "file",
    [
        "ab_c-d_000004_000014.mp4",
        "ab_c-d_000004_000014.webm",
        "ab_c-d_4_14.mkv",
        "air drumming/ab_c-d_000004_000014.mp4",
        "videos_train/air_drumming/ab_c-d_000004_000014.avi",
        "kinetics/train_256/Air_Drumming/ab_c-d_000004_000014.mp4",
    ],
)
def test_kinetics_clips_are_found_wherever_they_lie(tmp_path, file):
    touch(tmp_path / "v", file, "yoga/zzzzzzzzzzz_000000_000010.mp4")
    rows = "label,youtube_id,time_start,time_end,split,is_cc\nair drumming,ab_c-d,4,14,train,0\n"
    annotations = write(tmp_path / "a.csv", rows + '"yoga",zzzzzzzzzzz,0.0,10.0,validate,1\n')
    listing = read("kinetics", tmp_path / "v", annotations)
    assert found(listing, "train") == {file: "air drumming"}
    assert found(listing, "val") == {"yoga/zzzzzzzzzzz_000000_000010.mp4": "yoga"}
    assert [clip.recording for clip in listing.clips] == ["ab_c-d", "zzzzzzzzzzz"]


def test_among_equal_names_the_class_and_the_split_decide(tmp_path):
    header = "label,youtube_id,time_start,time_end,split\n"
    files = [f"{split}/{name}/x_000000_000010.mp4" for split in ("train", "val") for name in ("air_drumming", "yoga")]
    touch(tmp_path / "v", *files)
    annotations = write(tmp_path / "a.csv", header + "air drumming,x,0,10,val\nyoga,x,0,10,train\n")
    assert set(found(read("kinetics", tmp_path / "v", annotations))) == {files[1], files[2]}
    flat = touch(tmp_path / "flat", "a/x_000000_000010.mp4", "b/x_000000_000010.mp4")
    with pytest.raises(DataError, match=r"line 2: 'x_000000_000010' could be any of [ab]/x_\S+, [ab]/x_"):
        read("kinetics", flat, annotations)


def test_the_split_of_a_file_is_in_its_name_or_given(tmp_path):
    touch(tmp_path / "v", "a_000000_000010.mp4", "b_000000_000010.mp4")
    header = "label,youtube_id,time_start,time_end\n"
    one, two = (
        write(tmp_path / "k400_train.csv", header + "x,a,0,10\n"),
        write(tmp_path / "k.csv", header + "y,b,0,10\n"),
    )
    source = Source(tmp_path / "v", ((None, one), ("val", two)))
    assert [clip.split for clip in list_clips("kinetics", source).clips] == ["train", "val"]
    with pytest.raises(DataError, match=r"k.csv, line 2: nothing says which split this is"):
        read("kinetics", tmp_path / "v", one, two)


def test_clips_of_a_hidden_test_are_counted_and_left_out(tmp_path):
    stand_in = stand_ins.kinetics(tmp_path, classes=2, train=1, frames=2)
    hidden = write(tmp_path / "test.csv", "youtube_id,time_start,time_end,split\nq,0,10,test\nr,0,10,test\n")
    listing = read("kinetics", stand_in.videos, *stand_in.annotations, hidden)
    assert (listing.unlabelled, len(listing.clips)) == (2, 4)


def test_answers_to_the_test_of_something_something_are_used(tmp_path):
    stand_in = stand_ins.something_something_v2(tmp_path, train=1, frames=2)
    shutil.copy(stand_in.videos / "101.webm", stand_in.videos / "900.webm")
    answers = write(tmp_path / "test-answers.csv", "900;Folding something\n")
    listing = read("something_something_v2", stand_in.videos, *stand_in.annotations, answers)
    assert found(listing, "test") == {"900.webm": "Folding something"}
    assert listing.unlabelled == 1


@pytest.mark.parametrize("name", FOLDS)
def test_each_fold_tests_on_other_clips(tmp_path, name):
    stand_in = stand_ins.ALL[name](tmp_path, frames=2)
    tests = [found(read(name, stand_in.videos, *stand_in.annotations, fold=fold), "test") for fold in (1, 2, 3)]
    assert [len(test) for test in tests] == [6, 6, 6]
    assert not tests[0].keys() & tests[1].keys() and not tests[1].keys() & tests[2].keys()
    assert found(read(name, stand_in.videos, *stand_in.annotations)) | tests[0] == found(
        read(name, stand_in.videos, *sorted(stand_in.annotations[0].iterdir()), fold=1)
    )
    listing = read(name, stand_in.videos, *stand_in.annotations, fold=3)
    by_split = {split: {clip.recording for clip in listing.clips if clip.split == split} for split in ("train", "test")}
    assert all(by_split.values()) and not by_split["train"] & by_split["test"]


def test_unused_clips_of_hmdb51_are_left_out(tmp_path):
    stand_in = stand_ins.hmdb51(tmp_path, frames=2)
    listing = read("hmdb51", stand_in.videos, *stand_in.annotations, fold=3)
    assert {clip.recording for clip in listing.clips} == {"The_Film_1", "The_Film_2", "The_Film_3"}


@pytest.mark.parametrize(
    ("line", "file", "frames"),
    [
        ("a/b.mp4 1", "a/b.mp4", None),
        ("./a//b.mp4 1", "a/b.mp4", None),
        ("a/b.mp4\t1", "a/b.mp4", None),
        ("a/b.mp4,1", "a/b.mp4", None),
        ("a/b.mp4, 1 ", "a/b.mp4", None),
        ("a/b 1", "a/b.mp4", None),
        ("a clip 2.mp4 1", "a clip 2.mp4", None),
        ("a clip 2 1", "a clip 2.mp4", None),
        ("a, clip.mp4,1", "a, clip.mp4", None),
        ('"a, clip.mp4" 1', "a, clip.mp4", None),
        ("'a clip 2.mp4'\t1", "a clip 2.mp4", None),
        ("person's.mp4 1", "person's.mp4", None),
        ("frames/a 12 1", "frames/a", 12),
        ("frames/a clip 12 1", "frames/a clip", 12),
        ("frames/a clip,12,1", "frames/a clip", 12),
        ('"frames/a clip" 12 1', "frames/a clip", 12),
    ],
)
def test_lines_of_lists_are_read_however_they_are_separated(tmp_path, line, file, frames):
    folder = tmp_path / "v"
    touch(folder, "a/b.mp4", "a clip 2.mp4", "a, clip.mp4", "person's.mp4", "other.mp4")
    touch(folder, "frames/a/img_00001.jpg", "frames/a clip/img_00001.jpg")
    annotations = write(tmp_path / "list.txt", f"path label\n\nother.mp4 0\n{line}\n")
    clip = read("list", folder, annotations).clips[1]
    assert (clip.file, clip.label, clip.frames, clip.split) == (file, 1, frames, None)


def test_lists_of_absolute_paths_and_of_class_names(tmp_path):
    videos = touch(tmp_path / "v", "a.mp4", "b.mp4")
    elsewhere = touch(tmp_path / "other", "c.mp4") / "c.mp4"
    annotations = write(tmp_path / "all.csv", f"file,label\na.mp4,high jump\nb.mp4,run\n{elsewhere},run\n")
    assert found(read("list", videos, annotations)) == {"a.mp4": "high jump", "b.mp4": "run", str(elsewhere): "run"}
    classes = write(tmp_path / "classes.txt", "run\nhigh_jump\n")
    listing = read("list", videos, annotations, classes=classes)
    assert (listing.classes, [clip.label for clip in listing.clips]) == (("run", "high_jump"), [1, 0, 0])


def test_folders_of_images_are_clips(tmp_path):
    kinetics = stand_ins.kinetics(tmp_path / "k", classes=2, frames=3, rawframes=True)
    listing = read("kinetics", kinetics.videos, *kinetics.annotations, rawframes=True)
    assert all((kinetics.videos / clip.file / "img_00003.jpg").is_file() for clip in listing.clips)
    folders = stand_ins.folders(tmp_path / "f", rawframes=True)
    files = set(found(read("folders", folders.videos, rawframes=True)))
    assert "train/jump/0" in files and len(files) == 12
    assert {entry.file for entry in read_manifest(folders.videos).entries} == files
    listed = stand_ins.plain_list(tmp_path / "l", rawframes=True)
    clips = read("list", listed.videos, *listed.annotations).clips
    assert (clips[0].file, clips[0].frames, len(clips)) == ("train clips/0/0", 12, 12)


def test_folders_reached_by_links_count_once(tmp_path):
    stand_in = stand_ins.folders(tmp_path / "there", frames=2)
    (tmp_path / "v").mkdir()
    for name in ("train", "test"):
        (tmp_path / "v" / name).symlink_to(stand_in.videos / name)
    (stand_in.videos / "train" / "jump" / "loop").symlink_to(tmp_path / "v")
    assert len(read("folders", tmp_path / "v").clips) == 12


def test_listed_clips_that_are_missing_have_no_file(tmp_path):
    stand_in = stand_ins.diving48(tmp_path, frames=2)
    (stand_in.videos / "_8Vy3dltrain0_00001.mp4").unlink()
    clips = read("diving48", stand_in.videos, *stand_in.annotations).clips
    assert [clip.name for clip in clips if clip.file is None] == ["_8Vy3dltrain0_00001"]


def test_corrected_labels_of_diving48_win(tmp_path):
    stand_in = stand_ins.diving48(tmp_path, frames=2)
    write(tmp_path / "Diving48_train.json", [{"vid_name": "old", "label": 0, "start_frame": 0, "end_frame": 9}])
    listing = read("diving48", stand_in.videos, tmp_path)
    assert (len(listing.clips), listing.clips[0].recording, listing.clips[0].frames) == (12, "_8Vy3dltest0", 2)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("c.txt", "run\n\nhigh jump\n"),
        ("c.csv", "id,name\n1,high jump\n0,run\n"),
        ("c.csv", 'name,id\n"high jump",1\nrun,0\n'),
        ("c.json", ["run", "high jump"]),
        ("c.json", [["run"], ["high", "jump"]]),
        ("c.json", {"high jump": "1", "run": 0}),
        ("c.json", {'"high jump"': 1, "run": 0}),
    ],
)
def test_class_names_keep_their_order(tmp_path, name, content):
    assert read_classes(write(tmp_path / name, content)) == ("run", "high jump")
