"""What is installed: everything under one name, whole, and at peace with other projects' packages."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import torch

import dualformer
from sweeps.launching.snapshot import name_of, take
from sweeps.source import ROOT, code_hash, files, source_state

TOPS = ("dualformer", "baselines", "slurm", "sweeps", "analysis")
"""Packages of a checkout."""

FOREIGN = TOPS[1:]
"""Names that other projects install at the top as well."""


def settings() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_is_installed_and_nothing_generic_is():
    setuptools = settings()["tool"]["setuptools"]
    folders = {name.replace(".", "/"): folder for name, folder in setuptools["package-dir"].items()}

    def lies_in(package: str) -> str:
        path = package.replace(".", "/")
        parent = next((parent for parent in folders if path == parent or path.startswith(f"{parent}/")), None)
        return folders[parent] + path.removeprefix(parent) if parent else path

    here = {path.parent.relative_to(ROOT).as_posix() for top in TOPS for path in (ROOT / top).rglob("__init__.py")}
    assert {lies_in(package) for package in setuptools["packages"]} == here
    assert {package.split(".")[0] for package in setuptools["packages"]} == {"dualformer"}


def test_the_version_has_one_source():
    assert settings()["project"]["dynamic"] == ["version"]
    assert settings()["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "dualformer.__version__"}
    assert f"version: {dualformer.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_the_lock_pins_whatever_is_asked_for():
    project = settings()["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    pins = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    assert {canonical(line) for line in asked} - {canonical(line) for line in pins} == set()


def canonical(requirement: str) -> str:
    """Name of a package, however it is spelt."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


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
    copy = take(tmp_path / "runs", root=installed / "_suite")
    assert copy.name == name_of(installed / "_suite") == name_of(ROOT)
    assert code_hash(copy) == code_hash(installed / "_suite") == code_hash(ROOT)
    assert {name for name, _ in files(copy)} == {name for name, _ in files(ROOT)}


def test_an_environment_inside_someones_repository_has_no_commit(installed: Path, tmp_path: Path):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "theirs.py").touch()
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run([*git, "add", "theirs.py"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "theirs"], check=True)
    assert source_state(installed / "_suite") == {"commit": None, "dirty": None}


class Environment:
    """A virtual environment that sees the packages of this one, and what is installed into it."""

    def __init__(self, folder: Path):
        venv.create(folder, symlinks=True)
        self.bin = folder / "bin"
        (self.packages,) = folder.glob("lib/python*/site-packages")
        (self.packages / "shared.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")

    def install(self, wheel: Path) -> None:
        pip = [sys.executable, "-m", "pip", "--python", str(self.bin / "python"), "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)

    def run(self, command: str, *arguments: str, cwd: Path) -> str:
        """Returns what a command prints; fails where the command does."""
        variables = {"PATH": os.environ["PATH"], "HOME": str(cwd), "DUALFORMER_CACHE": os.environ["DUALFORMER_CACHE"]}
        done = subprocess.run(
            [self.bin / command, *arguments], env=variables, cwd=cwd, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{command} {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def files(self) -> set[Path]:
        return {path for path in self.packages.rglob("*") if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built from a copy of it."""
    folder = tmp_path_factory.mktemp("wheel")
    unwanted = shutil.ignore_patterns(".*", "build", "runs", "tests", "figures", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, folder / "source", ignore=unwanted)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"]
    command = [*pip, "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(folder / "source")]
    subprocess.run(command, check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the wheel, and another project that installs packages of the same plain names."""
    folder = tmp_path_factory.mktemp("environment")
    foreign = folder / "plain_names-1.0-py3-none-any.whl"
    with zipfile.ZipFile(foreign, "w") as archive:
        for name in FOREIGN:
            archive.writestr(f"{name}/__init__.py", '"""Theirs."""\n')
        archive.writestr(
            "plain_names-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: plain_names\nVersion: 1.0\n"
        )
        archive.writestr(
            "plain_names-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("plain_names-1.0.dist-info/RECORD", "")
    environment = Environment(folder / "env")
    environment.install(wheel)
    environment.install(foreign)
    return environment


@pytest.mark.slow
def test_a_wheel_holds_one_package_with_its_types_data_and_licence(wheel: Path):
    names = zipfile.ZipFile(wheel).namelist()
    information = f"dualformer-{dualformer.__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {"dualformer", information}
    for name in (
        "dualformer/py.typed",
        "dualformer/baselines/py.typed",
        "dualformer/_suite/sweeps/grids/ablations.yaml",
        "dualformer/_suite/slurm/cluster.sh",
        "dualformer/_suite/analysis/report.html.j2",
        f"{information}/licenses/LICENSE",
        f"{information}/licenses/NOTICE",
    ):
        assert name in names


@pytest.mark.slow
def test_an_installed_wheel_works_from_an_empty_folder(environment: Environment, tmp_path: Path):
    run = environment.run
    before = environment.files()
    assert "launch" in run("dualformer", "--help", cwd=tmp_path)
    assert dualformer.__version__ in run("dualformer", "--version", cwd=tmp_path)
    assert "vivit_base" in run("dualformer", "models", cwd=tmp_path)
    grid = ["launch", "--grid", "published_sizes.yaml", "--only"]
    assert "1 run" in run("dualformer", *grid, "model.name=dualformer_tiny", "--dry-run", cwd=tmp_path)
    assert not list(tmp_path.glob("runs*"))
    run("dualformer", *grid, "model.name=video_swin_tiny", "--executor", "local", cwd=tmp_path)
    (result,) = tmp_path.glob("runs/*/result.json")
    assert '"ok"' in result.read_text()
    run("dualformer", "collect", "--runs", "runs", cwd=tmp_path)
    assert list(tmp_path.glob("build/results/published_sizes/*.csv"))
    run("dualformer", "figures", cwd=tmp_path)
    assert list(tmp_path.glob("build/figures/*.png")) and (tmp_path / "build" / "report.html").exists()
    assert environment.files() == before


@pytest.mark.slow
def test_installed_packages_of_plain_names_are_left_to_those_who_own_them(environment: Environment, tmp_path: Path):
    program = """
import dualformer, importlib
swin = dualformer.create_model("video_swin_tiny", embed_dim=8, num_heads=(1, 1, 1, 1), depths=(1, 1, 1, 1))
print(type(swin).__module__)
print(*(importlib.import_module(name).__doc__ for name in ("sweeps", "slurm", "analysis", "baselines")))
"""
    printed = environment.run("python", "-c", program, cwd=tmp_path).split()
    assert printed == ["dualformer.baselines.video_swin", *["Theirs."] * len(FOREIGN)]


@pytest.mark.slow
def test_a_wheel_is_the_code_of_its_checkout(environment: Environment, tmp_path: Path):
    program = """
from dualformer.suite import ensure_importable
ensure_importable()
from sweeps.source import code_hash
print(code_hash())
"""
    assert environment.run("python", "-c", program, cwd=tmp_path).strip() == code_hash(ROOT)
