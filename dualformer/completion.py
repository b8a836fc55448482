"""What a shell offers after TAB: names of models, runs, grids and config fields, none of which needs torch.

Options are known by their names, so that a command needs to say nothing about completion. Completers of what the
library doesn't know are named as text, as commands are, and imported when they are asked.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from dualformer import suite
from dualformer.registry import list_models
from dualformer.results import layout

Completer = Callable[..., Iterable[str]]


def attach(parser: argparse.ArgumentParser, command: str = "") -> None:
    """Gives every argument of a parser and of its commands the completer that its name asks for."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, subparser in action.choices.items():
                attach(subparser, name)
        elif action.choices is None and (completer := _completer(command, action)) is not None:
            action.completer = completer  # type: ignore[attr-defined] # the attribute that argcomplete reads


def models(prefix: str = "", **_: Any) -> list[str]:
    """Names of models."""
    return [name for name in list_models() if name.startswith(prefix)]


def runs(prefix: str = "", parsed_args: argparse.Namespace | None = None, **_: Any) -> list[str]:
    """Ids of the runs in the folder that `--runs` names."""
    folder = Path(getattr(parsed_args, "runs", None) or "runs")
    return sorted(path.parent.name for path in folder.glob(f"{prefix}*/{layout.CONFIG}"))


def launched(prefix: str = "", parsed_args: argparse.Namespace | None = None, **_: Any) -> list[str]:
    """Grids that were launched into the folder that `--runs` names."""
    folder = Path(getattr(parsed_args, "runs", None) or "runs")
    records = folder.glob(f"{prefix}*{layout.LAUNCH_RECORD}")
    return sorted(record.name.removesuffix(layout.LAUNCH_RECORD) for record in records)


def runs_and_launched(prefix: str = "", **known: Any) -> list[str]:
    """Ids of runs, and grids that were launched."""
    return [*runs(prefix, **known), *launched(prefix, **known)]


def letters(prefix: str = "", **_: Any) -> list[str]:
    """Patterns that go on from what is typed by one letter of an attention."""
    from dualformer import attention

    return [prefix + letter for letter in attention.letters()]


def models_and_letters(prefix: str = "", **_: Any) -> list[str]:
    """Names of models and letters of attentions, for what checks either."""
    return [*models(prefix), *(letters() if not prefix else [])]


def _of_suite(name: str) -> Completer:
    """A function of `sweeps.completion`, which is imported when the shell asks."""

    def completer(prefix: str = "", **known: Any) -> Iterable[str]:
        suite.ensure_importable()
        found: Iterable[str] = getattr(importlib.import_module("sweeps.completion"), name)(prefix, **known)
        return found

    return completer


_BY_OPTION: dict[str, Completer] = {
    "--model": models,
    "--grid": _of_suite("grids"),
    "--set": _of_suite("assignments"),
    "--only": _of_suite("assignments"),
    "--axis": _of_suite("assignments"),
    "--profile": _of_suite("profiles"),
    "--attention": letters,
}
_BY_COMMAND: dict[tuple[str, str], Completer] = {
    ("models", "pattern"): models,
    ("macs", "model"): models,
    ("roofline", "model"): models,
    ("max-batch", "model"): models,
    ("side-by-side", "networks"): models,
    ("check", "thing"): models_and_letters,
    ("fields", "pattern"): _of_suite("fields"),
    ("status", "--grid"): launched,
    ("collect", "--grid"): launched,
    ("table", "grid"): _of_suite("grids"),
    ("table", "--by"): _of_suite("fields"),
    ("logs", "run"): runs,
    ("cancel", "run"): runs_and_launched,
    ("retry", "run"): runs_and_launched,
}


def _completer(command: str, action: argparse.Action) -> Completer | None:
    names = action.option_strings or [action.dest]
    known = [_BY_COMMAND.get((command, name)) or _BY_OPTION.get(name) for name in names]
    return next((completer for completer in known if completer is not None), None)
