"""What must hold of a sweep after the fault campaign, against the one that was left in peace."""

from __future__ import annotations

import itertools
from pathlib import Path

from dualformer.results.files import read_lines
from dualformer.results.result import read_result
from sweeps.launching import ledger
from sweeps.source import code_hash
from tests.slurm.faults import FAULTS, Campaign

SAVE_EVERY = 10
TIMED = ("train_clips_per_s", "data_wait_share")
"""Fields of a result that depend on time."""


def verdict(campaign: Campaign) -> dict[str, list[str]]:
    """Returns what did not hold, by requirement; all lists are empty where everything did."""
    broken: dict[str, list[str]] = {"present": [], "once": [], "steps": [], "equal": [], "code": []}
    broken["faults"] = [fault.__name__ for fault in FAULTS if not campaign.faults[fault.__name__]]
    broken["alone"] = sorted(campaign.unclaimed)
    launched = code_hash(campaign.folder / "code")
    for run_dir in campaign.run_dirs():
        name, events = run_dir.name, ledger.read(run_dir)
        result, calm = read_result(run_dir), read_result(campaign.folder / "calm" / run_dir.name)
        broken["code"] += [name for event in events if event["event"] == "start" and event["code"] != launched]
        if result is None or result.status != "ok":
            broken["present"].append(f"{name}: {result.reason if result else 'no result'}")
            continue
        ends = sum(event["event"] == "end" for event in events)
        if ends > 1 + campaign.torn_results[name] + campaign.removed[name]:
            broken["once"].append(f"{name}: computed {ends} times")
        back = furthest_back(run_dir)
        allowed = SAVE_EVERY * ((2 if campaign.torn_checkpoints[name] else 1) + unsaved_checkpoints(run_dir))
        if back > allowed and not campaign.torn_results[name] and not campaign.removed[name]:
            broken["steps"].append(f"{name}: went back {back} steps")
        if timeless(result.to_dict()) != timeless(calm.to_dict()) or not same_predictions(run_dir, campaign.folder):
            broken["equal"].append(name)
    return broken


def unsaved_checkpoints(run_dir: Path) -> int:
    """Returns how many checkpoints could not be written, by the run's log."""
    return (run_dir / "log").read_text(errors="replace").count("UserWarning: no checkpoint at step")


def furthest_back(run_dir: Path) -> int:
    """Returns by how many steps training went back at most, by its own log."""
    steps = [line["step"] for line in read_lines(run_dir / "metrics.jsonl")]
    return max((before - after + 1 for before, after in itertools.pairwise(steps)), default=0)


def timeless(result: dict[str, object]) -> dict[str, object]:
    return {field: value for field, value in result.items() if field not in TIMED}


def same_predictions(run_dir: Path, folder: Path) -> bool:
    calm = folder / "calm" / run_dir.name / "predictions.csv"
    return (run_dir / "predictions.csv").read_bytes() == calm.read_bytes()
