"""NVML, which knows clocks, power and neighbours of a GPU: module `pynvml` (package nvidia-ml-py), if it is there."""

from __future__ import annotations

import importlib
from typing import Any

import torch


def load() -> tuple[Any, str]:
    """The initialised module, or None and why."""
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
    except ImportError:
        return None, "pynvml is not installed"
    except Exception as error:  # NVML's own error class, which only exists where the import worked
        return None, f"NVML: {error}"
    return nvml, ""


def handle_of(nvml: Any, device: torch.device) -> Any:
    """NVML's handle of a torch device, by identity, because the two number GPUs differently."""
    return nvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
