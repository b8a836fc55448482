"""Annotations that are wrong are refused by file and line, and what is missing is named with the likely reason."""

import unicodedata

import pytest

from dualformer.data.manifest import DataError
from tests.helpers import stand_ins
from tests.helpers.annotations import read, touch, write

HEADER = "label,youtube_id,time_start,time_end,split\n"


@pytest.mark.parametrize(
    ("name", "files", "message"),
    [
        (
            "kinetics",
            {"a.csv": "label,youtube,time_start,time_end\n"},
            r"line 1: no column youtube_id.*has: label, yout",
        ),
        ("kinetics", {"a.csv": "youtube_id,time_start,time_end,split\nq,0,1,train"}, "no column label"),
        ("kinetics", {"a.csv": HEADER + "x,one,0,ten,train"}, "a.csv, line 2: time_end 'ten' is not a number"),
        ("kinetics", {"a.csv": HEADER + "x,one,0,10,trian"}, "line 2: unknown split 'trian'; did you mean 'train'"),
        ("kinetics", {"a.csv": HEADER + "x,one,0,10"}, "line 2: 4 columns, the header has 5"),
        ("kinetics", {"a.csv": HEADER + "x,one,0,10,train,a,b"}, "line 2: 7 columns, the header has 5"),
        ("kinetics", {"a.csv": HEADER + ",one,0,10,train"}, "line 2: no label"),
        ("kinetics", {"a.csv": HEADER}, "a.csv: no clips listed"),
        ("kinetics", {"a.csv": HEADER + "x,one,0,10,train\n" * 2}, "listed twice: a.csv, line 2 and a.csv, line 3"),
        (
            "kinetics",
            {"a.csv": HEADER + "x,one,0,10,train\nx,one,0,10,val"},
            r"is in train \(a.csv, line 2\) and in val \(a.csv, line 3\)",
        ),
        (
            "kinetics",
            {"a.csv": HEADER + "x,two,0,10,train"},
            r"none of the 1 listed clips.*two_000000_000010 \(a.csv, l",
        ),
        (
            "kinetics",
            {"a.csv": HEADER + "x,one,0,10,train\ny,z,0,1,train"},
            "1 of the 2 listed clips are not there, the first being z_000000_000001 .*; so there is no clip of class y",
        ),
        ("kinetics", {}, "no annotations given"),
        ("list", {"a.txt": ""}, "a.txt: no clips listed"),
        ("list", {"a.txt": "1.mp4"}, r"a.txt, line 1: '1.mp4' is not PATH LABEL"),
        ("list", {"a.txt": "1.mp4 0\n2.mp4 run"}, "line 2: label 'run' is not a whole number from 0"),
        ("list", {"a.txt": "1.mp4 0\n2.mp4 -1"}, "line 2: label '-1' is not a whole number from 0"),
        ("list", {"a.txt": "1.mp4 1\n2.mp4 2"}, "a.txt: no clip of class 0, of 3"),
        (
            "list",
            {"a.txt": "1.mp4 0\n2.mp4 2", "classes": "x\ny"},
            "line 2: label 2 is out of range: 2 classes, 0 to 1",
        ),
        (
            "list",
            {"a.txt": "1.mp4 run\n2.mp4 jmup", "classes": "run\njump"},
            "unknown class 'jmup'; did you mean 'jump'",
        ),
        ("list", {"a.txt": "1.mp4 0\n./1.mp4 0"}, "./1.mp4 is listed twice: a.txt, line 1 and a.txt, line 2"),
        (
            "list",
            {"train.txt": "1.mp4 0", "test.txt": "1.mp4 0"},
            r"1.mp4 is in train .*and in test \(test.txt, line 1",
        ),
        ("list", {"a.txt": "1.mp4 0", "b.txt": "2.mp4 1"}, "a.txt: which split is this.*write train=a.txt"),
        ("list", {"a.txt": "1.mp4 0", "classes": ""}, "classes: no class names"),
        ("list", {"a.txt": "1.mp4 0", "classes": "x\nX"}, "classes: class 'X' is given twice"),
        ("something_something_v2", {"labels.json": {"Folding": "0"}}, "labels.json: no clips listed"),
        ("something_something_v2", {"train.json": []}, "train.json: no JSON mapping from class to index"),
        ("something_something_v2", {"train.json": "[{", "l.json": {"A": 0}}, "train.json, line 1: not valid JSON"),
        (
            "something_something_v2",
            {"train.json": [{"id": 1}], "l.json": {"A": 0}},
            "train.json, entry 1: no 'template'",
        ),
        ("something_something_v2", {"train.json": [{"i": 1}], "l.json": {"A": 0}}, "entry 1: no 'id'; it has: i"),
        ("something_something_v2", {"train.json": [3], "l.json": {"A": 0}}, "entry 1: 3 is not a mapping"),
        (
            "something_something_v2",
            {"train.json": [{"id": 1, "template": "Foldin [something]"}], "l.json": {"Folding something": 0}},
            "entry 1: unknown class 'Foldin something'; did you mean 'Folding something'",
        ),
        (
            "something_something_v2",
            {"t.json": [{"id": 1}], "l.json": {"A": 0, "B": 2}},
            "l.json: 2 classes, but none.* 1",
        ),
        (
            "something_something_v2",
            {"t.json": [{"id": 1}], "l.json": {"A": 0, "B": 0}},
            "'A' and 'B' have the same index",
        ),
        ("ucf101", {"trainlist02.txt": "A/x.avi 1"}, "no trainlist01.txt.*fold 1.*trainlist02.txt is of fold 2"),
        ("ucf101", {"trainlist01.txt": "A/x.avi 1", "testlist01.txt": "A/y.avi"}, "no classInd.txt"),
        (
            "ucf101",
            {"trainlist01.txt": "A/x.avi 3", "testlist01.txt": "A/y.avi", "classInd.txt": "1 A\n2 B"},
            "trainlist01.txt, line 1: label 3 is out of range: 2 classes, 1 to 2",
        ),
        (
            "ucf101",
            {"trainlist01.txt": "A/x.avi 2", "testlist01.txt": "A/y.avi", "classInd.txt": "1 A\n2 B"},
            "line 1: 2 is class B, the folder is A",
        ),
        (
            "ucf101",
            {"trainlist01.txt": "x.avi 2", "testlist01.txt": "A/y.avi", "classInd.txt": "1 A"},
            "line 1: 'x.avi 2' is not Class/file.avi",
        ),
        ("hmdb51", {"other.txt": "x 1"}, "no files named CLASS_test_split1.txt"),
        ("hmdb51", {"run_test_split2.txt": "x.avi 1"}, "no run_test_split1.txt.*run_test_split2.txt is of fold 2"),
        (
            "hmdb51",
            {"run_test_split1.txt": "x.avi 3"},
            r"run_test_split1.txt, line 1: 'x.avi 3' is not a file and 1 \(train\)",
        ),
        ("hmdb51", {"run_test_split1.txt": "1"}, r"line 1: '1' is not a file and 1 \(train\), 2"),
        ("diving48", {"V2_train.json": [{"vid_name": "a", "label": 0}]}, "no vocabulary"),
        ("diving48", {"V2_train.json": [{"vid_name": "a"}], "vocab.json": [["A"]]}, "entry 1: no 'label'"),
        ("diving48", {"V2_train.json": {"a": 0}, "vocab.json": [["A"]]}, "a JSON list of clips is expected"),
        (
            "diving48",
            {"V2_train.json": [{"vid_name": "a", "label": 48}], "vocab.json": [["A"], ["B"]]},
            "V2_train.json, entry 1: label 48 is out of range: 2 classes, 0 to 1",
        ),
    ],
)
def test_bad_annotations_are_refused_by_file_and_line(tmp_path, name, files, message):
    videos = touch(tmp_path / "v", "one_000000_000010.mp4", "1.mp4", "2.mp4", "x.avi", "y.avi", "a.mp4")
    paths = [write(tmp_path / "a" / file, text) for file, text in files.items()]
    classes = next((path for path in paths if path.name == "classes"), None)
    with pytest.raises(DataError, match=message):
        read(name, videos, *[path for path in paths if path != classes], classes=classes)


