"""Videos that can't be used are named, counted and left out; configs that make no sense are refused."""

import dataclasses

import pytest

from dualformer.config import ConfigError
from dualformer.data import inspection
from dualformer.data.dataset import DataConfig, collate
from dualformer.data.manifest import DataError
from tests.helpers.datasets import make
from tests.helpers.videos import (
    write_audio,
    write_classes,
    write_manifest,
    write_video,
)

pytestmark = pytest.mark.usefixtures("cache")


def test_a_partner_that_can_not_be_read_is_the_failure_of_the_sample(tmp_path):
    dataset = make(write_classes(tmp_path), crop_size=(32, 32), augment={"mixup": 1.0})
    (broken := dataset.root / dataset.entries[1].file).write_bytes(b"")
    samples = [dataset[epoch, index] for epoch in range(4) for index in range(len(dataset))]
    failed = [sample for sample in samples if "failure" in sample]
    assert {sample["failure"] for sample in failed} == {f"{broken}: empty file (0 bytes)"}  # one video, one failure
    assert {sample["index"] for sample in failed} > {1}
    batch = collate(samples)
    assert len(batch["failures"]) == len(failed)
    assert len(batch["target"]) == len(batch["clip"]) == len(samples) - len(failed)


def test_unusable_videos_are_named_counted_and_left_out(tmp_path):
    write_classes(tmp_path, clips=8)
    (tmp_path / "class_0" / "empty.mp4").touch()
    write_audio(tmp_path / "class_1" / "sound.mp4")
    write_video(tmp_path / "class_1" / "short.mp4", 3)
    splits = [make(tmp_path, split, max_failed_share=0.5) for split in ("train", "test")]
    failures = {error.path.name: error.reason for dataset in splits for error in dataset.failures}
    assert set(failures) == {"empty.mp4", "sound.mp4", "short.mp4"}
    assert failures["short.mp4"].startswith("has 3 frames, 4 frames at stride 1 need 4")
    assert sum(dataset.num_expected for dataset in splits) == 19
    assert sum(len(dataset) for dataset in splits) == 16


def test_too_many_unusable_videos_are_an_error(tmp_path):
    write_classes(tmp_path, clips=2)
    for clip in range(4):
        (tmp_path / "class_0" / f"empty_{clip}.mp4").touch()
    with pytest.raises(DataError, match=r"(?s)videos can't be used \(max_failed_share is 0.05\).*empty_\d.mp4: empty"):
        make(tmp_path)


def test_a_class_whose_training_clips_are_all_unusable_is_an_error(tmp_path):
    write_classes(tmp_path, classes=3)
    for path in (tmp_path / "class_1").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="no usable training clip of class class_1"):
        make(tmp_path, max_failed_share=0.9)


def test_a_listed_file_that_is_missing_is_a_failure(tmp_path):
    write_classes(tmp_path, clips=1)
    rows = ("class_0/clip_0.mp4,a,train", "class_1/clip_0.mp4,b,train", "gone.mp4,b,train", "too.mp4,a,test")
    root = write_manifest(tmp_path, "file,label,split", *rows)
    dataset = make(root, max_failed_share=0.5)
    assert [str(error) for error in dataset.failures] == [f"{root / 'gone.mp4'}: no such file"]
    with pytest.raises(DataError, match="1 of 1 videos can't be used"):
        make(root, "test", views=(1, 1), max_failed_share=1.0)


def test_a_file_that_breaks_later_is_named_in_the_batch(tmp_path):
    dataset = make(write_classes(tmp_path))
    broken = dataset.root / dataset.entries[1].file
    broken.write_bytes(b"")
    batch = collate([dataset[index] for index in range(len(dataset))])
    assert batch["failures"] == [f"{broken}: empty file (0 bytes)"]
    assert batch["index"].tolist() == [0, *range(2, len(dataset))]
    assert len(batch["clip"]) == len(batch["label"]) == len(dataset) - 1
    assert len(collate([dataset[1]])["label"]) == 0


def test_frames_smaller_than_the_crop_are_refused(tmp_path):
    write_classes(tmp_path)
    with pytest.raises(DataError, match="frames are 48x64, 24x32 at resize 24: smaller than the crop 48x64"):
        make(tmp_path, resize=24)
    assert make(tmp_path, augment={"crop_area": (0.5, 1.0)}, crop_size=(96, 96))[0]["clip"].shape == (3, 4, 96, 96)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"frame_strid": 2}, "unknown field 'frame_strid'; did you mean 'frame_stride'"),
        ({"short_video": "mirror"}, "short_video: .*'error', 'repeat_last' or 'loop'"),
        ({"frame_stride": 0}, "frame_stride must be from 1 to"),
        ({"resize": 0}, "resize must be from 1"),
        ({"augment": {"crop_area": [0.9, 0.2]}}, "augment: crop_area must be two rising shares"),
        ({"std": [1.0, 0.0, 1.0]}, "std must be from"),
        ({"holdout": 1.0}, "holdout must be between 0 and 1"),
        ({"holdout": 0.25, "fold": 4}, "fold 4 doesn't exist: holdout 0.25 makes 4"),
        ({"max_failed_share": 2.0}, "max_failed_share must be from 0 to 1"),
        ({"embedded": {"num_train": 7}}, "num_train must be a multiple"),
    ],
)
def test_configs_that_make_no_sense_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        DataConfig.from_dict(values)


def test_views_that_do_not_exist_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="got 4 x 2"):
        make(tmp_path, "test", views=(4, 2))


def test_files_are_inspected_once(tmp_path, cache, monkeypatch):
    write_classes(tmp_path)
    (tmp_path / "class_0" / "empty.mp4").touch()
    options = {"max_failed_share": 1.0, "holdout": 0.5}
    first = make(tmp_path, **options)
    monkeypatch.setattr(inspection, "inspect_video", None)  # would fail if it were called
    again = make(tmp_path, **options)
    assert (again.infos, list(map(str, again.failures))) == (first.infos, list(map(str, first.failures)))
    changed = first.root / first.entries[0].file
    monkeypatch.undo()
    monkeypatch.setenv("DUALFORMER_CACHE", str(cache))
    write_video(changed, 20)
    assert make(tmp_path, **options).infos[0].num_frames == 20


def test_a_record_cut_off_by_a_crash_is_taken_up(tmp_path, cache):
    first = make(write_classes(tmp_path))
    (record,) = (cache / "inspected").iterdir()
    record.write_bytes(record.read_bytes()[:-30])
    assert make(tmp_path).infos == first.infos
    assert make(tmp_path).infos == first.infos
    lines = [line for line in record.read_bytes().splitlines() if line]
    assert len(lines) == len(first) + 1  # the broken line stays, its file has a new one


def test_a_file_that_takes_too_long_is_a_failure(tmp_path):
    dataset = make(write_classes(tmp_path), decoder="pyav")
    dataset.config = dataclasses.replace(dataset.config, time_limit_s=1e-9)
    assert dataset[0]["failure"].endswith("took longer than 1e-09 s")
