"""List what can be configured, or write a schema for editors.

Fields are named by dotted path, as in grids and in `--set`, and come with type, default and meaning.

    dualformer fields                            every field of a run
    dualformer fields train.*                    some of them; `train` alone says the same
    dualformer fields model.overrides.* --model vivit_base     what that network can be given besides
    dualformer fields attention                  the options of every attention, by letter
    dualformer fields --json-schema grid.schema.json           a schema of grid files, for editors

Fields marked * can't change what a run comes to, and are no part of its identity.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import fnmatch
import json
import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dualformer.arguments import columns
from dualformer.config import ConfigError, nearest
from dualformer.config_fields import ConfigField, fields_of
from sweeps.run_config import describe_fields

OVERRIDES = "model.overrides."
OPTIONS = OVERRIDES + "attention_options."
_NARROWEST_TEXT = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    parser.add_argument(
        "pattern",
        nargs="?",
        default="*",
        metavar="PATTERN",
        help="dotted path, beginning of one, or shell wildcards; `attention` stands for the options of every letter",
    )
    parser.add_argument("--model", default="dualformer_tiny", metavar="NAME", help="whose fields model.overrides.* are")
    parser.add_argument(
        "--json-schema",
        nargs="?",
        const="-",
        metavar="FILE",
        help="write a JSON schema of grid files to FILE, or print it; nothing else is listed (default: list fields)",
    )


def run(options: argparse.Namespace) -> int:
    """Prints the fields that match, or writes the schema; returns 0.

    Raises:
        ConfigError: nothing matches, or no such model.
        OSError: the schema can't be written.
    """
    if options.json_schema is not None:
        _write_schema(options.json_schema)
        return 0
    found = matching(options.pattern, options.model)
    print("\n".join(_lines(found)))
    return 0


def matching(pattern: str, model: str = "dualformer_tiny") -> list[ConfigField]:
    """Returns the fields that a pattern names, those of a model's config and of attentions where it asks for them.

    Raises:
        ConfigError: nothing matches, or no such model.
    """
    if pattern == "attention":
        return option_fields()
    known = describe_fields()
    if pattern.startswith(OVERRIDES[:-1]):
        known = [*known, *model_fields(model), *(option_fields() if pattern.startswith(OPTIONS[:-1]) else ())]
    found = [field for field in known if _matches(field.path, pattern)]
    if not found:
        paths = {field.path for field in known}
        prefixes = {path.rpartition(".")[0] for path in paths} - {""}
        raise ConfigError(f"no field matches '{pattern}'{nearest(pattern, {*paths, *prefixes, 'attention'})}")
    return found


def model_fields(name: str) -> list[ConfigField]:
    """Returns the fields of a model's config as they are written in grids, their defaults being the published values.

    Raises:
        ConfigError: no such model.
    """
    from dualformer.registry import model_config  # here: it brings torch along
    from sweeps.run_config import ModelChoice

    config = model_config(name)
    values = config.to_dict()
    elsewhere = {field.name for field in dataclasses.fields(ModelChoice)} | {"num_classes"}
    fields = [field for field in fields_of(type(config)) if field.path not in elsewhere]
    return [
        dataclasses.replace(field, path=OVERRIDES + field.path, default=_at(values, field.path)) for field in fields
    ]


def option_fields() -> list[ConfigField]:
    """Returns the options of every attention as they are written in grids, in the order of letters."""
    from dualformer import attention  # here: finding one brings torch along

    return [
        dataclasses.replace(field, path=f"{OPTIONS}{letter}.{field.path}")
        for letter in attention.letters()
        for field in fields_of(attention.find(letter).Options)
    ]


def choices(field: ConfigField) -> tuple[str, ...]:
    """Returns the values of a field that has few: enumerations, and yes or no."""
    found = re.fullmatch(r"Literal(\[[^][]*\])(?: \| None)?", field.type)
    if found:
        return tuple(map(str, ast.literal_eval(found[1])))
    return ("true", "false") if field.type == "bool" else ()


def _matches(path: str, pattern: str) -> bool:
    return path == pattern or path.startswith(f"{pattern}.") or fnmatch.fnmatchcase(path, pattern)


def _at(values: Any, path: str) -> Any:
    for name in path.split("."):
        values = values[name]
    return values


def _lines(fields: Sequence[ConfigField]) -> list[str]:
    """One line a field where nobody looks, so that other programs can cut it; on a terminal the text is wrapped."""
    rows = [("", "field", "type", "default"), *((_mark(item), item.path, item.type, _default(item)) for item in fields)]
    texts = ["meaning", *(item.text for item in fields)]
    laid_out = columns([(*row, "|") for row in rows])
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
        lines = [line for row, text in zip(laid_out, texts) for line in _wrapped(row.removesuffix("|"), text, width)]
    else:
        lines = [row.removesuffix("|") + text for row, text in zip(laid_out, texts)]
    legend = ["", "* can't change what a run comes to, and is no part of its identity"]
    return lines + (legend if any(item.irrelevant for item in fields) else [])


def _wrapped(row: str, text: str, width: int) -> list[str]:
    """A row with its text beside it, or under it where there is no room."""
    if width - len(row) < _NARROWEST_TEXT:
        return [row.rstrip(), *textwrap.wrap(text, width, initial_indent=" " * 6, subsequent_indent=" " * 6)]
    first, *rest = textwrap.wrap(text, width - len(row)) or [""]
    return [row + first, *(" " * len(row) + line for line in rest)]


def _mark(field: ConfigField) -> str:
    return "*" if field.irrelevant else ""


def _default(field: ConfigField) -> str:
    if field.default is dataclasses.MISSING:
        return "(must be given)"
    return field.default if isinstance(field.default, str) and field.default else json.dumps(field.default)


def _write_schema(where: str) -> None:
    from dualformer.results.files import write_json
    from sweeps.grid_schema import grid_schema

    if where == "-":
        print(json.dumps(grid_schema(), indent=2))
        return
    write_json(Path(where), grid_schema())
    print(f"{where}: a schema of grid files; an editor uses it for a grid whose first line is")
    print(f"# yaml-language-server: $schema={where}")
