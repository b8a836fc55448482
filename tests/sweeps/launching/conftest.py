"""Where launches of these tests run, unless a file has a folder of its own."""

from pathlib import Path

import pytest

from tests.helpers.launches import GRID, ROOT


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a grid of three runs and a profile of two processes, where sweeps of these tests run."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "three.yaml").write_text(GRID)
    (tmp_path / "two.yaml").write_text("max_parallel: 2\nmax_attempts: 2\n")
    return tmp_path
