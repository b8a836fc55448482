"""What every model promises, as checks that `dualformer check` and tests share.

The required part is `dualformer.model_contract.VideoModel`; what is optional is checked where a model has it, and named
where it hasn't. A check takes a `Subject` and returns in words what it saw; it raises `CheckError` where a promise
isn't kept. `check_model` runs all of them and turns every error into a finding.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dualformer.checking import CheckError, Finding, check_twins_own_code, twin_errors
from dualformer.config import ConfigError
from dualformer.errors import kind_and_line
from dualformer.macs import closed_form, count_macs
from dualformer.meta import no_memory
from dualformer.model_config import ModelConfig
from dualformer.model_contract import PARTS, has_closed_form, lacking, part
from dualformer.modes import evaluating
from dualformer.reference import num_twins
from dualformer.registry import model_config
from dualformer.weights import load_weights

REDUCED: tuple[dict[str, Any], ...] = (
    {"num_frames": 8, "crop_size": 64},
    {"num_frames": 16, "crop_size": 64},
    {"num_frames": 8, "crop_size": 112},
)
"""Clips to try a model on that is too slow at its published size, the cheapest first."""
REDUCED_DEPTH = 2
"""Blocks of such a model, in each stage where it has stages."""

QUICK_GMACS = 3.0
"""Multiply-accumulates of a clip, in 1e9, up to which a model is checked at its own size."""

TWIN_TOLERANCE = 1e-8
"""Largest accepted error of a whole network in float64, as `twin_errors` gives it."""
SAMPLE_TOLERANCE = 1e-4
BENCHMARK_S = 3.0
FEWEST_PASSES, MOST_PASSES = 3, 30


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model to check.

    Attributes:
        published: its config as asked for.
        config: of the size at which it is run, the same or a reduced one.
    """

    published: ModelConfig
    config: ModelConfig

    @functools.cached_property
    def model(self) -> nn.Module:
        """The network at the size at which it is run, with seeded weights."""
        torch.manual_seed(0)
        return self.config.build()

    @property
    def size(self) -> str:
        """The size at which it is run, in words."""
        if self.config == self.published:
            return _size(self.config)
        shallow = {
            name: value for name, value in _shallow(self.published).items() if _fields(self.config)[name] == value
        }
        fewer = "".join(f" and {name} {value}" for name, value in shallow.items())
        return f"{_size(self.config)}{fewer}, reduced from {_size(self.published)}"

    def clips(self, batch: int = 2) -> Tensor:
        """Normal noise [batch, 3, T, H, W], the same at every call."""
        generator = torch.Generator().manual_seed(1)
        return torch.randn(batch, *self.config.clip_shape, generator=generator)


def subject(name: str, **changes: Any) -> Subject:
    """Chooses the size at which a model is checked: its own, or a reduced one where that takes too long.

    Args:
        name: of `list_models()`, or an import path.
        **changes: as `create_model`; a size that is asked for is kept.

    Raises:
        ConfigError: as `create_model`.
        UncountedOperatorError: an operator's cost isn't known.
    """
    published = model_config(name, **changes)
    if {"num_frames", "crop_size"} & {field for field, value in changes.items() if value is not None}:
        return Subject(published, published)
    if _gmacs(published) <= QUICK_GMACS:
        return Subject(published, published)
    for fields in ({**size, **depth} for depth in (_shallow(published), {}) for size in REDUCED):
        with contextlib.suppress(ConfigError):
            reduced = model_config(name, **{**changes, **fields})
            if _gmacs(reduced) < _gmacs(published):
                return Subject(published, reduced)
    return Subject(published, published)


def _shallow(config: ModelConfig) -> dict[str, Any]:
    """Fields of a config with fewer blocks, where its fields say how many there are."""
    fields = config.to_dict()
    if isinstance(fields.get("depths"), list):
        return {"depths": [min(depth, REDUCED_DEPTH) for depth in fields["depths"]]}
    return {"depth": min(fields["depth"], REDUCED_DEPTH)} if isinstance(fields.get("depth"), int) else {}


def _gmacs(config: ModelConfig) -> float:
    if has_closed_form(config):
        return closed_form(config) / 1e9
    return count_macs(config.name, **_fields(config)).total / 1e9


def _fields(config: ModelConfig) -> dict[str, Any]:
    return {field: value for field, value in config.to_dict().items() if field != "name"}


def _size(config: ModelConfig) -> str:
    return "x".join(map(str, config.clip_shape[1:]))


def check_contract(about: Subject) -> str:
    """Clips become finite logits, in train and eval mode alike."""
    model, clips, seen = about.model, about.clips(), about.config
    wanted = (len(clips), seen.num_classes)
    for training in (True, False):
        mode = "train" if training else "eval"
        with torch.no_grad():
            logits = model.train(training)(clips)
        if not isinstance(logits, Tensor) or logits.shape != wanted:
            got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise CheckError(f"in {mode} mode it gives {got}, and logits {list(wanted)} are wanted")
        if not torch.isfinite(logits).all():
            raise CheckError(f"in {mode} mode its logits aren't finite")
    return f"clips {list(clips.shape)} become logits {list(wanted)} in train and eval mode"


@torch.no_grad()
def check_samples(about: Subject) -> str:
    """In eval mode clips of a batch are independent, and a second call gives the same."""
    model, clips = about.model, about.clips(3)
    with evaluating(model):
        together = model(clips)
        alone = torch.cat([model(clip) for clip in clips.split(1)])
        again = model(clips)
    if (together - alone).abs().max() > SAMPLE_TOLERANCE * together.abs().max():
        raise CheckError("in eval mode the logits of a clip depend on the others of its batch")
    if not torch.equal(again, together):
        raise CheckError("in eval mode two calls with the same clips differ")
    return "clips of a batch are independent in eval mode"


