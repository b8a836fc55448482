"""The code that runs is the code that was launched: a copy of it, named by its hash, for every launch.

Jobs may wait for days while the checkout is edited. They import from a copy of the working tree as it was when they
were launched, uncommitted changes included, and check that the copy is still what its name says.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from sweeps import source

FOLDER = ".snapshots"


class SnapshotError(RuntimeError):
    """The code of a job is not the code that was launched."""


def take(runs: Path, root: Path = source.ROOT) -> Path:
    """Copies the code to `<runs>/.snapshots/<hash>` unless it is there, and returns that folder.

    Beside the packages lie `source.json` (commit and whether files differed from it) and `uncommitted.patch`.
    """
    folder = runs.resolve() / FOLDER
    if (known := folder / source.code_hash(root)).exists():
        return known
    folder.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".", dir=folder))
    for name, path in source.files(root):
        (aside / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, aside / name)
    (aside / source.SOURCE).write_text(json.dumps(source.source_state(root)))
    (aside / "uncommitted.patch").write_bytes(_uncommitted(root))
    aside.chmod(0o755)
    snapshot = folder / source.code_hash(aside)  # of what was copied: an editor may have saved a file meanwhile
    try:
        os.rename(aside, snapshot)
    except OSError:  # another launcher was faster
        shutil.rmtree(aside)
    return snapshot


def check(expected: str) -> None:
    """Makes sure that this process runs the code of that hash.

    Raises:
        SnapshotError: it doesn't.
    """
    found = source.code_hash()
    if found != expected:
        raise SnapshotError(f"launched was code {expected}, and {source.ROOT} holds {found}")


def _uncommitted(root: Path) -> bytes:
    try:
        return source.git(root, "diff", "HEAD", "--", *source.PACKAGES)
    except (OSError, subprocess.SubprocessError):
        return b""
