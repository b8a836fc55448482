"""Results tables and published numbers as typed data frames, refused when they are not what they claim to be."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import schema

FOLDER = Path(__file__).resolve().parent
RESULTS_VARIABLE = "ANALYSIS_RESULTS"
MANIFEST_FIELDS = ("grid", "device", "device_name", "commits", "dirty", "expected", "finished", "missing", "differs")


class LoadError(Exception):
    """A results file can't be trusted: unknown schema, missing column, wrong type, table and manifest at odds."""


@dataclasses.dataclass(frozen=True)
class Table:
    """One grid on one device.

    Attributes:
        frame: one row per run the grid expects; see `analysis/schema.py` for the columns.
        manifest: what `collect.py` wrote beside it (commits, expected and missing runs, the grid's text, ...).
        digest: start of the SHA-256 of the CSV file, for figures to name the data they show.
    """

    frame: pd.DataFrame
    manifest: dict[str, Any]
    digest: str

    @property
    def grid(self) -> str:
        return self.manifest["grid"]

    @property
    def device(self) -> str:
        return self.manifest["device"]


def results_folders() -> list[Path]:
    """The results that notebooks read: the paths in `$ANALYSIS_RESULTS` where set, else the committed ones."""
    listed = os.environ.get(RESULTS_VARIABLE, "")
    return [Path(part) for part in listed.split(os.pathsep) if part] or [FOLDER / "results"]


def load_grid(grid: str, folders: Sequence[Path] = ()) -> list[Table]:
    """Loads every device's table of `grid` from the first folder that has any, by device name.

    Says so and returns an empty list where there is none.

    Raises:
        LoadError: a table is there and can't be trusted.
    """
    for folder in folders or results_folders():
        paths = sorted((folder / grid).glob("*.csv"))
        if paths:
            return [load_table(path) for path in paths]
    print(f"There are no results of grid '{grid}', so what they would show is left out.")
    return []


def load_table(path: Path) -> Table:
    """Loads `<device>.csv` with `<device>.manifest.json`.

    Raises:
        LoadError: names the file and what is wrong with it.
    """
    manifest = _manifest(path.with_suffix(".manifest.json"))
    frame = _typed(path, pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""]))
    if list(frame["run_id"]) != manifest["expected"]:
        raise LoadError(f"{path}: its runs are not the {len(manifest['expected'])} that its manifest expects, in order")
    return Table(frame, manifest, hashlib.sha256(path.read_bytes()).hexdigest()[:12])


def load_published(path: Path = FOLDER / "published" / "kinetics400.csv") -> pd.DataFrame:
    """Loads published results; `analysis/published/README.md` says what the columns hold."""
    frame = pd.read_csv(path, dtype={"name": "string", "pretrain": "string"}, keep_default_na=False, na_values=[""])
    _require(path, frame, ("name", "model", "variant", "attention_family", "gmacs_per_view", "gmacs_total"))
    _require(path, frame, ("views_temporal", "views_spatial", "pretrain", "top1_percent", "source"))
    return frame


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LoadError(f"{path} is missing; analysis/collect.py writes it beside its table") from None
    except ValueError as error:
        raise LoadError(f"{path} is not JSON: {error}") from None
    if manifest.get("schema_version") != schema.SCHEMA_VERSION:
        version = manifest.get("schema_version")
        raise LoadError(f"{path} has schema version {version}; this code knows {schema.SCHEMA_VERSION}")
    absent = [name for name in MANIFEST_FIELDS if name not in manifest]
    if absent:
        raise LoadError(f"{path} lacks the field(s) {', '.join(absent)}")
    return manifest


def _typed(path: Path, text: pd.DataFrame) -> pd.DataFrame:
    """Gives every column its type: the schema's where it has one, else whatever all its values parse as."""
    _require(path, text, (*schema.IDENTITY, *schema.MEASURED))
    text = text.reindex(columns=list(dict.fromkeys([*text.columns, *schema.OPTIONAL])))
    frame = pd.DataFrame({name: _column(path, name, text[name]) for name in text.columns})
    _check_values(path, frame, "schema_version", {schema.SCHEMA_VERSION})
    _check_values(path, frame, "status", set(schema.STATUSES))
    if frame["run_id"].duplicated().any():
        raise LoadError(f"{path}: run {frame['run_id'][frame['run_id'].duplicated()].iloc[0]} has two rows")
    return frame


def _column(path: Path, name: str, values: pd.Series) -> pd.Series:
    kind = schema.kind(name)
    try:
        if kind is None:
            return _parsed(values)
        if kind == "boolean":
            return _booleans(values)
        return values.astype("float64").astype(kind) if kind == "Int64" else values.astype(kind)
    except (TypeError, ValueError) as error:
        raise LoadError(f"{path}: column '{name}' should be {kind}: {error}") from None


def _parsed(values: pd.Series) -> pd.Series:
    """Numbers where all values are numbers, booleans likewise, else text as it stands."""
    for parse in (_booleans, pd.to_numeric):
        try:
            if values.notna().any():
                return parse(values)
        except ValueError:
            continue
    return values.astype("string")


def _booleans(values: pd.Series) -> pd.Series:
    other = set(values.dropna()) - {"true", "false"}
    if other:
        raise ValueError(f"{sorted(other)} is neither true nor false")
    return (values == "true").astype("boolean").where(values.notna())


def _check_values(path: Path, frame: pd.DataFrame, column: str, allowed: set[Any]) -> None:
    unknown = sorted(set(frame[column].dropna().tolist()) - allowed)
    if unknown:
        raise LoadError(f"{path}: column '{column}' holds {unknown}; known: {sorted(allowed)}")


def _require(path: Path, frame: pd.DataFrame, names: tuple[str, ...]) -> None:
    absent = [name for name in names if name not in frame]
    if absent:
        raise LoadError(f"{path} lacks the column(s) {', '.join(absent)}")