def test_what_is_not_there_is_named_with_the_nearest(tmp_path):
    stand_in = stand_ins.kinetics(tmp_path, classes=2, frames=2)
    train = stand_in.annotations[0]
    with pytest.raises(DataError, match="unknown format 'kinetcs'; did you mean 'kinetics'"):
        read("kinetcs", stand_in.videos, train)
    with pytest.raises(DataError, match=r"video: no such folder; did you mean '.*/videos'"):
        read("kinetics", tmp_path / "video", train)
    with pytest.raises(DataError, match=r"vla.csv: no such file; did you mean '.*/val.csv'"):
        read("kinetics", stand_in.videos, train, tmp_path / "vla.csv")
    with pytest.raises(DataError, match=r"labels.txt: no such file$"):
        read("kinetics", stand_in.videos, train, classes=tmp_path / "labels.txt")
    with pytest.raises(
        DataError, match="kinetics has a single split, so fold 2 means nothing; with folds: ucf101, hmdb51"
    ):
        read("kinetics", stand_in.videos, train, fold=2)
    with pytest.raises(DataError, match="ucf101 has no fold 4; it has 1 to 3"):
        read("ucf101", stand_in.videos, train, fold=4)
    with pytest.raises(DataError, match=r"videos: no .csv files in this folder"):
        read("kinetics", stand_in.videos, stand_in.videos)
    with pytest.raises(DataError, match="the folders' names are the classes"):
        read("folders", stand_in.videos, train)
    with pytest.raises(DataError, match="not a text file"):
        read("list", stand_in.videos, next(stand_in.videos.rglob("*.mp4")))


