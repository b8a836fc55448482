"""How much memory a forward pass needs, and how to tell that memory ran out."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GIB = 2**30


def peak_memory(step: Callable[[], object], resident: Sequence[nn.Module | Tensor], device: torch.device) -> int:
    """Bytes of `resident` and of the most that one pass holds beyond them.

    Args:
        step: one forward pass, warmed up.
        resident: the model and its input.
        device: on a GPU torch's allocator is read; on a CPU live tensors are added up, uncompiled.
    """
    fixed = sum(tensor.untyped_storage().nbytes() for tensor in _storages(resident))
    if device.type == "cpu":
        with torch.compiler.set_stance("force_eager"), _LiveTensors() as live:
            step()
        return fixed + live.peak_bytes
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return fixed + torch.cuda.max_memory_allocated() - before


def _storages(resident: Sequence[nn.Module | Tensor]) -> list[Tensor]:
    """The tensors of modules, one for each storage."""
    tensors = [
        tensor
        for item in resident
        for tensor in ((*item.parameters(), *item.buffers()) if isinstance(item, nn.Module) else (item,))
    ]
    return list({tensor.untyped_storage().data_ptr(): tensor for tensor in tensors}.values())


class _LiveTensors(TorchDispatchMode):
    """Adds up the storages that operators made and that are still referred to."""

    def __init__(self) -> None:
        super().__init__()
        self.live_bytes = self.peak_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        out = func(*args, **kwargs or {})
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in inputs:
                self._add(tensor.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        size = storage.nbytes()
        self.live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        weakref.finalize(storage, self._remove, size)

    def _remove(self, size: int) -> None:
        self.live_bytes -= size


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or a CPU."""
    text = str(error)
    allocator = "DefaultCPUAllocator" in text and "memory" in text
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or allocator
