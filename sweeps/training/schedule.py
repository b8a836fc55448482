"""How long a training is, and its learning rate at every step: a function of (config, number of clips, step)."""

from __future__ import annotations

import dataclasses
import math

from sweeps.run_config import TrainConfig


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A training's length and rates.

    Attributes:
        config: what was asked for.
        steps: optimiser steps of the schedule.
        warmup_steps: steps of the linear warm-up, the first of `steps`.
        end: steps that are done: fewer than `steps` where the config stops early.
    """

    config: TrainConfig
    steps: int
    warmup_steps: int
    end: int

    @classmethod
    def of(cls, config: TrainConfig, num_clips: int) -> Schedule:
        """The schedule of a training on `num_clips` clips; epochs become steps, rounded up."""
        steps = config.steps if config.epochs is None else _steps(config.epochs, config, num_clips)
        warmup = (
            config.warmup_steps if config.warmup_epochs is None else _steps(config.warmup_epochs, config, num_clips)
        )
        return cls(config, steps, warmup, steps if config.stop_after is None else min(steps, config.stop_after))

    def rate(self, step: int) -> float:
        """Learning rate of the step with this number, from 0: linear warm-up to the peak, then as the config says."""
        peak = self.config.learning_rate
        if step < self.warmup_steps:
            return peak * (step + 1) / self.warmup_steps
        if self.config.schedule == "step":
            passed = sum(step >= round(share * self.steps) for share in self.config.milestones)
            return peak * self.config.decay**passed
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return peak * 0.5 * (1 + math.cos(math.pi * done))


def _steps(epochs: float, config: TrainConfig, num_clips: int) -> int:
    # 1.1 epochs of 10 clips are 11 clips, although 1.1 x 10 is a little more in binary.
    return math.ceil(round(epochs * num_clips / config.batch_size, 9))
