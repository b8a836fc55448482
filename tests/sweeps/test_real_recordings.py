"""Real recordings: that models learn to tell actions apart in videos they never saw, cut from other recordings.

The recordings lie beside the project, in `../shared`, and are no part of it.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dualformer import list_models
from dualformer.data.dataset import load_manifest
from sweeps import run as worker
from sweeps.launching.grid import load_grid
from tests.helpers.small_run import prepare_run

SHARED = Path(__file__).resolve().parents[3] / "shared"
SHORT = (
    "model.crop_size=32",
    "data.resize=[36, 36]",
    "train.warmup_steps=40",
    "train.log_every=10",
    "data.decoder=pyav",
    "device=cpu",
)
"""A quarter of the grid's pixels, for a CPU."""

pytestmark = pytest.mark.data


def recordings(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"{folder} isn't there")
    return folder


def test_every_model_is_in_the_grid_at_reduced_size(tmp_path):
    runs = load_grid("real_recordings", overrides=[f"data.root={tmp_path}"]).runs
    assert sorted(planned.config.model.name for planned in runs) == list_models()
    for planned in runs:
        assert planned.name == f"model={planned.config.model.name}" and planned.config.data.resize == (64, 64)
        weights = worker.build_model(planned.config, num_classes=6).parameters()
        assert 0.3e6 < sum(weight.numel() for weight in weights) < 2.5e6


def test_no_recording_is_on_both_sides_of_the_split():
    (planned, *_) = load_grid("real_recordings", overrides=[f"data.root={recordings('action_clips')}"]).runs
    manifest = load_manifest(planned.config.data)
    held_out = []
    for fold in range(4):
        sides = [manifest.split(side, planned.config.data.holdout, fold) for side in ("train", "test")]
        train, test = ({entry.recording for entry in entries} for entries in sides)
        assert train and test and not train & test
        assert {entry.label for entry in sides[1]} == set(range(6))
        held_out += [entry.file for entry in sides[1]]
    assert len(held_out) == len(set(held_out)) == 120


@pytest.mark.parametrize(
    ("name", "steps", "at_least"),
    [("action_clips", 200, 0.3), ("hockey_fights", 50, 0.66)],
    ids=["actions", "hockey"],
)
def test_a_model_beats_chance_on_videos_it_never_saw(tmp_path, name: str, steps: int, at_least: float):
    """Nearly twice chance for six actions, two standard deviations of 31 guesses; two thirds where chance is a half."""
    overrides = [f"data.root={recordings(name)}", f"train.steps={steps}", *SHORT]
    (planned,) = load_grid("real_recordings", overrides=overrides, only=["model=vivit_base"]).runs
    run_dir = prepare_run(tmp_path, planned.config)
    worker.execute(run_dir)
    result = json.loads((run_dir / "result.json").read_text())
    assert (result["status"], result["num_failed_videos"]) == ("ok", 0), result["reason"]
    assert result["top1"] >= at_least
    losses = [json.loads(line)["loss"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.85 * losses[0]
