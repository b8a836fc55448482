"""Functions that the tests of executors run in other processes; each takes a folder of its own."""

import json
import os
import signal
import time
from pathlib import Path

from slurm.task import leads


def span(folder: str) -> None:
    """Leaves the times between which it ran, and what it was given."""
    start = time.time()
    time.sleep(0.5)
    given = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")}
    Path(folder, "span.jsonl").write_text(json.dumps({"start": start, "end": time.time(), **given}))


def sleep(folder: str) -> None:
    """Runs until it is ended."""
    Path(folder, "pid").write_text(str(os.getpid()))
    time.sleep(600)


def die(folder: str) -> None:
    """Dies as a process does that runs out of memory."""
    print("before the end", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def fail(folder: str) -> None:
    """Raises."""
    print("before the end", flush=True)
    raise ValueError("no luck")


def die_unless_leader(folder: str) -> None:
    """One process of a task dies, and the first would wait for it."""
    if not leads():
        os.kill(os.getpid(), signal.SIGKILL)
    Path(folder, "pid").write_text(str(os.getpid()))
    time.sleep(600)


def place(folder: str) -> None:
    """Leaves what each of several processes was told, and the sum of their ranks, plus one, by way of torch."""
    import torch
    from torch import distributed

    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    told = {name: os.environ.get(name) for name in (*names, "CUDA_VISIBLE_DEVICES")}
    distributed.init_process_group("gloo")
    total = torch.tensor(1.0 + distributed.get_rank())
    distributed.all_reduce(total)
    distributed.destroy_process_group()
    found = {**told, "leads": leads(), "sum": total.item()}
    Path(folder, f"place-{told['RANK']}.json").write_text(json.dumps(found))


def see(folder: str) -> None:
    """Leaves its environment."""
    Path(folder, "seen.json").write_text(json.dumps(dict(os.environ)))
