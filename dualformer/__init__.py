"""DualFormer and its benchmark: which space-time attention buys the most accuracy for its cost?"""

from dualformer.adapt import adapt
from dualformer.config import ConfigError
from dualformer.macs import count_macs
from dualformer.registry import create_model, list_models
from dualformer.weights import load_weights

__version__ = "0.1.0"
__all__ = ["ConfigError", "adapt", "count_macs", "create_model", "list_models", "load_weights"]
