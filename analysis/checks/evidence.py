"""A finished run against the other files of its folder: timed samples, predictions, the log of training, provenance."""

from __future__ import annotations

import csv
import json
import math
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from analysis.checks.rows import trains
from dualformer.results import layout
from dualformer.results.code import digest
from dualformer.results.files import read_lines, read_object
from dualformer.results.provenance import FILES
from dualformer.results.result_set import is_number
from dualformer.results.table import Row

CLOSE = 1e-6
"""Relative difference that another release of a library explains."""

TABLES = (layout.CLASSES, layout.CONFUSION, layout.CALIBRATION)


def check(row: Row, folder: Path) -> Iterator[str]:
    """What a run's result says that its other files don't; a run that failed may lack any of them."""
    yield from provenance(row, folder)
    if row.get("status") == "ok":
        yield from measurement(row, folder)
        if trains(row):
            yield from training(row, folder)
            yield from predictions(row, folder)


def provenance(row: Row, folder: Path) -> Iterator[str]:
    """Digests are those of what stands beside them; the run had the seed and the network that its config says."""
    said = _object(folder / layout.PROVENANCE)
    if (files := said.get(FILES)) and (not isinstance(files, dict) or row.get("provenance.code") != digest(files)):
        yield f"{layout.PROVENANCE}: its code is not the digest of its {FILES}"
    if "network_config" in said and (network := _network_digest(said["network_config"])) != said.get("network"):
        yield f"{layout.PROVENANCE}: its network is not the digest of its network_config, {network}"
    for name in ("seed", "threads"):
        if {name} <= said.keys() & row.keys() and said[name] != row[name]:
            yield f"{layout.PROVENANCE}: {name} is {said[name]}, and {row[name]} in its config"


def measurement(row: Row, folder: Path) -> Iterator[str]:
    """Quantiles are those of the samples; flags, gate and compile time are those of the measurement."""
    if row.get("measure.latency") is not True:
        return
    said = _object(folder / layout.MEASUREMENT)
    if not said:
        yield f"has times, and no {layout.MEASUREMENT} beside them"
        return
    for name, value in _measured(said, row.get("measure.batch_size", 1)).items():
        if not _equal(row.get(name), value):
            yield f"{name} is {row.get(name)}, and {value} by {layout.MEASUREMENT}"
    energy = said.get("energy")
    if isinstance(energy, dict) and "reason" in energy and "energy_j_per_clip" in row:
        yield f"energy_j_per_clip is {row['energy_j_per_clip']}, though by {layout.MEASUREMENT} {energy['reason']}"


def _measured(said: Mapping[str, Any], batch_size: Any) -> dict[str, Any]:
    """Fields of a result that a measurement tells."""
    import numpy as np

    gate = said.get("gate")
    found = {"flags": said.get("flags"), "compile_s": said.get("compile_s")}
    found["gate"] = gate.get("compared_with") if isinstance(gate, dict) else None
    names = ("latency_ms_p20", "latency_ms_p50", "latency_ms_p80")
    found |= dict.fromkeys([*names, "throughput_clips_per_s"])
    samples, pass_ms = said.get("samples_ms"), said.get("pass_ms")
    if not said.get("doubt") and isinstance(samples, list) and samples and all(map(is_number, samples)):
        found |= zip(names, np.quantile(samples, (0.2, 0.5, 0.8)).tolist())
        found["throughput_clips_per_s"] = batch_size / pass_ms * 1e3 if is_number(pass_ms) and pass_ms else None
    return found


def training(row: Row, folder: Path) -> Iterator[str]:
    """The last loss is the one that the log of training ends with."""
    lines = [line for line in read_lines(folder / layout.METRICS) if isinstance(line, dict) and "loss" in line]
    if not lines:
        yield f"is trained, and no {layout.METRICS} tells of it"
    elif not _equal(row.get("final_train_loss"), lines[-1]["loss"]):
        yield f"final_train_loss is {row.get('final_train_loss')}, and {lines[-1]['loss']} by {layout.METRICS}"
    elif lines[-1].get("step") != lines[-1].get("steps"):
        yield f"{layout.METRICS} ends at step {lines[-1].get('step')} of {lines[-1].get('steps')}"


def predictions(row: Row, folder: Path) -> Iterator[str]:
    """Scores, and the tables beside them, are those of the predictions."""
    from sweeps.training.predictions import PredictionsError, read_predictions  # here, since they need torch
    from sweeps.training.scoring import score
    from sweeps.training.tables import write_tables

    try:
        found = read_predictions(folder / layout.PREDICTIONS)
        scores = score(found)
        with tempfile.TemporaryDirectory() as anew:
            write_tables(Path(anew), found)
            unlike = [name for name in TABLES if not _same_table(folder / name, Path(anew) / name)]
    except (PredictionsError, OSError) as error:
        yield f"its accuracies can't be taken anew: {error}"
        return
    for name, value in scores.items():
        if not _equal(row.get(name), value):
            yield f"{name} is {row.get(name)}, and {value} by {layout.PREDICTIONS}"
    for name in unlike:
        yield f"{name} is not that of {layout.PREDICTIONS}"


def _network_digest(config: Any) -> str:
    from sweeps.run_config import digest_of

    return digest_of(config)


def _same_table(one: Path, other: Path) -> bool:
    """Whether two tables are equal, numbers up to rounding."""
    try:
        rows = [list(csv.reader(path.read_text(encoding="utf-8").splitlines())) for path in (one, other)]
    except (OSError, ValueError, csv.Error):
        return False
    if [len(row) for row in rows[0]] != [len(row) for row in rows[1]]:
        return False
    return all(_same_cell(a, b) for of_one, of_other in zip(*rows) for a, b in zip(of_one, of_other))


def _same_cell(one: str, other: str) -> bool:
    try:
        return math.isclose(float(one), float(other), rel_tol=CLOSE, abs_tol=CLOSE)
    except ValueError:
        return one == other


def _equal(said: Any, value: Any) -> bool:
    if is_number(said) and is_number(value):
        return math.isclose(said, value, rel_tol=CLOSE, abs_tol=1e-9)
    return json.dumps(said) == json.dumps(value)


def _object(path: Path) -> dict[str, Any]:
    """A file's object; nothing where there is none (damaged ones are told of where they are read)."""
    try:
        return read_object(path)
    except (OSError, ValueError):
        return {}
