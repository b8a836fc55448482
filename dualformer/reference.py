"""Obviously right versions of every attention: slow loops over the definition, on the weights of the fast modules.

A fast version is trusted because tests, and the gate in front of every timing, hold it equal to its twin here, forward
and backward. `naive(model)` makes a whole network use the twins.

Shapes as in `attention.py`; inside a function q, k, v are [tokens, C] of one sample.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from itertools import pairwise, product

import torch
from torch import Tensor, nn

from dualformer.attention import (
    Attention,
    DividedAttention,
    FullAttention,
    GlobalPyramidAttention,
    LocalWindowAttention,
    PyramidLevel,
    ShiftedWindowAttention,
)

QUERIES_AT_ONCE = 4096
"""Every query has a softmax of its own, so taking some at a time bounds memory and changes nothing else."""


def attend(q: Tensor, k: Tensor, v: Tensor, num_heads: int, bias: Tensor | None = None) -> Tensor:
    """Softmax attention written out, one head at a time.

    Args:
        q: queries [L, C].
        k: keys [S, C].
        v: values [S, C].
        num_heads: heads M.
        bias: [M, L, S], added to the logits.

    Returns:
        [L, C].
    """
    heads = []
    for head, (q_, k_, v_) in enumerate(zip(*(x.chunk(num_heads, dim=-1) for x in (q, k, v)))):
        rows = []
        for start in range(0, len(q_), QUERIES_AT_ONCE):
            some = slice(start, start + QUERIES_AT_ONCE)
            logits = q_[some] @ k_.T / math.sqrt(q_.shape[-1])
            if bias is not None:
                logits = logits + bias[head, some]
            rows.append(logits.softmax(dim=-1) @ v_)
        heads.append(torch.cat(rows))
    return torch.cat(heads, dim=-1)


def full(module: FullAttention, x: Tensor) -> Tensor:
    """Every token attends to every token."""
    out = []
    for sample in module.qkv(x):
        q, k, v = sample.reshape(module.num_tokens, -1).chunk(3, dim=-1)
        out.append(attend(q, k, v, module.config.num_heads))
    return module.proj(torch.stack(out)).view_as(x)


def local_window(module: LocalWindowAttention, x: Tensor) -> Tensor:
    """Every box of the grid attends to itself; boxes are products of one interval an axis."""
    qkv = module.qkv(x)
    out = torch.empty_like(x)
    axes = [intervals(*axis) for axis in zip(module.config.grid, module.window, module.shift)]
    for box in product(*axes):
        t, h, w = (slice(start, stop) for start, stop in box)
        bias = relative_bias(module, box)
        for sample in range(len(x)):
            part = qkv[sample, t, h, w]
            q, k, v = part.reshape(-1, part.shape[-1]).chunk(3, dim=-1)
            attended = attend(q, k, v, module.config.num_heads, bias)
            out[sample, t, h, w] = attended.view(*part.shape[:-1], -1)
    return module.proj(out)


def intervals(size: int, length: int, shift: int) -> list[tuple[int, int]]:
    """Cuts `range(size)` into windows of `length`, the first of them only `shift` long where that is not 0."""
    cuts = [0, *range(shift or length, size, length), size]
    return list(pairwise(cuts))


def relative_bias(module: LocalWindowAttention, box: tuple[tuple[int, int], ...]) -> Tensor | None:
    """Learned bias of every pair of tokens of a box by their offset, [M, L, L]."""
    if not module.config.relative_bias:
        return None
    wt, wh, ww = module.window
    places = list(product(*(range(*interval) for interval in box)))
    table = module.bias_table.view(2 * wt - 1, 2 * wh - 1, 2 * ww - 1, -1)
    rows = [
        torch.stack([table[a[0] - b[0] + wt - 1, a[1] - b[1] + wh - 1, a[2] - b[2] + ww - 1] for b in places])
        for a in places
    ]
    return torch.stack(rows).permute(2, 0, 1)


def global_pyramid(module: GlobalPyramidAttention, x: Tensor) -> Tensor:
    """Every token attends to the pooled tokens of all levels."""
    levels = [pooled_level(level, x) for level in module.levels.values()] or [x.flatten(1, 3)]
    out = []
    for sample in range(len(x)):
        pairs = []
        for number, level in enumerate(levels):
            group = number if len(module.kv) > 1 else 0
            pairs.append(module.kv[group](module.norms[group](level[sample])))
        k, v = torch.cat(pairs).chunk(2, dim=-1)
        q = module.q(x[sample]).reshape(module.num_tokens, -1)
        out.append(attend(q, k, v, module.config.num_heads))
    return module.proj(torch.stack(out)).view_as(x)


def pooled_level(level: PyramidLevel, x: Tensor) -> Tensor:
    """[B, T, H, W, C] -> [B, P, C], one cell at a time."""
    pooling = level.config.pooling
    if pooling == "average":
        return flat(pooled(x, level.kernel, lambda cell: cell.mean(dim=(1, 2, 3))))
    if pooling == "max":
        return flat(pooled(x, level.kernel, lambda cell: cell.amax(dim=(1, 2, 3))))
    if isinstance(level.pool, nn.Conv3d):
        return flat(convolved(x, level.pool))
    first, norm, _, second = level.pool
    x = convolved(filled(x, level.cell), first)
    x = norm(x.movedim(-1, 1)).movedim(1, -1).relu()
    return flat(convolved(x, second))


def convolved(x: Tensor, conv: nn.Conv3d) -> Tensor:
    """Depth-wise convolution with kernel = stride as a weighted sum over each cell."""
    weight = conv.weight[:, 0].permute(1, 2, 3, 0)  # [t, h, w, C]
    return pooled(x, conv.kernel_size, lambda cell: (cell * weight).sum(dim=(1, 2, 3)) + conv.bias)


def pooled(x: Tensor, kernel: tuple[int, int, int], operator: Callable[[Tensor], Tensor]) -> Tensor:
    """[B, T, H, W, C] -> [B, t, h, w, C]: `operator` maps each cell [B, *kernel, C] to [B, C]."""
    x = filled(x, kernel)
    counts = [n // k for n, k in zip(x.shape[1:4], kernel)]
    cells = []
    for place in product(*map(range, counts)):
        t, h, w = (slice(i * k, (i + 1) * k) for i, k in zip(place, kernel))
        cells.append(operator(x[:, t, h, w]))
    return torch.stack(cells, dim=1).view(len(x), *counts, -1)


def filled(x: Tensor, kernel: tuple[int, int, int]) -> Tensor:
    """Repeats the last entry of every axis of [B, T, H, W, C] until it is a multiple of `kernel`."""
    for axis, k in enumerate(kernel, start=1):
        last = x.narrow(axis, x.shape[axis] - 1, 1)
        x = torch.cat([x, *[last] * (-x.shape[axis] % k)], dim=axis)
    return x


def flat(x: Tensor) -> Tensor:
    return x.flatten(1, 3)


def divided(module: DividedAttention, x: Tensor) -> Tensor:
    """Each place attends over time; then, past a residual and a norm, each frame attends over its places."""
    heads = module.config.num_heads
    _, times, rows, columns, _ = x.shape
    along_time, along_space = torch.empty_like(x), torch.empty_like(x)
    qkv = module.time_qkv(x)
    for sample, row, column in product(range(len(x)), range(rows), range(columns)):
        q, k, v = qkv[sample, :, row, column].chunk(3, dim=-1)
        along_time[sample, :, row, column] = attend(q, k, v, heads)
    along_time = module.time_proj(along_time)
    qkv = module.qkv(module.norm(x + along_time))
    for sample, time in product(range(len(x)), range(times)):
        q, k, v = qkv[sample, time].flatten(0, 1).chunk(3, dim=-1)
        along_space[sample, time] = attend(q, k, v, heads).view(rows, columns, -1)
    return along_time + module.proj(along_space)


NAIVE: dict[type[Attention], Callable[[Attention, Tensor], Tensor]] = {
    LocalWindowAttention: local_window,
    ShiftedWindowAttention: local_window,
    GlobalPyramidAttention: global_pyramid,
    DividedAttention: divided,
    FullAttention: full,
}


def num_twins(model: nn.Module) -> int:
    """Returns how many modules of `model` have a twin; 0 means that `naive(model)` changes nothing."""
    return sum(type(module) in NAIVE for module in model.modules())


@contextlib.contextmanager
def naive(model: nn.Module) -> Iterator[nn.Module]:
    """Inside the context every attention of `model` runs its twin of this file, without dropout."""
    modules = [module for module in model.modules() if isinstance(module, Attention)]
    for module in modules:
        module.forward = NAIVE[type(module)].__get__(module)
    try:
        yield model
    finally:
        for module in modules:
            del module.forward
