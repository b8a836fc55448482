"""Everything that can be said about one run, as one frozen, serialisable value: the schema of a grid's fields.

A run's identity is its content: the full resolved config, hashed. Editing a default therefore makes a new run, and
nothing about when, where or by which command a run was started can make one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any, Literal

from dualformer.config import Config, ConfigError, flatten
from dualformer.data.dataset import DataConfig
from sweeps.record import MEASUREMENT_VERSION

IRRELEVANT_FIELDS = ("train.log_every", "train.save_every", "train.num_workers", "evaluate.num_workers")
"""Fields, by dotted path, that can't change what a run comes to; `resources` as a whole is the other exception."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelChoice(Config):
    """Which network; None means the published value.

    Attributes:
        name: a name of `dualformer.list_models()`.
        num_frames: frames of a clip (T).
        crop_size: pixels of a clip, one number or (height, width).
        attention: pattern over the blocks of every stage, such as "LG"; only `dualformer_*` models have one.
        overrides: any other fields of that model's config.
    """

    name: str = "dualformer_tiny"
    num_frames: int | None = None
    crop_size: tuple[int, int] | int | None = None
    attention: str | None = None
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)

    def changes(self) -> dict[str, Any]:
        """Returns what this choice changes of the published config, as arguments of `dualformer.create_model`."""
        named = {field: getattr(self, field) for field in ("num_frames", "crop_size", "attention")}
        return {**{field: value for field, value in named.items() if value is not None}, **self.overrides}

    def check(self) -> None:
        twice = {"name", "num_frames", "crop_size", "attention", "num_classes"} & set(self.overrides)
        if twice:
            raise ConfigError(f"overrides: '{min(twice)}' is not for overrides (num_classes comes with the data)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """How the network is trained.

    Attributes:
        steps: optimiser steps; 0 means no training and no accuracy.
        learning_rate: peak of a linear warm-up and cosine decay.
        save_every: steps between checkpoints; 0 means none.
        num_workers: processes that decode videos ahead; 0 decodes in the training process.
    """

    steps: int = 0
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup_steps: int = 50
    label_smoothing: float = 0.0
    log_every: int = 20
    save_every: int = 0
    num_workers: int = 0

    def check(self) -> None:
        _at_least(self, 0, "steps", "learning_rate", "weight_decay", "warmup_steps", "label_smoothing", "save_every")
        _at_least(self, 0, "num_workers")
        _at_least(self, 1, "batch_size", "log_every")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Config):
    """How accuracy is taken: softmax averaged over `num_clips` x `num_crops` views of every held-out video."""

    num_clips: int = 1
    num_crops: int = 1
    batch_size: int = 32
    num_workers: int = 0

    def check(self) -> None:
        _at_least(self, 1, "num_clips", "num_crops", "batch_size")
        _at_least(self, 0, "num_workers")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasureConfig(Config):
    """How speed, memory and energy are taken.

    Attributes:
        latency: whether to time the network at all.
        batch_size: clips of one timed forward pass; never changed to make something fit.
        precision: of matrix work; weights stay float32, the others go through autocast.
        tf32: whether float32 matrix work may use the GPU's TF32 units.
        compile: "blocks" sends every transformer block through `torch.compile`, shapes fixed.
        attention_backend: kernel of `scaled_dot_product_attention`; "auto" leaves the choice to torch.
        samples: timed forward passes.
        warmup: fewest forward passes before the first timed one; more follow until the times settle.
        warmup_limit: most forward passes before timing starts anyway, which is noted.
        settled: the times have settled when the medians of the last three passes and of the three before them differ
            by at most this fraction.
    """

    latency: bool = True
    batch_size: int = 1
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    tf32: bool = False
    compile: Literal["off", "blocks"] = "off"
    attention_backend: Literal["auto", "math", "flash", "efficient", "cudnn"] = "auto"
    samples: int = 20
    warmup: int = 6
    warmup_limit: int = 60
    settled: float = 0.05

    def check(self) -> None:
        _at_least(self, 1, "batch_size", "samples")
        _at_least(self, 6, "warmup")
        _at_least(self, self.warmup, "warmup_limit")
        _at_least(self, 0, "settled")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResourceConfig(Config):
    """What a cluster must lend the run; None means what the profile says. No part of the run's identity."""

    nodes: int | None = None
    gpus_per_node: int | None = None
    mem_gib: float | None = None
    time_min: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig(Config):
    """One run. Fields are written as dotted paths in grids and in `--set`, such as `model.attention`.

    Attributes:
        seed: of weights, data order and augmentation.
        threads: CPU threads of the run.
        device: "auto" means CUDA where there is one.
    """

    seed: int = 0
    threads: int = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    model: ModelChoice = dataclasses.field(default_factory=ModelChoice)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = dataclasses.field(default_factory=EvaluateConfig)
    measure: MeasureConfig = dataclasses.field(default_factory=MeasureConfig)
    resources: ResourceConfig = dataclasses.field(default_factory=ResourceConfig)

    def check(self) -> None:
        _at_least(self, 0, "seed")
        _at_least(self, 1, "threads")

    @property
    def run_id(self) -> str:
        """The run's identity: 12 hexadecimal digits of the hash of all that can change its outcome."""
        content = {
            field: value
            for field, value in flatten(self.to_dict()).items()
            if field not in IRRELEVANT_FIELDS and not field.startswith("resources.")
        }
        text = json.dumps([MEASUREMENT_VERSION, content], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def _at_least(config: Config, least: int, *fields: str) -> None:
    for field in fields:
        if getattr(config, field) < least:
            raise ConfigError(f"{field} must be at least {least}, got {getattr(config, field)!r}")
