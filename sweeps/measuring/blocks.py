"""Where the blocks of a network are, which are compiled and bounded one by one."""

from __future__ import annotations

from torch import nn


def transformer_blocks(model: nn.Module) -> list[nn.Module]:
    """The entries of every module list named `blocks`."""
    return [
        block
        for name, modules in model.named_modules()
        if isinstance(modules, nn.ModuleList) and name.split(".")[-1] == "blocks"
        for block in modules
    ]
