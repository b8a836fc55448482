"""The published recipes: every number of the grids against a table that was typed from the sources a second time.

And one of them is run: Kinetics-400 with DualFormer-T's, on clips that stand in for the data set, in its own layout.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dualformer.registry import create_model
from sweeps.launching.grid import FOLDER, load_grid
from tests.helpers import stand_ins

DATA_SETS = ("kinetics400", "kinetics600", "something_something_v2", "diving48", "hmdb51", "ucf101")
IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
FRAMES = ((104, 117, 128), (1, 1, 1))
HALF = ((127.5,) * 3, (127.5,) * 3)
TIMESFORMER = ((0.45 * 255,) * 3, (0.225 * 255,) * 3)

FINE_TUNED = """
data set                recipe                         model            clip     lr    decay  path epochs warm batch parts views    rule
kinetics400             dualformer_tiny                dualformer_tiny  32x2@224 1e-3  0.02   0.1  30     3    64    1     4x1      released
kinetics400             dualformer_small               dualformer_small 32x2@224 1e-3  0.02   0.2  30     2.5  64    2     4x1      released
kinetics400             dualformer_base                dualformer_base  32x2@224 1e-3  0.05   0.3  30     2.5  64    2     4x1      released
kinetics400             dualformer_tiny_token_labels   dualformer_tiny  32x2@224 1e-3  0.02   0.1  30     3    128   2     4x1      released
kinetics400             dualformer_small_token_labels  dualformer_small 32x2@224 1e-3  0.02   0.2  30     2.5  64    2     4x1      released
kinetics400             video_swin_tiny                video_swin_tiny  32x2@224 1e-3  0.02   0.1  30     2.5  64    4     4x3      released
kinetics400             video_swin_small               video_swin_small 32x2@224 1e-3  0.02   0.1  30     2.5  64    8     4x3      released
kinetics400             video_swin_base                video_swin_base  32x2@224 1e-3  0.05   0.3  30     2.5  64    8     4x3      released
kinetics400             video_swin_base_22k            video_swin_base  32x2@224 3e-4  0.05   0.2  30     2.5  64    8     4x3      released
kinetics400             video_swin_tiny_mmaction2      video_swin_tiny  32x2@224 1e-3  0.02   0.1  30     2.5  64    1     4x3      intended
kinetics400             video_swin_small_mmaction2     video_swin_small 32x2@224 1e-3  0.02   0.2  30     2.5  64    1     4x3      intended
kinetics400             video_swin_base_mmaction2      video_swin_base  32x2@224 1e-3  0.05   0.3  30     2.5  64    1     4x3      intended
kinetics600             dualformer_base_22k            dualformer_base  32x2@224 5e-4  0.05   0.3  30     2.5  64    2     4x1      released
kinetics600             video_swin_base_22k            video_swin_base  32x2@224 3e-4  0.05   0.2  30     2.5  64    8     4x3      released
something_something_v2  video_swin_base                video_swin_base  32x-@224 3e-4  0.05   0.4  60     2.5  64    8     1x3      released
diving48                dualformer_small               dualformer_small 32x4@224 1e-3  0.02   0.2  30     1    64    1     4x3      released
hmdb51                  dualformer_small               dualformer_small 32x4@224 1e-3  0.1    0.3  16     1    128   4     4x3      released
ucf101                  dualformer_small               dualformer_small 32x4@224 1e-3  0.1    0.3  16     1    128   4     4x3      released
ucf101                  dualformer_tiny                dualformer_tiny  16x4@224 1e-3  0.05   0.2  16     1    128   4     4x3      released
"""  # noqa: E501 - a table
"""All are by AdamW, cosine to 0, half precision, backbone at a tenth, dropout 0.5, no clipping."""

BY_SGD = """
data set                recipe                                model               clip      lr    decay path epochs warm steps batch parts views rule    clipping average
kinetics400             timesformer_divided                   timesformer_divided 8x32@224  0.005 1e-4  0.1  15     0    11,14 64    8     1x3   uniform -        score
kinetics400             timesformer_joint                     timesformer_joint   8x32@224  0.005 1e-4  0.1  15     0    11,14 64    8     1x3   uniform -        score
kinetics400             timesformer_space                     timesformer_space   8x32@224  0.005 1e-4  0.1  15     0    11,14 64    8     1x3   uniform -        score
kinetics400             timesformer_divided_high_resolution   timesformer_divided 16x16@448 0.005 1e-4  0.1  15     0    11,14 64    8     1x3   uniform -        score
kinetics400             timesformer_divided_long              timesformer_divided 96x4@224  0.005 1e-4  0.1  15     0    11,14 64    8     1x3   uniform -        score
kinetics400             timesformer_divided_mmaction2         timesformer_divided 8x32@224  0.005 1e-4  0.1  15     0    5,10  64    1     1x3   tables  40       probability
kinetics400             timesformer_space_mmaction2           timesformer_space   8x32@224  0.005 1e-4  0.1  15     0    5,10  64    1     1x3   tables  40       probability
something_something_v2  timesformer_divided                   timesformer_divided 8x-@224   0.005 1e-4  0.1  15     0    11,14 64    8     1x3   uniform -        score
something_something_v2  timesformer_divided_high_resolution   timesformer_divided 16x-@448  0.005 1e-4  0.1  15     0    11,14 64    8     1x3   uniform -        score
something_something_v2  timesformer_divided_long              timesformer_divided 64x-@224  0.005 1e-4  0.1  15     0    11,14 64    8     1x3   uniform -        score
kinetics400             vivit_base                            vivit_base          32x2@224  0.1   0     0    30     2.5  -     64    1     4x3   uniform 1        score
"""  # noqa: E501 - a table


def rows(table: str) -> list[dict[str, str]]:
    header, *lines = table.strip().splitlines()
    names = header.replace("data set", "data_set").split()
    return [dict(zip(names, line.split(), strict=True)) for line in lines]


@pytest.fixture(scope="module")
def recipes(tmp_path_factory):
    """Every recipe's run, by data set and name."""
    root = tmp_path_factory.mktemp("data")
    grids = {name: load_grid(name, overrides=[f"data.root={root}"]).runs for name in DATA_SETS}
    return {
        (name, planned.name.removeprefix("recipe=")): planned.config for name in DATA_SETS for planned in grids[name]
    }


