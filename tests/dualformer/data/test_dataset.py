"""The whole path from video files to batches: right frames, reproducible, and no video lost without a word."""

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from dualformer.data.augment import AugmentConfig
from dualformer.data.dataset import DataConfig, TrainBatches, VideoDataset, collate, load_manifest
from dualformer.data.manifest import DataError
from tests.helpers.datasets import make
from tests.helpers.videos import (
    numbered_frames,
    shown_numbers,
    write_classes,
    write_images,
    write_manifest,
    write_video,
)

SHARED = Path(__file__).parents[4] / "shared"

pytestmark = pytest.mark.usefixtures("cache")


def numbers(clip):
    return shown_numbers(clip.permute(1, 2, 3, 0).numpy())


@pytest.mark.parametrize("name", ["clip.mp4", "b_frames.avi"])
@pytest.mark.parametrize("decoder", ["decord", "pyav"])
@pytest.mark.parametrize("cache_decoded", [False, True])
def test_clips_hold_the_frames_they_should(tmp_path, name, decoder, cache_decoded):
    options = {"bf": "2", "g": "12"} if name.endswith("avi") else {}
    for label in ("x", "y"):
        for split in ("train", "test"):
            write_video(tmp_path / split / label / name, 50, "mpeg4" if options else "libx264", **options)
    options = {"frame_stride": 3, "decoder": decoder, "cache_decoded": cache_decoded}
    train = make(tmp_path, "train", **options)
    for epoch in range(3):
        clip = train[epoch, 0]["clip"]
        assert clip.shape == (3, 4, 48, 64)
        first, *_ = shown = numbers(clip)
        assert shown == [first, first + 3, first + 6, first + 9]
    test = make(tmp_path, "test", views=(2, 3), crop_size=(48, 48), **options)
    assert test[1]["clip"].shape == (6, 3, 4, 48, 48)
    centre = make(tmp_path, "test", views=(2, 1), **options)[1]
    assert (centre["label"], centre["index"]) == (1, 1)
    assert [numbers(view) for view in centre["clip"]] == [[9, 12, 15, 18], [29, 32, 35, 38]]


def test_decoders_and_caching_change_no_pixel(tmp_path):
    write_classes(tmp_path)
    variants = [{}, {"decoder": "pyav"}, {"cache_decoded": True}]
    first, *others = [make(tmp_path, resize=32, crop_size=(32, 32), **options)[1, 2]["clip"] for options in variants]
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_change_no_batch(tmp_path, num_workers):
    dataset = make(write_classes(tmp_path, clips=8), crop_size=(32, 32), augment={"flip": True}, seed=3)
    batches = TrainBatches(len(dataset), batch_size=5, seed=3)
    alone, shared = (
        list(islice(DataLoader(dataset, batch_sampler=batches, collate_fn=collate, num_workers=workers), 5))
        for workers in (0, num_workers)
    )
    for one, other in zip(alone, shared, strict=True):
        assert torch.equal(one["clip"], other["clip"])
        assert torch.equal(one["label"], other["label"])
        assert torch.equal(one["index"], other["index"])


VARIED = {"short_side": [48, 64], "crop_area": [0.3, 1.0], "flip": True, "colour": 0.4, "grey": 0.2,
          "randaugment_ops": 2, "erasing": 0.5, "mixup": 0.8, "cutmix": 1.0}  # fmt: skip


def test_neither_workers_nor_order_nor_torchs_own_chance_change_a_varied_clip(tmp_path):
    dataset = make(write_classes(tmp_path), crop_size=(32, 32), augment=VARIED, seed=3)
    batches = TrainBatches(len(dataset), batch_size=4, seed=3)
    state, first = torch.get_rng_state(), {}
    for draw in sorted({draw for batch in islice(batches, 4) for draw in batch}, reverse=True):
        first[draw] = dataset[draw]
    assert torch.equal(torch.get_rng_state(), state)
    for workers in (0, 1, 2):
        torch.manual_seed(workers)
        loader = DataLoader(dataset, batch_sampler=batches, collate_fn=collate, num_workers=workers)
        for draws, batch in zip(islice(batches, 4), islice(loader, 4), strict=True):
            for position, draw in enumerate(draws):
                for key in ("clip", "target"):
                    assert torch.equal(batch[key][position], first[draw][key])


