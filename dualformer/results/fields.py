"""What there is to say about a column of results beside its name: type, unit, meaning, and what its values may be.

Fields of a result say this where they are declared (`result.Result`), circumstances of a run in `provenance`. Columns
of tables, range checks, metrics to compare and documentation are all read from there.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import pydantic

Kind = Literal["identity", "counted", "timed", "learned", "noted", "provenance"]
"""Where a field comes from: what the run is, arithmetic (so exact), the stopwatch and meters, training and scoring,
remarks, circumstances."""

FRACTION = "fraction"
"""Unit of what lies between 0 and 1."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Field:
    """One column.

    Attributes:
        name: of the field, and of its column.
        type: `float`, `int`, `bool`, `str` or `list` (of texts; JSON in a table).
        kind: where it comes from.
        unit: of a number; "fraction" for what lies between 0 and 1, "" for what has none.
        meaning: in words.
        positive: whether a number must be above 0.
        optional: whether tables may lack it, because they were written before it was measured.
    """

    name: str
    type: type
    kind: Kind
    unit: str = ""
    meaning: str = ""
    positive: bool = False
    optional: bool = False

    @property
    def is_number(self) -> bool:
        return self.type in (float, int)

    @property
    def is_fraction(self) -> bool:
        return self.unit == FRACTION


def field(
    kind: Kind, unit: str, meaning: str, *, default: Any = None, positive: bool = False, optional: bool = False
) -> Any:
    """Declares a field of a pydantic model, with what `Field` says about it."""
    about: dict[str, Any] = {"kind": kind, "unit": unit, "positive": positive, "optional": optional}
    return pydantic.Field(default=default, description=meaning, json_schema_extra=about)


@functools.cache
def declared(model: type[pydantic.BaseModel]) -> Mapping[str, Field]:
    """Returns the fields that a model declares by `field`, by name, in their order."""
    found = {}
    for name, info in model.model_fields.items():
        about = typing.cast(dict[str, Any], info.json_schema_extra)
        found[name] = Field(name=name, type=_plain_type(info.annotation), meaning=info.description or "", **about)
    return found


def names(fields: Iterable[Field]) -> tuple[str, ...]:
    return tuple(field.name for field in fields)


def _plain_type(annotation: Any) -> type:
    """The type of the values, None left out: `float | None` -> float, `Literal["a"]` -> str, `list[str]` -> list."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        (annotation,) = (part for part in typing.get_args(annotation) if part is not type(None))
        return _plain_type(annotation)
    if origin is Literal:
        return type(typing.get_args(annotation)[0])
    return origin or annotation
