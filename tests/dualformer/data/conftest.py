"""A cache of its own for each test that asks for one, so that no file counts as inspected."""

import pytest


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DUALFORMER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
