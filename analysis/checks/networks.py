"""A row's config computed anew: the run's identity, the network's parameters and multiply-accumulates.

Nothing of a network is computed: its weights are counted on the meta device, and each network once, however many rows
have it. Still, this takes torch, and a fraction of a second for each network.

A model by import path would be code of the row's choice, which checking a row must not run: such rows are left out,
which is said, unless the caller asks for it.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from analysis.checks.rows import CLOSE, trains
from dualformer.config import Config, ConfigError, nest
from dualformer.results.result import MISSING
from dualformer.results.result_set import is_number
from dualformer.results.table import Row, configuration, whole
from sweeps.run_config import RunConfig, describe_fields

CLASSES = 400
"""Of a network that isn't trained."""


def check(row: Row, *, import_models: bool = False) -> Iterator[str]:
    """What of a row is not what its config comes to."""
    if row.get("status") == MISSING or not configuration(row) or left_out(row, import_models):
        return
    try:
        config = config_of(row)
    except ConfigError as error:
        yield f"its config is none: {' '.join(str(error).split())}"
        return
    yield from identity(row, config)
    try:
        yield from counts(row, config)
    except ConfigError as error:
        if row.get("status") == "ok":
            yield f"its network can't be built: {' '.join(str(error).split())}"


def left_out(row: Row, import_models: bool = False) -> str:
    """Why a row's network is not computed anew, in words; "" where it is."""
    names = [str(row.get(name, "")) for name in ("model.name", "train.token_labels.teacher")]
    if not import_models and (paths := [name for name in names if ":" in name]):
        return f"{', '.join(paths)} not imported, so identity, parameters and counts are as the row says"
    return ""


def config_of(row: Row) -> RunConfig:
    """The config that a row holds; what is absent has its default, since no field is null where that isn't one.

    Raises:
        ConfigError: it isn't one.
    """
    texts = {field.path for field in describe_fields() if field.type in ("str", "str | None")}
    chosen = {
        name: str(value) if name in texts and isinstance(value, int | float) else value
        for name, value in configuration(row).items()
    }
    try:
        return RunConfig.from_dict(nest(chosen))
    except ConfigError:  # another program may have saved 8 as 8.0
        return RunConfig.from_dict(nest({name: whole(value) for name, value in chosen.items()}))


def identity(row: Row, config: Config) -> Iterator[str]:
    """A run's id and its network's digest follow from its config."""
    assert isinstance(config, RunConfig)
    if "provenance.network" not in row:
        if row.get("run_id") != config.former_run_id:
            yield f"its config is that of run {config.former_run_id} (by the former rule, without a network's digest)"
    elif row["provenance.network"] != config.network_digest:
        yield (
            f"its config makes network {config.network_digest}, and it had {row['provenance.network']}: "
            "a default of the model was edited since, or the row was"
        )
    elif row.get("run_id") != config.run_id:
        yield f"its config is that of run {config.run_id}"


def counts(row: Row, config: Config) -> Iterator[str]:
    """Parameters and multiply-accumulates are those of the network that the config makes.

    Raises:
        ConfigError: it makes none.
    """
    assert isinstance(config, RunConfig)
    classes = row.get("num_classes", CLASSES) if trains(row) else CLASSES
    if not is_number(classes):
        return
    known = _key(config.model.name, {**config.model.changes(), "num_classes": int(classes)})
    wanted = dict(_counted(known)) if row.keys() & {"params_m", "gmacs_per_view", "macs_head_included"} else {}
    if not trains(row) and "num_classes" in row:
        wanted["num_classes"] = CLASSES
    if "train_gmacs_per_clip" in row:
        wanted["train_gmacs_per_clip"] = _training_gmacs(known)
    for name, value in wanted.items():
        if name in row and not _equal(row[name], value):
            yield f"{name} is {_said(row[name])}, and the network that its config makes has {_said(value)}"


def former(rows: list[Row]) -> int:
    """How many rows have an id by the rule before networks were part of it."""
    return sum("provenance.network" not in row and row.get("status") != MISSING for row in rows)


def _key(name: str, changes: Mapping[str, Any]) -> str:
    return json.dumps([name, changes], sort_keys=True)


@functools.cache
def _counted(key: str) -> Mapping[str, Any]:
    from dualformer.macs import count_macs  # here: it needs torch
    from dualformer.meta import no_memory, with_memory_if_needed
    from dualformer.registry import create_model

    name, changes = json.loads(key)
    with no_memory():
        model = with_memory_if_needed(lambda: create_model(name, **changes), RuntimeError)
    count = count_macs(model)
    return {
        "params_m": sum(parameter.numel() for parameter in model.parameters()) / 1e6,
        "gmacs_per_view": count.total / 1e9,
        "macs_head_included": count.head_included,
    }


@functools.cache
def _training_gmacs(key: str) -> float:
    from dualformer.macs import count_training_macs

    name, changes = json.loads(key)
    return count_training_macs(name, **changes).total / 1e9


def _equal(said: Any, value: Any) -> bool:
    if isinstance(value, bool) or not is_number(said):
        return bool(said is value)
    return math.isclose(said, value, rel_tol=CLOSE)


def _said(value: Any) -> str:
    return f"{value:.8g}" if is_number(value) else json.dumps(value)
