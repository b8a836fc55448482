"""Where the packages built on the library lie: `sweeps`, `slurm` and `analysis`.

In a checkout they are its top-level folders. In an installed wheel they lie inside this package, in `_suite`, because
their names are common and would overwrite those of other projects. Either way a command imports them by the same names.
"""

from __future__ import annotations

import sys
from pathlib import Path

PACKAGES = ("sweeps", "slurm", "analysis")
PROJECT = ("dualformer", "baselines", *PACKAGES)
"""All packages of the project."""


def folder() -> Path:
    """Returns the folder that holds the packages of `PACKAGES`.

    Raises:
        ImportError: there are none, since the library was copied without them.
    """
    library = Path(__file__).resolve().parent
    for place in (library / "_suite", library.parent):
        if all((place / package / "__init__.py").is_file() for package in PACKAGES):
            return place
    raise ImportError(f"{library} came without {', '.join(PACKAGES)}; install the whole project")


def ensure_importable() -> None:
    """Makes the packages importable in this process, ahead of others of the same names."""
    place = str(folder())
    if sys.path[:1] != [place]:
        sys.path[:] = [place, *(entry for entry in sys.path if entry != place)]
