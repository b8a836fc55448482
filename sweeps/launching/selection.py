"""What `--set`, `--axis`, `--only` and `--limit` say, and which runs they leave."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dualformer import strict_yaml
from dualformer.config import ConfigError, flatten, nearest
from sweeps.launching.planned_run import PlannedRun


def assignments(flag: str, texts: Sequence[str]) -> dict[str, Any]:
    """Turns `FIELD=VALUE` texts into dotted fields; the last of a field wins.

    Raises:
        ConfigError: a text is not of that form, or its value is not valid YAML.
    """
    fields: dict[str, Any] = {}
    for text in texts:
        field, value = _split(flag, text, "FIELD=VALUE")
        fields.update(flatten({field: strict_yaml.parse(value, f"{flag} {field}")}))
    return fields


def axes(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Turns `FIELD=V1,V2` texts into values by field; a value that holds a comma goes in quotes or brackets.

    Raises:
        ConfigError: a text is not of that form, or has no values.
    """
    found: dict[str, list[Any]] = {}
    for text in texts:
        field, values = _split("--axis", text, "FIELD=V1,V2")
        parsed = strict_yaml.parse(f"[{values}]", f"--axis {field}")
        if not isinstance(parsed, list) or not parsed:
            raise ConfigError(f"--axis {text}: no values; expected FIELD=V1,V2")
        if field in found:
            raise ConfigError(f"--axis {field} is given twice; list all its values once: {field}=V1,V2")
        found[field] = parsed
    return found


def split_only(labelled: Iterable[str], only: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Sorts `--only` texts into wanted labels by axis, and what is said of fields."""
    labels: dict[str, list[str]] = {}
    fields = []
    names = sorted(labelled, key=len, reverse=True)  # names are free, and may hold the sign that ends them
    for text in only:
        name = next((name for name in names if f"{text}=".startswith(f"{name}=")), None)
        if name is None:
            fields.append(text)
        else:
            labels.setdefault(name, []).append(text[len(name) + 1 :])
    return labels, fields


def select(
    runs: Sequence[PlannedRun], only: Sequence[str], names: Iterable[str], limit: int | None
) -> tuple[PlannedRun, ...]:
    """Returns the runs that have the wanted values, and of these the first ones.

    Args:
        runs: all of a grid.
        only: `FIELD=VALUE`; values of one field are alternatives.
        names: of the grid's axes, to suggest where a field is misspelt.
        limit: most runs to keep; None means all.

    Raises:
        ConfigError: there is no such field, or no such run.
    """
    wanted: dict[str, list[str]] = {}
    for text in only:
        for field, value in assignments("--only", [text]).items():
            wanted.setdefault(field, []).append(json.dumps(value))
    chosen = tuple(run for run in runs if _matches(run, wanted, names)) if wanted else tuple(runs)
    if not chosen:
        raise ConfigError(f"--only {' '.join(only)}: none of the {len(runs)} runs is like that")
    return chosen[:limit]


def _matches(run: PlannedRun, wanted: Mapping[str, Sequence[str]], names: Iterable[str]) -> bool:
    values = flatten(run.config.to_dict())
    for field, choices in wanted.items():
        if field not in values:
            raise ConfigError(f"--only: unknown field '{field}'{nearest(field, {*values, *names})}")
        if json.dumps(values[field]) not in choices and values[field] not in map(json.loads, choices):
            return False
    return True


def _split(flag: str, text: str, form: str) -> tuple[str, str]:
    field, equals, value = text.partition("=")
    if not equals or not field.strip():
        raise ConfigError(f"{flag} {text}: expected {form}")
    return field.strip(), value
