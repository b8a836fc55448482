"""The folder that holds what can be made anew: the embedded videos, and records of what files turned out to hold."""

from __future__ import annotations

import os
from pathlib import Path


class CacheError(OSError):
    """The cache can't be found, read or written; says which folder that is, and how to name another."""

    def __str__(self) -> str:
        return str(self.args[-1])


def cache_dir() -> Path:
    """Returns where generated and derived data lives: `$DUALFORMER_CACHE`, else dualformer/ in the user's cache.

    The user's cache is `$XDG_CACHE_HOME`, which counts only where it is absolute, as its specification says, else
    `~/.cache`. Nothing is made.

    Raises:
        CacheError: nothing says where that is.
    """
    if chosen := os.environ.get("DUALFORMER_CACHE"):
        return Path(_expanded(chosen)).absolute()
    if os.path.isabs(users := os.environ.get("XDG_CACHE_HOME", "")):
        return Path(users) / "dualformer"
    return Path(_expanded("~/.cache")) / "dualformer"


def cache_folder(name: str) -> Path:
    """Returns a folder of the cache, which is made where it is missing.

    Raises:
        CacheError: it can't be.
    """
    folder = cache_dir() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cache_error(error) from error
    return folder


def cache_error(error: OSError) -> CacheError:
    """Returns what to say of an error of the system that came up over the cache."""
    where = f": {error.filename}" if error.filename else ""
    return CacheError(
        error.errno,
        f"the cache {cache_dir()} can't be used ({error.strerror}{where}); DUALFORMER_CACHE, or XDG_CACHE_HOME, names "
        "another folder",
    )


def _expanded(path: str) -> str:
    if (expanded := os.path.expanduser(path)).startswith("~"):
        raise CacheError(
            f"no folder for the cache: {path} means nothing here (HOME isn't set, and this user has none); "
            "DUALFORMER_CACHE, or XDG_CACHE_HOME, names one"
        )
    return expanded
