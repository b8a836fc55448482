"""What holds for every test: a cache of its own, and one thread, so that tests can run side by side."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import pytest
import torch

SLOW_TIMEOUT_S = 1800
"""Of a test that is marked slow; that of the others stands in pyproject.toml."""


def pytest_collection_modifyitems(items):
    """Gives slow tests more time, skips what needs a GPU where there is none, and says so."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_TIMEOUT_S))
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Generated videos and records of inspected files go where pytest cleans up, not into the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DUALFORMER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _torch_as_it_was():
    """Puts back what a test changed of torch's process-wide state."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
