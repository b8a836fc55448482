"""What loader workers make reaches the process that trains, or it hears at once why it doesn't."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from dualformer.data import handover
from dualformer.data.dataset import collate
from dualformer.data.handover import HandoverError, check_handover, stacked

ROOT = Path(__file__).parents[3]
LOADING = """
import sys
from torch.utils.data import DataLoader
from tests.dualformer.data.test_handover import Clips
from dualformer.data.dataset import collate
for batch in DataLoader(Clips(), batch_size=2, num_workers=1, collate_fn=collate, timeout=100):
    print(batch["clip"].shape)
"""


class Clips(torch.utils.data.Dataset):
    """A few clips of zeros."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return {"clip": torch.full((3, 4, 16, 16), index), "label": index, "index": index}


def test_batches_of_workers_are_those_made_alone():
    alone, shared = (list(DataLoader(Clips(), 2, num_workers=workers, collate_fn=collate)) for workers in (0, 2))
    for one, other in zip(alone, shared, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in ("clip", "label", "index"))
        assert other["label"].dtype == other["index"].dtype == torch.int64


def test_failures_alone_make_an_empty_batch():
    batch = collate([{"failure": "a.mp4: broken", "label": 1, "index": 0}])
    assert (batch["clip"].shape, batch["label"].dtype, batch["failures"]) == ((0,), torch.int64, ["a.mp4: broken"])


def test_a_long_folder_for_temporary_files_is_said_at_once(tmp_path):
    """Its sockets' paths would be too long, which a thread of the worker would find out, and tell nobody."""
    long = tmp_path / ("x" * 140)
    long.mkdir()
    began_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", LOADING],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(long), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert time.monotonic() - began_s < 90
    assert done.returncode == 1
    assert f"a loader worker can't hand over what it makes: AF_UNIX path too long; TMPDIR is {long}" in done.stderr


class Full:
    """Shared memory without room."""

    def __call__(self, *_, **__):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2>: No space left on device")


def test_full_shared_memory_is_said_at_once(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "share_memory_", Full())
    monkeypatch.setattr(handover, "_try_socket", lambda: None)
    began_s = time.monotonic()
    with pytest.raises(
        HandoverError, match=r"can't put a batch into shared memory \(\d+ bytes are free\): .*--shm-size"
    ):
        list(DataLoader(Clips(), 2, num_workers=1, collate_fn=collate, timeout=100))
    assert time.monotonic() - began_s < 60


def test_alone_nothing_is_shared(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "share_memory_", Full())
    assert torch.equal(stacked([torch.ones(2)]), torch.ones(1, 2))


@pytest.mark.parametrize(("length", "workers", "refused"), [(140, 2, True), (140, 0, False), (20, 2, False)])
def test_the_folder_for_temporary_files_is_checked_beforehand(monkeypatch, length, workers, refused):
    monkeypatch.setattr(handover.tempfile, "gettempdir", lambda: "/" + "x" * (length - 1))
    if not refused:
        check_handover(workers)
        return
    with pytest.raises(HandoverError, match=r"has at most 75 bytes, and TMPDIR is /x+; set a shorter one, or no"):
        check_handover(workers)


@pytest.mark.parametrize(("total_bytes", "refused"), [(256 * 2**10, True), (64 * 2**20, False)])
def test_the_size_of_shared_memory_is_checked_beforehand(monkeypatch, total_bytes, refused):
    usage = type("Usage", (), {"total": total_bytes, "free": total_bytes})
    monkeypatch.setattr(handover.shutil, "disk_usage", lambda _: usage)
    if not refused:
        check_handover(2, batch_bytes=2**20)
        return
    with pytest.raises(HandoverError, match=r"2 loader workers hold up to 4\.0 MiB .* has 0\.2 MiB; .*--shm-size"):
        check_handover(2, batch_bytes=2**20)