def test_folders_of_images_need_to_be_asked_for(tmp_path):
    stand_in = stand_ins.kinetics(tmp_path, classes=2, frames=2, rawframes=True)
    with pytest.raises(DataError, match="the folder has 0 videos; it has folders of images, for which --rawframes"):
        read("kinetics", stand_in.videos, *stand_in.annotations)


@pytest.mark.parametrize(
    "labels", [[str(n) for n in range(12)], [f"{n}.0" for n in range(12)], [f"{n}.00" for n in range(12)]]
)
def test_labels_of_a_list_are_indices_however_they_are_written(tmp_path, labels):
    videos = touch(tmp_path / "v", *(f"{n}.mp4" for n in range(12)))
    listed = write(tmp_path / "train.txt", "\n".join(f"{n}.mp4 {label}" for n, label in enumerate(labels)))
    listing = read("list", videos, listed)
    assert [clip.label for clip in listing.clips] == list(range(12))
    assert listing.classes == tuple(str(n) for n in range(12))


@pytest.mark.parametrize(
    ("text", "classes", "message"),
    [
        ("a.mp4 1\nb.mp4 2", None, "no clip of class 0, of 3; does the list count its labels from 1"),
        ("a.mp4 1.0\nb.mp4 2.0", None, "no clip of class 0, of 3; does the list count its labels from 1"),
        (
            "a.mp4 1\nb.mp4 2",
            "x\ny\n",
            "label 2 is out of range: 2 classes, 0 to 1; no label is 0: the list counts",
        ),
        ("a.mp4 0.5\nb.mp4 1.0", None, "'0.5' is not a whole number|'0.5' isn't whole"),
        ("a.mp4 0\nb.mp4 nan", None, "label 'nan' is not a whole number"),
        ("a.mp4 0\nb.mp4 100000", None, "label 100000, and there can be 100000 classes"),
        (
            "v/a.mp4 0\nv/b.mp4 1",
            None,
            r"none of the 2 listed clips is there, the first being v/a.mp4 \(train.txt, line 1\); "
            r"there is '.*/v/a\.mp4': the listed path repeats the folder's name 'v'",
        ),
        ("A.mp4 0\nB.mp4 1", None, "none of the 2 listed clips.*; there is '.*/v/a.mp4', in other case"),
        (
            "gone.mp4 0\nb.mp4 1",
            None,
            r"1 of the 2 listed clips are not there, the first being gone\.mp4 .*; so there is no clip of class 0",
        ),
    ],
)
def test_what_is_missing_comes_first_and_with_the_likely_reason(tmp_path, text, classes, message):
    videos = touch(tmp_path / "v", "a.mp4", "b.mp4")
    options = {"classes": write(tmp_path / "classes.txt", classes)} if classes else {}
    with pytest.raises(DataError, match=message):
        read("list", videos, write(tmp_path / "train.txt", text), **options)


