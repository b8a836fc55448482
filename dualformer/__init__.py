"""DualFormer and its benchmark: which space-time attention buys the most accuracy for its cost?

Names are imported when they are first used (PEP 562), so that what needs no torch, such as `list_models()` and the
command line's help, doesn't wait for it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dualformer.adapter import adapt
    from dualformer.config import ConfigError
    from dualformer.macs import count_macs
    from dualformer.registry import create_model, list_models
    from dualformer.weights import load_weights

__version__ = "0.1.0"
__all__ = ["ConfigError", "adapt", "count_macs", "create_model", "list_models", "load_weights"]

_MODULES = {
    "ConfigError": "dualformer.config",
    "adapt": "dualformer.adapter",
    "count_macs": "dualformer.macs",
    "create_model": "dualformer.registry",
    "list_models": "dualformer.registry",
    "load_weights": "dualformer.weights",
}


if not TYPE_CHECKING:  # which else would take any misspelt name for one of these

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module 'dualformer' has no attribute '{name}'")
        value = globals()[name] = getattr(importlib.import_module(_MODULES[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
