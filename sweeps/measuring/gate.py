"""The gate in front of every timing: a network that doesn't compute what its reference does has no time.

The reference is the network itself, uncompiled, in float32, by the plain attention kernel, with every module that has a
naive twin running it (`dualformer.reference.naive`). A network without twins is compared with itself in these
settings: that finds wrong kernels, compilers and precisions, and no mistake in its own arithmetic. Which of the two it
was is recorded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from dualformer import reference
from sweeps.measuring.options import RefusedError
from sweeps.measuring.settings import matmul_precision
from sweeps.run_config import MeasureConfig

TOLERANCE = {"float32": 1e-4, "tf32": 1e-2, "float16": 1e-2, "bfloat16": 5e-2}
"""Largest accepted difference of logits from the reference, relative to the reference's largest logit."""


class WrongLogitsError(RefusedError):
    """A network that doesn't compute what its reference does, so that its time would mean nothing."""


@dataclasses.dataclass(frozen=True)
class Gate:
    """What a network was compared with, and how that went.

    Attributes:
        compared_with: "twins" where modules of the network ran their naive twins, "self" where it has none.
        num_twins: how many did.
        error: largest difference of the logits, relative to the reference's largest.
        tolerance: the largest that is accepted.
    """

    compared_with: Literal["twins", "self"]
    num_twins: int
    error: float
    tolerance: float

    @property
    def reason(self) -> str:
        """Why this network mustn't be timed; "" where it may."""
        if self.error <= self.tolerance:
            return ""
        return f"logits differ from the reference by {self.error:.1e} of its largest, more than {self.tolerance:g}"

    @property
    def told(self) -> str:
        """What it was compared with, in words."""
        whom = f"{self.num_twins} naive twins" if self.num_twins else "itself, as it has no naive twins"
        return f"gate {self.compared_with}: compared with {whom}, logits at most {self.error:.1e} of the largest off"

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON data; an error that is no number is text, as JSON has none."""
        error = self.error if torch.tensor(self.error).isfinite() else str(self.error)
        return {**dataclasses.asdict(self), "error": error}


def passed(name: str, model: nn.Module, clip: Tensor, step: Callable[[], Tensor], config: MeasureConfig) -> Gate:
    """Compares the pass that is to be timed with the reference.

    Args:
        name: of the network, for the error.
        model: the network, in eval mode.
        clip: what it is timed with.
        step: the timed pass.
        config: its settings.

    Raises:
        WrongLogitsError: names the network that differs from its reference.
    """
    compared = compare(model, step(), reference_logits(model, clip), config)
    if compared.reason:
        raise WrongLogitsError(f"{name}: {compared.reason}")
    return compared


def compare(model: nn.Module, logits: Tensor, wanted: Tensor, config: MeasureConfig) -> Gate:
    """Compares logits of the timed pass with `reference_logits` of the same clips."""
    num_twins = reference.num_twins(model)
    error = relative_error(logits, wanted)
    return Gate("twins" if num_twins else "self", num_twins, error, tolerance(config))


def reference_logits(model: nn.Module, clip: Tensor) -> Tensor:
    """Logits of the first and the last clip of a batch, [2, num_classes], by the naive reference.

    Attention is written out, nothing is compiled or fused, and everything is float32.
    """
    ends = clip[[0, -1]]
    with torch.inference_mode(), matmul_precision(tf32=False), sdpa_kernel(SDPBackend.MATH), reference.naive(model):
        return model(ends)


def relative_error(logits: Tensor, wanted: Tensor) -> float:
    """Largest difference of the first and the last clip's `logits` from `wanted`, over the largest of `wanted`."""
    difference = (logits[[0, -1]].float() - wanted.float()).abs().max()
    return (difference / wanted.float().abs().max()).item()


def tolerance(config: MeasureConfig) -> float:
    """Largest accepted `relative_error` in the precision of a config; TF32 says nothing about half precision."""
    return TOLERANCE["tf32" if config.tf32 and config.precision == "float32" else config.precision]
