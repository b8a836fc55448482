"""What single operators cost: formulas that torch lacks or has wrong, and what is known to be free of matrix work."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten


class UncountedOperatorError(RuntimeError):
    """The model ran an operator that is neither counted nor known to be free of matrix work."""


def macs_of(packet: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> int:
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
