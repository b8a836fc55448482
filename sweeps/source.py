"""The code of this project as files: where it lies, what it hashes to, which commit it is."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
"""Of the code that this process runs: the checkout, or a snapshot of it."""

PACKAGES = ("dualformer", "baselines", "slurm", "sweeps")

SOURCE = "source.json"
_SUFFIXES = frozenset({".py", ".yaml", ".sh"})


def code_hash(root: Path = ROOT) -> str:
    """Returns 12 hexadecimal digits that stand for every line of code a run may execute."""
    digest = hashlib.sha256()
    for path in files(root):
        content = hashlib.sha256((root / path).read_bytes()).hexdigest()
        digest.update(f"{content}  {path.as_posix()}\n".encode())
    return digest.hexdigest()[:12]


def source_state(root: Path = ROOT) -> dict[str, Any]:
    """Returns `commit` and `dirty` (whether tracked files differ from it) of a checkout, or of what was copied from it.

    Both are None where git knows nothing of the folder.
    """
    if (root / SOURCE).is_file():
        return json.loads((root / SOURCE).read_text())
    try:
        commit = git(root, "rev-parse", "HEAD").decode().strip()
        dirty = bool(git(root, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}
    return {"commit": commit, "dirty": dirty}


def files(root: Path) -> Iterator[Path]:
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*")):
            if path.suffix in _SUFFIXES and path.is_file() and "__pycache__" not in path.parts:
                yield path.relative_to(root)


def git(root: Path, *arguments: str) -> bytes:
    return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, check=True, timeout=60).stdout
