"""What speaks against rows as a set: their sheet or launch record, dirt, mixed circumstances, runs there twice."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from dualformer.results import result_set, table
from dualformer.results.code import digest, mixed_code
from dualformer.results.provenance import CIRCUMSTANCES
from dualformer.results.result import MISSING, SCHEMA_VERSION
from dualformer.results.result_set import ResultSet
from dualformer.results.table import Row


def check(found: ResultSet, *, clean: bool = False, allow_missing: bool = False) -> Iterator[str]:
    """Everything that speaks against the rows together."""
    yield from unlike_sheet(found)
    if not allow_missing:
        yield from missing(found)
    yield from dirty(found, clean)
    yield from without_network(found)
    yield from mixed(found)
    yield from twice(found)


def unlike_sheet(found: ResultSet) -> Iterator[str]:
    """A table must hold exactly what its sheet says."""
    for sheet in found.records if found.is_table else ():
        if sheet.get("schema_version") != SCHEMA_VERSION:
            yield f"sheet: unknown schema version {sheet.get('schema_version')}"
        ids = Counter(str(row.get("run_id")) for row in found.rows)
        expected = Counter(texts(sheet, "expected"))
        for run_id in sorted((ids - expected).keys() - expected.keys()):
            yield f"{run_id}: a row that the sheet doesn't expect"
        for run_id in sorted((expected - ids).keys()):
            yield f"{run_id}: no row, though the sheet expects one"
        for name, wanted in (("finished", False), ("missing", True)):
            rows = sorted(str(row.get("run_id")) for row in found.rows if (row.get("status") == MISSING) == wanted)
            if name in sheet and rows != sorted(texts(sheet, name)) and ids == expected:
                yield f"sheet: its list '{name}' is not that of the rows"
        finished = _finished(found)
        for name, column in (("commits", "provenance.commit"), ("codes", "provenance.code")):
            values = result_set.values(finished, column)
            if name in sheet and sorted(map(str, values)) != sorted(texts(sheet, name)):
                told = ", ".join(map(str, values))
                yield f"sheet: says {name} {', '.join(texts(sheet, name))}, the rows come from {told}"
        for code, files in found.codes.items():
            if digest(files) != code:
                yield f"sheet: the files of code {code} are not those that it stands for"
        devices = result_set.values(finished, "provenance.device_name")
        if devices and [sheet.get("device_name")] != devices:
            yield f"sheet: says device {sheet.get('device_name')}, the rows ran on {', '.join(map(str, devices))}"
        if "dirty" in sheet and bool(sheet["dirty"]) != any(row.get("provenance.dirty") is True for row in finished):
            yield f"sheet: says dirty is {json.dumps(sheet['dirty'])}, and its rows say otherwise"
        if "rows_sha256" in sheet and sheet["rows_sha256"] != table.seal(found.rows):
            yield "sheet: its seal is broken: some cell is not what was collected"


def missing(found: ResultSet) -> Iterator[str]:
    """A run that the grid has and that came to nothing."""
    for row in found.rows:
        if row.get("status") == MISSING:
            yield f"{row.get('run_id')}: the grid has this run, which is missing: {row.get('reason')}"
    known = {row.get("run_id") for row in found.rows}
    for record in () if found.is_table else found.records:
        listed = record.get("runs")
        for run in listed if isinstance(listed, list) else ():
            if isinstance(run, dict) and run.get("run_id") not in known:
                yield f"{run.get('run_id')}: grid {record.get('grid')} has this run, which has no result"


def dirty(found: ResultSet, clean: bool) -> Iterator[str]:
    """A set claims a clean tree unless a record of it admits a dirty one."""
    if clean or not any(record.get("dirty") for record in found.records):
        for row in found.rows:
            if row.get("provenance.dirty"):
                yield f"{row.get('run_id')}: ran from a dirty tree, and a clean one is claimed"


def without_network(found: ResultSet) -> Iterator[str]:
    """A row whose files of code were kept is no older than digests of networks, so it must have one."""
    for row in found.rows:
        if row.get("provenance.code") in found.codes and "provenance.network" not in row:
            yield f"{row.get('run_id')}: missing provenance: network"


def mixed(found: ResultSet) -> Iterator[str]:
    for circumstance in CIRCUMSTANCES:
        values = result_set.values(found.rows, circumstance.column)
        if circumstance.alike and len(values) > 1:
            yield f"mixed {circumstance.name}: {', '.join(map(str, values))}"
    if told := mixed_code(result_set.values(_finished(found), "provenance.code"), found.codes):
        yield told


def twice(found: ResultSet) -> Iterator[str]:
    """A run may be there once, and so may a configuration of one network."""
    for run_id, count in Counter(row.get("run_id") for row in found.rows).items():
        if count > 1:
            yield f"{run_id}: {count} rows of one run"
    seen: dict[str, Any] = {}
    for row in found.rows:
        chosen = table.configuration(row)
        content = json.dumps([chosen, row.get("provenance.network")], sort_keys=True)
        first = seen.setdefault(content, row.get("run_id"))
        if first != row.get("run_id") and chosen:
            yield f"{row.get('run_id')}: the same configuration as {first}"


def _finished(found: ResultSet) -> list[Row]:
    """Rows that came to something; what a run without a result was started by, and where, is no part of a set."""
    return [row for row in found.rows if row.get("status") != MISSING]


def texts(sheet: Mapping[str, Any], name: str) -> list[str]:
    """A list of a sheet, or the names in a mapping; empty where it has none."""
    listed = sheet.get(name)
    return [str(item) for item in listed] if isinstance(listed, (list, dict)) else []
