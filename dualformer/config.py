"""Frozen dataclasses as the one schema of everything configurable, and plain data in and out of them.

A config class is a keyword-only frozen dataclass that inherits `Config`. pydantic checks values against the
annotations (strictly: `"8"` is not an int, `True` is not one either); this module adds what a person needs when a
value is refused: the full dotted path, what was wrong, and the nearest valid name.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import typing
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any, Self, cast

import pydantic

_MOST_PARENTS = 20
_MOST_ERRORS = 20
_SHOWN = 120  # characters of a value that is refused


class ConfigError(ValueError):
    """A configuration that can't be meant: unknown field, wrong type, illegal value or shape."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Returns `; did you mean 'x'?` for the valid names closest to `name`, else a list of all of them."""
    valid = sorted(valid)
    close = difflib.get_close_matches(name, valid, n=3, cutoff=0.5)
    if close:
        return f"; did you mean {' or '.join(map(repr, close))}?"
    return f"; valid: {', '.join(valid)}"


IRRELEVANT = {"irrelevant": True}
"""Metadata of a field of a config that, with all below it, can't change what comes of it: no part of an identity."""


def irrelevant(default: Any) -> Any:
    """Declares a field that can't change what comes of the config, with its default."""
    return dataclasses.field(default=default, metadata=IRRELEVANT)


def is_irrelevant(field: dataclasses.Field[Any]) -> bool:
    return bool(field.metadata.get("irrelevant"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Base of all configs. Subclasses check relations between fields in `check`, which raises `ConfigError`."""

    __pydantic_config__ = pydantic.ConfigDict(extra="forbid", strict=True)

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raises `ConfigError` where fields, each valid alone, contradict each other."""

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON data (lists for tuples); `from_dict` is its inverse."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Builds a config from plain data.

        Raises:
            ConfigError: names every offending field by its dotted path, with the nearest valid name.
        """
        adapter: pydantic.TypeAdapter[Self] = _adapter(cast(Hashable, cls))  # mypy takes a class for its instances
        try:
            return adapter.validate_json(json.dumps(values))
        except pydantic.ValidationError as error:
            raise ConfigError("\n".join(_explain(cls, item) for item in error.errors()[:_MOST_ERRORS])) from None

    def changed(self, **changes: Any) -> Self:
        """Returns a copy with `changes` applied; nested configs take a mapping of their own changes.

        Raises:
            ConfigError: as `from_dict`.
        """
        return type(self).from_dict(_merge(self.to_dict(), changes))


class FrozenMapping(Mapping[str, Any]):
    """A mapping that can't be changed and has a hash, so that a config that holds one is frozen and hashable too."""

    def __init__(self, values: Mapping[str, Any] | None = None) -> None:
        self._values = dict(values or {})

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(frozenset(self._values.items()))

    def __repr__(self) -> str:
        return repr(self._values)


def freeze(value: Any) -> Any:
    """Returns plain data that can't be changed: `FrozenMapping` for mappings and tuples for lists, at every depth."""
    if isinstance(value, Mapping):
        return FrozenMapping({name: freeze(item) for name, item in value.items()})
    if isinstance(value, (list, tuple)):
        return tuple(freeze(item) for item in value)
    return value


@functools.cache
def _adapter(cls: Any) -> pydantic.TypeAdapter[Any]:
    """The checker of a class: milliseconds to make, microseconds to use."""
    return pydantic.TypeAdapter(cls)


def nest(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """Turns `{"data.root": x}` into `{"data": {"root": x}}`.

    Raises:
        ConfigError: if one path runs through another's value, or through more names than any field has.
    """
    nested: dict[str, Any] = {}
    for path, value in dotted.items():
        *parents, leaf = path.split(".")
        if len(parents) > _MOST_PARENTS:
            raise ConfigError(f"unknown field '{path[:80]}...'")
        place = nested
        for parent in parents:
            inner = place.get(parent, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"{path}: '{parent}' is given a value of its own as well")
            place[parent] = place = dict(inner)  # a copy: the value may be another run's as well
        place[leaf] = value
    return nested


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turns `{"data": {"root": x}}` into `{"data.root": x}`; the inverse of `nest`. Empty mappings stay as values."""
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def _plain(value: Any) -> Any:
    """A fresh copy of a config's value as JSON would give it back; `dataclasses.asdict` takes five times as long."""
    if isinstance(value, Config):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _merge(base: Any, changes: Any) -> Any:
    if not (isinstance(base, Mapping) and isinstance(changes, Mapping)):
        return changes
    return {**base, **{name: _merge(base.get(name), value) for name, value in changes.items()}}


def _explain(cls: type, item: Mapping[str, Any]) -> str:
    """One line of a pydantic error in the words of `ConfigError`."""
    *parents, last = item["loc"] or ("",)
    path = ".".join(str(part) for part in item["loc"])
    if item["type"] == "unexpected_keyword_argument":
        owner = _class_at(cls, parents)
        fields = [field.name for field in dataclasses.fields(owner)] if owner else []
        return f"unknown field '{path}'{nearest(str(last), fields)}"
    if item["type"] == "missing":
        return f"field '{path}' has no value"
    message = item["msg"].removeprefix("Value error, ")
    got = repr(item["input"])
    shown = got if len(got) <= _SHOWN else f"{got[:_SHOWN]}..."
    return f"{path}: {message} (got {shown})" if path else message


def _class_at(cls: type, parents: Iterable[Any]) -> type | None:
    """The config class that a path of field names leads to, None where it leads into something else."""
    for name in parents:
        inner = typing.get_type_hints(cls).get(name)
        if not (isinstance(inner, type) and dataclasses.is_dataclass(inner)):
            return None
        cls = inner
    return cls
