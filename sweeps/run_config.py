"""Everything that can be said about one run, as one frozen, serialisable value: the schema of a grid's fields.

A run's identity is its content: the full resolved config, hashed, with the network's own, published values included,
down to the options of each block's attention. Editing a default, here, of a model or of an attention, therefore makes a
new run; two spellings of one network make the same one; and nothing about when, where or by which command a run was
started can make one.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from dualformer.config import IRRELEVANT, Config, ConfigError, flatten, irrelevant
from dualformer.config_fields import ConfigField, fields_of
from dualformer.data.config import DataConfig
from dualformer.optim import Rule
from dualformer.results.result import MEASUREMENT_VERSION
from slurm.times import IN_MINUTES

MOST_SEED = 2**32 - 1
"""The largest that every generator takes: NumPy's has the fewest bits."""
MOST = 10**9
"""Beyond it numbers mean nothing here: steps take years, and float32 has no room for a rate's square."""
MOST_CLIPS = 10**6
"""Of one batch."""
MOST_SAMPLES = 10**6
"""Timed passes, each of which is kept."""
MOST_WORKERS = 1024
"""Processes that decode for one process of a run."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelChoice(Config):
    """Which network; None means the published value.

    Attributes:
        name: a name of `dualformer.list_models()`.
        num_frames: frames of a clip (T).
        crop_size: pixels of a clip, one number or (height, width).
        attention: pattern over the blocks of every stage, such as "LG"; only `dualformer_*` models have one.
        weights: file of weights to start from, in any layout of `dualformer.load_weights`; 2D ones are inflated, those
            of other clip sizes interpolated, a head of another number of classes replaced. None starts at random.
        weight_set: which weights to take of a file that holds several sets, such as "model_ema" beside "model"; None
            takes those that were trained.
        overrides: any other fields of that model's config.
    """

    name: str = "dualformer_tiny"
    num_frames: int | None = None
    crop_size: tuple[int, int] | int | None = None
    attention: str | None = None
    weights: str | None = None
    weight_set: str | None = None
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)

    def changes(self) -> dict[str, Any]:
        """Returns what this choice changes of the published config, as arguments of `dualformer.create_model`."""
        named = {field: getattr(self, field) for field in ("num_frames", "crop_size", "attention")}
        return {**{field: value for field, value in named.items() if value is not None}, **self.overrides}

    def check(self) -> None:
        twice = {"name", "num_frames", "crop_size", "attention", "num_classes"} & set(self.overrides)
        if twice:
            raise ConfigError(f"overrides: '{min(twice)}' is not for overrides (num_classes comes with the data)")
        if self.weight_set is not None and self.weights is None:
            raise ConfigError(f"weight_set: no weights to take '{self.weight_set}' from; name their file as weights")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenLabelConfig(Config):
    """Token labelling: a frozen teacher says what every token of the student shows (DualFormer, section 4.3).

    Attributes:
        teacher: a model of `dualformer.list_models()`; None means that there is no token labelling.
        weights: file of the teacher's weights.
        weight_set: which of its sets of weights, where it holds several; None takes those that were trained.
        overrides: fields of the teacher's config, clip and classes apart, which are the student's.
        weight: share of the tokens' loss in the whole; the clip's has the rest.
        top_k: classes of a token that keep the teacher's logit; the others' is zero.
    """

    teacher: str | None = None
    weights: str | None = None
    weight_set: str | None = None
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)
    weight: float = 0.5
    top_k: int = 5

    def check(self) -> None:
        _within(self, 0, 1, "weight")
        _within(self, 1, MOST, "top_k")
        if self.teacher is None and (self.weights or self.overrides):
            raise ConfigError("token_labels: weights and overrides need a teacher")
        if self.weight_set is not None and self.weights is None:
            raise ConfigError(f"token_labels: no weights to take the set '{self.weight_set}' from")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """How the network is trained. Nothing is trained, and no accuracy taken, where neither steps nor epochs are given.

    Attributes:
        steps: optimiser steps.
        epochs: passes over the training clips, in place of `steps`.
        stop_after: steps after which training stops, its schedule unchanged, to try a recipe; None means never.
        batch_size: clips of one optimiser step, over all processes and micro-steps.
        micro_steps: parts in which each process computes its share of a batch, to save memory; the gradient is that of
            the whole batch, batch norms apart, which see a part at a time.
        optimizer: "adamw" (betas 0.9 and 0.999) or "sgd" (Nesterov).
        momentum: of SGD.
        learning_rate: peak of the schedule, after a linear warm-up.
        weight_decay: of the weights that `groups` decays.
        groups: which weights train how; a rule of `dualformer.optim`.
        backbone_factor: learning rate of the backbone over the head's, for the rules "released" and "intended".
        schedule: "cosine" falls to 0 at the last step; "step" multiplies by `decay` at each milestone.
        milestones: shares of training, such as 11/15 for epoch 11 of 15.
        decay: factor at a milestone.
        warmup_steps: steps of the warm-up.
        warmup_epochs: epochs of the warm-up, in place of `warmup_steps`.
        label_smoothing: share of the label that is spread over all classes.
        precision: of matrix work in autocast; weights, their updates and the loss stay float32; float16 scales the
            loss.
        clip_grad_norm: largest norm of the gradient over all weights; None means any.
        ema: decay per step of the moving average of the weights, which is then what is evaluated; None means none.
        token_labels: a teacher for every token.
        evaluate_every: steps between evaluations on the held-out videos, by which the best checkpoint is kept beside
            the newest; 0 means none. The result is that of the last step all the same.
        log_every: steps between lines of `metrics.jsonl`.
        log_to: where else those lines go.
        save_every: steps between checkpoints; 0 means none.
        keep_checkpoints: newest checkpoints to keep.
        num_workers: processes that decode videos ahead; 0 decodes in the training process.
    """

    steps: int = 0
    epochs: float | None = None
    stop_after: int | None = None
    batch_size: int = 32
    micro_steps: int = 1
    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: float = 0.9
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    groups: Rule = "plain"
    backbone_factor: float = 0.1
    schedule: Literal["cosine", "step"] = "cosine"
    milestones: tuple[float, ...] = ()
    decay: float = 0.1
    warmup_steps: int = 50
    warmup_epochs: float | None = None
    label_smoothing: float = 0.0
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    clip_grad_norm: float | None = None
    ema: float | None = None
    token_labels: TokenLabelConfig = dataclasses.field(default_factory=TokenLabelConfig)
    evaluate_every: int = irrelevant(0)
    log_every: int = irrelevant(20)
    log_to: tuple[Literal["tensorboard", "wandb"], ...] = irrelevant(())
    save_every: int = irrelevant(0)
    keep_checkpoints: int = irrelevant(2)
    num_workers: int = irrelevant(0)

    @property
    def trains(self) -> bool:
        """Whether there is any training to be done."""
        return self.steps > 0 or self.epochs is not None

    def check(self) -> None:
        _within(self, 0, MOST, "steps", "epochs", "warmup_steps", "warmup_epochs", "evaluate_every", "save_every")
        _within(self, 0, MOST, "learning_rate", "weight_decay", "backbone_factor", "decay", "clip_grad_norm")
        _within(self, 1, MOST, "stop_after", "log_every", "keep_checkpoints")
        _within(self, 1, MOST_CLIPS, "batch_size", "micro_steps")
        _within(self, 0, MOST_WORKERS, "num_workers")
        _within(self, 0, 1, "label_smoothing", "momentum", "ema")
        if self.micro_steps > self.batch_size:
            raise ConfigError(f"micro_steps ({self.micro_steps}) can't cut a batch of {self.batch_size} clips")
        if self.steps and self.epochs is not None:
            raise ConfigError(f"steps ({self.steps}) and epochs ({self.epochs}) are both given; one of them must go")
        if self.epochs == 0:
            raise ConfigError(f"epochs must be positive, got {self.epochs}")
        if list(self.milestones) != sorted(set(self.milestones)) or not all(0 < share < 1 for share in self.milestones):
            raise ConfigError(f"milestones must be rising shares between 0 and 1, got {list(self.milestones)}")
        if bool(self.milestones) != (self.schedule == "step"):
            raise ConfigError(f"schedule '{self.schedule}' has {len(self.milestones)} milestones; only 'step' has any")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Config):
    """How accuracy is taken: `num_clips` x `num_crops` views of every held-out video, averaged.

    Attributes:
        num_clips: clips spread over a video.
        num_crops: crops of each clip, 1 or 3.
        average: what is averaged over views: the softmax ("probability") or what goes into it ("score").
        batch_size: clips, each view being one, that go through the network at once in each process.
        num_workers: as in training.
    """

    num_clips: int = 1
    num_crops: int = 1
    average: Literal["probability", "score"] = "probability"
    batch_size: int = 32
    num_workers: int = irrelevant(0)

    def check(self) -> None:
        _within(self, 1, 1000, "num_clips")
        _within(self, 1, MOST_CLIPS, "batch_size")
        _within(self, 0, MOST_WORKERS, "num_workers")
        if self.num_crops not in (1, 3):
            raise ConfigError(f"num_crops must be 1 or 3, got {self.num_crops}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasureConfig(Config):
    """How speed, memory and energy are taken.

    Attributes:
        latency: whether to time the network at all.
        batch_size: clips of one timed forward pass; never changed to make something fit.
        precision: of matrix work; weights stay float32, the others go through autocast.
        tf32: whether float32 matrix work may use the GPU's TF32 units.
        compile: "blocks" sends every transformer block through `torch.compile`, shapes fixed.
        cuda_graph: whether the forward pass is recorded once and replayed as a whole, so that its time is the GPU's own
            and not that of the host, which starts one kernel after another.
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
    cuda_graph: bool = False
    attention_backend: Literal["auto", "math", "flash", "efficient", "cudnn"] = "auto"
    samples: int = 20
    warmup: int = 6
    warmup_limit: int = 60
    settled: float = 0.05

    @property
    def needs_gpu(self) -> str:
        """Why this can't be measured on a CPU; "" where it can."""
        if self.latency and self.cuda_graph:
            return "measure.cuda_graph needs a GPU"
        if self.latency and self.attention_backend in ("efficient", "cudnn"):
            return f"measure.attention_backend '{self.attention_backend}' needs a GPU"
        return ""

    def check(self) -> None:
        _within(self, 1, MOST_CLIPS, "batch_size")
        _within(self, 1, MOST_SAMPLES, "samples")
        _within(self, 6, MOST_SAMPLES, "warmup")
        _within(self, self.warmup, MOST_SAMPLES, "warmup_limit")
        _within(self, 0, MOST, "settled")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResourceConfig(Config):
    """What a cluster must lend the run; None means what the profile says. No part of the run's identity.

    Attributes:
        nodes: machines.
        gpus_per_node: GPUs of each machine, one process for each.
        mem_gib: memory of each machine.
        time_min: minutes after which the cluster may end a job of the run; also as Slurm writes it, such as "2:00:00".
    """

    nodes: int | None = None
    gpus_per_node: int | None = None
    mem_gib: float | None = None
    time_min: Annotated[int | None, IN_MINUTES] = None

    def check(self) -> None:
        _at_least(self, 1, "nodes", "time_min")
        _at_least(self, 0, "gpus_per_node")
        if self.mem_gib is not None and not 0 < self.mem_gib < math.inf:
            raise ConfigError(f"mem_gib must be positive, got {self.mem_gib}")


