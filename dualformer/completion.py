"""What a shell offers after TAB: names of models, grids, runs and config fields, none of which needs torch.

Options are known by their names, so that a command needs to say nothing about completion.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from dualformer import suite
from dualformer.registry import list_models

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


def grids(prefix: str = "", **_: Any) -> list[str]:
    """The project's grids, and grid files and folders of the place where the shell is."""
    own = [path.name for path in (suite.folder() / "sweeps" / "grids").glob("*.yaml")]
    return [name for name in [*sorted(own), *_paths(prefix, ".yaml")] if name.startswith(prefix)]


def profiles(prefix: str = "", **_: Any) -> list[str]:
    """The project's cluster profiles, and files and folders of the place where the shell is."""
    own = [path.stem for path in (suite.folder() / "slurm" / "profiles").glob("*.yaml")]
    return [name for name in [*sorted(own), *_paths(prefix, ".yaml")] if name.startswith(prefix)]


def runs(prefix: str = "", parsed_args: argparse.Namespace | None = None, **_: Any) -> list[str]:
    """Ids of the runs in the folder that `--runs` names."""
    folder = Path(getattr(parsed_args, "runs", None) or "runs")
    return sorted(path.parent.name for path in folder.glob(f"{prefix}*/config.json"))


def launched(prefix: str = "", parsed_args: argparse.Namespace | None = None, **_: Any) -> list[str]:
    """Grids that were launched into the folder that `--runs` names."""
    folder = Path(getattr(parsed_args, "runs", None) or "runs")
    return sorted(path.name.removesuffix(".grid.json") for path in folder.glob(f"{prefix}*.grid.json"))


def runs_and_launched(prefix: str = "", **known: Any) -> list[str]:
    """Ids of runs, and grids that were launched."""
    return [*runs(prefix, **known), *launched(prefix, **known)]


def assignments(prefix: str = "", **_: Any) -> list[str]:
    """Config fields as `field=`, and after the equals sign the values of those that have few."""
    suite.ensure_importable()
    from sweeps.fields import choices
    from sweeps.run_config import describe_fields

    field, equals, value = prefix.partition("=")
    known = {item.path: item for item in describe_fields()}
    if field == "model.attention" and equals:
        return [f"{field}={pattern}" for pattern in letters(value)]
    if equals:
        values = list_models() if field == "model.name" else choices(known[field]) if field in known else ()
        return [f"{field}={value}" for value in values if f"{field}={value}".startswith(prefix)]
    return [f"{path}=" for path in known if path.startswith(prefix)]


def fields(prefix: str = "", **_: Any) -> list[str]:
    """Config fields."""
    return [text.removesuffix("=") for text in assignments(prefix) if "=" not in prefix]


def letters(prefix: str = "", **_: Any) -> list[str]:
    """Patterns that go on from what is typed by one letter of an attention."""
    from dualformer import attention

    return [prefix + letter for letter in attention.letters()]


def _paths(prefix: str, suffix: str) -> list[str]:
    folder, slash, _ = prefix.rpartition("/")
    place = Path(folder or slash or ".")
    found = sorted(place.iterdir()) if place.is_dir() else []
    names = [(path, f"{folder}{slash}{path.name}") for path in found if path.is_dir() or path.suffix == suffix]
    return [f"{name}/" if path.is_dir() else name for path, name in names if not path.name.startswith(".")]


def models_and_letters(prefix: str = "", **_: Any) -> list[str]:
    """Names of models and letters of attentions, for what checks either."""
    return [*models(prefix), *(letters() if not prefix else [])]


_BY_OPTION: dict[str, Completer] = {
    "--model": models,
    "--grid": grids,
    "--set": assignments,
    "--only": assignments,
    "--axis": assignments,
    "--profile": profiles,
    "--attention": letters,
}
_BY_COMMAND: dict[tuple[str, str], Completer] = {
    ("models", "pattern"): models,
    ("macs", "model"): models,
    ("roofline", "model"): models,
    ("max-batch", "model"): models,
    ("side-by-side", "networks"): models,
    ("check", "thing"): models_and_letters,
    ("fields", "pattern"): fields,
    ("status", "--grid"): launched,
    ("collect", "--grid"): launched,
    ("table", "grid"): grids,
    ("table", "--by"): fields,
    ("logs", "run"): runs,
    ("cancel", "run"): runs_and_launched,
    ("retry", "run"): runs_and_launched,
}


def _completer(command: str, action: argparse.Action) -> Completer | None:
    names = action.option_strings or [action.dest]
    known = [_BY_COMMAND.get((command, name)) or _BY_OPTION.get(name) for name in names]
    return next((completer for completer in known if completer is not None), None)
