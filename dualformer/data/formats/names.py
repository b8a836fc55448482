"""Names of clips and classes: what counts as the same name, and lists of them in messages."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

from dualformer.data.files import VIDEO_SUFFIXES


def stem_of(file_name: str) -> str:
    """A name without the suffix of a video; other dots are part of the name."""
    stem, suffix = os.path.splitext(file_name)
    return stem if suffix.lower() in VIDEO_SUFFIXES else file_name


def key(name: str) -> str:
    """What names that are the same have in common: case, and spaces or underscores, make no difference."""
    return re.sub(r"[\s_]+", "_", composed(name.strip())).lower()


def composed(name: str) -> str:
    """One spelling of names that are the same text: some systems write é as two characters."""
    return unicodedata.normalize("NFC", name)


def join(names: Iterable[Any]) -> str:
    """Names after each other, with commas."""
    return ", ".join(map(str, names))