@pytest.mark.parametrize("augment", [{"mixup": 0.8}, {"cutmix": 1.0}])
def test_targets_say_what_a_clip_is_mixed_of(tmp_path, augment):
    """Each video has a class and a level of its own, so that a clip's mean tells the shares."""
    root = tmp_path / "clips"
    for label in range(5):
        for split in ("train", "test"):
            write_video(root / split / f"{label}" / "clip.mp4", np.full((12, 48, 64, 3), 40 * label + 20, np.uint8))
    mixed, plain = (make(root, crop_size=(32, 32), augment=values) for values in (augment, {}))
    levels = torch.stack([plain[index]["clip"].mean() for index in range(5)])
    partners = set()
    for epoch in range(8):
        for index in range(5):
            sample = mixed[epoch, index]
            assert (sample["label"], sample["index"]) == (index, index)
            assert sample["target"].dtype == torch.float32
            assert float(sample["target"].sum()) == pytest.approx(1)
            assert float(sample["clip"].mean()) == pytest.approx(float(levels @ sample["target"]), abs=0.1)
            others = set(sample["target"].nonzero().ravel().tolist()) - {index}
            assert len(others) == 1 or sample["target"][index] == 1  # never itself, but a corner may get no pixel
            partners |= {(index, other) for other in others}
            if "cutmix" in augment:
                assert {*sample["clip"].unique().tolist()} <= {*levels[[index, *others]].tolist()}
            else:
                assert others
                assert float(sample["clip"].std()) < 0.1
    assert len(partners) > 12  # of 20 pairs
    batch = collate([mixed[0, 0], mixed[0, 1]])
    assert batch["target"].shape == (2, 5)
    assert torch.equal(batch["target"][1], mixed[0, 1]["target"])
    assert batch["label"].tolist() == [0, 1]
    assert "target" not in collate([plain[0]])
    assert "target" not in make(root, "test", views=(1, 1), crop_size=(32, 32), augment=augment)[0]


def test_jitter_takes_the_place_of_resizing_in_training_alone(tmp_path):
    root = write_classes(tmp_path)  # 48 x 64
    options = {"resize": 8, "test_resize": 24, "crop_size": (24, 24), "augment": {"short_side": [24, 96]}}
    whole = make(root, resize=8, augment={"short_side": [48, 48]})[0]["clip"]
    assert torch.equal(whole, make(root)[0]["clip"])  # not a pixel was lost to `resize`
    test = make(root, "test", views=(1, 3), **options)[0]["clip"]
    assert torch.equal(test, make(root, "test", views=(1, 3), resize=24, crop_size=(24, 24))[0]["clip"])
    with pytest.raises(DataError, match="20x27 at resize 20: smaller than the crop 24x24"):
        make(root, **{**options, "augment": {"short_side": [20, 96]}})


def test_samples_depend_on_seed_epoch_and_index(tmp_path):
    write_classes(tmp_path, frames=100)
    one, other_seed = make(tmp_path), make(tmp_path, seed=1)
    clips = [one[0, 0], one[1, 0], one[0, 1], other_seed[0, 0]]
    assert len({tuple(numbers(sample["clip"])) for sample in clips}) == 4
    assert torch.equal(one[0, 0]["clip"], one[0]["clip"])


def test_training_batches_are_full_fair_and_can_be_entered_anywhere():
    draws = [draw for batch in islice(TrainBatches(7, batch_size=3, seed=1), 7) for draw in batch]
    assert len(draws) == 21
    for epoch in range(3):
        assert sorted(index for e, index in draws if e == epoch) == list(range(7))
    assert [e for e, _ in draws] == sorted(e for e, _ in draws)
    assert list(islice(TrainBatches(7, batch_size=3, seed=1, start=4), 3)) == list(
        islice(TrainBatches(7, batch_size=3, seed=1), 4, 7)
    )
    with pytest.raises(ValueError, match="from 0 samples"):
        TrainBatches(0, batch_size=3)


def test_square_resizing_hides_the_aspect(tmp_path):
    for label, width in (("narrow", 48), ("wide", 96)):
        for clip in range(2):
            write_video(tmp_path / label / f"{clip}.mp4", numbered_frames(8, 48, width))
    dataset = make(tmp_path, resize=(40, 40), crop_size=(40, 40), holdout=0.5)
    assert {numbers(dataset[i]["clip"])[0] for i in range(len(dataset))} <= set(range(5))


@pytest.mark.parametrize(("short_video", "expected"), [("repeat_last", [0, 2, 2, 2]), ("loop", [0, 2, 1, 0])])
def test_short_videos_are_filled_where_a_field_says_so(tmp_path, short_video, expected):
    dataset = make(write_classes(tmp_path, frames=3), frame_stride=2, short_video=short_video)
    assert not dataset.failures
    assert numbers(dataset[0]["clip"]) == expected


def test_configs_survive_json():
    config = DataConfig(root="clips", resize=(112, 112), augment=AugmentConfig(crop_area=(0.3, 1.0)))
    assert DataConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_the_embedded_data_set_takes_the_same_path():
    config = DataConfig.from_dict({"embedded": {"num_train": 16, "num_test": 8}})
    frames, size = config.embedded.num_frames, (config.embedded.height, config.embedded.width)
    train, test = (VideoDataset(config, split, num_frames=frames, crop_size=size) for split in ("train", "test"))
    assert (len(train), len(test), len(train.classes)) == (16, 8, 4)
    assert set(train.factors) == {"relation", "motion"}
    assert all(name.startswith(value) for name, value in zip(train.classes, train.factors["relation"]))
    assert train[0]["clip"].shape == (3, frames, *size)
    assert load_manifest(config).root == train.root


