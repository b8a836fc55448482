"""The fields of a config and all configs in it, as a list for people: path, type, default, meaning."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Iterator
from typing import Any

import docstring_parser

from dualformer.config import Config, is_irrelevant


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConfigField:
    """One field.

    Attributes:
        path: dotted, as in grids and in `--set`.
        type: as it is declared, such as "int | None".
        default: as plain JSON data; `dataclasses.MISSING` where it must be given.
        text: what the docstring of its class says, on one line.
        irrelevant: whether it can't change what comes of the config.
    """

    path: str
    type: str
    default: Any
    text: str
    irrelevant: bool


def fields_of(cls: type[Config]) -> list[ConfigField]:
    """Returns the fields of a config class, those of nested configs in their place."""
    return list(_fields(cls, "", False))


def choices(config: type[Config], field: str) -> tuple[Any, ...]:
    """The values that a config's `Literal` field may have; none for fields of other types."""
    hint = typing.get_type_hints(config)[field]
    return typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()


def _fields(cls: type[Config], prefix: str, irrelevant: bool) -> Iterator[ConfigField]:
    hints, texts = typing.get_type_hints(cls), _texts(cls)
    for field in dataclasses.fields(cls):
        hint, apart = hints[field.name], irrelevant or is_irrelevant(field)
        if isinstance(hint, type) and issubclass(hint, Config):
            yield from _fields(hint, f"{prefix}{field.name}.", apart)
            continue
        yield ConfigField(
            path=prefix + field.name,
            type=inspect.formatannotation(hint).replace("typing.", ""),
            default=_default(field),
            text=texts.get(field.name, ""),
            irrelevant=apart,
        )


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return list(field.default) if isinstance(field.default, tuple) else field.default


def _texts(cls: type[Config]) -> dict[str, str]:
    """What the `Attributes` sections of a class and its bases say, by field."""
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        said = docstring_parser.parse(base.__doc__ or "", docstring_parser.DocstringStyle.GOOGLE)
        texts |= {part.arg_name: " ".join((part.description or "").split()) for part in said.params}
    return texts
