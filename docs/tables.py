"""Writes the tables of `tables.md` anew from the committed results: each is what the command before it prints.

Run as `python docs/tables.py`, without a device or weights. The text around the tables is edited in `tables.md` itself.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from analysis import table

DOCUMENT = Path(__file__).parent / "tables.md"
RESULTS = Path(table.__file__).parent / "results"

_SHOWN = re.compile(r"(<!-- dualformer table (.*?) -->\n(```latex\n)?).*?((```\n)?<!-- end -->)", re.DOTALL)


def printed(options: str) -> str:
    """What `dualformer table OPTIONS` prints of the committed results."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        status = table.main([*shlex.split(options), "--results", str(RESULTS)])
    assert status == 0, options
    return text.getvalue()


def render(document: str) -> str:
    """Returns the document with each `<!-- dualformer table OPTIONS --> ... <!-- end -->` filled anew."""
    filled, found = _SHOWN.subn(lambda match: match[1] + printed(match[2]) + match[4], document)
    assert found == 2, "tables.md needs a place for Markdown and one for LaTeX"
    return filled


if __name__ == "__main__":
    DOCUMENT.write_text(render(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
