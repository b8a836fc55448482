"""Stand-ins for a training run, small enough to start by the dozen. Each takes the run's folder, as a worker does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

from dualformer.results.files import append_line
from dualformer.results.result import Result, append_metrics, write_result
from slurm.task import leads


def _finish(folder: Path) -> None:
    append_line(folder / "computed.jsonl", {"pid": os.getpid()})
    write_result(folder, Result(run_id=folder.name, status="ok", top1=0.5))


def _seed(folder: Path) -> int:
    return json.loads((folder / "config.json").read_text())["seed"]


def ok(folder: Path) -> None:
    """Finishes at once."""
    _finish(folder)


def slow(folder: Path) -> None:
    """Finishes after a second of steps."""
    for step in range(1, 6):
        append_metrics(folder, {"step": step, "steps": 5})
        time.sleep(0.2)
    _finish(folder)


def sees_gpus(folder: Path) -> None:
    """Leaves, from each of its processes, when it ran and which GPUs it was given."""
    start = time.time()
    time.sleep(1)
    seen = {"start": start, "end": time.time(), "gpus": os.environ["CUDA_VISIBLE_DEVICES"]}
    append_line(folder / "seen.jsonl", seen)
    if leads():
        time.sleep(0.5)
        _finish(folder)


def sees_environment(folder: Path) -> None:
    """Leaves its environment, and finishes."""
    (folder / "seen.json").write_text(json.dumps(dict(os.environ)))
    _finish(folder)


def drawing(folder: Path) -> None:
    """Says what it waits for, and finishes."""
    print("embedded data set: drawing and encoding: 8/4608 clips", flush=True)
    time.sleep(2)
    _finish(folder)


def endless(folder: Path) -> None:
    """Does not finish by itself."""
    append_metrics(folder, {"step": 1, "steps": 1000})
    time.sleep(600)


def seed_1_raises(folder: Path) -> None:
    """One run of the sweep fails."""
    if _seed(folder) == 1:
        raise ValueError("seed 1 is unlucky")
    _finish(folder)


def killed(folder: Path) -> None:
    """Dies as a process does that runs out of memory."""
    print("last words", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def killed_once(folder: Path) -> None:
    """Dies at the first attempt and finishes at the second."""
    if not (folder / "died").exists():
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    _finish(folder)


def forgetful(folder: Path) -> None:
    """Ends well without a result."""


def preempted_once(folder: Path) -> None:
    """Waits for the warning that Slurm sends before it takes a node away; carries on at the next start."""
    if not (folder / "warned").exists():
        (folder / "warned").touch()
        time.sleep(600)
    _finish(folder)


def greedy(folder: Path) -> None:
    """Takes more memory than anyone was promised."""
    held = []
    for _ in range(60):
        held.append(bytearray(os.urandom(1)) * 100_000_000)
        time.sleep(0.2)


def trained(folder: Path) -> None:
    """Trains for real and keeps the weights."""
    from sweeps.run import execute

    execute(folder)
    if leads():
        newest = sorted(folder.glob("checkpoints/[0-9]*.pt"))[-1]
        shutil.copy(newest, folder / "kept.pt")
