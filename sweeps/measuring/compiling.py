"""Compiling a network block by block for the time that it is measured."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from dualformer.model_contract import need


@contextlib.contextmanager
def compiled(model: nn.Module, compile: str) -> Iterator[None]:
    """Compiles every block in place for the time of the context.

    Raises:
        LacksPartError: the model has no blocks, which is a `ConfigError`.
    """
    if compile == "off":
        yield
        return
    blocks = need(model, "blocks", "compile 'blocks'")
    torch.compiler.reset()
    try:
        with torch._dynamo.config.patch(recompile_limit=len(blocks) + 1):
            for block in blocks:
                block.compile(dynamic=False)
            yield
    finally:
        for block in blocks:
            block._compiled_call_impl = None


def no_recompilation(compile: str) -> contextlib.AbstractContextManager[None]:
    """While timing, a shape that isn't compiled yet is an error and not a slow sample."""
    return contextlib.nullcontext() if compile == "off" else torch.compiler.set_stance("fail_on_recompile")
