"""Patterns: which attention each block of a network has, written as letters, and which options each of them gets.

A pattern is a row of symbols. A symbol is a letter, and digits where a network holds one attention with several
settings: "W1W2G" has two kinds of W.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from dualformer.attention import find, letters
from dualformer.config import Config, ConfigError, nearest

if TYPE_CHECKING:
    from dualformer.attention.base import Attention

_SYMBOL = re.compile(r"(.)([0-9]*)", re.DOTALL)


def symbols(pattern: str) -> tuple[str, ...]:
    """Returns the symbols of a pattern: "W1W2G" -> ("W1", "W2", "G").

    Raises:
        ConfigError: the pattern is empty or has a letter that no attention has.
    """
    if not pattern:
        raise ConfigError(f"attention is empty; it is a pattern of the letters {', '.join(letters())}")
    found = []
    for letter, number in _SYMBOL.findall(pattern):
        if letter.isdecimal():
            raise ConfigError(f"attention '{pattern}' starts with a number; numbers follow a letter, as in 'L1'")
        if letter not in letters():
            raise ConfigError(f"attention '{pattern}': unknown letter '{letter}'{nearest(letter.upper(), letters())}")
        found.append(letter + number)
    return tuple(found)


def check_pattern(pattern: str) -> None:
    """Raises `ConfigError` unless `pattern` is a non-empty row of symbols."""
    symbols(pattern)


def attention_of(symbol: str) -> type[Attention]:
    """Returns the attention of a symbol such as "L" or "L2"."""
    return find(symbol[0])


def option_names(cls: type[Attention]) -> list[str]:
    """Returns the names of an attention's options."""
    return [field.name for field in dataclasses.fields(cls.Options)]


def check_keys(given: Mapping[str, Any], used: Iterable[str]) -> None:
    """Raises `ConfigError` for options of a letter or symbol that no block uses.

    Args:
        given: options by letter or symbol.
        used: the symbols of all blocks.
    """
    valid = dict.fromkeys(key for symbol in used for key in (symbol[0], symbol))
    for key in given:
        if key not in valid:
            raise ConfigError(f"attention_options: no block uses '{key}'{nearest(key, valid)}")


def options_of(symbol: str, shared: Mapping[str, Any], given: Mapping[str, Mapping[str, Any]]) -> Any:
    """Returns the `Options` of a symbol: its letter's defaults, then `shared`, then what is given by letter, by symbol.

    Args:
        symbol: such as "L" or "L2".
        shared: values for every attention that has an option of that name.
        given: options by letter ("L") and by symbol ("L2"); the second goes first.

    Raises:
        ConfigError: an option that the letter doesn't have (its nearest is named), a wrong type or an illegal value.
    """
    cls = attention_of(symbol)
    names = option_names(cls)
    values = {name: value for name, value in shared.items() if name in names}
    keys = [key for key in dict.fromkeys((symbol[0], symbol)) if key in given]
    if not keys:
        return _checked(cls.Options, values, f"attention '{symbol}'")
    for key in keys:
        _check_names(given[key], names, cls, key)
        values |= given[key]
        options = _checked(cls.Options, values, f"attention_options.{key}")
    return options


def _check_names(given: Mapping[str, Any], names: list[str], cls: type[Attention], key: str) -> None:
    for name in given:
        if name not in names:
            valid = nearest(name, names) if names else "; it has none"
            raise ConfigError(f"attention_options.{key}: {cls.words} attention has no option '{name}'{valid}")


def _checked(options: type[Config], values: Mapping[str, Any], at: str) -> Config:
    """`options` of these values; errors begin with the dotted path of the field, or with `at`."""
    try:
        return options.from_dict(values)
    except ConfigError as error:
        fields = {field.name for field in dataclasses.fields(options)}
        lines = str(error).splitlines()
        named = [f"{at}.{line}" if re.split(r"[.:]", line)[0] in fields else f"{at}: {line}" for line in lines]
        raise ConfigError("\n".join(named)) from None