@pytest.mark.data
@pytest.mark.skipif(not (SHARED / "action_clips").is_dir(), reason="no real recordings in ../shared/action_clips")
def test_real_clips_of_every_class_become_square_batches(tmp_path):
    rows = [f"{SHARED}/action_clips/{name},{name.split('/')[0]},{split}"
            for name, split in (("hug/set1_02_seq01_1.avi", "train"), ("kick/set1_01_seq01_2.avi", "train"),
                                ("hug/set1_10_seq02_1.avi", "test"))]  # fmt: skip
    root = write_manifest(tmp_path / "real", "file,label,split", *rows)
    dataset = make(root, num_frames=8, frame_stride=4, resize=(64, 64), crop_size=(56, 56))
    assert collate([dataset[0], dataset[1]])["clip"].shape == (2, 3, 8, 56, 56)
    assert not any(info.seekable for info in dataset.infos)
    assert dataset[0]["clip"].std() > 5


# Frames appear every 20 ms, then every 500, then every 20 again; 12 frames in 2.4 s, so the average rate is 5 per
# second, and at 0, 0.2, 0.4 ... 2.2 s these are shown:
VARYING_MS = [0, 20, 40, 60, 80, 100, 600, 1100, 1600, 2100, 2120, 2360]
SHOWN = [0, 5, 5, 6, 6, 6, 7, 7, 8, 8, 8, 10]


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
@pytest.mark.parametrize("cache_decoded", [False, True])
def test_clips_of_a_varying_rate_are_taken_by_time(tmp_path, decoder, cache_decoded):
    for split in ("train", "test"):
        for label in ("x", "y"):
            write_video(tmp_path / split / label / "clip.mp4", 12, times_ms=VARYING_MS, bf="0")
    options = {"decoder": decoder, "cache_decoded": cache_decoded}
    test = make(tmp_path, "test", views=(3, 1), **options)
    assert test.infos[0].seconds == 2.4
    assert [numbers(view) for view in test[0]["clip"]] == [SHOWN[1:5], SHOWN[4:8], SHOWN[7:11]]
    train = make(tmp_path, "train", frame_stride=3, **options)
    assert numbers(train[0]["clip"]) == [SHOWN[0], SHOWN[3], SHOWN[6], SHOWN[9]]


@pytest.mark.data
@pytest.mark.skipif(not (SHARED / "videos").is_dir(), reason="no real recordings in ../shared/videos")
def test_a_real_clip_of_a_varying_rate_is_taken_by_time(tmp_path):
    rows = [f"{SHARED}/videos/odd/vfr.mp4,a,train", f"{SHARED}/videos/odd/rotated90.mp4,b,train"]
    root = write_manifest(tmp_path, "file,label,split", *rows, f"{SHARED}/videos/odd/five_frames.mp4,a,test")
    dataset = make(root, frame_stride=27, resize=64, crop_size=(64, 64))
    info = dataset.infos[0]
    indices = dataset._train_indices(0, torch.Generator())
    moments = [27 * step * info.seconds / 82 for step in range(4)]
    assert indices.tolist() == [sum(time <= moment for time in info.times) - 1 for moment in moments]
    assert indices.tolist() != [0, 27, 54, 81]
    assert np.diff(dataset._train_indices(1, torch.Generator())).tolist() == [27, 27, 27]


def test_spread_clips_take_a_frame_of_each_part(tmp_path):
    for split in ("train", "test"):
        for label in ("x", "y"):
            write_video(tmp_path / split / label / "clip.mp4", 37)
    train = make(tmp_path, "train", num_frames=8, sampling="spread")
    parts = [(0, 4), (4, 9), (9, 14), (14, 18), (18, 22), (22, 27), (27, 32), (32, 36)]
    clips = {tuple(numbers(train[epoch, 0]["clip"])) for epoch in range(6)}
    assert len(clips) > 1
    assert all(low <= shown <= high for clip in clips for shown, (low, high) in zip(clip, parts, strict=True))
    test = make(tmp_path, "test", num_frames=8, sampling="spread", views=(1, 1))
    assert numbers(test[0]["clip"][0]) == [2, 6, 11, 16, 20, 24, 29, 34]


def test_spread_clips_of_short_videos_repeat_frames_where_a_field_says_so(tmp_path):
    write_classes(tmp_path, frames=3)
    with pytest.raises(DataError, match="has 3 frames, 4 frames at stride 1 need 4"):
        make(tmp_path, sampling="spread")
    test = make(tmp_path, "test", sampling="spread", short_video="loop", views=(1, 1))
    assert numbers(test[0]["clip"][0]) == [0, 0, 1, 2]


def test_folders_of_images_are_clips(tmp_path):
    for label in ("x", "y"):
        for clip in range(4):
            write_images(tmp_path / label / f"clip_{clip}", 12)
    dataset = make(tmp_path, frame_stride=3)
    assert (len(dataset), dataset.infos[0].seconds) == (6, None)
    first, *_ = shown = numbers(dataset[0]["clip"])
    assert shown == [first, first + 3, first + 6, first + 9]


@pytest.mark.parametrize("views", [None, (2, 3)])
def test_the_size_of_a_sample_is_known_beforehand(tmp_path, views):
    dataset = make(write_classes(tmp_path), "test", views=views, crop_size=(32, 24), resize=48)
    assert dataset.sample_bytes == dataset[0]["clip"].nbytes
