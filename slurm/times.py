"""Wall times as Slurm writes them, in minutes."""

from __future__ import annotations

import math
import re
from typing import Any

import pydantic

_FORMS = (
    r"(?P<minutes>\d+)",
    r"(?P<minutes>\d+):(?P<seconds>\d+)",
    r"(?P<hours>\d+):(?P<minutes>\d+):(?P<seconds>\d+)",
    r"(?P<days>\d+)-(?P<hours>\d+)(:(?P<minutes>\d+)(:(?P<seconds>\d+))?)?",
)
_UNITS_MIN = {"days": 24 * 60, "hours": 60, "minutes": 1, "seconds": 1 / 60}
MOST_MIN = 10 * 366 * 24 * 60
"""Longest wall time that a profile takes: ten years."""


def minutes(text: str) -> int:
    """Returns the minutes of a time such as "90", "2:00:00" (hours) or "1-12" (days and hours); seconds round up.

    Raises:
        ValueError: it is none of Slurm's forms: M, M:S, H:M:S, D-H, D-H:M, D-H:M:S.
    """
    for form in _FORMS:
        if found := re.fullmatch(form, text.strip(), re.ASCII):
            parts = found.groupdict(default="0")
            return math.ceil(sum(_UNITS_MIN[unit] * float(value) for unit, value in parts.items()) - 1e-9)
    raise ValueError(f"'{text}' is no time; write minutes, H:MM:SS or D-HH:MM:SS")


def _read(value: Any) -> Any:
    return minutes(value) if isinstance(value, str) else value


IN_MINUTES = pydantic.BeforeValidator(_read)
"""Annotation of a field of whole minutes that also takes a time as Slurm writes it."""
