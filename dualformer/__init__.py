"""DualFormer and its benchmark: which space-time attention buys the most accuracy for its cost?"""

from dualformer.config import ConfigError
from dualformer.registry import create_model, list_models

__version__ = "0.1.0"
__all__ = ["ConfigError", "create_model", "list_models"]