def check_gradients(about: Subject) -> str:
    """A gradient reaches the weights."""
    model = about.model
    model.train()(about.clips()).square().sum().backward()
    parameters = dict(model.named_parameters())
    dead = [name for name, p in parameters.items() if p.requires_grad and p.grad is None]
    broken = [name for name, p in parameters.items() if p.grad is not None and not torch.isfinite(p.grad).all()]
    model.zero_grad(set_to_none=True)
    if broken or len(dead) == len(parameters):
        raise CheckError(f"no finite gradient reaches {(broken or dead)[0]}")
    unused = f"; {len(dead)} have no part in the logits, the first is {dead[0]}" if dead else ""
    return f"gradients reach {len(parameters) - len(dead)} of {len(parameters)} weights{unused}"


def check_rebuild(about: Subject) -> str:
    """The config gives the model again, and its state dict loads strictly."""
    config = about.config
    again = model_config(config.name, **_fields(config))
    if again != config:
        raise CheckError("its config doesn't rebuild it: create_model(**config.to_dict()) gives another config")
    other = again.build()
    report = load_weights(other, about.model.state_dict())
    return f"its config rebuilds it, and its {len(report.matched)} weights load strictly (layout {report.layout})"


def check_twin(about: Subject) -> str:
    """The fast path shares no code with the naive twins and equals them, forward and backward, in float64."""
    model = about.model
    count = num_twins(model)
    if not count:
        return "it has no naive twins, so timings are gated by the model itself in float32"
    check_twins_own_code(model, about.clips(1), "a part of it")
    try:
        errors = twin_errors(model.double(), about.clips(1).double())
    finally:
        model.float()
    what, worst = max(errors.items(), key=lambda item: item[1])
    if not worst <= TWIN_TOLERANCE:
        raise CheckError(f"the {what} differs from that of the naive twins by {worst:.1e} of the largest")
    return f"equals its {count} naive twins forward and backward, largest error {worst:.0e}"


def check_cost(about: Subject) -> str:
    """The counter counts the model at its published size, and its closed form says the same."""
    config = about.published
    count = count_macs(config.name, **_fields(config))
    with no_memory():
        params_m = sum(parameter.numel() for parameter in config.build().parameters()) / 1e6
    head = "with" if count.head_included else "without"
    told = f"{count.total / 1e9:.4g} GMACs {head} head for one view of {_size(config)}, {params_m:.4g} M parameters"
    if not has_closed_form(config):
        return f"{told}; no closed form, so it is counted only"
    stated = closed_form(config, include_head=count.head_included)
    if stated != count.matrix_work:
        raise CheckError(f"the closed form says {stated:,} multiply-accumulates, the counter {count.matrix_work:,}")
    return f"{told}; the closed form equals the counter"


def check_parts(about: Subject) -> str:
    """Which optional parts it has; those that it has give what they promise."""
    model = about.model.eval()
    clips = about.clips(1)
    with torch.no_grad():
        mapped, both = part(model, "forward_features"), part(model, "logits_and_features")
        if mapped is not None and lacking(model, "forward_features") is None:
            features = mapped(clips)
            if features.ndim != 5 or len(features) != 1:
                raise CheckError(f"forward_features gives {list(features.shape)}, and [B, C, t, h, w] is wanted")
        if both is not None and lacking(model, "forward_features") is None:
            logits, _ = both(clips)
            if (logits - model(clips)).abs().max() > SAMPLE_TOLERANCE * logits.abs().max():
                raise CheckError("logits_and_features gives other logits than forward")
    lacks = {name: lacking(model, name) for name in PARTS if part(model, name) is None or lacking(model, name)}
    has = [name for name in PARTS if name not in lacks]
    told = ", ".join(f"{name} ({why})" if why else name for name, why in lacks.items())
    return f"has {', '.join(has)}" + (f"; has no {told}" if told else "")


def check_speed(about: Subject) -> str:
    """A few forward passes of one clip; far too few to compare models by."""
    model, clip = about.model, about.clips(1)
    with evaluating(model):
        median_ms, passes = quick_median_ms(lambda: model(clip))
    return (
        f"{median_ms:.3g} ms, the median of only {passes} passes of one clip of {_size(about.config)} on this CPU with "
        f"{torch.get_num_threads()} threads: nothing to compare models by"
    )


@torch.inference_mode()
def quick_median_ms(step: Callable[[], object]) -> tuple[float, int]:
    """Median milliseconds of a few calls after one to warm up, and how many they were; no measurement to report."""
    step()
    times_ms: list[float] = []
    while len(times_ms) < FEWEST_PASSES or (sum(times_ms) < BENCHMARK_S * 1e3 and len(times_ms) < MOST_PASSES):
        start = time.perf_counter()
        step()
        times_ms.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times_ms), len(times_ms)


CHECKS: Mapping[str, Callable[[Subject], str]] = {
    "contract": check_contract,
    "samples": check_samples,
    "gradients": check_gradients,
    "rebuild": check_rebuild,
    "twin": check_twin,
    "cost": check_cost,
    "parts": check_parts,
    "speed": check_speed,
}


def check_model(about: Subject) -> Iterator[Finding]:
    """Runs all checks on a model, each whatever the others found."""
    for name, check in CHECKS.items():
        try:
            yield Finding(name, True, check(about))
        except CheckError as error:
            yield Finding(name, False, str(error))
        except Exception as error:
            yield Finding(name, False, kind_and_line(error))
