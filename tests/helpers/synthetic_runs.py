"""Run folders as a sweep leaves them, with invented numbers: what the tests of `analysis` read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dualformer.results import layout

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PROVENANCE = {
    "commit": COMMIT,
    "dirty": False,
    "command": "python sweeps/launch.py --grid ablations.yaml",
    "device": "cpu",
    "device_name": "Example(R) CPU 3000",
    "threads": 1,
    "measurement_version": 1,
    "python": "3.11.9",
    "torch": "2.13.0",
    "numpy": "2.3.0",
    "attention_backends": ["flash", "math"],
    "host": "a-secret-host",
    "started_utc": "2026-01-02T03:04:05+00:00",
    "finished_utc": "2026-01-02T03:05:05+00:00",
}
PATTERNS = {"LL": (0.52, 0.99, 0.11), "LS": (0.61, 0.99, 0.11), "GG": (0.98, 0.52, 0.14), "LG": (0.99, 0.98, 0.13),
            "DD": (0.83, 0.96, 0.12), "FF": (1.0, 1.0, 0.21)}  # fmt: skip
"""Attention pattern, fixed since tests count them -> accuracy of relation, accuracy of motion, GMACs per view."""

NUM_VIDEOS = 256

PUBLISHED_SIZES = {
    "dualformer_tiny": 60.088, "dualformer_small": 158.687, "dualformer_base": 267.965, "video_swin_tiny": 88.06,
    "video_swin_small": 166.12, "video_swin_base": 281.92, "timesformer_divided": 195.9, "timesformer_joint": 179.6,
    "timesformer_space": 140.6, "vivit_base": 451.6,
}  # fmt: skip


def write_run(
    runs: Path, run_id: str, config: dict[str, Any], result: dict[str, Any] | None, **provenance: Any
) -> None:
    """Writes one run's folder; `result=None` leaves it unfinished."""
    folder = runs / run_id
    folder.mkdir(parents=True)
    (folder / layout.CONFIG).write_text(json.dumps(config))
    (folder / layout.PROVENANCE).write_text(json.dumps({**PROVENANCE, **provenance}))
    if result is not None:
        record = {"schema_version": 1, "run_id": run_id, "status": "ok", "reason": "", **result}
        (folder / layout.RESULT).write_text(json.dumps(record))


def write_grid(runs: Path, grid: str, differs: dict[str, dict[str, Any]]) -> None:
    """Writes a grid's launch record; `differs` maps each run id to the fields that make it differ from the others."""
    runs.mkdir(parents=True, exist_ok=True)
    listed = [{"run_id": run_id, "differs": fields} for run_id, fields in differs.items()]
    record = {"grid": grid, "text": "base: {}\n", "commit": COMMIT, "runs": listed}
    (runs / f"{grid}{layout.LAUNCH_RECORD}").write_text(json.dumps(record))


def config(attention: str | None, *, name: str = "dualformer_tiny", frames: int = 8, side: Any = 32) -> dict[str, Any]:
    """The part of a run's configuration that analysis looks at."""
    model = {"name": name, "num_frames": frames, "crop_size": side, "attention": attention, "overrides": {}}
    return {"seed": 0, "threads": 1, "model": model, "data": {"root": "embedded"}, "train": {"steps": 500}}


def counted(gmacs: float) -> dict[str, Any]:
    """Cost fields of a result that go with `gmacs` per view."""
    latency = 40 * gmacs**0.9
    return {
        "params_m": 1.2, "gmacs_per_view": gmacs, "macs_head_included": True, "num_views": 1, "gmacs_total": gmacs,
        "gflops_total": 2 * gmacs, "latency_ms_p50": latency, "latency_ms_p20": 0.95 * latency,
        "latency_ms_p80": 1.2 * latency, "peak_mem_gib": 0.4 + gmacs / 50,
    }  # fmt: skip


def write_ablations(runs: Path) -> None:
    """Six patterns and a seventh run for every way of not being finished: failed, started, never started."""
    differs = {}
    for number, (pattern, (relation, motion, gmacs)) in enumerate(PATTERNS.items()):
        run_id = f"{number:012x}"
        differs[run_id] = {"model.attention": pattern}
        shares = {"top1": relation * motion, "top1_relation": relation, "top1_motion": motion}
        scores = {name: round(share * NUM_VIDEOS) / NUM_VIDEOS for name, share in shares.items()}
        scores |= {"num_videos": NUM_VIDEOS, "num_failed_videos": 0, "num_classes": 4, "chance_top1": 0.25}
        trained = {"train_clips_per_s": 100.0, "final_train_loss": 0.5}
        write_run(runs, run_id, config(pattern), {**counted(gmacs), **scores, **trained})
    differs |= {
        "a" * 12: {"model.attention": "LD"},
        "b" * 12: {"model.attention": "LF"},
        "c" * 12: {"model.attention": "GF"},
    }
    write_run(
        runs, "a" * 12, config("LD"), {"status": "error", "reason": "loss is NaN at\nstep 40", "gmacs_per_view": 0.12}
    )
    write_run(runs, "b" * 12, config("LF"), None)
    write_grid(runs, "ablations", differs)


def write_scaling(runs: Path) -> None:
    """GMACs growing with frames and side, faster for full attention, whose largest run is out of memory."""
    differs = {}
    shapes = [(frames, 112) for frames in (8, 16, 32, 64)] + [(16, side) for side in (56, 224, 448)] + [(64, 448)]
    for pattern, power in (("LL", 1.0), ("LG", 1.05), ("DD", 1.15), ("FF", 1.6)):
        for frames, side in shapes:
            run_id = f"{len(differs) + 4096:012x}"
            tokens = frames / 2 * (side / 4) ** 2 / 6272
            result = counted(7.5 * tokens**power)
            if pattern == "FF" and tokens > 10:
                result = {"status": "oom", "reason": "CUDA out of memory", "gmacs_per_view": result["gmacs_per_view"]}
            differs[run_id] = {"model.attention": pattern, "model.num_frames": frames, "model.crop_size": side}
            write_run(runs, run_id, config(pattern, frames=frames, side=side), result)
    write_grid(runs, "scaling", differs)


def write_published_sizes(runs: Path) -> None:
    """Counts of the published models at their published input, nothing trained and nothing timed."""
    differs = {}
    for number, (name, gmacs) in enumerate(PUBLISHED_SIZES.items()):
        run_id = f"{number + 65536:012x}"
        differs[run_id] = {"model.name": name}
        counts = {"gmacs_per_view": gmacs, "macs_head_included": True, "num_views": 1, "gmacs_total": gmacs}
        write_run(runs, run_id, config(None, name=name, frames=32, side=224), {**counts, "gflops_total": 2 * gmacs})
    write_grid(runs, "published_sizes", differs)


def write_all(runs: Path) -> Path:
    """All three grids; returns `runs`."""
    write_ablations(runs)
    write_scaling(runs)
    write_published_sizes(runs)
    return runs