@pytest.mark.parametrize(("listed", "there"), [("NFC", "NFD"), ("NFD", "NFC")])
@pytest.mark.parametrize("name", ["list", "kinetics", "something_something_v2", "diving48"])
def test_names_in_either_unicode_form_find_their_files(tmp_path, name, listed, there):
    stem, other = (unicodedata.normalize(form, "éüñ") for form in (listed, there))
    videos = touch(tmp_path / "v", f"{other}.mp4", f"{other}_000000_000010.mp4", "b.mp4", "b_000000_000010.mp4")
    files = {
        "list": {"train.txt": f"{stem}.mp4 0\nb.mp4 1"},
        "kinetics": {"a.csv": HEADER + f"x,{stem},0,10,train\ny,b,0,10,train"},
        "something_something_v2": {
            "train.json": [{"id": stem, "template": "x"}, {"id": "b", "template": "y"}],
            "labels.json": {"x": "0", "y": "1"},
        },
        "diving48": {
            "V2_train.json": [{"vid_name": stem, "label": 0}, {"vid_name": "b", "label": 1.0}],
            "v.json": [["x"], ["y"]],
        },
    }
    listing = read(name, videos, *(write(tmp_path / "a" / file, text) for file, text in files[name].items()))
    assert [clip.file.startswith(other) for clip in listing.clips] == [True, False]
    assert all((videos / clip.file).is_file() for clip in listing.clips)


def test_annotations_that_systems_leave_are_passed_over(tmp_path):
    videos = touch(tmp_path / "v", "a_000000_000010.mp4", "b_000000_000010.mp4")
    write(tmp_path / "lists/train.csv", HEADER + "x,a,0,10,train\ny,b,0,10,train")
    write(tmp_path / "lists/._train.csv", "rubbish")
    assert len(read("kinetics", videos, tmp_path / "lists").clips) == 2


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_few_clips_to_test_on_are_enough_for_all_official_classes(tmp_path, split):
    videos = touch(tmp_path / "v", "a_000000_000010.mp4")
    classes = write(tmp_path / "classes.txt", "\n".join(f"class {n}" for n in range(400)))
    rows = f"class 7,a,0,10,{split}\nclass 9,gone,0,10,{split}"
    listing = read("kinetics", videos, write(tmp_path / "a.csv", HEADER + rows), classes=classes)
    assert (len(listing.classes), listing.clips[0].label) == (400, 7)
    (note,) = listing.notes
    assert "1 of the 2 listed clips are not there, the first being gone_000000_000010" in note
    assert "no clip of class class 0, class 1, class 2, class 3, class 4 and 394 more, of 400" in note


def test_a_few_clips_to_train_on_are_not(tmp_path):
    videos = touch(tmp_path / "v", "a_000000_000010.mp4")
    classes = write(tmp_path / "classes.txt", "x\ny\nz")
    with pytest.raises(DataError, match="no clip of class y, z, of 3"):
        read("kinetics", videos, write(tmp_path / "a.csv", HEADER + "x,a,0,10,train"), classes=classes)
