"""The code of this project as files: where it lies, what it hashes to, which commit it is, what a process used of it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
"""Of the code that this process runs: the checkout, a snapshot of it, or what an installed wheel keeps inside."""

PACKAGES = ("dualformer", "baselines", "slurm", "sweeps")

SOURCE = "source.json"
_SUFFIXES = frozenset({".py", ".yaml", ".sh"})

_INSTALLED = frozenset({"site-packages", "dist-packages"})
_STANDARD_LIBRARY = Path(sysconfig.get_path("stdlib")).resolve()


def code_hash(root: Path = ROOT) -> str:
    """Returns 12 hexadecimal digits that stand for every line of code a run may execute."""
    digest = hashlib.sha256()
    for name, path in files(root):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{content}  {name.as_posix()}\n".encode())
    return digest.hexdigest()[:12]


def imported_files() -> dict[str, str]:
    """Returns the project files that this process has imported, each with 12 hexadecimal digits of its SHA-256.

    Files of the project are named by their path from its root. Modules from elsewhere that no installation brought, such
    as a network of one's own, count as well; they are named by their module, since their place is nobody's business.
    """
    found = {}
    for name, module in sorted(sys.modules.items()):
        path = Path(getattr(module, "__file__", None) or "")
        if path.suffix == ".py" and path.is_file() and (known := _project_name(name, path.resolve())):
            found[known] = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return found


def _project_name(module: str, path: Path) -> str | None:
    """What a module's file is called in a list of code, None where it is no code of the project or its user's."""
    if path.is_relative_to(ROOT) and (below := path.relative_to(ROOT)).parts[0] in PACKAGES:
        return below.as_posix()
    if _INSTALLED & set(path.parts) or path.is_relative_to(_STANDARD_LIBRARY):
        return None
    return f"{module.replace('.', '/')}.py"


def source_state(root: Path = ROOT) -> dict[str, Any]:
    """Returns `commit` and `dirty` (whether tracked files differ from it) of a checkout, or of what was copied from it.

    Both are None where git knows nothing of what is in the folder.
    """
    if (root / SOURCE).is_file():
        return json.loads((root / SOURCE).read_text())
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