def identify(row: dict[str, str]) -> str:
    return f"{row['data_set']}-{row['recipe']}"


def check_shared(config, row: dict[str, str]) -> None:
    """What both tables say."""
    train, data = config.train, config.data
    frames, stride, crop = row["clip"].replace("x", " ").replace("@", " ").split()
    assert (config.model.name, config.model.num_frames, config.model.crop_size) == (
        row["model"],
        int(frames),
        int(crop),
    )
    assert data.sampling == ("spread" if stride == "-" else "dense")
    assert stride == "-" or data.frame_stride == int(stride)
    assert (train.learning_rate, train.weight_decay) == (float(row["lr"]), float(row["decay"]))
    assert config.model.overrides["drop_path_rate"] == float(row["path"])
    assert (train.epochs, train.warmup_epochs, train.steps) == (float(row["epochs"]), float(row["warm"]), 0)
    assert (train.batch_size, train.micro_steps) == (int(row["batch"]), int(row["parts"]))
    assert f"{config.evaluate.num_clips}x{config.evaluate.num_crops}" == row["views"]
    assert train.groups == row["rule"] and train.ema is None and train.stop_after is None
    assert data.augment.flip == (row["data_set"] != "something_something_v2")
    assert (data.augment.mixup, data.augment.cutmix) == (0, 0)
    assert config.model.weights is None and not config.measure.latency


@pytest.mark.parametrize("row", rows(FINE_TUNED), ids=identify)
def test_fine_tuning_recipes_hold_the_published_numbers(recipes, row):
    config = recipes[row["data_set"], row["recipe"]]
    train, data, spread = config.train, config.data, row["data_set"] == "something_something_v2"
    check_shared(config, row)
    assert (train.optimizer, train.schedule, train.precision) == ("adamw", "cosine", "float16")
    assert (train.backbone_factor, config.model.overrides["dropout"], train.clip_grad_norm) == (0.1, 0.5, None)
    assert config.evaluate.average == "probability" and data.short_video == "loop"
    assert (data.resize, data.test_resize, data.augment.crop_area) == (256, 224, (0.08, 1.0))
    small = row["data_set"] in ("diving48", "hmdb51", "ucf101")
    assert (data.mean, data.std) == (FRAMES if small else IMAGENET)
    drawn = data.augment.randaugment_ops, data.augment.erasing, train.label_smoothing
    assert drawn == ((4, 0.25, 0.1) if spread else (0, 0, 0)) and data.augment.randaugment_magnitude == 7
    window = config.model.overrides.get("window_size")
    assert window == ([16, 7, 7] if spread else None)
    labels = train.token_labels
    taught = row["recipe"].endswith("token_labels")
    assert (labels.teacher, labels.weight, labels.top_k) == ("dualformer_base" if taught else None, 0.5, 5)


