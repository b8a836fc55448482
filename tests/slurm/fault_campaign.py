"""A sweep on a private Slurm cluster while everything that can happen to it does, against one that is left in peace.

    python tests/fault_campaign.py                          # 40 runs, some 10 minutes on two cores
    python tests/fault_campaign.py --runs 5 --faults 0      # each kind of fault once

Every run trains a small network on real video files with a checkpoint every few steps. While launchers work on the
sweep, faults of all kinds come in random order: jobs are queued again, preempted, warned and cancelled by signal;
workers and launchers are killed; a second launcher joins, a second process starts on a run; nodes, slurmd and
slurmctld go away and come back; nodes can't launch what they are given; the disk fills up; checkpoints and results are
torn; run folders are removed; jobs that wait are cancelled; a launch comes from within a job; the code is edited, while
runs start and while they wait. In the end it must hold that

* every kind of fault came about,
* every run is there and ok, and was computed to its end once (once more for every result that was torn, and for every
  removal of its folder),
* no process worked on a run whose claim another one held,
* steps never went back by more than a save interval (two where a checkpoint was torn, and one more for each that a full
  disk did not take),
* all that doesn't depend on time equals the undisturbed sweep, bit for bit,
* every process ran the code that was launched.

How long it takes depends on the machine, so it fails when nothing has come forward for some minutes, not by the clock.
Needs what `slurm/cluster.sh` needs. Exit status: 0 all held, 1 something did not.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import argparse
import json
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable

import yaml

from dualformer.results.files import read_lines
from dualformer.results.layout import SNAPSHOTS
from dualformer.results.result import read_result
from sweeps.source import PACKAGES, ROOT
from tests.helpers.small_run import MODEL, write_bright_and_dark
from tests.slurm.campaign_verdict import SAVE_EVERY, verdict
from tests.slurm.faults import DISK_MB, FAULTS, LAUNCH, Campaign, run_cluster, write_prolog
from tests.slurm.test_slurm import free_ports

STEPS = 120

_PAUSE_S = 1.0


def prepare(folder: Path, num_runs: int) -> None:
    """Writes data, code, grid and profile."""
    write_bright_and_dark(folder / "data")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / "code" / package, ignore=shutil.ignore_patterns("__pycache__"))
    grid = {
        "base": {
            "model": MODEL,
            "data": {"root": "data"},
            "train": {
                "steps": STEPS, "batch_size": 4, "warmup_steps": 2, "log_every": 1, "save_every": SAVE_EVERY
            },
            "measure": {"latency": False},
        },
        "axes": {"seed": list(range(num_runs))},
    }  # fmt: skip
    (folder / "campaign.yaml").write_text(yaml.safe_dump(grid))
    profile = {"partition": "normal", "mem_gib": 1.0, "time_min": 30, "signal_delay_s": 30, "max_attempts": 100}
    (folder / "profile.yaml").write_text(yaml.safe_dump(profile))


def undisturbed(folder: Path) -> None:
    """The same grid by the local executor, with nobody in the way."""
    command = [sys.executable, *LAUNCH, "--runs", "calm", "--executor", "local"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the undisturbed sweep failed: {done.stdout}{done.stderr}")


class Patience:
    """Ends when nothing has come forward for a while: no fault, no result, no step beyond the furthest."""

    def __init__(self, campaign: Campaign, minutes: float) -> None:
        self._campaign = campaign
        self._seconds = 60 * minutes
        self._furthest: dict[str, int] = {}
        self._best = (0, 0, 0)
        self._since = time.monotonic()

    @property
    def lasts(self) -> bool:
        for run_dir in self._campaign.run_dirs():
            step = max((line["step"] for line in read_lines(run_dir / "metrics.jsonl")), default=0)
            self._furthest[run_dir.name] = max(step, self._furthest.get(run_dir.name, 0))
        finished = sum(read_result(run_dir) is not None for run_dir in self._campaign.run_dirs())
        now = (sum(self._campaign.faults.values()), finished, sum(self._furthest.values()))
        if any(value > best for value, best in zip(now, self._best, strict=True)):
            self._best = tuple(map(max, now, self._best))
            self._since = time.monotonic()
        return time.monotonic() - self._since < self._seconds


def disturb(campaign: Campaign, num_faults: int, minutes: float) -> None:
    """Lets each kind of fault happen and `num_faults` in all, then lets the sweep come to its end."""
    pending: list[Callable[[Campaign], bool]] = []
    patience = Patience(campaign, minutes)
    while not (len(campaign.faults) == len(FAULTS) and campaign.faults.total() >= num_faults) and patience.lasts:
        campaign.watch()
        campaign.look_after()
        pending = pending or campaign.random.sample(FAULTS, len(FAULTS))
        # A sweep that is through offers no occasion for most faults, until a torn result makes work again.
        fault = Campaign.tear_result if campaign.done() else pending.pop()
        if fault(campaign):
            campaign.faults[fault.__name__] += 1
            print(f"{campaign.faults.total():4} {fault.__name__}", flush=True)
        elif not campaign.done():
            pending.insert(0, fault)
        time.sleep(_PAUSE_S)
    while not (campaign.done() and campaign.quiet()) and patience.lasts:
        campaign.watch()
        if not campaign.done():
            campaign.look_after()
        time.sleep(1)


def run_campaign(folder: Path, *, num_runs: int, num_faults: int, seed: int, minutes: float, port: int | None) -> bool:
    """Runs a campaign in `folder`, prints its report and writes it to `report.json`; returns whether all held."""
    prepare(folder, num_runs)
    cluster = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    environment = {**os.environ, "CLUSTER_DIR": str(cluster)}
    write_prolog(environment)
    os.environ["SLURM_CONF"] = str(cluster / "slurm.conf")
    campaign = Campaign(folder, environment, random.Random(seed))
    campaign.runs.mkdir()
    small_disk = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(campaign.runs)]
    subprocess.run(small_disk, check=True)
    try:
        undisturbed(folder)
        print(f"the undisturbed sweep of {num_runs} runs is there; now the other", flush=True)
        environment["PORT"] = str(port or free_ports(20))
        run_cluster(environment, "up")
        disturb(campaign, num_faults, minutes)
        broken = verdict(campaign)
        report = {
            "runs": num_runs,
            "attempts": campaign.num_attempts(),
            "faults_survived": dict(sorted(campaign.faults.items())),
            "crashes_of_slurmctld": campaign.crashes,
            "seed": seed,
            "broken": broken,
        }
    finally:
        clear_away(campaign)
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))
    return not any(broken.values())


def clear_away(campaign: Campaign) -> None:
    """Ends all that the campaign started, and keeps its logs and run folders."""
    cluster = Path(campaign.cluster["CLUSTER_DIR"])
    for process in [*campaign.launchers, *campaign.doubles]:
        process.kill()
    try:
        run_cluster(campaign.cluster, "down")
        if (cluster / "log").exists():
            shutil.copytree(cluster / "log", campaign.folder / "cluster-log")
        shutil.copytree(campaign.runs, campaign.folder / "runs-kept", ignore=shutil.ignore_patterns(SNAPSHOTS))
    finally:
        shutil.rmtree(cluster, ignore_errors=True)
        subprocess.run(["umount", "--lazy", str(campaign.runs)], check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=40, help="runs of the sweep")
    parser.add_argument("--faults", type=int, default=60, help="fewest faults; each kind comes at least once")
    parser.add_argument("--seed", type=int, default=0, help="of the order of faults")
    parser.add_argument("--minutes", type=float, default=4, help="without progress, after which it has failed")
    parser.add_argument("--port", type=int, help="first port of the private cluster (default: some that are free)")
    parser.add_argument("--folder", type=Path, help="kept afterwards (default: a temporary one)")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="fault-campaign-"))
    folder.mkdir(parents=True, exist_ok=True)
    limits = {"num_runs": options.runs, "num_faults": options.faults, "minutes": options.minutes}
    print(f"campaign in {folder}", flush=True)
    return 0 if run_campaign(folder.resolve(), seed=options.seed, port=options.port, **limits) else 1


if __name__ == "__main__":
    sys.exit(main())
