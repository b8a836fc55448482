"""What is timed: one forward pass of a network on the same clips every time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dualformer.model_contract import config_of
from sweeps.run_config import MeasureConfig

RECORDING_WARMUP = 3
"""Passes before a CUDA graph is recorded, in which kernels are chosen and memory is reserved, as torch asks for."""


def random_clip(model: nn.Module, batch_size: int, device: torch.device) -> Tensor:
    """The same clips every time, [batch_size, 3, T, H, W], made on the CPU."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch_size, *config_of(model).clip_shape, generator=generator).to(device)


def forward_pass(module: Callable[[Tensor], Tensor], x: Tensor, config: MeasureConfig) -> Callable[[], Tensor]:
    """What is timed: one forward pass in the configured precision, casts of the weights included."""
    dtype = getattr(torch, config.precision)

    def step() -> Tensor:
        with torch.inference_mode(), torch.autocast(x.device.type, dtype, enabled=config.precision != "float32"):
            return module(x)

    return step


def recorded(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Returns a replay of `step` as one CUDA graph; it gives the same tensor each time, overwritten."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(RECORDING_WARMUP):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = step()

    def replay() -> Tensor:
        graph.replay()
        return out

    return replay
