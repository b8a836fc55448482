"""The columns of a printed table: what each is called, its cells for reading, and its plain numbers for CSV."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from analysis import lines as _lines
from analysis.formats import Cell
from analysis.lines import Estimate, Line
from analysis.tables import ATTENTION, MODEL, digits, model_labels
from dualformer.attention import style
from dualformer.results import result
from dualformer.results.statistics import PairedDifference

DISTURBED, MIXED, ONE_SEED = "†", "‡", "§"
NONE = "—"

HEADS = {
    "runs": "runs",
    "top1": "top-1, %",
    "top5": "top-5, %",
    "params_m": "parameters, M",
    "gmacs_per_view": "GMACs per view",
    "gmacs_total": "GMACs total",
    "latency_ms_p50": "latency, ms",
    "throughput_clips_per_s": "throughput, clips/s",
    "peak_mem_gib": "memory, GiB",
    "energy_j_per_clip": "energy, J per clip",
    "p": "p",
    "pairs": "pairs",
}
LATENCY = "latency_ms_p50"
COSTS = (
    *("params_m", "gmacs_per_view", "gmacs_total"),
    *(LATENCY, "throughput_clips_per_s", "peak_mem_gib", "energy_j_per_clip"),
)
SPEAKING = (ATTENTION, MODEL)
"""Fields whose values need no name beside them."""

COMPARED = ("difference", "p", "pairs")
"""Columns that there are against a line."""


@dataclasses.dataclass(frozen=True)
class Page:
    """One grid on one device, as it is to be printed.

    Attributes:
        sheet: of the results table.
        by: fields that lines are told apart by.
        lines: sorted by cost.
        front: places of those on the Pareto frontier.
        cost: field that they are sorted by.
        score: accuracy that the frontier and differences are of; None where nothing was scored.
        against: the line that others are compared with.
    """

    sheet: Mapping[str, Any]
    by: Sequence[str]
    lines: Sequence[Line]
    front: frozenset[int]
    cost: str
    score: str | None
    against: Line | None

    @functools.cached_property
    def labels(self) -> list[tuple[str, ...]]:
        """A text for each field of each line."""
        return labels(self.by, self.lines)

    @functools.cached_property
    def differences(self) -> list[tuple[PairedDifference, float] | None]:
        """Of each line from `against`, with p after correction."""
        if self.against is None or self.score is None:
            return [None] * len(self.lines)
        return _lines.differences(self.lines, self.against, self.score)

    @functools.cached_property
    def scored_by_one_seed(self) -> bool:
        """Whether one line has an interval over seeds and another one over videos, so that they must be told apart."""
        kinds = {found.kind for line in self.lines if self.score and (found := _lines.estimate(line, self.score))}
        return {"t", "wilson"} <= kinds

    def name(self, line: Line) -> str:
        """A line in words."""
        texts = zip(self.by, next(texts for other, texts in zip(self.lines, self.labels) if other is line))
        return ", ".join(text if name in SPEAKING else f"{_short(name)} {text}" for name, text in texts) or "all runs"


@dataclasses.dataclass(frozen=True)
class Column:
    """One column for reading, and the columns of CSV that say the same.

    Attributes:
        head: with its unit.
        cells: one for each line.
        names: of the columns of CSV.
        values: for each line, one for each name.
    """

    head: str
    cells: Sequence[Cell]
    names: Sequence[str]
    values: Sequence[Sequence[Any]]


def labels(by: Sequence[str], lines: Sequence[Line]) -> list[tuple[str, ...]]:
    """A text for each field of each line: attentions in words, models by their short names, all else as chosen.

    Values that would be called the same are followed by the value itself.
    """
    columns = [_texts(name, [line.values[at] for line in lines]) for at, name in enumerate(by)]
    return list(zip(*columns)) if by else [() for _ in lines]


def typed(value: Any) -> str:
    """A value as it is typed."""
    return value if isinstance(value, str) else json.dumps(value)


def _short(field: str) -> str:
    return field.rpartition(".")[2].replace("_", " ")


def _texts(name: str, values: Sequence[Any]) -> list[str]:
    own = {typed(value): value for value in values}
    short = model_labels(own) if name == MODEL else {}
    called = {text: _words(name, value) or short.get(text, text).strip() or "(empty)" for text, value in own.items()}
    uses = Counter(called.values())
    return [called[text] + (f" ({text})" if uses[called[text]] > 1 else "") for text in map(typed, values)]


def _words(name: str, value: Any) -> str:
    if value is None:
        return NONE
    return style.of_pattern(value).words if name == ATTENTION and isinstance(value, str) and value else ""


def quantities(pages: Iterable[Page]) -> list[str]:
    """Every quantity that a column may be of: those of any result, and factors of these."""
    factors = [name for page in pages for line in page.lines for name in _lines.accuracies(line.rows)]
    return list(dict.fromkeys([*result.metrics(), *factors]))


def usual(pages: Sequence[Page]) -> list[str]:
    """The columns unless others are asked for: those of which there is anything to say."""
    rows = [row for page in pages for line in page.lines for row in line.rows]
    lines = [line for page in pages for line in page.lines]
    compared = COMPARED if any(page.against for page in pages) else ()
    measured = [name for name in COSTS if any(line.has(name) for line in lines)]
    if LATENCY not in measured and any(line.doubts(LATENCY) for line in lines):
        measured.append(LATENCY)  # withheld everywhere, which is worth a column
    return ["runs", *_lines.accuracies(rows), *compared, *measured]


def column(page: Page, name: str) -> Column:
    """Makes the column of a name of `quantities`, of `COMPARED`, or `runs`."""
    if name == "runs":
        return _runs(page)
    return _compared(page, name) if name in COMPARED else _quantity(page, name)


def head(name: str) -> str:
    """What a quantity is called, with its unit."""
    if name in HEADS:
        return HEADS[name]
    field = result.fields().get(name)
    if field is None:
        return f"{name.removeprefix('top1_')}, %"
    return f"{name}, %" if field.is_fraction else f"{name}, {field.unit}" if field.unit else name


def field_columns(page: Page) -> list[Column]:
    """The columns that say which line it is; the first one is bold on the frontier and marked where runs are mixed."""
    columns = []
    shorts = Counter(map(_short, page.by))
    for at, name in enumerate(page.by):
        cells = [
            Cell(texts[at], MIXED if line.mixed and not at else "", place in page.front and not at)
            for place, (line, texts) in enumerate(zip(page.lines, page.labels))
        ]
        values = [[None if line.values[at] is None else typed(line.values[at])] for line in page.lines]
        columns.append(Column(name if shorts[_short(name)] > 1 else _short(name), cells, [name], values))
    return columns or [_all_runs(page)]


def _all_runs(page: Page) -> Column:
    cells = [Cell("all runs", MIXED if line.mixed else "", at in page.front) for at, line in enumerate(page.lines)]
    return Column("", cells, [], [[] for _ in page.lines])


def _runs(page: Page) -> Column:
    cells, values = [], []
    for line in page.lines:
        total, ok = len(line.rows), len(line.ok)
        cells.append(Cell(str(total) if ok == total else f"{ok} of {total}"))
        values.append([total, ok, total - ok])
    return Column(HEADS["runs"], cells, ["runs", "runs_ok", "runs_failed"], values)


def _quantity(page: Page, name: str) -> Column:
    field = result.fields().get(name)
    share = field is None or field.is_fraction
    found = [_lines.estimate(line, name) for line in page.lines]
    cells = [
        Cell(_text(one, share), _marks(page, line, name, one) if one or line.doubts(name) else "")
        for line, one in zip(page.lines, found)
    ]
    if not share:
        return Column(head(name), cells, [name, f"{name}_min", f"{name}_max"], list(map(_extremes, found)))
    unit = f"{name}_percent"
    names = [unit, f"{unit}_low", f"{unit}_high", f"{name}_interval", f"{name}_runs"]
    return Column(head(name), cells, names, list(map(_percents, found)))


def _marks(page: Page, line: Line, name: str, found: Estimate | None) -> str:
    one_seed = found is not None and found.kind == "wilson" and page.scored_by_one_seed
    return (ONE_SEED if one_seed else "") + (DISTURBED if line.doubts(name) else "")


def _compared(page: Page, name: str) -> Column:
    assert page.score is not None
    about = head(page.score)
    if name == "difference":
        called = f"{page.score}_difference_points"
        names = [called, f"{called}_low", f"{called}_high"]
        cells = [Cell(_difference(found[0]) if found else NONE) for found in page.differences]
        values = [_points(found[0]) if found else [None] * 3 for found in page.differences]
        return Column(f"Δ {about.removesuffix(', %')}, points", cells, names, values)
    if name == "p":
        cells = [Cell(_probability(found[1]) if found else NONE) for found in page.differences]
        values = [[_known(found[0].p), _known(found[1])] if found else [None] * 2 for found in page.differences]
        return Column("p", cells, [f"{page.score}_p", f"{page.score}_p_holm"], values)
    pairs = [found[0].pairs if found else None for found in page.differences]
    cells = [Cell(NONE if count is None else str(count)) for count in pairs]
    return Column("pairs", cells, [f"{page.score}_pairs"], [[count] for count in pairs])


def _text(found: Estimate | None, share: bool) -> str:
    if found is None:
        return NONE
    mean, low, high = (_number(value, share) for value in (found.mean, found.low, found.high))
    if found.kind == "range":
        return f"{mean} ({low}–{high})" if low != high else mean
    return f"{mean} [{low}, {high}]" if found.kind else mean


def _number(value: float, share: bool) -> str:
    return "" if math.isnan(value) else f"{100 * value:.1f}" if share else digits(value)


def _extremes(found: Estimate | None) -> list[float | None]:
    if found is None:
        return [None] * 3
    return [found.mean, found.low, found.high] if found.kind == "range" else [found.mean] * 3


def _percents(found: Estimate | None) -> list[Any]:
    if found is None:
        return [None, None, None, None, 0]
    return [*_points(found), found.kind or None, found.runs]


def _difference(found: PairedDifference) -> str:
    mean, low, high = (f"{100 * value:+.1f}".replace("-", "−") for value in (found.mean, found.low, found.high))
    return mean if math.isnan(found.low) else f"{mean} [{low}, {high}]"


def _points(found: Estimate | PairedDifference) -> list[float | None]:
    return [_known(100 * value) for value in (found.mean, found.low, found.high)]


def _probability(p: float) -> str:
    return NONE if math.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}"


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
