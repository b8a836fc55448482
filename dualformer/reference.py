"""The naive twins of fast modules, and a network that runs them.

A twin is a method `naive(self, x)` on the module: slow loops over the definition, on the module's own weights, without
dropout. A fast version is trusted because tests, and the gate in front of every timing, hold it equal to its twin.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

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


@contextlib.contextmanager
def naive(model: nn.Module) -> Iterator[nn.Module]:
    """Inside, every module of `model` that has a twin runs it; afterwards each runs what it ran before."""
    before = [(module, vars(module).get("forward")) for module in modules_with_twin(model)]
    try:
        for module, _ in before:
            vars(module)["forward"] = module.naive  # an instance attribute shadows the method
        yield model
    finally:
        for module, forward in before:
            if forward is None:
                vars(module).pop("forward", None)
            else:
                vars(module)["forward"] = forward


def num_twins(model: nn.Module) -> int:
    """Returns how many modules of `model` have a twin; 0 means that `naive(model)` changes nothing."""
    return len(modules_with_twin(model))


def modules_with_twin(model: nn.Module) -> list[nn.Module]:
    """Returns the modules of `model`, itself included, that have a twin."""
    return [module for module in model.modules() if callable(getattr(type(module), "naive", None))]
