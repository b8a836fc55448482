"""What a shell offers after TAB for grids, cluster profiles and fields; none of it needs torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dualformer.completion import letters
from dualformer.registry import list_models
from slurm import profile
from sweeps.fields import choices
from sweeps.launching import grid
from sweeps.run_config import describe_fields


def grids(prefix: str = "", **_: Any) -> list[str]:
    """The project's grids, and grid files and folders of the place where the shell is."""
    own = [path.name for path in grid.FOLDER.glob("*.yaml")]
    return [name for name in [*sorted(own), *_paths(prefix, ".yaml")] if name.startswith(prefix)]


def profiles(prefix: str = "", **_: Any) -> list[str]:
    """The project's cluster profiles, and files and folders of the place where the shell is."""
    own = [path.stem for path in profile.FOLDER.glob("*.yaml")]
    return [name for name in [*sorted(own), *_paths(prefix, ".yaml")] if name.startswith(prefix)]


def assignments(prefix: str = "", **_: Any) -> list[str]:
    """Config fields as `field=`, and after the equals sign the values of those that have few."""
    field, equals, value = prefix.partition("=")
    known = {item.path: item for item in describe_fields()}
    if field == "model.attention" and equals:
        return [f"{field}={pattern}" for pattern in letters(value)]
    if equals:
        values = list_models() if field == "model.name" else choices(known[field]) if field in known else ()
        return [f"{field}={value}" for value in values if f"{field}={value}".startswith(prefix)]
    return [f"{path}=" for path in known if path.startswith(prefix)]


def fields(prefix: str = "", **_: Any) -> list[str]:
    """Config fields."""
    return [text.removesuffix("=") for text in assignments(prefix) if "=" not in prefix]


def _paths(prefix: str, suffix: str) -> list[str]:
    folder, slash, _ = prefix.rpartition("/")
    place = Path(folder or slash or ".")
    found = sorted(place.iterdir()) if place.is_dir() else []
    names = [(path, f"{folder}{slash}{path.name}") for path in found if path.is_dir() or path.suffix == suffix]
    return [f"{name}/" if path.is_dir() else name for path, name in names if not path.name.startswith(".")]
