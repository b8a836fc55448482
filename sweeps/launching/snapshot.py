"""The code that runs is the code that was launched: a copy of it, named by its hash, for every launch.

Jobs may wait for days while the checkout is edited. They import from a copy of the working tree as it was when they
were launched, uncommitted changes included, and check that the copy is still what its name says. Networks of one's own,
which a grid names by import path, are copied beside it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from dualformer.config import ConfigError
from dualformer.results import layout
from sweeps import source

_PATCH = "uncommitted.patch"


class SnapshotError(RuntimeError):
    """The code of a job is not the code that was launched."""


def take(runs: Path, models: Iterable[str] = (), root: Path = source.ROOT) -> Path:
    """Copies the code to `<runs>/.snapshots/<hash>` unless it is there, and returns that folder.

    Beside the packages lie `source.json` (commit and whether files differed from it) and `uncommitted.patch`.

    Args:
        runs: folder of all run folders.
        models: names of the networks; of those given by import path the files are copied too.
        root: of the code.
    """
    folder = runs.resolve() / layout.SNAPSHOTS
    files = [*source.files(root), *_files_of(models)]
    if (known := folder / source.hash_of(files)).exists():
        return known
    folder.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".", dir=folder))
    for name, path in files:
        (aside / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, aside / name)
    (aside / source.SOURCE).write_text(json.dumps(source.source_state(root)))
    (aside / _PATCH).write_bytes(_uncommitted(root))
    aside.chmod(0o755)
    snapshot = folder / source.hash_of(
        (name, aside / name) for name, _ in files
    )  # an editor may have saved a file meanwhile
    try:
        os.rename(aside, snapshot)
    except OSError:  # another launcher was faster
        shutil.rmtree(aside)
    return snapshot


def check(expected: str) -> None:
    """Makes sure that this process runs the code of that name.

    Raises:
        SnapshotError: it doesn't.
    """
    found = name_of(source.ROOT)
    if found != expected:
        raise SnapshotError(f"launched was code {expected}, and {source.ROOT} holds {found}")


def name_of(root: Path) -> str:
    """Returns the name that the code in a folder has, be it a checkout or a copy."""
    return source.hash_of([*source.files(root), *(_beside(root) if (root / _PATCH).exists() else ())])


def _beside(snapshot: Path) -> Iterable[tuple[Path, Path]]:
    """The files of a copy that are no part of the project's packages."""
    for path in sorted(snapshot.rglob("*")):
        name = path.relative_to(snapshot)
        ours = name.parts[0] in source.PACKAGES or str(name) in (source.SOURCE, _PATCH)
        if path.is_file() and not ours and "__pycache__" not in name.parts:
            yield name, path


def _files_of(models: Iterable[str]) -> Iterable[tuple[Path, Path]]:
    """Files of networks that a grid names by import path, each once: its name in the copy, and where it lies."""
    found = {}
    for model in {*models}:
        if ":" not in model:
            continue
        for path in _source_files(model):
            found[path.relative_to(_place_of(path))] = path
    return sorted(found.items())


def _source_files(model: str) -> list[Path]:
    from dualformer import registry

    try:
        return registry.source_files(model)
    except ConfigError:
        return []  # the grid's own check says what is wrong with it


def _place_of(path: Path) -> Path:
    """The folder that a file's module is imported from: the first one above it that is no package itself."""
    folder = path.parent
    while (folder / "__init__.py").exists():
        folder = folder.parent
    return folder


def _uncommitted(root: Path) -> bytes:
    try:
        return source.git(root, "diff", "HEAD", "--", *source.PACKAGES)
    except (OSError, subprocess.SubprocessError):
        return b""
