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
from collections.abc import Callable, Iterator, Mapping
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

from dualformer.adapter import AdaptedConfig
from dualformer.meta import no_memory
from dualformer.model_config import ModelConfig
from dualformer.model_contract import config_of, head_name, need, part, unwrapped
from dualformer.modes import modes_kept
from dualformer.registry import model_config

aten = torch.ops.aten

MATRIX_WORK = frozenset({"conv", "linear", "matmul"})


@dataclasses.dataclass(frozen=True)
class MacCount:
    """Multiply-accumulates of one forward pass over one view.

    Attributes:
        total: the sum of `by_operator`.
        by_operator: "conv", "linear" (products with one shared matrix), "matmul" (batched products, such as
            attention's), "layer_norm", "batch_norm", "group_norm", "rms_norm"; operators that don't occur are absent.
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
        model_or_name: a model with a `config`, a name of `list_models()`, or an import path.
        include_head: whether to count the model's `head`; None follows the model's publication (the class attribute
            `published_macs_include_head`).
        **input: changes to the published config as in `create_model`, such as `num_frames` and `crop_size`; a model
            given with changes is counted as its config says, rebuilt with them.

    Raises:
        ConfigError: unknown model or field, wrong type, illegal value.
        UncountedOperatorError: an operator's cost isn't known.
        TypeError: a model without a config.
        LacksPartError: the head is to be left out of a model that has none.
    """
    model = _network(model_or_name, input)
    if include_head is None:
        published = part(model, "published_macs_include_head")
        include_head = True if published is None else published
    head = None if include_head else need(model, "head", "leaving the head out of the count") and head_name(model)
    with _silent(model), torch.no_grad():
        by_module = _on_twins(model, _forward)
    return _summarise(by_module, head)


def closed_form(config: ModelConfig, *, include_head: bool = False) -> int:
    """Matrix work of a model by arithmetic alone: equals `count_macs(...).matrix_work` at a fraction of its time.

    For plans over thousands of configurations, and as a check of the counter that shares nothing with it.

    Args:
        config: of any model, as `dualformer.registry.model_config` returns it.
        include_head: whether to count the head.

    Raises:
        ConfigError: a model without a closed form; `count_macs` counts it.
    """
    return config.matrix_work(include_head=include_head)


@torch.inference_mode(False)
def count_training_macs(model_or_name: nn.Module | str, **input: Any) -> TrainingMacs:
    """Counts the matrix work of one training step on one clip, every weight trained.

    Args:
        model_or_name: as in `count_macs`.
        **input: as in `count_macs`; `gradient_checkpointing` decides about recomputation.

    Raises:
        ConfigError, TypeError, UncountedOperatorError: as `count_macs`.
    """
    model = _network(model_or_name, input)
    forward, rest = _training_step(model)
    if not part(model, "gradient_checkpointing"):
        return TrainingMacs(forward, rest, 0)
    _, backward = _training_step(_skeleton(model, {"gradient_checkpointing": False}))
    return TrainingMacs(forward, backward, rest - backward)


def _training_step(model: nn.Module) -> tuple[int, int]:
    """Matrix work of the forward pass and of all that the backward pass does."""
    with _silent(model, training=True), torch.enable_grad():
        return _on_twins(model, _forward_and_backward)


def _forward(run: Callable[[], Tensor], counter: _Counter) -> Mapping[str, Counter[str]]:
    with _LinearAsOneProduct():  # not in training: what is recomputed in the backward pass doesn't see it
        run()
    return counter.by_module


def _forward_and_backward(run: Callable[[], Tensor], counter: _Counter) -> tuple[int, int]:
    logits = run()
    forward = _matrix_work(counter.by_module["Global"])
    logits.sum().backward()
    return forward, _matrix_work(counter.by_module["Global"]) - forward


def _matrix_work(by_operator: Mapping[str, int]) -> int:
    return sum(count for name, count in by_operator.items() if name in MATRIX_WORK)


def _network(model_or_name: nn.Module | str, changes: Mapping[str, Any]) -> nn.Module:
    """The network to count: the model itself where there is one and nothing is to be changed."""
    if changes or isinstance(model_or_name, str):
        return _skeleton(model_or_name, changes)
    model = unwrapped(model_or_name)
    config_of(model)
    return model


def _skeleton(model_or_name: nn.Module | str, changes: Mapping[str, Any]) -> nn.Module:
    """The network without weights, where it can be built without."""
    if isinstance(model_or_name, str):
        config = model_config(model_or_name, **changes)
    else:
        config = config_of(unwrapped(model_or_name))
        if changes:
            config = model_config(**{**_rebuildable(config).to_dict(), **changes})
    with no_memory():
        return config.build()


def _rebuildable(config: ModelConfig) -> ModelConfig:
    """Returns the config; raises `ConfigError` for one that can't build its network again."""
    if isinstance(config, AdaptedConfig):
        config.build()
    return config


