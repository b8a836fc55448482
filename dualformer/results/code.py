"""Which code a run was computed by: the project files that it imported, with a hash of each.

Two rows are of mixed code where a file that both used differs. A file that only one of them used tells nothing: adding
an attention, a grid or a test leaves what is finished comparable with what is to come.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

Files = Mapping[str, str]
"""Path from the project's root -> 12 hexadecimal digits of the file's SHA-256."""


def digest(files: Files) -> str:
    """Returns 12 hexadecimal digits that stand for all of the files."""
    text = "".join(f"{content}  {path}\n" for path, content in sorted(files.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def code_conflicts(codes: Iterable[Files]) -> list[str]:
    """Returns the files that two of the codes hold and that aren't the same in both, sorted."""
    seen: dict[str, str] = {}
    every = ((path, content) for files in codes for path, content in files.items())
    return sorted({path for path, content in every if seen.setdefault(path, content) != content})


def mixed_code(digests: Iterable[str], known: Mapping[str, Files]) -> str:
    """Why rows of these codes can't stand in one set, in words; "" where they can.

    Args:
        digests: of the rows, in any order and number.
        known: digest -> files; rows from before files were kept have none, and their code is the same or not.
    """
    codes = sorted(set(digests))
    if len(codes) < 2:
        return ""
    if unknown := [code for code in codes if code not in known]:
        return f"mixed code: {', '.join(codes)} (of {', '.join(unknown)} nobody kept the files)"
    files = code_conflicts(known[code] for code in codes)
    return f"mixed code: {', '.join(files)} differ{'s' if len(files) == 1 else ''} between rows" if files else ""
