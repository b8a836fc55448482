"""A run small enough to be done in a second, on real files that the test writes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from sweeps.run_config import RunConfig
from sweeps.run_context import RunContext
from sweeps.training.processes import ALONE, Team
from tests.helpers.videos import write_video

MODEL = {
    "name": "dualformer_tiny",
    "num_frames": 4,
    "crop_size": 16,
    "overrides": {
        "embed_dims": [8],
        "depths": [2],
        "num_heads": [1],
        "patch_size": [1, 4, 4],
        "window_size": [2, 2, 2],
        "fine_sizes": [[2, 2, 2]],
        "coarse_sizes": [None],
        "dropout": 0.0,
    },
}


def write_bright_and_dark(folder: Path, clips: int = 4) -> Path:
    """Writes a data set that anything can learn: classes "bright" and "dark", with some noise."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name, level in (("bright", 190), ("dark", 60)):
            for clip in range(clips):
                frames = rng.normal(level, 10, (6, 16, 16, 3)).clip(0, 255).astype(np.uint8)
                write_video(folder / split / name / f"{clip}.mp4", frames)
    return folder


def small_config(root: Path, **changes) -> RunConfig:
    """A config of `root`'s data, a small model and six steps; `changes` are nested values."""
    base = {
        "model": MODEL,
        "data": {"root": str(root)},
        "train": {"steps": 6, "batch_size": 4, "warmup_steps": 2, "log_every": 2},
        "evaluate": {"num_clips": 2},
        "measure": {"latency": False},
    }
    return RunConfig.from_dict(base).changed(**changes)


def prepare_run(folder: Path, config: RunConfig) -> Path:
    """Makes the run's folder with its config, as the launcher does."""
    run_dir = folder / config.run_id
    run_dir.mkdir(parents=True)
    (run_dir / "config.json").write_text(json.dumps(config.to_dict()))
    return run_dir


def context_of(config: RunConfig, folder: Path = Path("unused"), team: Team = ALONE, device: str = "cpu") -> RunContext:
    """The context of a run that a test calls parts of."""
    return RunContext(config, torch.device(device), Path(folder), team)
