"""The code that runs is the code that was launched: a copy of it, named by its hash, for every launch.

Jobs may wait for days while the checkout is edited. They import from a copy of the working tree as it was when they
were launched, uncommitted changes included, and check that the copy is still what its name says.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
"""Of the code that this process runs: the checkout, or a snapshot of it."""

PACKAGES = ("dualformer", "baselines", "slurm", "sweeps")
FOLDER = ".snapshots"

_SOURCE = "source.json"
_SUFFIXES = frozenset({".py", ".yaml", ".sh"})


class SnapshotError(RuntimeError):
    """The code of a job is not the code that was launched."""


def code_hash(root: Path = ROOT) -> str:
    """Returns 12 hexadecimal digits that stand for every line of code a run may execute."""
    digest = hashlib.sha256()
    for path in _files(root):
        content = hashlib.sha256((root / path).read_bytes()).hexdigest()
        digest.update(f"{content}  {path.as_posix()}\n".encode())
    return digest.hexdigest()[:12]


def take(runs: Path, root: Path = ROOT) -> Path:
    """Copies the code to `<runs>/.snapshots/<hash>` unless it is there, and returns that folder.

    Beside the packages lie `source.json` (commit and whether files differed from it) and `uncommitted.patch`.
    """
    folder = runs.resolve() / FOLDER
    if (known := folder / code_hash(root)).exists():
        return known
    folder.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".", dir=folder))
    for path in _files(root):
        (aside / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / path, aside / path)
    (aside / _SOURCE).write_text(json.dumps(source_state(root)))
    (aside / "uncommitted.patch").write_bytes(_uncommitted(root))
    aside.chmod(0o755)
    snapshot = folder / code_hash(aside)  # of what was copied: an editor may have saved a file meanwhile
    try:
        os.rename(aside, snapshot)
    except OSError:  # another launcher was faster
        shutil.rmtree(aside)
    return snapshot


def source_state(root: Path = ROOT) -> dict[str, Any]:
    """Returns `commit` and `dirty` (whether tracked files differ from it) of a checkout, or of what was copied from it.

    Both are None where git knows nothing of the folder.
    """
    if (root / _SOURCE).is_file():
        return json.loads((root / _SOURCE).read_text())
    try:
        commit = _git(root, "rev-parse", "HEAD").decode().strip()
        dirty = bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}
    return {"commit": commit, "dirty": dirty}


def check(expected: str) -> None:
    """Makes sure that this process runs the code of that hash.

    Raises:
        SnapshotError: it doesn't.
    """
    found = code_hash()
    if found != expected:
        raise SnapshotError(f"launched was code {expected}, and {ROOT} holds {found}")


def _files(root: Path) -> Iterator[Path]:
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*")):
            if path.suffix in _SUFFIXES and path.is_file() and "__pycache__" not in path.parts:
                yield path.relative_to(root)


def _uncommitted(root: Path) -> bytes:
    try:
        return _git(root, "diff", "HEAD", "--", *PACKAGES)
    except (OSError, subprocess.SubprocessError):
        return b""


def _git(root: Path, *arguments: str) -> bytes:
    return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, check=True, timeout=60).stdout