def _on_twins(model: nn.Module, work: Callable[[Callable[[], Tensor], _Counter], Any]) -> Any:
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


def _counted(model: nn.Module, work: Callable[[Callable[[], Tensor], _Counter], Any], device: str) -> Any:
    tensors = {name: _twin(tensor, device) for name, tensor in _tensors(model).items()}
    dtype = next((t.dtype for t in tensors.values() if t.is_floating_point()), torch.get_default_dtype())
    clip = torch.zeros(1, *config_of(model).clip_shape, device=device, dtype=dtype)
    counter = _Counter(meta=device == "meta")
    step = _Step(model, work, counter)
    with contextlib.ExitStack() as stack:
        contexts = (torch.device(device), _plain(), counter.modules, counter)
        for context in (torch.random.fork_rng(devices=[]), *contexts):
            stack.enter_context(context)
        return torch.func.functional_call(step, {f"model.{name}": twin for name, twin in tensors.items()}, (clip,))


class _Step(nn.Module):
    """Work on one pass of a model as a module, so that all of it sees the same stand-ins for the model's tensors."""

    def __init__(self, model: nn.Module, work: Callable[[Callable[[], Tensor], _Counter], Any], counter: _Counter):
        super().__init__()
        self.model, self.work, self.counter = model, work, counter

    def forward(self, clip: Tensor) -> Any:
        return self.work(lambda: self.model(clip), self.counter)


_ROOT = f"{_Step.__name__}.model"
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


def _summarise(by_module: Mapping[str, Counter[str]], left_out: str | None) -> MacCount:
    """Turns counts by the tracker's names into those of the model without one submodule."""
    by_operator = Counter(by_module.get(_ROOT, {}))
    inside = f"{_ROOT}."
    totals = {name.removeprefix(inside): macs.total() for name, macs in by_module.items() if name.startswith(inside)}
    if left_out is not None:
        by_operator -= by_module.get(inside + left_out, Counter())
        head, outer = totals.get(left_out, 0), _above(left_out)
        totals = {
            name: macs - head * (name in outer)
            for name, macs in totals.items()
            if not f"{name}.".startswith(f"{left_out}.")
        }
    totals = {"": by_operator.total(), **totals}
    return MacCount(by_operator.total(), dict(sorted(by_operator.items())), totals, left_out is None)


def _above(name: str) -> set[str]:
    """Qualified names of the modules that hold a module."""
    parts = name.split(".")
    return {".".join(parts[:length]) for length in range(1, len(parts))}


@contextlib.contextmanager
def _silent(model: nn.Module, *, training: bool = False) -> Iterator[None]:
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


class _LinearAsOneProduct(TorchFunctionMode):
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


class _Counter(TorchDispatchMode):
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
            macs = _macs_of(packet, args, kwargs, out)
            for module in self.modules.parents:
                self.by_module[module][OPERATOR_NAMES.get(packet, "matmul")] += macs
        elif not (func.is_view or torch.Tag.pointwise in func.tags or packet in FREE):
            raise UncountedOperatorError(
                f"{packet} may do matrix work and nobody said how much; state it with "
                f"torch.utils.flop_counter.register_flop_formula, or dualformer.macs.FREE.add(torch.ops.{packet}) if "
                f"it does none"
            )
        return out


