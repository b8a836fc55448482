"""Tell everything that speaks against a set of results.

    dualformer verify RESULTS

RESULTS is a run, a folder of runs, a table, or a folder of tables. Every reason against it is listed, not the first
alone: missing provenance, a dirty tree where a clean one is claimed, mixed hardware, versions or code, views that don't
multiply, FLOPs that aren't twice the multiply-accumulates, impossible values (quicker than the roofline, accuracies out
of range, quantiles out of order, a clock that didn't wait), disturbed timings, duplicates, unknown schema.

Exit status: 0 nothing speaks against it, 1 something does, 2 there is nothing to check.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dualformer.arguments import parse_and_run, printable, program
from dualformer.results import result_set, table
from dualformer.results.code import mixed_code
from dualformer.results.provenance import CIRCUMSTANCES
from dualformer.results.result import MISSING, ROW_STATUSES, SCHEMA_VERSION
from dualformer.results.result_set import ResultSet, ResultSetError, is_number
from dualformer.results.table import Row

CLOSE = 1e-9
"""Relative difference that rounding explains."""

ASYNCHRONOUS = 2.0
"""Above this ratio of unsynchronised to synchronised time of a pass, nobody waited for the synchronised one."""

DISTURBED = ("throttled", "other processes on the GPU", "bound by the host")
"""Flags that speak against a time. Others, such as busy cores beside a CPU timing, are for the reader to judge."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", type=Path, help="a run, a folder of runs, a table, or a folder of tables")
    parser.add_argument(
        "--clean", action="store_true", help="reject dirty trees even where nobody claims a clean one (default: admit)"
    )
    parser.add_argument(
        "--allow-disturbed",
        action="store_true",
        help="accept times whose row says what disturbed them (default: reject)",
    )


