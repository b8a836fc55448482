"""Results tables and published numbers as typed data frames, refused when they are not what they claim to be."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dualformer.results import table as results_table
from dualformer.results.files import plain, read_object
from dualformer.results.layout import SHEET, TABLE
from dualformer.results.result import ROW_STATUSES, SCHEMA_VERSION, fields

FOLDER = Path(__file__).resolve().parent
RESULTS_VARIABLE = "ANALYSIS_RESULTS"
SHEET_FIELDS = {
    **dict.fromkeys(("grid", "device", "device_name"), str),
    **dict.fromkeys(("commits", "expected", "finished", "missing", "differs"), list),
    "dirty": bool,
}
"""What every sheet says, and the type of it."""

KINDS = {float: "float64", int: "Int64", bool: "boolean", str: "string", list: "string"}
"""pandas' type of a column whose field has this type."""


class LoadError(Exception):
    """A results file can't be trusted: unknown schema, missing column, wrong type, table and sheet at odds."""


@dataclasses.dataclass(frozen=True)
class Table:
    """One grid on one device.

    Attributes:
        frame: one row per run the grid expects; `dualformer.results.result` says what the columns are.
        sheet: what `collect.py` wrote beside it (commits, expected and missing runs, the grid's text, ...).
        digest: start of the SHA-256 of the CSV file, for figures to name the data they show.
    """

    frame: pd.DataFrame
    sheet: dict[str, Any]
    digest: str

    @property
    def grid(self) -> str:
        return self.sheet["grid"]

    @property
    def device(self) -> str:
        return self.sheet["device"]


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
        paths = sorted((folder / grid).glob(f"*{TABLE}"))
        if paths:
            return [load_table(path) for path in paths]
    print(f"There are no results of grid '{grid}', so what they would show is left out.")
    return []


def load_all(folders: Sequence[Path] = ()) -> list[Table]:
    """Loads every table there is, by grid and device; of each grid those of the first folder that has any.

    Raises:
        LoadError: one of them can't be trusted.
    """
    folders = folders or results_folders()
    grids = sorted({path.parent.name for folder in folders for path in folder.glob(f"*/*{TABLE}")})
    return [table for grid in grids for table in load_grid(grid, folders)]


def load_table(path: Path) -> Table:
    """Loads `<device>.csv` with `<device>.manifest.json`.

    Raises:
        LoadError: names the file and what is wrong with it.
    """
    sheet = _sheet(results_table.sheet_path(path))
    frame = _typed(path, _text(path))
    if list(frame["run_id"]) != sheet["expected"]:
        raise LoadError(f"{path}: its runs are not the {len(sheet['expected'])} that its sheet expects, in order")
    return Table(frame, sheet, hashlib.sha256(path.read_bytes()).hexdigest()[:12])


def load_published(path: Path = FOLDER / "published" / "kinetics400.csv") -> pd.DataFrame:
    """Loads published results; `analysis/published/README.md` says what the columns hold."""
    frame = pd.read_csv(path, dtype={"name": "string", "pretrain": "string"}, keep_default_na=False, na_values=[""])
    _require(path, frame, ("name", "model", "variant", "attention_family", "gmacs_per_view", "gmacs_total"))
    _require(path, frame, ("views_temporal", "views_spatial", "pretrain", "top1_percent", "source"))
    return frame


def _sheet(path: Path) -> dict[str, Any]:
    try:
        sheet = read_object(path)
    except FileNotFoundError:
        raise LoadError(f"{path} is missing; analysis/collect.py writes it beside its table") from None
    except ValueError as error:
        raise LoadError(str(error)) from None
    if sheet.get("schema_version") != SCHEMA_VERSION:
        raise LoadError(f"{path} has schema version {sheet.get('schema_version')}; this code knows {SCHEMA_VERSION}")
    absent = [name for name in SHEET_FIELDS if name not in sheet]
    if absent:
        raise LoadError(f"{path} lacks the field(s) {', '.join(absent)}")
    for name, kind in SHEET_FIELDS.items():
        if not isinstance(sheet[name], kind):
            raise LoadError(f"{path}: field '{name}' is {sheet[name]!r}, not a {kind.__name__}")
        if isinstance(sheet[name], list) and not all(isinstance(item, str) for item in sheet[name]):
            raise LoadError(f"{path}: field '{name}' is {sheet[name]!r}, not a list of text")
    if path.name != f"{sheet['device']}{SHEET}":  # figures are named by it
        raise LoadError(f"{path}: it is the sheet of device '{sheet['device']}'")
    return sheet


def _text(path: Path) -> pd.DataFrame:
    """The cells of a table, as text."""
    try:
        cells = pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""])
    except (ValueError, pd.errors.ParserError) as error:
        raise LoadError(f"{path} is not a table: {' '.join(str(error).split())[:200]}") from None
    return cells.rename(columns=plain).map(plain, na_action="ignore")


def _typed(path: Path, text: pd.DataFrame) -> pd.DataFrame:
    """Gives every column its type: its field's where it has one, else whatever all its values parse as."""
    if absent := results_table.lacking(text.columns):
        raise LoadError(f"{path} lacks the column(s) {', '.join(absent)}")
    text = text.reindex(columns=list(dict.fromkeys([*text.columns, *fields()])))
    frame = pd.DataFrame({name: _column(path, name, text[name]) for name in text.columns})
    _check_values(path, frame, "schema_version", {SCHEMA_VERSION})
    _check_values(path, frame, "status", set(ROW_STATUSES))
    if frame["run_id"].duplicated().any():
        raise LoadError(f"{path}: run {frame['run_id'][frame['run_id'].duplicated()].iloc[0]} has two rows")
    return frame


def _column(path: Path, name: str, values: pd.Series) -> pd.Series:
    field = results_table.field(name)
    if field is None:
        return _parsed(values)
    kind = KINDS[field.type]
    try:
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
    values = values.replace({"True": "true", "False": "false"})  # as pandas saves them
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
