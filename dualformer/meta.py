"""Networks without memory: shapes and names of all weights, and no values."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch.overrides import TorchFunctionMode

Made = TypeVar("Made")


@contextlib.contextmanager
def no_memory() -> Iterator[None]:
    """Inside, what is built lies on the meta device and gets no initial values, which take most of a build's time."""
    with torch.device("meta"), _Uninitialised():
        yield


def with_memory_if_needed(make: Callable[[], Made], refusal: type[Exception]) -> Made:
    """Calls `make`; where it raises `refusal` on the meta device, once more with memory.

    Constructors that need a value, such as `tensor.item()`, can't do without. Random states stay as they were then.
    """
    try:
        return make()
    except refusal:
        if torch.get_default_device().type != "meta":
            raise
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        return make()


class _Uninitialised(TorchFunctionMode):
    """Leaves the functions of `torch.nn.init` out."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"]  # which is how they hand themselves over
        return func(*args, **(kwargs or {}))
