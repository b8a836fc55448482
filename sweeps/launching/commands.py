"""What the commands that look after a sweep have in common."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dualformer.arguments import printable, program

_MOST_CHARACTERS = 3000


def add_runs(parser: argparse.ArgumentParser) -> None:
    """Adds the flag that says where run folders are."""
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the run folders (default: runs)")


def fail(error: object) -> int:
    """Says what is wrong, and returns exit status 2; what a message quotes may be of any length, and is cut."""
    text = str(error)
    shown = text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}..."
    print(f"{program('error')}: {printable(shown)}", file=sys.stderr)
    return 2
