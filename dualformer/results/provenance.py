"""The circumstances of a run as columns of a table: versions and hardware, never a host name, a path or a command."""

from __future__ import annotations

import dataclasses
from typing import Literal

from dualformer.results.fields import Field

PREFIX = "provenance."
"""Of the columns; `provenance.json` has the bare names, and more of them."""

FILES = "code_files"
"""In `provenance.json`: project files that the run imported -> hash of each. `code` is the digest of all of them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Circumstance(Field):
    """One circumstance that tables keep.

    Attributes:
        needed: of which finished runs it must be known.
        alike: whether rows of different values can't stand in one set.
    """

    kind: Literal["provenance"] = "provenance"
    needed: Literal["always", "on cuda", ""] = ""
    alike: bool = False

    @property
    def column(self) -> str:
        return PREFIX + self.name


def _circumstance(
    name: str, of: type, meaning: str, needed: Literal["always", "on cuda", ""] = "", alike: bool = False
) -> Circumstance:
    return Circumstance(name=name, type=of, meaning=meaning, needed=needed, alike=alike)


CIRCUMSTANCES = (
    _circumstance("commit", str, "commit that was checked out", "always"),
    _circumstance("dirty", bool, "whether tracked files differed from it", "always"),
    _circumstance("code", str, "digest of the project files that the run imported"),
    _circumstance("network", str, "digest of the network's config, published values included"),
    _circumstance("device", str, "cpu or cuda", "always"),
    _circumstance("device_name", str, "what the maker calls it", "always", alike=True),
    _circumstance("threads", int, "CPU threads", "always"),
    _circumstance("measurement_version", int, "what the numbers mean", "always", alike=True),
    _circumstance("python", str, "version", "always"),
    _circumstance("torch", str, "version", "always", alike=True),
    _circumstance("numpy", str, "version", "always"),
    _circumstance("cuda", str, "version that torch was built for", "on cuda"),
    _circumstance("cudnn", str, "version"),
    _circumstance("driver", str, "version of the GPU's", "on cuda", alike=True),
    _circumstance("decoder", str, "what reads the videos that it can seek in"),
    _circumstance("decoder_version", str, "version"),
    _circumstance("attention_backends", list, "kernels of attention that torch may choose"),
    _circumstance("matmul_precision", str, "torch's setting for float32 matrix work"),
    _circumstance("started_utc", str, "when the run started"),
    _circumstance("finished_utc", str, "when it ended"),
)
"""In the order of a table's columns. Mixed code has a check of its own, `code.conflicts`."""


NAMES = frozenset(circumstance.name for circumstance in CIRCUMSTANCES)


def says(column: str, value: object) -> bool:
    """Whether a value is one that this circumstance can have; what isn't is as good as unknown."""
    known = find(column)
    if known is None or not isinstance(value, known.type) or isinstance(value, bool) != (known.type is bool):
        return False
    return not isinstance(value, list) or all(isinstance(item, str) for item in value)


def find(column: str) -> Circumstance | None:
    """Returns the circumstance that a column holds."""
    return next((found for found in CIRCUMSTANCES if found.column == column), None)
