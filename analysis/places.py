"""Where tables, figures and the report go, and are looked for, unless told otherwise."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).resolve().parent

OUTPUT = Path("build") if _HERE.parent.name == "_suite" else _HERE
"""`analysis/` of a checkout, where results are committed; `build/` of the working directory where a wheel is installed,
since what a package manager wrote is nobody else's to write to."""
