"""Whether the times of a row may be taken at their word, and why not: the one place that decides it.

Tables, figures, the launcher, `compare`, `verify` and benchmarks ask here, so that a time that was disturbed, or
withheld, looks it everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dualformer.results.result_set import flags

WITHHELD = "times withheld"
"""Beginning of the reason of a row that is ok and has no times, because the clock must not be believed."""

SPEAK_AGAINST = ("throttled", "other processes on the GPU", "bound by the host", "times ")
"""Words of flags that speak against a time. Others, such as busy cores beside a CPU, are for the reader to judge."""

MARK = "*"
"""Stands behind a time that was disturbed."""

LEGEND = "hollow: disturbed while it was timed"
"""Of a figure in which some time was."""


def disturbances(row: Mapping[str, Any]) -> list[str]:
    """What speaks against the times of a row, in words.

    Args:
        row: of a table, or of a run's files; what is not known is absent.

    Returns:
        Reasons; empty where nothing is known to speak against its times, and where it has none and was to have none.
    """
    reason = row.get("reason")
    if row.get("status") == "ok" and isinstance(reason, str) and reason.startswith(WITHHELD):
        return [reason]
    return speaking(flags(row)) if row.get("latency_ms_p50") is not None else []


def is_withheld(row: Mapping[str, Any]) -> bool:
    """Whether a row has no times because the clock must not be believed."""
    return any(why.startswith(WITHHELD) for why in disturbances(row))


def speaking(flags: Iterable[str]) -> list[str]:
    """Those of a timing's flags that speak against its times."""
    return [flag for flag in flags if any(words in flag for words in SPEAK_AGAINST)]