_NEWER = ("model.weight_set", "train.token_labels.weight_set")
"""Fields that came when runs were identified by the present rule; the former one never knew them."""


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
    resources: ResourceConfig = dataclasses.field(default_factory=ResourceConfig, metadata=IRRELEVANT)

    def check(self) -> None:
        _within(self, 0, MOST_SEED, "seed")
        _within(self, 1, 4096, "threads")
        if self.device == "cpu" and (why := self.measure.needs_gpu):
            raise ConfigError(f"{why} (device is 'cpu')")

    @functools.cached_property
    def run_id(self) -> str:
        """The run's identity: 12 hexadecimal digits of the hash of all that can change its outcome."""
        ignored = irrelevant_fields()
        content = {field: value for field, value in flatten(self._resolved()).items() if field not in ignored}
        return digest_of([MEASUREMENT_VERSION, content])

    @property
    def former_run_id(self) -> str:
        """The id by the rule of older results, which held the choice of a network and not what that resolves to."""
        ignored = {*irrelevant_fields(), *_NEWER}
        content = {field: value for field, value in flatten(self.to_dict()).items() if field not in ignored}
        return digest_of([MEASUREMENT_VERSION, content])

    @functools.cached_property
    def network(self) -> dict[str, Any]:
        """The network as `ModelConfig.resolved` gives it, classes apart, which come with the data."""
        return _network(self.model.name, self.model.changes(), without=("num_classes",))

    @property
    def network_digest(self) -> str:
        """12 hexadecimal digits that stand for `network`."""
        return digest_of(self.network)

    def _resolved(self) -> dict[str, Any]:
        """Plain data with whole networks in place of choices of them, and a set of weights only where one is named."""
        content = self.to_dict()
        content["model"] = {"network": self.network, "weights": self.model.weights}
        labels = self.train.token_labels
        if self.model.weight_set is not None:
            content["model"]["weight_set"] = self.model.weight_set
        if labels.weight_set is None:
            del content["train"]["token_labels"]["weight_set"]
        if labels.teacher is not None:
            shape = ("num_classes", "num_frames", "crop_size")  # the student's
            content["train"]["token_labels"]["teacher"] = _network(labels.teacher, labels.overrides, without=shape)
            del content["train"]["token_labels"]["overrides"]
        return content