def run(options: argparse.Namespace) -> int:
    """Checks every result set; returns the exit status."""
    try:
        sets = result_set.read(options.results)
    except (ResultSetError, OSError) as error:
        print(printable(f"{program('verify')}: {error}"), file=sys.stderr)
        return 2
    status = 0
    for found in sets:
        reasons = verify(found, clean=options.clean, allow_disturbed=options.allow_disturbed)
        for reason in reasons:
            print(printable(f"{found.source}: {reason}"))
        verdict = f"rejected, {len(reasons)} reasons" if reasons else "nothing speaks against it"
        print(printable(f"{found.source}: {len(found.rows)} rows: {verdict}"))
        status = 1 if reasons else status
    return status


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line and runs it; returns the exit status."""
    return parse_and_run(sys.modules[__name__], arguments, prog="dualformer verify")


def verify(found: ResultSet, *, clean: bool = False, allow_disturbed: bool = False) -> list[str]:
    """Everything that speaks against a result set, in words; empty where nothing does.

    Args:
        found: the rows and what is known about them.
        clean: whether a dirty tree speaks against a set that admits it.
        allow_disturbed: whether a time counts whose row says that something disturbed it.
    """
    checks: list[Callable[[Row], Iterator[str]]] = [
        _unknown_schema,
        _missing_provenance,
        _products,
        _ranges,
        _quantiles,
        _too_quick,
    ]
    if not allow_disturbed:
        checks.append(_disturbed)
    of_rows = [f"{row.get('run_id')}: {reason}" for row in found.rows for check in checks for reason in check(row)]
    return [*found.problems, *_unlike_sheet(found), *_dirty(found, clean), *_mixed(found), *_twice(found), *of_rows]


def _unlike_sheet(found: ResultSet) -> Iterator[str]:
    """A table must hold exactly what its sheet says; a folder of runs may be unfinished."""
    for sheet in found.records if found.is_table else ():
        if sheet.get("schema_version") != SCHEMA_VERSION:
            yield f"sheet: unknown schema version {sheet.get('schema_version')}"
        ids = Counter(str(row.get("run_id")) for row in found.rows)
        expected = Counter(_texts(sheet, "expected"))
        for run_id in sorted((ids - expected).keys() - expected.keys()):
            yield f"{run_id}: a row that the sheet doesn't expect"
        for run_id in sorted((expected - ids).keys()):
            yield f"{run_id}: no row, though the sheet expects one"
        commits = result_set.values(found.rows, "provenance.commit")
        if sorted(commits) != sorted(_texts(sheet, "commits")):
            yield f"sheet: says commits {sheet.get('commits')}, the rows come from {commits}"


def _texts(sheet: Mapping[str, Any], name: str) -> list[str]:
    """A list of a sheet, empty where it has none."""
    listed = sheet.get(name)
    return [str(item) for item in listed] if isinstance(listed, list) else []


def _dirty(found: ResultSet, clean: bool) -> Iterator[str]:
    """A set claims a clean tree unless a record of it admits a dirty one."""
    if clean or not any(record.get("dirty") for record in found.records):
        for row in found.rows:
            if row.get("provenance.dirty"):
                yield f"{row.get('run_id')}: ran from a dirty tree, and a clean one is claimed"


def _mixed(found: ResultSet) -> Iterator[str]:
    for circumstance in CIRCUMSTANCES:
        values = result_set.values(found.rows, circumstance.column)
        if circumstance.alike and len(values) > 1:
            yield f"mixed {circumstance.name}: {', '.join(map(str, values))}"
    if mixed := mixed_code(result_set.values(found.rows, "provenance.code"), found.codes):
        yield mixed


def _twice(found: ResultSet) -> Iterator[str]:
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


def _unknown_schema(row: Row) -> Iterator[str]:
    if row.get("status") not in ROW_STATUSES:
        yield f"unknown status {row.get('status')!r}"
    elif row["status"] != "ok" and not row.get("reason"):
        yield f"status '{row['status']}' without a reason"
    if row.get("schema_version") != SCHEMA_VERSION and row.get("status") != MISSING:
        yield f"unknown schema version {row.get('schema_version')}"


def _missing_provenance(row: Row) -> Iterator[str]:
    if row.get("status") == "ok":
        needed = ("always", "on cuda") if row.get("provenance.device") == "cuda" else ("always",)
        absent = [known.name for known in CIRCUMSTANCES if known.needed in needed and known.column not in row]
        if absent:
            yield f"missing provenance: {', '.join(absent)}"


def _products(row: Row) -> Iterator[str]:
    """Totals are views times a view, and FLOPs are two a multiply-accumulate."""
    if known := _numbers(row, "evaluate.num_clips", "evaluate.num_crops", "num_views"):
        clips, crops, views = known
        if clips * crops != views:
            yield f"num_views is {views}, not {clips} clips x {crops} crops"
    if known := _numbers(row, "num_views", "gmacs_per_view", "gmacs_total"):
        views, per_view, total = known
        if not math.isclose(views * per_view, total, rel_tol=CLOSE):
            yield f"gmacs_total is {total:g}, not {views} views x {per_view:g}"
    if known := _numbers(row, "gmacs_total", "gflops_total"):
        total, gflops = known
        if not math.isclose(2 * total, gflops, rel_tol=CLOSE):
            yield f"gflops_total is {gflops:g}, not 2 x {total:g}"


def _ranges(row: Row) -> Iterator[str]:
    for name, value in row.items():
        field = table.field(name)
        if field is None or not field.is_number:
            continue
        if not is_number(value):
            yield f"{name} is {value!r}, not a number"
        elif field.is_fraction and not 0 <= value <= 1:
            yield f"{name} is {value:g}, not a fraction from 0 to 1"
        elif field.positive and value <= 0:
            yield f"{name} is {value:g}, not positive"


def _quantiles(row: Row) -> Iterator[str]:
    for names in (("latency_ms_p20", "latency_ms_p50", "latency_ms_p80"), ("top1", "top5")):
        if (values := _numbers(row, *names)) and values != sorted(values):
            yield f"{' <= '.join(names)} doesn't hold: {', '.join(f'{value:g}' for value in values)}"


def _too_quick(row: Row) -> Iterator[str]:
    """Times that no machine can have taken."""
    if known := _numbers(row, "latency_ms_p50", "roofline_ms"):
        latency, bound = known
        if latency < bound:
            yield f"latency {latency:g} ms is below the least time that the machine's ceilings allow, {bound:g} ms"
    if known := _numbers(row, "latency_ms_p50", "throughput_clips_per_s"):
        latency, rate = known
        (batch_size,) = _numbers(row, "measure.batch_size") or (1,)
        if rate > 0 and (pass_ms := batch_size / rate * 1e3) > ASYNCHRONOUS * latency:
            yield f"latency is {latency:g} ms, yet by its throughput a pass takes {pass_ms:g} ms: nobody waited"


def _disturbed(row: Mapping[str, Any]) -> Iterator[str]:
    if "latency_ms_p50" in row:
        for flag in result_set.flags(row):
            if any(words in flag for words in DISTURBED):
                yield f"disturbed while it was timed: {flag}"


def _numbers(row: Row, *names: str) -> list[Any]:
    """Values of fields, none at all where one of them is absent or no number (of which `_ranges` speaks)."""
    values = [row.get(name) for name in names]
    return values if all(map(is_number, values)) else []


if __name__ == "__main__":
    sys.exit(main())
