"""All that is otherwise ambient while a network is timed: threads, TF32, and which attention kernels may run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from sweeps.run_config import MeasureConfig

BACKENDS = {
    "math": SDPBackend.MATH,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}


@contextlib.contextmanager
def settings(config: MeasureConfig, threads: int) -> Iterator[None]:
    """Inside, torch works as the config says and with so many CPU threads; afterwards as before."""
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(matmul_precision(tf32=config.tf32))
            if config.attention_backend != "auto":
                stack.enter_context(sdpa_kernel(BACKENDS[config.attention_backend]))
            yield
    finally:
        torch.set_num_threads(threads_before)


@contextlib.contextmanager
def matmul_precision(*, tf32: bool) -> Iterator[None]:
    """Inside, float32 matrix work may or may not use TF32 units."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
