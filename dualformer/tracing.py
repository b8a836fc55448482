"""Whether a naive twin is a reference of its own: which code runs in a module's fast path, and which in its twin.

A twin that calls its fast path, or a helper that both share, agrees with it whatever either computes. So the two may
share weights and the layers of libraries, and no function of this project or of the model.
"""

from __future__ import annotations

import functools
import sys
import sysconfig
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from dualformer.modes import evaluating
from dualformer.reference import modules_with_twin

PACKAGES = frozenset({"dualformer", "baselines", "__main__"})
FUSED = "scaled_dot_product_attention"
"""The kernel behind the fast paths; a twin that calls it as well holds it up to itself."""
ALLOWED = frozenset({"dualformer.attention.base.Attention.num_tokens"})
"""What a fast path and its twin may share: numbers that say nothing of how attention is computed."""


def shared_functions(model: nn.Module, x: Tensor) -> list[str]:
    """Returns what runs in the fast path of a module and in its twin too, by dotted name; none is as it should be.

    Args:
        model: an attention, block or model; each module in it that has a twin is tried with the inputs that it gets.
        x: what it is called with.
    """
    found: dict[str, None] = {}
    with evaluating(model), torch.no_grad():
        for module, args, by_name in _calls(model, x):
            own = PACKAGES | {type(module).__module__.split(".")[0]}
            fast, slow = (_functions_run(way, args, by_name, own) for way in (module, module.naive))
            found |= dict.fromkeys(fast[code] for code in fast if code in slow and fast[code] not in ALLOWED)
    return list(found)


def _calls(model: nn.Module, x: Tensor) -> list[tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    """Every module with a twin that a forward pass calls, with its inputs, positional and by name."""
    calls: dict[nn.Module, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    def note(module: nn.Module, args: tuple[Any, ...], by_name: dict[str, Any]) -> None:
        calls.setdefault(module, (args, by_name))

    hooks = [module.register_forward_pre_hook(note, with_kwargs=True) for module in modules_with_twin(model)]
    try:
        model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return [(module, *inputs) for module, inputs in calls.items()]


def _functions_run(
    work: Callable[..., object], args: tuple[Any, ...], by_name: Mapping[str, Any], own: frozenset[str]
) -> dict[Hashable, str]:
    """The functions that a call runs, those of libraries left out: dotted names by code."""
    seen: dict[Hashable, str] = {}

    def note(frame: FrameType, event: str, arg: Any) -> None:
        if event == "call" and frame.f_code not in seen:
            seen[frame.f_code] = _name(frame, own)
        elif event == "c_call" and getattr(arg, "__name__", "") == FUSED:
            seen[FUSED] = FUSED

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        work(*args, **by_name)
    finally:
        sys.setprofile(before)
    return {code: name for code, name in seen.items() if name}


def _name(frame: FrameType, own: frozenset[str]) -> str:
    """Module and qualified name of a function; "" for that of a library."""
    module, code = frame.f_globals.get("__name__", ""), frame.f_code
    if module.split(".")[0] not in own and _is_installed(code.co_filename):
        return ""
    return f"{module}.{code.co_qualname}"


@functools.cache
def _is_installed(file: str) -> bool:
    """Whether code is a library's or a part of Python, as what was made without a file is."""
    place = Path(file)
    installed = not {"site-packages", "dist-packages"}.isdisjoint(place.parts)
    return installed or not place.is_file() or place.is_relative_to(sysconfig.get_path("stdlib"))
