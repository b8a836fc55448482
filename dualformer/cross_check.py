"""The same network counted four more times: by arithmetic alone, by torch's own counter, by fvcore and by ptflops.

None of them shares code with `dualformer.macs`. They differ in what they count, so each is compared with our number by
its own convention, head included. torch and ptflops count without arithmetic; fvcore has to run the network once.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dualformer.macs import closed_form, count_macs
from dualformer.meta import no_memory
from dualformer.model_config import ModelConfig
from dualformer.model_contract import config_of

aten = torch.ops.aten


@dataclasses.dataclass(frozen=True)
class CrossCount:
    """What one counter says of a network.

    Attributes:
        counter: who counts.
        convention: what it counts.
        counted: its number, None where it can't count this network.
        ours: our number by its convention.
        reason: why it can't count.
    """

    counter: str
    convention: str
    counted: int | None
    ours: int
    reason: str = ""

    @property
    def agrees(self) -> bool | None:
        """Whether the two numbers are the same, None where there is only one."""
        return None if self.counted is None else self.counted == self.ours


def cross_check(config: ModelConfig) -> list[CrossCount]:
    """Counts a network with every counter, ours first.

    Raises:
        UncountedOperatorError: an operator's cost isn't known to us.
    """
    with no_memory():
        skeleton = config.build().eval()
    ours = count_macs(skeleton, include_head=True)
    return [
        CrossCount("dualformer", "MACs, norms by fvcore's rule", ours.total, ours.total),
        _tried("closed form", "MACs without norms, from the config alone", ours.matrix_work, lambda: _closed(config)),
        _tried("torch", "FLOPs without norms, 2 for a MAC", 2 * ours.matrix_work, lambda: torch_flops(skeleton)),
        _tried("fvcore", "MACs, norms by its rule", ours.total, lambda: fvcore_macs(config.build().eval()).total()),
        _tried("ptflops", "MACs without norms; its biases left out", ours.matrix_work, lambda: ptflops_macs(skeleton)),
    ]


def torch_flops(model: nn.Module) -> int:
    """What torch's counter says of a model in eval mode: floating-point operations of its matrix work."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(_clip(model))
    return counter.get_total_flops()


def fvcore_macs(model: nn.Module, handlers: dict[str, Any] | None = None) -> Counter[str]:
    """What fvcore says of a model in eval mode: MACs by operator, in the names of `MacCount.by_operator`.

    Args:
        model: with weights, since fvcore traces a pass over a clip of zeros.
        handlers: costs by operator; None states that of the fused attention, which fvcore doesn't know.
    """
    from fvcore.nn import FlopCountAnalysis

    handlers = {"aten::scaled_dot_product_attention": _fused_for_fvcore} if handlers is None else handlers
    analysis = FlopCountAnalysis(model, _clip(model)).set_op_handle(**handlers)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    with torch.no_grad():
        counts = Counter({name: int(count) for name, count in analysis.by_operator().items() if count})
    for fused, into in (("einsum", "matmul"), ("bmm", "matmul"), ("addmm", "linear")):
        if fused in counts:
            counts[into] += counts.pop(fused)
    return counts


def ptflops_macs(model: nn.Module) -> int:
    """What ptflops' aten backend says of a model in eval mode: MACs of its matrix work, its biases left out."""
    from ptflops import get_model_complexity_info
    from ptflops.aten_ops import addmm_flop, conv_flop

    handlers = {
        aten.addmm: lambda inputs, outputs: addmm_flop([None, *inputs[1:]], outputs),
        aten.convolution: lambda inputs, outputs: conv_flop([*inputs[:2], None, *inputs[3:]], outputs),
        aten._scaled_dot_product_flash_attention_for_cpu: lambda inputs, outputs: _attention_macs(
            [tuple(tensor.shape) for tensor in inputs[:3]]
        ),
    }
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        macs, _ = get_model_complexity_info(
            model,
            tuple(_clip(model).shape[1:]),
            backend="aten",
            as_strings=False,
            print_per_layer_stat=False,
            custom_modules_hooks=handlers,
            input_constructor=lambda shape: {_first_argument(model): _clip(model)},
        )
    if macs is None:
        raise RuntimeError("ptflops could not run it, and says why above")
    return int(macs)


def _tried(counter: str, convention: str, ours: int, count: Callable[[], int]) -> CrossCount:
    try:
        return CrossCount(counter, convention, count(), ours)
    except Exception as error:  # another project's, about a network that it may never have seen
        return CrossCount(counter, convention, None, ours, f"{type(error).__name__}: {error}")


def _closed(config: ModelConfig) -> int:
    return closed_form(config, include_head=True)


def _clip(model: nn.Module) -> torch.Tensor:
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    return torch.zeros(1, *config_of(model).clip_shape, device=device)


def _first_argument(model: nn.Module) -> str:
    """The name of the clip among the arguments of `forward`, by which ptflops passes it."""
    return type(model).forward.__code__.co_varnames[1]


def _fused_for_fvcore(inputs: Sequence[Any], outputs: Sequence[Any]) -> Counter[str]:
    from fvcore.nn.jit_handles import get_shape

    return Counter(matmul=_attention_macs([get_shape(value) for value in inputs[:3]]))


def _attention_macs(shapes: Sequence[Sequence[int]]) -> int:
    """Both products of one attention: [..., L, D] x [..., S, D] and [..., L, S] x [..., S, D_v]."""
    query, key, value = shapes
    return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
