"""What is installed: everything under one name, whole, and at peace with other projects' packages."""

import os
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import dualformer
from dualformer.registry import create_model
from sweeps.launching.snapshot import take
from sweeps.source import ROOT, code_hash, files, source_state

FOREIGN = ("sweeps", "slurm", "analysis", "baselines")
"""Names that other projects install at the top as well."""

TINY = "{num_frames: 4, crop_size: 32, dim: 8, depths: [1, 1, 1, 1], num_heads: [1, 1, 1, 1], window_size: [2, 2, 2]}"


def settings() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_is_installed_and_nothing_generic_is():
    setuptools = settings()["tool"]["setuptools"]
    folders = {name.replace(".", "/"): folder for name, folder in setuptools["package-dir"].items()}

    def lies_in(package: str) -> str:
        path = package.replace(".", "/")
        parent = next((parent for parent in folders if path == parent or path.startswith(f"{parent}/")), None)
        return folders[parent] + path.removeprefix(parent) if parent else path

    tops = ("dualformer", "baselines", "slurm", "sweeps", "analysis")
    here = {path.parent.relative_to(ROOT).as_posix() for top in tops for path in (ROOT / top).rglob("__init__.py")}
    assert {lies_in(package) for package in setuptools["packages"]} == here
    assert {package.split(".")[0] for package in setuptools["packages"]} == {"dualformer"}


def test_the_version_has_one_source():
    assert settings()["project"]["dynamic"] == ["version"]
    assert settings()["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "dualformer.__version__"}
    assert f"version: {dualformer.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_the_lock_pins_whatever_is_asked_for():
    project = settings()["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    pinned = {line.split("==")[0].lower() for line in (ROOT / "requirements.lock").read_text().splitlines()}
    names = {name.split(">=")[0].split("[")[0].strip().lower() for name in asked}
    assert names - pinned == set()


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The folders of this checkout laid out as a wheel lays them out; returns the folder of `dualformer`."""
    library = tmp_path / "site-packages" / "dualformer"
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "dualformer", library, ignore=skip)
    shutil.copytree(ROOT / "baselines", library / "baselines", ignore=skip)
    for package in ("sweeps", "slurm", "analysis"):
        shutil.copytree(ROOT / package, library / "_suite" / package, ignore=skip)
    return library


def test_installed_code_is_the_code_of_the_checkout_and_so_is_a_jobs_copy(installed: Path, tmp_path: Path):
    copy = take(tmp_path / "runs", installed / "_suite")
    assert copy.name == code_hash(installed / "_suite") == code_hash(ROOT)
    assert {name for name, _ in files(copy)} == {name for name, _ in files(ROOT)}


def test_an_environment_inside_someones_repository_has_no_commit(installed: Path, tmp_path: Path):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "theirs.py").touch()
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run([*git, "add", "theirs.py"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "theirs"], check=True)
    assert source_state(installed / "_suite") == {"commit": None, "dirty": None}
