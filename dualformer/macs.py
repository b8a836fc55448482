"""Multiply-accumulates (MACs) of a model for one view, counted on the meta device: no weights, no arithmetic.

`torch.utils.flop_counter` knows what matrix products and convolutions cost; this module adds what makes the number
comparable and safe: fvcore's rule for norms, kept apart from matrix work; attention run as plain matrix products, so
that no fused operator hides any; and an error, never a silent zero, for an operator whose cost nobody stated.

Conventions: one multiply-add is one MAC, so FLOPs are twice the MACs; biases, softmax, activations and pooling without
weights count nothing; a layer norm counts 5 operations per element and a batch norm in eval mode 2 (fvcore's rule).
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from torch.utils.module_tracker import ModuleTracker

from dualformer.model_config import ModelConfig
from dualformer.registry import model_config

aten = torch.ops.aten

MATRIX_WORK = frozenset({"conv", "linear", "matmul"})


@dataclasses.dataclass(frozen=True)
class MacCount:
    """Multiply-accumulates of one forward pass over one view.

    Attributes:
        total: the sum of `by_operator`.
        by_operator: "conv", "linear" (products with one shared matrix), "matmul" (batched products, such as
            attention's), "layer_norm", "batch_norm"; operators that don't occur are absent.
        by_module: qualified name of every submodule that costs anything -> MACs, its children's included.
        head_included: whether the classification head is part of all of these.
    """

    total: int
    by_operator: Mapping[str, int]
    by_module: Mapping[str, int]
    head_included: bool

    @property
    def matrix_work(self) -> int:
        """The total without norms: what closed formulas and counters without fvcore's rule give."""
        return _matrix_work(self.by_operator)


@dataclasses.dataclass(frozen=True)
class TrainingMacs:
    """Multiply-accumulates of the matrix work of one training step on one clip, head included.

    Attributes:
        forward: the forward pass.
        backward: gradients of all weights and activations.
        recomputation: activations computed a second time; 0 without gradient checkpointing.
    """

    forward: int
    backward: int
    recomputation: int

    @property
    def total(self) -> int:
        return self.forward + self.backward + self.recomputation


class UncountedOperatorError(RuntimeError):
    """The model ran an operator that is neither counted nor known to be free of matrix work."""


@torch.inference_mode(False)  # which would hide what operators are made of
def count_macs(model_or_name: nn.Module | str, *, include_head: bool | None = None, **input: Any) -> MacCount:
    """Counts the multiply-accumulates of one view in eval mode, without arithmetic.

    A model is left exactly as it was: its weights aren't copied, its hooks don't run, its statistics, modes and
    compiled code aren't touched. A model given by name allocates no weights.

    Args:
        model_or_name: a model with a `config`, or a name of `list_models()`.
        include_head: whether to count the submodule `head`; None follows the model's publication (the class attribute
            `published_macs_include_head`).
        **input: changes to the published config as in `create_model`, such as `num_frames` and `crop_size`; a model
            given with changes is counted as its config says, rebuilt with them.

    Raises:
        ConfigError: unknown model or field, wrong type, illegal value.
        UncountedOperatorError: an operator's cost isn't known.
        TypeError: a model without a config.
        ValueError: the head is to be left out of a model that has no submodule `head`.
    """
    model = _skeleton(model_or_name, input) if input or isinstance(model_or_name, str) else model_or_name
    model = getattr(model, "_orig_mod", model)  # torch.compile wraps the module that is counted
    if include_head is None:
        include_head = getattr(model, "published_macs_include_head", True)
    counter = _Counter()
    _run(model, _config(model).clip_shape, counter)
    return _summarise(counter.by_module, type(model).__name__, include_head)


def closed_form(config: ModelConfig, *, include_head: bool = False) -> int:
    """Matrix work of a model by arithmetic alone: equals `count_macs(...).matrix_work` at a fraction of its time.

    For plans over thousands of configurations, and as a check of the counter that shares nothing with it.

    Args:
        config: of any model, as `dualformer.registry.model_config` returns it.
        include_head: whether to count the head.
    """
    return config.matrix_work(include_head=include_head)


@torch.inference_mode(False)
def count_training_macs(model_or_name: nn.Module | str, **input: Any) -> TrainingMacs:
    """Counts the matrix work of one training step on one clip, every weight trained.

    Args:
        model_or_name: as in `count_macs`; a model is rebuilt from its config.
        **input: as in `count_macs`; `gradient_checkpointing` decides about recomputation.

    Raises:
        ConfigError, TypeError, UncountedOperatorError: as `count_macs`.
    """
    model = _skeleton(model_or_name, input)
    forward, rest = _training_step(model)
    if not getattr(model.config, "gradient_checkpointing", False):
        return TrainingMacs(forward, rest, 0)
    _, backward = _training_step(_skeleton(model, {"gradient_checkpointing": False}))
    return TrainingMacs(forward, backward, rest - backward)


def _training_step(model: nn.Module) -> tuple[int, int]:
    """Matrix work of the forward pass and of all that the backward pass does."""
    counter = _Counter()
    clip = torch.empty(1, *model.config.clip_shape, device="meta")
    with _plain(), counter:
        logits = model.train()(clip)
        forward = _matrix_work(counter.by_module["Global"])
        logits.sum().backward()
    return forward, _matrix_work(counter.by_module["Global"]) - forward


def _matrix_work(by_operator: Mapping[str, int]) -> int:
    return sum(count for name, count in by_operator.items() if name in MATRIX_WORK)


def _skeleton(model_or_name: nn.Module | str, changes: Mapping[str, Any]) -> nn.Module:
    """The network without weights."""
    if isinstance(model_or_name, str):
        config = model_config(model_or_name, **changes)
    else:
        config = model_config(**{**_config(model_or_name).to_dict(), **changes})
    with torch.device("meta"):
        return config.build()


def _config(model: nn.Module) -> ModelConfig:
    if not isinstance(getattr(model, "config", None), ModelConfig):
        raise TypeError(f"{type(model).__name__} has no config of a model, so the shape of its clip isn't known")
    return model.config


def _run(model: nn.Module, clip_shape: tuple[int, ...], counter: _Counter) -> None:
    """One forward pass of one clip in eval mode, on meta twins of the model's tensors."""
    named = chain(model.named_parameters(), model.named_buffers())
    tensors = {name: torch.empty_like(tensor, device="meta") for name, tensor in named}
    dtype = next((t.dtype for t in tensors.values() if t.is_floating_point()), torch.get_default_dtype())
    clip = torch.empty(1, *clip_shape, device="meta", dtype=dtype)
    with _silent(model), _plain(), torch.no_grad(), _LinearAsOneProduct(), counter.modules, counter:
        torch.func.functional_call(model, tensors, (clip,))


@contextlib.contextmanager
def _plain() -> Iterator[None]:
    """Nothing compiled or fused, so that matrix work shows as such."""
    with torch.compiler.set_stance("force_eager"), sdpa_kernel(SDPBackend.MATH):
        yield


def _summarise(by_module: Mapping[str, Counter[str]], root: str, include_head: bool) -> MacCount:
    """Turns counts by qualified name (the root is its class name) into those of the model."""
    by_operator = Counter(by_module.get(root, {}))
    if not include_head:
        head = by_module.get(f"{root}.head")
        if head is None:
            raise ValueError(f"{root} has no submodule 'head' that costs anything, so it can't be left out")
        by_operator -= head
    totals = {name.removeprefix(f"{root}."): counts.total() for name, counts in by_module.items()}
    totals = {name: macs for name, macs in totals.items() if name not in ("Global", root)}
    if not include_head:
        totals = {name: macs for name, macs in totals.items() if name.split(".")[0] != "head"}
    return MacCount(
        by_operator.total(), dict(sorted(by_operator.items())), {"": by_operator.total(), **totals}, include_head
    )


@contextlib.contextmanager
def _silent(model: nn.Module) -> Iterator[None]:
    """Eval mode without hooks, so that nobody's statistics see meta tensors; both are put back at the end."""
    hooks = ("_forward_hooks", "_forward_pre_hooks")
    modules = list(model.modules())
    before = [(module.training, *(getattr(module, name) for name in hooks)) for module in modules]
    try:
        for module in modules:
            module.training = False
            for name in hooks:
                setattr(module, name, type(getattr(module, name))())
        yield
    finally:
        for module, (training, *kept) in zip(modules, before):
            module.training = training
            for name, value in zip(hooks, kept):
                setattr(module, name, value)


class _LinearAsOneProduct(TorchFunctionMode):
    """Makes a linear layer one product of two matrices, whatever the strides of its input.

    torch would run it as a batched product where the input isn't contiguous, and the operator's name would depend on
    an accident of memory layout.
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is functional.linear:
            return _linear(*args, **kwargs or {})
        return func(*args, **kwargs or {})


def _linear(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    out = functional.linear(input.reshape(-1, input.shape[-1]), weight, bias)
    return out.reshape(*input.shape[:-1], weight.shape[0])


class _Counter(TorchDispatchMode):
    """Adds up the MACs of every operator, by module and operator name; raises at one whose cost isn't known."""

    def __init__(self) -> None:
        super().__init__()
        self.modules = ModuleTracker()
        self.by_module: dict[str, Counter[str]] = defaultdict(Counter)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        packet = func._overloadpacket
        out = SHAPES.get(packet, func)(*args, **kwargs)
        if packet in MACS or packet in flop_registry:
            macs = MACS[packet](*args) if packet in MACS else flop_registry[packet](*args, **kwargs, out_val=out) // 2
            for module in self.modules.parents:
                self.by_module[module][OPERATOR_NAMES.get(packet, "matmul")] += macs
        elif not (func.is_view or torch.Tag.pointwise in func.tags or packet in FREE):
            raise UncountedOperatorError(
                f"{packet} may do matrix work and nobody said how much; state it with "
                f"torch.utils.flop_counter.register_flop_formula, or add it to dualformer.macs.FREE if it does none"
            )
        return out


def _same_shape(x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return torch.empty_like(x)


def _layer_norm(x: torch.Tensor, normalized_shape: Any, weight: torch.Tensor | None, *_: Any) -> int:
    """fvcore's rule: 5 operations per element, 4 without weight."""
    return x.numel() * (4 if weight is None else 5)


def _batch_norm(x: torch.Tensor, weight: torch.Tensor | None, *_: Any) -> int:
    """fvcore's rule in eval mode: 2 operations per element, 1 without weight."""
    return x.numel() * (1 if weight is None else 2)


def _convolution_backward(gradient: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, *rest: Any) -> int:
    """As many as the forward pass for each of the two gradients that is wanted.

    torch's own formula takes a depth-wise convolution for a dense one.
    """
    *_, transposed, _, _, (of_input, of_weight, _) = rest
    positions = x if transposed else gradient
    return positions.numel() * math.prod(weight.shape[1:]) * (of_input + of_weight)


BATCH_NORMS = (
    aten.native_batch_norm,
    aten._native_batch_norm_legit_no_training,
    aten._batch_norm_no_update,
    aten.cudnn_batch_norm,
)
CONVOLUTIONS = (aten.convolution, aten._convolution, aten.cudnn_convolution, aten.convolution_backward)

# Costs that torch doesn't know or has wrong.
MACS = {
    aten.native_layer_norm: _layer_norm,
    aten.convolution_backward: _convolution_backward,
    **dict.fromkeys(BATCH_NORMS, _batch_norm),
}

OPERATOR_NAMES = {
    aten.native_layer_norm: "layer_norm",
    **dict.fromkeys(BATCH_NORMS, "batch_norm"),
    **dict.fromkeys(CONVOLUTIONS, "conv"),
    **dict.fromkeys((aten.mm, aten.addmm), "linear"),
}  # every other counted operator is a batched product, "matmul"

# Free of matrix work though torch tags them neither pointwise nor views: creation, movement of data, reductions.
FREE = frozenset(
    {
        *(
            aten.empty,
            aten.empty_like,
            aten.empty_strided,
            aten.zeros,
            aten.ones,
            aten.full,
            aten.arange,
            aten.linspace,
        ),
        *(aten.new_empty, aten.new_zeros, aten.new_ones, aten.new_full, aten.scalar_tensor, aten.fill_, aten.zero_),
        *(aten._to_copy, aten.copy_, aten._unsafe_view, aten.cat, aten.stack, aten.roll, aten.flip, aten.repeat),
        *(aten.index, aten.index_select, aten.gather, aten.embedding, aten.tril, aten.triu),
        *(aten.constant_pad_nd, aten.replication_pad3d, aten.reflection_pad3d),
        *(aten.sum, aten.mean, aten.amax, aten.amin, aten.max, aten.var_mean, aten._softmax, aten._safe_softmax),
        *(aten.avg_pool2d, aten.avg_pool3d, aten._adaptive_avg_pool2d, aten._adaptive_avg_pool3d),
        *(aten.bernoulli_, aten.rand, aten.new_empty_strided, aten.ones_like, aten.index_put),
        *(aten.native_layer_norm_backward, aten.native_batch_norm_backward, aten._softmax_backward_data),
        *(aten.select_backward, aten.slice_backward, aten.native_dropout_backward, aten.replication_pad3d_backward),
        *(aten.avg_pool2d_backward, aten.avg_pool3d_backward, aten.max_pool3d_with_indices_backward),
        *(aten.max_pool3d_with_indices, aten.upsample_nearest3d, aten.upsample_trilinear3d, aten.native_dropout),
    }
)

# What these give on the meta device. torch derives it in Python, which takes half of the time of a count.
SHAPES = {
    **dict.fromkeys((aten.gelu, aten._softmax, aten._safe_softmax), _same_shape),
    aten.native_layer_norm: lambda x, *_: (torch.empty_like(x),) * 3,  # statistics are unused in a forward pass
    aten.addmm: lambda bias, x, weight: x.new_empty(x.shape[0], weight.shape[1]),
}
