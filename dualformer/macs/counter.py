"""One pass of a model without arithmetic: its tensors stand in on the meta device, and every operator is counted."""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from torch.utils.module_tracker import ModuleTracker

from dualformer.macs.operators import FREE, MACS, OPERATOR_NAMES, SHAPES, UncountedOperatorError, macs_of
from dualformer.model_contract import config_of
from dualformer.modes import modes_kept


class OperatorCounter(TorchDispatchMode):
    """Adds up the MACs of every operator, by module and operator name; raises at one whose cost isn't known."""

    def __init__(self, *, meta: bool) -> None:
        super().__init__()
        self.shapes = SHAPES if meta else {}
        self.modules = ModuleTracker()
        self.by_module: dict[str, Counter[str]] = defaultdict(Counter)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        packet = func._overloadpacket
        out = self.shapes.get(packet, func)(*args, **kwargs)
        if packet in MACS or packet in flop_registry:
            macs = macs_of(packet, args, kwargs, out)
            for module in self.modules.parents:
                self.by_module[module][OPERATOR_NAMES.get(packet, "matmul")] += macs
        elif not (func.is_view or torch.Tag.pointwise in func.tags or packet in FREE):
            raise UncountedOperatorError(
                f"{packet} may do matrix work and nobody said how much; state it with "
                f"torch.utils.flop_counter.register_flop_formula, or dualformer.macs.FREE.add(torch.ops.{packet}) if "
                f"it does none"
            )
        return out


def on_twins(model: nn.Module, work: Callable[[Callable[[], Tensor], OperatorCounter], Any]) -> Any:
    """What `work` makes of one pass of one clip, on tensors without values; on copies where values are needed.

    The model's own tensors are left alone.
    """
    if all(tensor.is_meta for tensor in _tensors(model).values()):
        return _counted(model, work, "meta")
    try:
        return _counted(model, work, "meta")
    except UncountedOperatorError:
        raise
    except Exception:  # whatever asks for a value
        return _counted(model, work, "cpu")


def _counted(model: nn.Module, work: Callable[[Callable[[], Tensor], OperatorCounter], Any], device: str) -> Any:
    tensors = {name: _twin(tensor, device) for name, tensor in _tensors(model).items()}
    dtype = next((t.dtype for t in tensors.values() if t.is_floating_point()), torch.get_default_dtype())
    clip = torch.zeros(1, *config_of(model).clip_shape, device=device, dtype=dtype)
    counter = OperatorCounter(meta=device == "meta")
    step = _Step(model, work, counter)
    with contextlib.ExitStack() as stack:
        contexts = (torch.device(device), _plain(), counter.modules, counter)
        for context in (torch.random.fork_rng(devices=[]), *contexts):
            stack.enter_context(context)
        return torch.func.functional_call(step, {f"model.{name}": twin for name, twin in tensors.items()}, (clip,))


class _Step(nn.Module):
    """Work on one pass of a model as a module, so that all of it sees the same stand-ins for the model's tensors."""

    def __init__(
        self, model: nn.Module, work: Callable[[Callable[[], Tensor], OperatorCounter], Any], counter: OperatorCounter
    ):
        super().__init__()
        self.model, self.work, self.counter = model, work, counter

    def forward(self, clip: Tensor) -> Any:
        return self.work(lambda: self.model(clip), self.counter)


ROOT = f"{_Step.__name__}.model"
"""How the tracker of modules calls the model."""


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict(chain(model.named_parameters(), model.named_buffers()))


def _twin(tensor: Tensor, device: str) -> Tensor:
    """A tensor like another, of its values where there are any, that needs a gradient where that one is a parameter."""
    if device == "meta":
        twin = torch.empty_like(tensor, device="meta")
    else:
        twin = tensor.detach().to(device, copy=True)
    return twin.requires_grad_(isinstance(tensor, nn.Parameter) and tensor.is_floating_point())


@contextlib.contextmanager
def _plain() -> Iterator[None]:
    """Nothing compiled or fused, so that matrix work shows as such."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # of torch.nn.TransformerEncoderLayer and MultiheadAttention
    try:
        with torch.compiler.set_stance("force_eager"), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


@contextlib.contextmanager
def silent(model: nn.Module, *, training: bool = False) -> Iterator[None]:
    """One mode without hooks, so that nobody's statistics see meta tensors; both are put back at the end."""
    with modes_kept(model), _without_hooks(model):
        for module in model.modules():
            module.training = training
        yield


@contextlib.contextmanager
def _without_hooks(model: nn.Module) -> Iterator[None]:
    places = [(module, name) for module in model.modules() for name in ("_forward_hooks", "_forward_pre_hooks")]
    before = [getattr(module, name) for module, name in places]
    try:
        for (module, name), hooks in zip(places, before):
            setattr(module, name, type(hooks)())
        yield
    finally:
        for (module, name), hooks in zip(places, before):
            setattr(module, name, hooks)


class LinearAsOneProduct(TorchFunctionMode):
    """Makes a linear layer one product of two matrices, whatever the strides of its input.

    torch would run it as a batched product where the input isn't contiguous, and the operator's name would depend on
    an accident of memory layout.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is functional.linear:
            return _linear(*args, **kwargs or {})
        return func(*args, **kwargs or {})


def _linear(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    out = functional.linear(input.reshape(-1, input.shape[-1]), weight, bias)
    return out.reshape(*input.shape[:-1], weight.shape[0])
