"""What "auto", "cpu" and "cuda" come to on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def choose_device(name: str) -> torch.device:
    """The device of a name; a CPU where there is no other, which `is_missing` tells."""
    import torch  # here, so that --help doesn't wait for it

    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def is_missing(name: str) -> bool:
    """Whether a device is asked for that this machine has not."""
    return name == "cuda" and choose_device(name).type != "cuda"
