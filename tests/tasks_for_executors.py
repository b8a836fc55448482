"""Functions that the tests of executors run in other processes; each takes a folder of its own."""

import json
import os
import signal
import time
from pathlib import Path


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
