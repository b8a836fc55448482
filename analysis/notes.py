"""What is said about a printed table beside its numbers: caption, notes below, and the texts that go into CSV."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from analysis import columns
from analysis import lines as _lines
from analysis.columns import DISTURBED, MIXED, ONE_SEED, Page
from analysis.formats import Printed
from dualformer.results import result, result_set
from dualformer.results.statistics import LEVEL
from dualformer.results.table import Row

_LEVEL = f"{LEVEL:.0%}".replace("%", " %")


def printed(page: Page, names: Sequence[str]) -> Printed:
    """Returns a page as a table for reading, with the columns of these names."""
    fields = columns.field_columns(page)
    shown = [*fields, *(columns.column(page, name) for name in names)]
    return Printed(
        caption=caption(page, names),
        heads=[column.head for column in shown],
        num_texts=len(fields),
        lines=list(zip(*(column.cells for column in shown))),
        notes=list(notes(page, names)),
    )


def plain(pages: Sequence[Page], names: Sequence[str]) -> tuple[list[str], list[list[Any]]]:
    """Returns pages as one table for programs: its header, and its lines."""
    header: list[str] = []
    found = []
    for page in pages:
        shown = [*columns.field_columns(page), *(columns.column(page, name) for name in names)]
        header = [*ABOUT, *dict.fromkeys(name for column in shown for name in column.names), *REMARKS]
        for at in range(len(page.lines)):
            values = [value for column in shown for value in column.values[at]]
            found.append([*_about(page), *values, *_remarks(page, at, names)])
    return header, found


ABOUT = ("grid", "device", "commit")
REMARKS = ("pareto_front", "failures", "disturbed", "mixed_fields")


def _about(page: Page) -> list[Any]:
    return [page.sheet["grid"], page.sheet["device_name"], " ".join(page.sheet["commits"])]


def _remarks(page: Page, at: int, names: Sequence[str]) -> list[Any]:
    line = page.lines[at]
    failures = [_failure(*told, rows) for told, rows in line.failures().items()]
    disturbed = [_counted(reason, rows) for reason, rows in _doubts(line, names).items()]
    front = int(at in page.front) if page.score else None
    return [front, "; ".join(failures), "; ".join(disturbed), " ".join(line.mixed)]


def caption(page: Page, names: Iterable[str]) -> str:
    """What the table is of: grid, device, commits, numbers of runs, and the conditions of its times."""
    sheet, rows = page.sheet, [row for line in page.lines for row in line.rows]
    ok = sum(row["status"] == "ok" for row in rows)
    commits = ", ".join(str(commit)[:12] for commit in sheet["commits"]) or "unknown"
    parts = [
        f"Grid {sheet['grid']} on {sheet['device_name']}",
        f"n = {_span(len(line.ok) for line in page.lines)} a line, {ok} of {len(rows)} runs ok",
        f"commit {commits}" + (" with uncommitted changes" if sheet["dirty"] else ""),
    ]
    return "; ".join([*parts, *_conditions(rows, names)]) + "."


def _span(counts: Iterable[int]) -> str:
    counts = sorted(set(counts))
    return f"{counts[0]} to {counts[-1]} runs" if len(counts) > 1 else f"{counts[0]} run{'s' if counts[0] != 1 else ''}"


def _conditions(rows: list[Row], names: Iterable[str]) -> Iterator[str]:
    """Under which conditions times of the table were taken."""
    if not set(names) & set(result.of_kind("timed")):
        return
    timed = [row for row in rows if "latency_ms_p50" in row]
    told = {
        "batch": result_set.values(timed, "measure.batch_size"),
        "precision": result_set.values(timed, "measure.precision"),
        "threads": result_set.values(timed, "provenance.threads"),
    }
    known = [f"{name} {', '.join(map(str, values))}" for name, values in told.items() if values]
    if known:
        yield "times at " + ", ".join(known)


def notes(page: Page, names: Sequence[str]) -> Iterator[str]:
    """What stands below the table."""
    yield from _intervals(page, names)
    yield _frontier(page)
    if page.against is not None and set(names) & set(columns.COMPARED):
        yield from _comparison(page)
    for fields, lines in _collected((tuple(line.mixed), page.name(line)) for line in page.lines if line.mixed):
        yield (
            f"{MIXED} No repetitions: runs differ in {', '.join(fields)} as well, so there is no interval "
            f"and no difference ({'; '.join(lines)})."
        )
    for line in page.lines:
        for reason, rows in _doubts(line, names).items():
            yield f"{DISTURBED} Times of {page.name(line)}: {_counted(reason, rows)}."
    for line in page.lines:
        for (status, reason), rows in line.failures().items():
            yield f"Not ok: {page.name(line)}: {_failure(status, reason, rows)}."


def _intervals(page: Page, names: Sequence[str]) -> Iterator[str]:
    """What brackets and parentheses hold."""
    found = {
        name: [one for line in page.lines if (one := _lines.estimate(line, name))]
        for name in names
        if name not in ("runs", *columns.COMPARED)
    }
    kinds = {one.kind for estimates in found.values() for one in estimates}
    videos = result_set.values((row for line in page.lines for row in line.ok), "num_videos")
    wilson = f"Wilson interval over {' or '.join(map(str, videos)) or 'the'} held-out videos"
    if "t" in kinds:
        yield f"Accuracy: mean over seeds, in brackets the {_LEVEL} t-interval over seeds."
    if "wilson" in kinds:
        yield f"{f'{ONE_SEED} O' if 't' in kinds else 'Accuracy: o'}ne seed, in brackets the {_LEVEL} {wilson}."
    if "range" in kinds:
        yield "In parentheses: lowest and highest of the runs, of which the number before is the mean."


def _frontier(page: Page) -> str:
    cost = columns.head(page.cost)
    if page.score is None:
        return f"Sorted by {cost}; no accuracy was measured, so there is no Pareto frontier."
    score = columns.head(page.score).removesuffix(", %")
    if not page.front:
        return f"Sorted by {cost}, then {score}; no line has both, so there is no Pareto frontier."
    return (
        f"Sorted by {cost}, then {score}. "
        f"Bold: on the Pareto frontier, where no line has a higher {score} at the same or a lower cost."
    )


def _comparison(page: Page) -> Iterator[str]:
    assert page.against is not None and page.score is not None
    compared = [found for found in page.differences if found]
    tested = [found for found, _ in compared if not math.isnan(found.p)]
    score = columns.head(page.score).removesuffix(", %")
    yield (
        f"Δ: paired difference of {score} from {page.name(page.against)} over the seeds that both have (pairs), "
        f"in percentage points, in brackets its {_LEVEL} t-interval."
    )
    if tested:
        yield f"p: paired t-test, after Holm's correction for {len(tested)} test{'s' if len(tested) > 1 else ''}."
    if any(found.pairs == 1 for found, _ in compared):
        yield "One pair has neither interval nor p."
    if any(found.pairs > 1 and math.isnan(found.p) for found, _ in compared):
        yield "Where all pairs differ by the same there is no p."


def _doubts(line: _lines.Line, names: Iterable[str]) -> Mapping[str, list[Row]]:
    """What speaks against any of the times that are shown."""
    found: dict[str, list[Row]] = {}
    for name in names:
        for reason, rows in line.doubts(name).items():
            found.setdefault(reason, rows)
    return found


def _failure(status: str, reason: str, rows: Sequence[Row]) -> str:
    return f"{len(rows)} {status}" + (f": {reason.rstrip('.')}" if reason else "")


def _counted(reason: str, rows: Sequence[Row]) -> str:
    return reason + (f" ({len(rows)} runs)" if len(rows) > 1 else "")


def _collected(pairs: Iterable[tuple[tuple[str, ...], str]]) -> list[tuple[tuple[str, ...], list[str]]]:
    found: dict[tuple[str, ...], list[str]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return list(found.items())
