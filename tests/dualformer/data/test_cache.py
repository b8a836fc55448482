"""Where the cache is, and what is said where it can't be."""

from __future__ import annotations

from pathlib import Path

import pytest

from dualformer.data import cache as cache_module
from dualformer.data.cache import CacheError, cache_dir, cache_folder
from dualformer.data.config import DataConfig, TwoScaleConfig
from dualformer.data.dataset import load_manifest
from dualformer.data.inspection import inspect_all
from tests.helpers.videos import write_video

NAMES = r"DUALFORMER_CACHE, or XDG_CACHE_HOME, names"
SMALL = TwoScaleConfig(num_train=8, num_test=8)


@pytest.fixture
def nowhere(monkeypatch):
    """No variable that says where the cache is."""
    for name in ("DUALFORMER_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({"DUALFORMER_CACHE": "/a/b", "XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/a/b"),
        ({"XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x/dualformer"),
        ({"DUALFORMER_CACHE": "", "XDG_CACHE_HOME": "", "HOME": "/h"}, "/h/.cache/dualformer"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/h"}, "/h/.cache/dualformer"),
        ({"DUALFORMER_CACHE": "~/kept", "HOME": "/h"}, "/h/kept"),
    ],
)
def test_the_cache_is_where_variables_say(nowhere, variables, place):
    for name, value in variables.items():
        nowhere.setenv(name, value)
    assert cache_dir() == Path(place)


def test_a_relative_cache_is_below_the_working_folder(nowhere, tmp_path):
    nowhere.chdir(tmp_path)
    nowhere.setenv("DUALFORMER_CACHE", "kept")
    assert cache_dir() == tmp_path / "kept"


def test_a_user_without_a_home_is_told_what_to_set(nowhere):
    nowhere.setattr(cache_module.os.path, "expanduser", lambda path: path)  # as where the uid has no passwd entry
    with pytest.raises(CacheError, match=rf"no folder for the cache: ~/.cache means nothing here.*{NAMES} one"):
        cache_dir()


def blocked(tmp_path: Path) -> Path:
    """Where no folder can be made, not even by root."""
    (tmp_path / "file").touch()
    return tmp_path / "file" / "home"


def test_a_cache_that_cant_be_made_is_named_with_what_to_set(nowhere, tmp_path):
    nowhere.setenv("HOME", str(blocked(tmp_path)))
    with pytest.raises(
        CacheError, match=rf"the cache {blocked(tmp_path)}/.cache/dualformer can't be used .*{NAMES}"
    ) as caught:
        cache_folder("x")
    assert caught.value.errno == 20


@pytest.mark.parametrize("use", ["drawing", "inspecting"])
def test_whatever_needs_the_cache_says_so(nowhere, tmp_path, use):
    nowhere.setenv("DUALFORMER_CACHE", str(blocked(tmp_path)))
    write_video(tmp_path / "set/a.mp4", 4)
    with pytest.raises(CacheError, match=f"the cache {blocked(tmp_path)} can't be used.*{NAMES}"):
        if use == "drawing":
            load_manifest(DataConfig(embedded=SMALL))
        else:
            inspect_all(tmp_path / "set", ["a.mp4"])


def test_a_record_that_is_a_folder_is_named(nowhere, tmp_path):
    nowhere.setenv("DUALFORMER_CACHE", str(tmp_path / "cache"))
    write_video(tmp_path / "set/a.mp4", 4)
    inspect_all(tmp_path / "set", ["a.mp4"])
    (record,) = (tmp_path / "cache/inspected").iterdir()
    record.unlink()
    record.mkdir()
    with pytest.raises(CacheError, match=rf"Is a directory: {record}"):
        inspect_all(tmp_path / "set", ["a.mp4"])
