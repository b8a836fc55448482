"""Space-time attentions: one file each, found by being in this folder.

A file whose class says `letter = "X"` is the attention of that letter, with all that belongs to it: its options, its
closed form of cost, its naive twin, its words and colour, and the examples that tests try it with. A file without such
a line is a helper. Letters are read from the files' text, and a file is imported when its letter is first used, so
that a network runs the code of its own letters and no other. `docs/adding_an_attention.md` adds one.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dualformer.config import ConfigError, nearest

if TYPE_CHECKING:
    from dualformer.attention.base import Attention

_LETTER_LINE = re.compile(r"^(?: {4}|\t)?letter(?:[ \t]*:[^=\n]*)?[ \t]*=(?!=)[ \t]*(.*?)[ \t]*(?:#.*)?$", re.M)
_LETTER = re.compile(r"""(["'])([A-Z])\1""")


def letters() -> tuple[str, ...]:
    """Returns the letter of every attention, sorted.

    Raises:
        ConfigError: a file's letter is not one capital letter, or two files have the same one.
    """
    return tuple(sorted(_files(tuple(__path__))))


def find(letter: str) -> type[Attention]:
    """Returns the attention of a letter; its file is imported now if it wasn't before.

    Raises:
        ConfigError: unknown letter (the nearest is named), or a file that can't be imported or has no such class.
    """
    files = _files(tuple(__path__))
    if letter not in files:
        raise ConfigError(f"unknown letter '{letter}'{nearest(letter.upper(), files)}")
    file = files[letter]
    try:
        module = importlib.import_module(f"{__name__}.{file.stem}")
    except Exception as error:
        raise ConfigError(f"attention '{letter}': {file} can't be imported: {error!r}") from error
    return _only_class(vars(module), letter, file)


@contextlib.contextmanager
def also_in(folder: Path) -> Iterator[None]:
    """Inside, the files of `folder` are attentions too. Tests plant files with it that the project must not have."""
    __path__.append(str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        __path__.remove(str(folder))
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None)
            if name.startswith(f"{__name__}.") and file and Path(file).parent == Path(folder):
                del sys.modules[name]


@functools.lru_cache
def _files(folders: tuple[str, ...]) -> dict[str, Path]:
    """File of each letter."""
    found: dict[str, Path] = {}
    for file in (file for folder in folders for file in sorted(Path(folder).glob("[!_.]*.py"))):
        for value in _LETTER_LINE.findall(file.read_text(encoding="utf-8")):
            quoted = _LETTER.fullmatch(value)
            if not quoted:
                raise ConfigError(f"{file}: letter = {value} is not one capital letter in quotes, such as 'X'")
            letter = quoted[2]
            if letter in found:
                raise ConfigError(f"two attentions have the letter '{letter}': {found[letter]} and {file}")
            found[letter] = file
    return found


def _only_class(names: dict[str, object], letter: str, file: Path) -> type[Attention]:
    from dualformer.attention.base import Attention  # here, so that naming letters doesn't wait for torch

    own = [
        value
        for value in names.values()
        if isinstance(value, type) and issubclass(value, Attention) and vars(value).get("letter") == letter
    ]
    own = [value for value in own if value.__module__ == names["__name__"]]
    if len(own) != 1:
        raise ConfigError(f"{file} says letter '{letter}' and has {len(own)} classes of `Attention` with that letter")
    return own[0]
