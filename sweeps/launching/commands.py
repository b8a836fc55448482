"""What the commands that look after a sweep have in common."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from dualformer.arguments import printable, program

AddArguments = Callable[[argparse.ArgumentParser], None]
Run = Callable[[argparse.Namespace], int]

_MOST_CHARACTERS = 3000


def add_runs(parser: argparse.ArgumentParser) -> None:
    """Adds the flag that says where run folders are."""
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the run folders (default: runs)")


def main(doc: str | None, add_arguments: AddArguments, run: Run, arguments: Sequence[str] | None) -> int:
    """Parses a command line and runs it.

    Args:
        doc: docstring of the command's module; its first line says what the command does.
        add_arguments: of that module.
        run: of that module.
        arguments: as typed; None means those of this process.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0], allow_abbrev=False)
    add_arguments(parser)
    return run(parser.parse_args(arguments))


def fail(error: object) -> int:
    """Says what is wrong, and returns exit status 2; what a message quotes may be of any length, and is cut."""
    text = str(error)
    shown = text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}..."
    print(f"{program('error')}: {printable(shown)}", file=sys.stderr)
    return 2
