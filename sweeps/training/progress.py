"""What a training says of itself while it runs: lines of `metrics.jsonl`, the same on the terminal, and their sums."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from dualformer.results.result import append_metrics
from sweeps.training.schedule import Schedule
from sweeps.training.tracking import Track

T = TypeVar("T")


class Progress:
    """Means over the steps since the last line, and figures of the whole training.

    Attributes:
        failures: what is wrong with the training videos that could not be read so far.
        best: highest top-1 accuracy on the held-out videos so far; below 0 where there was none.
    """

    _COUNTED = ("clips", "total_clips", "last_loss", "best", "waited_s", "total_waited_s")

    def __init__(self, run_dir: Path, schedule: Schedule, track: Track = lambda line: None) -> None:
        self.run_dir, self.schedule, self.track = run_dir, schedule, track
        self.failures: set[str] = set()
        self.best = -1.0
        self.losses: list[float] = []
        self.clips, self.total_clips, self.last_loss = 0, 0, math.nan
        self.waited_s, self.total_waited_s = 0.0, 0.0
        self.began = self.since = time.perf_counter()

    def timed(self, batches: Iterable[T]) -> Iterator[T]:
        """Passes batches on and adds up how long each was waited for."""
        batches = iter(batches)
        while True:
            asked = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self.waited_s += time.perf_counter() - asked
            yield batch

    def step(self, step: int, loss: float, rate: float, clips: int) -> None:
        """Takes the figures of the step with this number, from 0."""
        self.losses.append(loss)
        self.clips += clips
        self.total_clips += clips
        if (step + 1) % self.schedule.config.log_every and step + 1 < self.schedule.end:
            return
        now = time.perf_counter()
        self.last_loss = sum(self.losses) / len(self.losses)
        line = {
            "step": step + 1,
            "steps": self.schedule.end,
            "loss": self.last_loss,
            "lr": rate,
            "clips_per_s": self.clips / (now - self.since),
            "data_wait_share": self.waited_s / (now - self.since),
        }
        self._write(line)
        text = "step {step}/{steps}  loss {loss:.4f}  {clips_per_s:.3g} clips/s, {data_wait_share:.0%} waiting for data"
        print(text.format(**line), flush=True)
        self.total_waited_s += self.waited_s
        self.losses, self.clips, self.waited_s, self.since = [], 0, 0.0, now

    def held_out(self, step: int, top1: float) -> bool:
        """Takes the accuracy after the step with this number; returns whether it is the best so far."""
        self._write({"step": step + 1, "steps": self.schedule.end, "held_out_top1": top1})
        print(f"step {step + 1}/{self.schedule.end}  held-out top-1 {top1:.4f}", flush=True)
        best, self.best = self.best, max(self.best, top1)
        return top1 > best

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves what is done inside out of all rates."""
        paused = time.perf_counter()
        yield
        took = time.perf_counter() - paused
        self.began, self.since = self.began + took, self.since + took

    def summary(self) -> dict[str, float]:
        """Figures of the whole training, the time of lost attempts left out."""
        if not self.total_clips:
            return {}
        elapsed = time.perf_counter() - self.began
        return {
            "final_train_loss": self.last_loss,
            "train_clips_per_s": self.total_clips / elapsed,
            "data_wait_share": (self.total_waited_s + self.waited_s) / elapsed,
        }

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to report as if it had never stopped."""
        now = time.perf_counter()
        return {
            **{name: getattr(self, name) for name in self._COUNTED},
            "losses": list(self.losses),
            "failures": sorted(self.failures),
            "elapsed": now - self.began,
            "elapsed_line": now - self.since,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from `state_dict`."""
        now = time.perf_counter()
        for name in self._COUNTED:
            setattr(self, name, state[name])
        self.losses, self.failures = list(state["losses"]), set(state["failures"])
        self.began, self.since = now - state["elapsed"], now - state["elapsed_line"]

    def _write(self, line: Mapping[str, Any]) -> None:
        append_metrics(self.run_dir, line)
        self.track(line)
