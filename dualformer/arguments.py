"""What the command lines of all commands share: help that shows defaults, errors of one line, and types of values.

A usage error ends with status 2 and one line on stderr that names the nearest valid word.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import json
import math
import re
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from dualformer.config import ConfigError, nearest

if TYPE_CHECKING:
    from types import ModuleType

    from _typeshed import SupportsWrite


class HelpFormatter(argparse.HelpFormatter):
    """Adds the default of every option that doesn't say so itself; keeps the paragraphs of a description."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text, default = action.help, action.default
        if text is None or "default" in text or default in (None, argparse.SUPPRESS):
            return text
        if default is False or default in ([], ()):
            return f"{text} (default: {'off' if default is False else 'none'})"
        shown = " ".join(map(str, default)) if isinstance(default, (list, tuple)) else str(default)
        return f"{text} (default: {shown.replace('%', '%%')})"

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.strip("\n").split("\n\n")
        fill = super()._fill_text
        return "\n\n".join(part if _is_layout(part) else fill(part, width, indent) for part in paragraphs)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, and which takes no abbreviation of an option."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": HelpFormatter, "allow_abbrev": False, **options})
        self._words: list[str] = []

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self._words = list(args or ())
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unknown argument{'s' if len(unknown) > 1 else ''} {' '.join(unknown)}")
        return options, unknown

    def error(self, message: str) -> NoReturn:
        hints = [
            hint for word in self._options_typed() if (hint := self._hint(word)) and word not in message.split("'")
        ]
        self.exit(2, f"{self.prog}: {one_line('; '.join([message, *hints]))} (see {self.prog} --help)\n")

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        """Without argparse's silence about output that nobody takes."""
        if message:
            (file or sys.stderr).write(message)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            valid = [str(choice) for choice in action.choices]
            if isinstance(action, argparse._SubParsersAction):
                raise argparse.ArgumentError(None, f"unknown command '{value}'{nearest(str(value), valid)}")
            raise argparse.ArgumentError(action, f"invalid choice '{value}'{nearest(str(value), valid)}")

    def _options_typed(self) -> list[str]:
        """Words that begin with a dash and are no option, up to `--`, after which all are names."""
        words = self._words[: self._words.index("--")] if "--" in self._words else self._words
        options = [word.partition("=")[0] if word.startswith("--") else word for word in words if word.startswith("-")]
        return [option for option in options if option not in self._option_string_actions]

    def _hint(self, word: str) -> str:
        """What may have been meant by a word that is no option."""
        if re.fullmatch(r"-[^-].*\.\w+", word) or Path(word).is_file():
            return f"'{word}' reads as an option: a file of this name is written ./{word}, or comes after --"
        close = difflib.get_close_matches(word, self._option_string_actions, n=1)
        return f"'{word}' is no option; did you mean '{close[0]}'?" if close else ""


_SHOWN = 40  # characters of a value that is refused

_program: ContextVar[str | None] = ContextVar("program", default=None)


@contextlib.contextmanager
def called_as(program: str) -> Iterator[None]:
    """Inside, messages are in the name of `program`."""
    token = _program.set(program)
    try:
        yield
    finally:
        _program.reset(token)


def program(alone: str) -> str:
    """Returns the name that a command's messages begin with: as it was called, or `alone` where it is a script."""
    return _program.get() or alone


def parse_and_run(
    module: ModuleType,
    arguments: Sequence[str] | None,
    *,
    prog: str | None = None,
    run: Callable[[argparse.Namespace], int] | None = None,
) -> int:
    """What `main` of a command's module does: parses a command line and runs it.

    Args:
        module: of the command, with its `add_arguments` and `run`; its docstring is the help.
        arguments: as typed; None means those of this process.
        prog: the command's name in its help and in usage errors; None means the script's.
        run: in place of the module's.

    Returns:
        The exit status.
    """
    parser = Parser(prog=prog, description=module.__doc__)
    module.add_arguments(parser)
    return (run or module.run)(parser.parse_args(arguments))


def one_line(text: str) -> str:
    """Returns a message without line breaks and without characters that a terminal would act on."""
    return printable("; ".join(line.strip() for line in str(text).splitlines() if line.strip()))


def printable(text: str) -> str:
    """Returns a text with escapes for the characters that a terminal would act on, line breaks apart."""
    return "".join(letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1] for letter in text)


def positive(text: str) -> int:
    """A positive whole number."""
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text[:_SHOWN]!r} is not a positive whole number")
    return int(text)


def positive_number(text: str) -> float:
    """A finite number above 0."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text[:_SHOWN]!r} is not a number above 0")
    return value


def seconds(text: str) -> float:
    """A positive number of seconds."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text[:_SHOWN]!r} is not a positive number of seconds")
    return value


def share(text: str) -> float:
    """A share, from 0 to 1."""
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text[:_SHOWN]!r} is not a share from 0 to 1")
    return value


def add_assignments(parser: argparse.ArgumentParser) -> None:
    """Adds `--set FIELD=VALUE ...` for fields of a model, which `assigned` reads."""
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="FIELD=VALUE",
        help="any other field of the model's config, values as JSON or as text (default: as published)",
    )


def assigned(texts: Iterable[str], flags: Container[str] = ()) -> dict[str, Any]:
    """Fields and values of `--set FIELD=VALUE ...`; a value is JSON where it reads as such, else text.

    Raises:
        ConfigError: a text is something else, or names a field that a flag has set, one of `flags`.
    """
    fields = {}
    for text in texts:
        field, equals, value = text.partition("=")
        if not equals or not field:
            raise ConfigError(f"--set {text}: expected FIELD=VALUE")
        if field in flags:
            raise ConfigError(f"--set {field}: has a flag of its own")
        try:
            fields[field] = json.loads(value)
        except ValueError:
            fields[field] = value
    return fields


def columns(rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Lays rows of text out in columns of equal width, those whose index is in `right` flush right."""
    rows = [tuple(map(str, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        "  ".join(
            text.rjust(width) if index in right else text.ljust(width)
            for index, (text, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _is_layout(paragraph: str) -> bool:
    """Whether lines of a paragraph are laid out by hand: commands, lists, tables."""
    return any(line.startswith((" ", "-")) for line in paragraph.splitlines())
