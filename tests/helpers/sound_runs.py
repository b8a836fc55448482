"""A small sweep whose every number is what its config, samples and predictions come to, without training or timing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dualformer import count_macs, create_model
from dualformer.macs import count_training_macs
from dualformer.results import layout
from dualformer.results.code import digest
from sweeps.run_config import RunConfig
from sweeps.training.predictions import Predictions, write_predictions
from sweeps.training.scoring import score
from sweeps.training.tables import write_tables
from tests.helpers import synthetic_runs
from tests.helpers.small_run import MODEL

PATTERNS = ("LG", "DD", "FF")
VIDEOS = 64
CLASSES = ("same up", "same down", "other up", "other down")
FACTORS = {"relation": ("same", "same", "other", "other"), "motion": ("up", "down", "up", "down")}


def write_sweep(runs: Path) -> Path:
    """Writes a grid of three patterns, each counted, timed, trained and evaluated; returns `runs`."""
    configs = [_config(pattern) for pattern in PATTERNS]
    for number, config in enumerate(configs):
        _write_run(runs, config, np.random.default_rng(number))
    synthetic_runs.write_grid(
        runs, "patterns", {config.run_id: {"model.attention": config.model.attention} for config in configs}
    )
    return runs


def run_ids() -> list[str]:
    """Ids of the runs that `write_sweep` writes, in the order of `PATTERNS`."""
    return [_config(pattern).run_id for pattern in PATTERNS]


def _config(pattern: str) -> RunConfig:
    return RunConfig.from_dict(
        {
            "model": {**MODEL, "attention": pattern},
            "data": {"root": "embedded", "embedded": {"num_test": VIDEOS}},
            "train": {"steps": 40, "batch_size": 8, "warmup_steps": 2},
            "evaluate": {"num_clips": 2},
            "measure": {"batch_size": 2},
        }
    )


def _write_run(runs: Path, config: RunConfig, random: np.random.Generator) -> None:
    measured, timed = _measurement(config, random)
    counts = _counts(config)
    trained = {"final_train_loss": 0.5, "train_clips_per_s": 90.0, "data_wait_share": 0.1, "in_order_share": 0.0}
    files = {"dualformer/macs.py": "0123456789ab", f"dualformer/attention/{config.model.attention}.py": "a" * 12}
    circumstances = {
        "code": digest(files),
        "code_files": files,
        "network": config.network_digest,
        "network_config": config.network,
        "seed": config.seed,
        "decoder": "decord",
        "decoder_version": "0.6.0",
        "matmul_precision": "highest",
    }
    predictions = _predictions(random)
    result = {**counts, **timed, **trained, **score(predictions)}
    synthetic_runs.write_run(runs, config.run_id, config.to_dict(), result, **circumstances)
    folder = runs / config.run_id
    write_predictions(folder / layout.PREDICTIONS, predictions)
    write_tables(folder, predictions)
    (folder / layout.MEASUREMENT).write_text(json.dumps(measured))
    lines = [{"step": step, "steps": 40, "loss": 20 / step, "clips_per_s": 91.0} for step in (20, 40)]
    (folder / layout.METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))


def _counts(config: RunConfig) -> dict[str, Any]:
    model = create_model(config.model.name, num_classes=len(CLASSES), **config.model.changes())
    count, num_views = count_macs(model), config.evaluate.num_clips
    return {
        "params_m": sum(parameter.numel() for parameter in model.parameters()) / 1e6,
        "gmacs_per_view": count.total / 1e9,
        "macs_head_included": count.head_included,
        "num_views": num_views,
        "gmacs_total": num_views * count.total / 1e9,
        "gflops_total": 2 * num_views * count.total / 1e9,
        "train_gmacs_per_clip": count_training_macs(model).total / 1e9,
        "num_classes": len(CLASSES),
    }


def _measurement(config: RunConfig, random: np.random.Generator) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `measurement.json` holds, and what a result says of it."""
    samples, pass_ms = random.normal(10, 0.2, 20).tolist(), 9.9
    p20, p50, p80 = np.quantile(samples, (0.2, 0.5, 0.8)).tolist()
    details = {
        "samples_ms": samples,
        "pass_ms": pass_ms,
        "doubt": "",
        "flags": ["other processes used 0.3 cores"],
        "gate": {"compared_with": "twins", "num_twins": 2, "error": 1e-7, "tolerance": 1e-4},
        "compile_s": None,
        "energy": {"source": "rapl", "idle_w": 10.0, "busy_w": 30.0, "passes": 100},
    }
    told = {
        "latency_ms_p20": p20,
        "latency_ms_p50": p50,
        "latency_ms_p80": p80,
        "throughput_clips_per_s": config.measure.batch_size / pass_ms * 1e3,
        "peak_mem_gib": 0.01,
        "energy_j_per_clip": 0.1,
        "roofline_ms": 4.0,
        "flags": details["flags"],
        "gate": "twins",
    }
    return details, told


def _predictions(random: np.random.Generator) -> Predictions:
    """Of as many videos of each class, most of them told right."""
    labels = torch.arange(VIDEOS) % len(CLASSES)
    logits = torch.from_numpy(random.normal(0, 1, (VIDEOS, len(CLASSES)))).float()
    logits[range(VIDEOS), labels] += 1.5
    files = tuple(f"test/{number}.mp4" for number in range(VIDEOS))
    return Predictions(CLASSES, files, labels, logits.softmax(dim=1), factors=FACTORS)