def describe_fields() -> list[ConfigField]:
    """Returns every field of a run by dotted path, with type, default and meaning, in the order of declaration."""
    return fields_of(RunConfig)


@functools.cache
def irrelevant_fields() -> frozenset[str]:
    """Returns the dotted paths of the fields that can't change what a run comes to."""
    return frozenset(field.path for field in describe_fields() if field.irrelevant)


def _network(name: str, changes: Mapping[str, Any], without: tuple[str, ...]) -> dict[str, Any]:
    """A network resolved; where it can't be (no such model), what was chosen, and the run will say why."""
    from dualformer.registry import model_config  # here: models need torch

    try:
        config = model_config(name, **changes).resolved()
    except ConfigError:
        config = {"name": name, **changes}
    return {field: value for field, value in config.items() if field not in without}


def digest_of(content: Any) -> str:
    """Returns 12 hexadecimal digits that stand for plain JSON data."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _at_least(config: Config, least: int, *fields: str) -> None:
    for field in fields:
        if (value := getattr(config, field)) is not None and value < least:
            raise ConfigError(f"{field} must be at least {least}, got {value!r}")


def _within(config: Config, least: float, most: float, *fields: str) -> None:
    for field in fields:
        if (value := getattr(config, field)) is not None and not least <= value <= most:
            raise ConfigError(f"{field} must be from {least} to {most}, got {value!r}")
