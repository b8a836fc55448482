"""YAML for people: the core schema of version 1.2, and an error for whatever can't be meant.

By the rules of 1.1, which most readers follow, `no` is false, `2:00:00` is 7200, `010` is 8 and `1e-3` is a word. Here
`1e-3` is a number, `010` is ten, and `no` and `2:00:00` are words. Keys given twice, keys that aren't text, tags and
numbers out of range are refused; so are documents whose size, depth or aliases would make them endless.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from dualformer.config import ConfigError

MOST_BYTES = 1_000_000
MOST_DEPTH = 30
MOST_NODES = 100_000
MOST_DIGITS = 19

_NUMBERS = (
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
)
_WORDS = (("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"), ("null", r"~|null|Null|NULL|", "~nN\0"))


def read(path: Path) -> Any:
    """Returns what a YAML file says, as plain data.

    Raises:
        ConfigError: it is not UTF-8, too large, or not valid; one line that names the file.
        OSError: it can't be read.
    """
    return parse(read_text(path), path.name)


def read_text(path: Path) -> str:
    """Returns the text of a file that is to be parsed.

    Raises:
        ConfigError: it is not UTF-8, or too large.
        OSError: it can't be read.
    """
    with open(path, "rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ConfigError(f"{path.name}: more than {MOST_BYTES} bytes, which is no file that somebody wrote")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path.name}: not UTF-8 text (byte {error.start}, in line {line})") from None


def parse(text: str, source: str) -> Any:
    """Returns what a YAML text says, as plain data.

    Args:
        text: one document.
        source: what to call it in messages.

    Raises:
        ConfigError: it is not valid, or holds what can't be meant; one line.
    """
    try:
        _refuse_odd_events(text)
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _count(node, {})
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not valid YAML: {_one_line(error)}") from None


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - yaml's own name

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:str":
                shown = f"'{key.value}'" if isinstance(key, yaml.ScalarNode) else f"a {key.id}"
                raise _error(f'the key {shown} is not text; where it is a name, write it in quotes: "name"', key)
        counts = Counter(key.value for key, _ in node.value)
        if twice := [key for key, count in counts.items() if count > 1]:
            raise _error(f"'{twice[0]}' is given twice", node)
        return super().construct_mapping(node, deep)

    def construct_yaml_str(self, node: yaml.ScalarNode) -> str:
        value = self.construct_scalar(node)
        if "\0" in value or not _is_utf8(value):
            raise _error("text with a NUL or half a character", node)
        return value

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        text = self.construct_scalar(node)
        if len(text.lstrip("+-0")) > MOST_DIGITS:
            raise _error(f"the number {text[:12]}... has more than {MOST_DIGITS} digits", node)
        based = re.fullmatch(r"0([ox])(.*)", text)
        return int(based[2], {"o": 8, "x": 16}[based[1]]) if based else int(text)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        text = self.construct_scalar(node)
        value = float(text)
        if not math.isfinite(value):
            raise _error(f"the number {text[:40]} is out of range", node)
        return value


for _tag, _pattern, _first in (*_WORDS, *_NUMBERS):
    _first_letters = ["" if letter == "\0" else letter for letter in _first]
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), _first_letters)
for _type in ("str", "int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_type}", getattr(_Loader, f"construct_yaml_{_type}"))


def _refuse_odd_events(text: str) -> None:
    """Looks at the text piece by piece, before anything of it is built."""
    depth = 0
    for number, event in enumerate(yaml.parse(text, yaml.SafeLoader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_DEPTH:
            raise _error(f"nested more than {MOST_DEPTH} deep", event)
        if number > 2 * MOST_NODES:
            raise _error(f"more than {MOST_NODES} values", event)
        if tag := getattr(event, "tag", None):
            raise _error(f"the tag {tag}: values here are plain", event)


def _count(node: yaml.Node, known: dict[int, int]) -> int:
    """Values that a node comes to once its aliases are written out; `known` has -1 for the nodes it lies in."""
    if (found := known.get(id(node))) is not None:
        if found < 0:
            raise _error("an alias that lies in what it stands for", node)
        return found
    known[id(node)] = -1
    total = 1 + sum(_count(child, known) for child in _children(node))
    if total > MOST_NODES:
        raise _error(f"more than {MOST_NODES} values, with aliases written out", node)
    known[id(node)] = total
    return total


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
    elif isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from pair


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _error(message: str, place: Any) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, message, place.start_mark)


def _one_line(error: yaml.YAMLError) -> str:
    """What is wrong, and where; a mark's own text takes several lines and quotes the document."""
    if isinstance(error, yaml.MarkedYAMLError):
        said = ", ".join(filter(None, (error.context, error.problem)))
        mark = error.problem_mark or error.context_mark
        return f"{said} (line {mark.line + 1}, column {mark.column + 1})" if mark else said
    return " ".join(str(error).split())
