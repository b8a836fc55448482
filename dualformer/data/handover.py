"""How loader workers hand clips to the process that trains: shared memory, whose name travels through a socket.

torch does both in a thread of the worker that nobody listens to: where the shared memory is full, or the socket's path
is too long, the error is printed, the clip is lost, and the process that trains waits until its time is up. So memory
is shared here, in the worker's own thread, whose errors torch passes on at once, and the socket is tried before the
first clip.
"""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from collections.abc import Sequence
from multiprocessing.reduction import ForkingPickler

import torch
import torch.multiprocessing  # teaches the pickler how tensors are shared
from torch import Tensor
from torch.utils.data import get_worker_info

from dualformer.errors import first_line

SHARED_MEMORY = "/dev/shm"
_LONGEST_SOCKET = 107  # bytes of a path, as Linux has it
_SOCKETS_NAME = len("/pymp-12345678/listener-12345678")  # as multiprocessing names it
_BATCHES_AHEAD = 2  # of each worker: torch's prefetch_factor


class HandoverError(RuntimeError):
    """Loader workers can't hand over what they make; says why, and what helps."""


def check_handover(num_workers: int, batch_bytes: int = 0) -> None:
    """Finds out before the first batch whether loader workers can hand theirs over.

    Args:
        num_workers: of the loader; 0 hands nothing over.
        batch_bytes: size of a batch.

    Raises:
        HandoverError: the folder for temporary files has too long a name, or shared memory can't hold the batches that
            wait.
    """
    if not num_workers:
        return
    folder = tempfile.gettempdir()
    if len(os.fsencode(folder)) + _SOCKETS_NAME > _LONGEST_SOCKET:
        longest = _LONGEST_SOCKET - _SOCKETS_NAME
        raise HandoverError(
            f"loader workers need a folder for temporary files whose name has at most {longest} bytes, and TMPDIR is "
            f"{folder}; set a shorter one, or no workers"
        )
    needed = num_workers * _BATCHES_AHEAD * batch_bytes
    if os.path.isdir(SHARED_MEMORY) and (total := shutil.disk_usage(SHARED_MEMORY).total) < needed:
        raise HandoverError(
            f"{num_workers} loader workers hold up to {needed / 2**20:.1f} MiB of clips in shared memory, and "
            f"{SHARED_MEMORY} has {total / 2**20:.1f} MiB; give it more (docker run --shm-size), or use fewer workers"
        )


def stacked(tensors: Sequence[Tensor], dtype: torch.dtype | None = None) -> Tensor:
    """Stacks tensors as `torch.stack`; in a loader worker, in memory that is shared already.

    Args:
        tensors: of one shape and type.
        dtype: of the result where there are none; then it has shape [0].

    Raises:
        HandoverError: in a worker, where shared memory is full or can't be announced.
    """
    if not tensors:
        return torch.empty(0, dtype=dtype)
    if get_worker_info() is None:
        return torch.stack(list(tensors))
    _try_socket()
    try:
        shared = torch.empty(len(tensors), *tensors[0].shape, dtype=tensors[0].dtype).share_memory_()
        return torch.stack(list(tensors), out=shared)
    except RuntimeError as error:
        free = f" ({shutil.disk_usage(SHARED_MEMORY).free} bytes are free)" if os.path.isdir(SHARED_MEMORY) else ""
        raise HandoverError(
            f"a loader worker can't put a batch into shared memory{free}: {first_line(error)}; give it more "
            "(docker run --shm-size), or use fewer workers"
        ) from error


@functools.cache
def _try_socket() -> None:
    """Does once what torch will do with each tensor: a worker that can't fails here, where it is heard."""
    try:
        ForkingPickler.dumps(torch.zeros(1).share_memory_())
    except (OSError, RuntimeError) as error:
        raise HandoverError(
            f"a loader worker can't hand over what it makes: {error}; TMPDIR is {tempfile.gettempdir()}"
        ) from error
