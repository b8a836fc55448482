"""A job's identity as a value, and as the text that stands in ledgers.

slurm:12_3                      element 3 of job array 12
local:4711:1700000000.25@0,1    process 4711, since that second, on the GPUs 0 and 1
debug:8a1f                      a call in the launcher's own process
"""

from __future__ import annotations

import dataclasses
import re
from typing import Self


@dataclasses.dataclass(frozen=True)
class JobId:
    """One job, or one process of a machine.

    Attributes:
        kind: of the executor that it belongs to.
        native: the executor's own name for it: Slurm's job id, the number of a process.
        started: start of a process in seconds since 1970, as text, which tells it from a later one of the same number;
            "" where the native id is never given twice.
        slots: names of the places of a machine that it takes; an unnamed one is "".
    """

    kind: str
    native: str
    started: str = ""
    slots: tuple[str, ...] = ("",)

    def __str__(self) -> str:
        """The text that `parse` reads."""
        taken = ",".join(self.slots)
        return ":".join(filter(None, (self.kind, self.native, self.started))) + (f"@{taken}" if taken else "")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads what `str` wrote.

        Raises:
            ValueError: it is not of that form.
        """
        name, _, slots = text.partition("@")
        kind, *rest = name.split(":")
        # No name begins with a hyphen: it may be handed to a program, which would take it for a flag.
        if not kind or not 1 <= len(rest) <= 2 or not all(re.fullmatch(r"\w[\w.+-]*", part) for part in rest):
            raise ValueError(f"'{text}' is no job id, such as slurm:12_3 or local:4711:1700000000.25")
        native, started = (*rest, "")[:2]
        return cls(kind, native, started, tuple(slots.split(",")))