def _macs_of(packet: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> int:
    """What an operator costs by our formulas, else by half the FLOPs of torch's."""
    if packet in MACS:
        return MACS[packet](*args, **kwargs)
    return flop_registry[packet](*args, **kwargs, out_val=out) // 2


def _same_shape(x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return torch.empty_like(x)


def _layer_norm(x: torch.Tensor, normalized_shape: Any, weight: torch.Tensor | None = None, *_: Any, **__: Any) -> int:
    """fvcore's rule, also taken for norms by root mean square: 5 operations per element, 4 without weight."""
    return x.numel() * (4 if weight is None else 5)


def _group_norm(x: torch.Tensor, weight: torch.Tensor | None, *_: Any, **__: Any) -> int:
    """fvcore's rule, that of layer norms."""
    return x.numel() * (4 if weight is None else 5)


def _batch_norm(x: torch.Tensor, weight: torch.Tensor | None, *_: Any, **__: Any) -> int:
    """fvcore's rule in eval mode: 2 operations per element, 1 without weight."""
    return x.numel() * (1 if weight is None else 2)


def _convolution_backward(gradient: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, *rest: Any, **__: Any) -> int:
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
MACS: dict[Any, Callable[..., int]] = {
    aten.native_layer_norm: _layer_norm,
    aten.native_group_norm: _group_norm,
    **({aten._fused_rms_norm: _layer_norm} if hasattr(aten, "_fused_rms_norm") else {}),
    aten.mv: lambda matrix, vector: matrix.numel(),
    aten.addmv: lambda bias, matrix, vector, **_: matrix.numel(),
    aten.dot: lambda x, y: x.numel(),
    aten.vdot: lambda x, y: x.numel(),
    aten.addbmm: lambda bias, x, y, **_: x.numel() * y.shape[-1],
    aten.convolution_backward: _convolution_backward,
    **dict.fromkeys(BATCH_NORMS, _batch_norm),
}

OPERATOR_NAMES = {
    aten.native_layer_norm: "layer_norm",
    aten.native_group_norm: "group_norm",
    **({aten._fused_rms_norm: "rms_norm"} if hasattr(aten, "_fused_rms_norm") else {}),
    **dict.fromkeys(BATCH_NORMS, "batch_norm"),
    **dict.fromkeys(CONVOLUTIONS, "conv"),
    **dict.fromkeys((aten.mm, aten.addmm), "linear"),
}  # every other counted operator is a batched product, "matmul"

_FREE_BY_REASON = {
    "they create": """
        empty empty_like empty_strided empty_permuted new_empty new_empty_strided zeros zeros_like new_zeros ones
        ones_like new_ones full full_like new_full scalar_tensor arange linspace eye fill fill_ zero zero_ tril_indices
        triu_indices _efficientzerotensor lift_fresh lift_fresh_copy""",
    "they draw": """
        rand rand_like randn randn_like randint randint_like randperm bernoulli bernoulli_ normal normal_ uniform_
        normal_functional native_dropout native_dropout_backward alpha_dropout""",
    "they copy and move": """
        _to_copy copy copy_ clone contiguous _unsafe_view _reshape_copy as_strided_ resize_ set_ cat stack roll flip
        repeat repeat_interleave index index_select take gather embedding embedding_dense_backward tril triu index_put
        index_put_ _index_put_impl_ index_add index_add_ index_copy index_copy_ scatter scatter_ scatter_add
        scatter_add_ masked_select masked_scatter select_scatter slice_scatter diagonal_scatter as_strided_scatter
        select_backward slice_backward diagonal_backward unfold_backward im2col col2im pixel_shuffle pixel_unshuffle
        channel_shuffle constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d
        replication_pad2d replication_pad3d reflection_pad1d_backward reflection_pad2d_backward
        reflection_pad3d_backward replication_pad1d_backward replication_pad2d_backward replication_pad3d_backward
        split_with_sizes_copy unbind_copy meshgrid unsafe_split unsafe_split_with_sizes unsafe_chunk""",
    "they reduce, sort or scan": """
        sum mean amax amin max min prod any all argmax argmin std std_mean var var_mean logsumexp norm
        linalg_vector_norm cumsum cumprod cummax cummin logcumsumexp topk sort argsort kthvalue median nonzero _unique2
        bincount value_selecting_reduction_backward equal""",
    "they are a softmax": """
        _softmax _safe_softmax _log_softmax _softmax_backward_data _log_softmax_backward_data""",
    "they pool or interpolate without weights": """
        avg_pool1d avg_pool2d avg_pool3d avg_pool2d_backward avg_pool3d_backward max_pool2d_with_indices
        max_pool3d_with_indices max_pool2d_with_indices_backward max_pool3d_with_indices_backward _adaptive_avg_pool2d
        _adaptive_avg_pool3d _adaptive_avg_pool2d_backward _adaptive_avg_pool3d_backward adaptive_max_pool2d
        adaptive_max_pool3d adaptive_max_pool2d_backward adaptive_max_pool3d_backward fractional_max_pool3d
        upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact2d _upsample_nearest_exact3d
        upsample_linear1d upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d _upsample_bilinear2d_aa
        _upsample_bicubic2d_aa upsample_nearest1d_backward upsample_nearest2d_backward upsample_nearest3d_backward
        _upsample_nearest_exact2d_backward _upsample_nearest_exact3d_backward upsample_linear1d_backward
        upsample_bilinear2d_backward upsample_bicubic2d_backward upsample_trilinear3d_backward grid_sampler_2d
        grid_sampler_3d grid_sampler_2d_backward grid_sampler_3d_backward""",
    "they go back through a norm, which isn't matrix work": """
        native_layer_norm_backward native_batch_norm_backward native_group_norm_backward _fused_rms_norm_backward
        batch_norm_backward cudnn_batch_norm_backward""",
    "they ask for a value, or check one": """
        _local_scalar_dense item _assert_async _assert_tensor_metadata sym_size is_same_size""",
}

FREE = {getattr(aten, name) for names in _FREE_BY_REASON.values() for name in names.split() if hasattr(aten, name)}
"""Operators free of matrix work though torch tags them neither pointwise nor views; more may be added."""

# What these give on the meta device. torch derives it in Python, which takes half of the time of a count.
SHAPES = {
    **dict.fromkeys((aten.gelu, aten._softmax, aten._safe_softmax), _same_shape),
    # Statistics have no use but to be kept; they mustn't be the output, which may be changed in place.
    aten.native_layer_norm: lambda x, *_: (torch.empty_like(x), *(torch.empty_like(x),) * 2),
    aten.addmm: lambda bias, x, weight: x.new_empty(x.shape[0], weight.shape[1]),
}