@pytest.mark.parametrize("row", rows(BY_SGD), ids=identify)
def test_recipes_by_sgd_hold_the_published_numbers(recipes, row):
    config = recipes[row["data_set"], row["recipe"]]
    train, data = config.train, config.data
    check_shared(config, row)
    assert (train.optimizer, train.momentum, train.label_smoothing) == ("sgd", 0.9, 0)
    assert train.clip_grad_norm == (None if row["clipping"] == "-" else float(row["clipping"]))
    assert config.evaluate.average == row["average"]
    milestones = [] if row["steps"] == "-" else [int(epoch) / 15 for epoch in row["steps"].split(",")]
    assert list(train.milestones) == pytest.approx(milestones, abs=1e-12)
    assert (train.schedule, train.decay) == ("step" if milestones else "cosine", 0.1)
    if row["model"] == "vivit_base":
        assert data.augment.short_side == (math.floor(0.9 * 256), math.floor(1.33 * 256)) and data.test_resize == 256
        assert (data.augment.colour, data.augment.grey) == (0.4, 0.1)
        assert (data.mean, data.std) == HALF
        return
    crop = config.model.crop_size
    assert data.augment.short_side == ((448, 512) if crop == 448 else (256, 320)) and data.test_resize == crop
    assert (data.mean, data.std) == (HALF if "mmaction2" in row["recipe"] else TIMESFORMER)
    assert data.augment.crop_area is None and data.augment.colour == 0


def test_every_recipe_is_in_a_table_or_says_that_it_is_unpublished(recipes):
    listed = {(row["data_set"], row["recipe"]) for row in rows(FINE_TUNED) + rows(BY_SGD)}
    assert {key for key in recipes if key not in listed and not key[1].endswith("_unpublished")} == set()
    assert not {key for key in listed if key[1].endswith("_unpublished")}


def test_every_data_set_has_recipes_of_the_three_families(recipes):
    for name in DATA_SETS:
        families = {recipe.split("_")[0] for data_set, recipe in recipes if data_set == name}
        assert {"dualformer", "video", "timesformer"} <= families, name


def test_every_recipes_model_is_built(recipes):
    models = {(config.model.name, str(config.model.changes())): config.model for config in recipes.values()}
    for model in models.values():
        with torch.device("meta"):
            built = create_model(model.name, **model.changes())
        frames, crop = model.num_frames, model.crop_size
        assert built.config.clip_shape == (3, frames, crop, crop)


def test_a_missing_data_set_says_which_flag_names_it():
    with pytest.raises(ValueError, match=r"no folder 'hmdb51'.*--set data\.root="):
        load_grid("hmdb51")


def test_all_data_sets_are_here():
    asked = {path.stem for path in FOLDER.glob("*.yaml") if "recipe:" in Path(path).read_text()}
    assert asked == set(DATA_SETS)


ROOT = Path(__file__).resolve().parents[2]
SHRUNK = (
    "model.num_frames=8",
    "model.crop_size=32",
    "model.overrides.embed_dims=[16, 32, 64, 128]",
    "model.overrides.num_heads=[1, 2, 4, 8]",
    "train.batch_size=8",
    "train.stop_after=20",
    "train.log_every=5",
    "train.num_workers=0",
    "evaluate.num_workers=0",
    "device=cpu",
)
"""A clip and a network that a CPU takes 20 steps of in seconds; all else of the recipe is as published."""


@pytest.fixture(scope="module")
def kinetics(tmp_path_factory) -> Path:
    """The manifest of a data set in the official layout, prepared as its users do."""
    folder = tmp_path_factory.mktemp("kinetics")
    arguments = stand_ins.kinetics(folder, classes=4, train=4, val=2, frames=24).arguments
    run([sys.executable, "-m", "dualformer", *arguments, "--out", str(folder / "manifest.csv"), "--workers", "1"])
    return folder / "manifest.csv"


def run(command: list[str]) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


ONE = (sys.executable, "sweeps/launch.py", "--executor", "debug")
TWO = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "sweeps/launch.py")


@pytest.mark.parametrize("launch", [ONE, TWO], ids=["one process", "two processes"])
def test_the_kinetics_recipe_runs_on_clips_in_the_official_layout(kinetics, tmp_path, launch):
    grid = ["--grid", "kinetics400.yaml", "--only", "recipe=dualformer_tiny", "--runs", str(tmp_path)]
    run([*launch, *grid, "--set", f"data.root={kinetics}", *SHRUNK])
    (folder,) = (path.parent for path in tmp_path.glob("*/result.json"))
    result = json.loads((folder / "result.json").read_text())
    assert (result["status"], result["num_videos"], result["num_failed_videos"]) == ("ok", 8, 0)
    assert (result["num_views"], result["num_classes"], result["chance_top1"]) == (4, 4, 0.25)
    assert json.loads((folder / "provenance.json").read_text())["num_processes"] == (1 if launch is ONE else 2)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    assert [step for step, _ in steps] == [5, 10, 15, 20]
    assert steps[-1][1] < 0.8 * steps[0][1]
    # 30 epochs of 16 clips in batches of 8 are 60 steps, of which 6 warm up.
    rate = 1e-3 * 0.5 * (1 + math.cos(math.pi * (19 - 6) / (60 - 6)))
    assert [line["lr"] for line in lines if "lr" in line][-1] == pytest.approx(rate)
