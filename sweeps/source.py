"""The code of this project as files: where it lies, what it hashes to, which commit it is, what was imported."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dualformer.results.files import read_object

ROOT = Path(__file__).resolve().parents[1]
"""Of the code that this process runs: the checkout, a snapshot of it, or what an installed wheel keeps inside."""

PACKAGES = ("dualformer", "baselines", "slurm", "sweeps")

SOURCE = "source.json"
_SUFFIXES = frozenset({".py", ".yaml", ".sh"})

_INSTALLED = frozenset({"site-packages", "dist-packages"})
_STANDARD_LIBRARY = Path(sysconfig.get_path("stdlib")).resolve()


def code_hash(root: Path = ROOT) -> str:
    """Returns 12 hexadecimal digits that stand for every line of code a run may execute."""
    return hash_of(files(root))


def hash_of(named: Iterable[tuple[Path, Path]]) -> str:
    """Returns 12 hexadecimal digits that stand for the content of files by their names, in whatever order they come."""
    digest = hashlib.sha256()
    for name, path in sorted(named):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{content}  {name.as_posix()}\n".encode())
    return digest.hexdigest()[:12]


def imported_files() -> dict[str, str]:
    """Returns the project files that this process has imported, each with 12 hexadecimal digits of its SHA-256.

    Files of the project are named by their path in a checkout. Modules from elsewhere that no installation brought,
    such as a network of one's own, count as well, named by module: their place is nobody's business.
    """
    project = {path.resolve(): name.as_posix() for name, path in files(ROOT)}
    found = {}
    for module, path in _modules():
        if name := project.get(path) or (None if _is_installed(path) else _name(module, path)):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return found


def _modules() -> Iterator[tuple[str, Path]]:
    """Every imported module that is a Python file, with the place of it."""
    for name, module in sorted(sys.modules.items()):
        path = Path(getattr(module, "__file__", None) or "")
        if path.suffix == ".py" and path.is_file():
            yield name, path.resolve()


def _name(module: str, path: Path) -> str:
    """`mine.net` -> mine/net.py, and `mine` -> mine/__init__.py where that is a package."""
    return module.replace(".", "/") + ("/__init__.py" if path.name == "__init__.py" else ".py")


def _is_installed(path: Path) -> bool:
    return bool(_INSTALLED & set(path.parts)) or path.is_relative_to(_STANDARD_LIBRARY)


def source_state(root: Path = ROOT) -> dict[str, Any]:
    """Returns `commit` and `dirty` (whether tracked files differ from it) of a checkout, or of what was copied from it.

    Both are None where git knows nothing of what is in the folder.
    """
    if (root / SOURCE).is_file():
        return read_object(root / SOURCE)
    try:
        if not git(root, "ls-files"):  # an environment inside someone else's checkout
            return {"commit": None, "dirty": None}
        commit = git(root, "rev-parse", "HEAD").decode().strip()
        dirty = bool(git(root, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}
    return {"commit": commit, "dirty": dirty}


def files(root: Path) -> Iterator[tuple[Path, Path]]:
    """Yields every file of code: its name in a checkout, and where it lies."""
    folders = package_folders(root)
    for package, folder in folders.items():
        inside = {other for other in (root, *folders.values()) if other != folder and other.is_relative_to(folder)}
        for path in sorted(folder.rglob("*")):
            is_code = path.suffix in _SUFFIXES and path.is_file() and "__pycache__" not in path.parts
            if is_code and inside.isdisjoint(path.parents):
                yield package / path.relative_to(folder), path


def package_folders(root: Path = ROOT) -> dict[str, Path]:
    """Returns where each package lies: beside one another in a checkout, inside `dualformer` in an installed wheel.

    A copy of either is laid out as a checkout, and hashes to the same code.
    """
    if (root / "dualformer").is_dir():
        return {package: root / package for package in PACKAGES}
    library = root.parent
    inside = {"dualformer": library, "baselines": library / "baselines"}
    return {package: inside.get(package, root / package) for package in PACKAGES}


def git(root: Path, *arguments: str) -> bytes:
    return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, check=True, timeout=60).stdout
