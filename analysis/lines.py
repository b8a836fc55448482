"""Runs of a results table put together, a line for each value of some fields, and what a line comes to.

A line whose runs differ in nothing but the seed is repeated: its accuracies have a mean and a t-interval over seeds. A
line of one run has a Wilson interval over its videos. A line that takes together runs of other fields as well, such as
several lengths of clip, has means and ranges; nothing can be inferred from those, and no interval is given.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean  # exact: the mean of equal costs is that cost, and so no line is cheaper by a rounding
from typing import Any, Literal

import pandas as pd

from analysis.tables import SEED, pareto_front
from dualformer.results import result, result_set, statistics
from dualformer.results.result import MISSING
from dualformer.results.statistics import PairedDifference
from dualformer.results.table import Row, configuration
from sweeps.run_config import irrelevant_fields

NOT_TIMES = frozenset({"peak_mem_gib"})
"""Of what is measured while timing, what other processes don't disturb."""

Interval = Literal["t", "wilson", "range", ""]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What the runs of a line say about one quantity.

    Attributes:
        mean: over the runs that have it.
        low, high: ends of the interval; NaN where there is none.
        kind: what lies between them: a t-interval over seeds, a Wilson interval over videos, all values of the runs.
        runs: how many have it.
    """

    mean: float
    low: float = math.nan
    high: float = math.nan
    kind: Interval = ""
    runs: int = 1


@dataclasses.dataclass(frozen=True)
class Line:
    """Runs that agree in the fields that lines are told apart by.

    Attributes:
        values: of those fields, None where a field has none.
        rows: of any status.
    """

    values: tuple[Any, ...]
    rows: list[Row]

    @functools.cached_property
    def ok(self) -> list[Row]:
        return [row for row in self.rows if row["status"] == "ok"]

    @functools.cached_property
    def mixed(self) -> list[str]:
        """Fields beside the seed in which its finished runs differ, so that they are no repetitions of each other."""
        chosen = [configuration(row) for row in self.rows if row["status"] != MISSING]
        names = sorted({name for one in chosen for name in one} - irrelevant_fields() - {SEED})
        return [name for name in names if len({json.dumps(one.get(name)) for one in chosen}) > 1]

    def has(self, name: str) -> list[Row]:
        """Rows with a number of this name; what is counted holds of runs that failed as well."""
        rows = self.rows if name in result.of_kind("counted") else self.ok
        return [row for row in rows if result_set.is_number(row.get(name))]

    def by_seed(self, name: str) -> dict[Any, float]:
        """Seed -> number, of runs that are repetitions of each other; empty where they aren't."""
        found = {row.get(SEED): float(row[name]) for row in self.has(name)}
        return {} if self.mixed or len(found) < len(self.has(name)) else found

    def doubts(self, name: str) -> dict[str, list[Row]]:
        """What speaks against a timed number, in words -> the rows that say so; empty for any other number."""
        if name not in result.of_kind("timed") or name in NOT_TIMES:
            return {}
        found: dict[str, list[Row]] = {}
        for row in self.ok:
            withheld = [str(row["reason"])] if row.get("reason") else []
            for reason in result_set.flags(row) if name in row else withheld:
                found.setdefault(reason, []).append(row)
        return found

    def failures(self) -> dict[tuple[str, str], list[Row]]:
        """Status and reason -> the rows that failed so."""
        found: dict[tuple[str, str], list[Row]] = {}
        for row in self.rows:
            if row["status"] != "ok":
                found.setdefault((row["status"], str(row.get("reason", ""))), []).append(row)
        return found


def group(rows: Iterable[Row], by: Sequence[str]) -> list[Line]:
    """Puts rows together by the values of fields, in the order in which the values come.

    A run that never started may not say what all others of its grid agree in: it is taken to agree as well.
    """
    rows = list(rows)
    shared = _shared([row for row in rows if row["status"] != MISSING], by)
    found: dict[str, Line] = {}
    for row in rows:
        known = {**shared, **row} if row["status"] == MISSING else row
        values = tuple(_plain(known.get(name)) for name in by)
        found.setdefault(json.dumps(values), Line(values, [])).rows.append(row)
    return list(found.values())


def _plain(value: Any) -> Any:
    """8.0 is 8, as some programs save it."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _shared(rows: Sequence[Row], names: Iterable[str]) -> Row:
    values = {name: {json.dumps(row.get(name)) for row in rows} for name in names}
    return {name: json.loads(found.pop()) for name, found in values.items() if len(found) == 1}


def is_accuracy(name: str) -> bool:
    """Whether a field is a share of the held-out videos."""
    return name in ("top1", "top5") or name.startswith("top1_")


def is_learned_share(name: str) -> bool:
    """Whether a field is a fraction that training again would change."""
    field = result.fields().get(name)
    return is_accuracy(name) or (field is not None and field.kind == "learned" and field.is_fraction)


def accuracies(rows: Iterable[Row]) -> list[str]:
    """The accuracy on the whole label and on each factor of it, those that any row has."""
    found = {name for row in rows for name in row if name == "top1" or name.startswith("top1_")}
    return sorted(found, key=lambda name: (name != "top1", name))


def estimate(line: Line, name: str) -> Estimate | None:
    """What the runs of a line say about a quantity; None where none of them has it."""
    rows = line.has(name)
    values = [float(row[name]) for row in rows]
    if not values:
        return None
    low, high, kind = _bounds(line, name, values, rows[0])
    return Estimate(mean(values), low, high, kind, len(values))


def _bounds(line: Line, name: str, values: Sequence[float], row: Row) -> tuple[float, float, Interval]:
    none: tuple[float, float, Interval] = (math.nan, math.nan, "")
    if len(values) == 1:
        videos = row.get("num_videos")
        if not is_accuracy(name) or not result_set.is_number(videos):
            return none
        low, high = statistics.wilson_interval(values[0], videos)
        return (low, high, "wilson") if not math.isnan(low) else none
    if is_learned_share(name) and line.by_seed(name):
        low, high = statistics.t_interval(values)
        return max(low, 0.0), min(high, 1.0), "t"  # a share is nowhere else
    return (min(values), max(values), "range") if min(values) < max(values) else none


def differences(lines: Sequence[Line], against: Line, name: str) -> list[tuple[PairedDifference, float] | None]:
    """Each line's paired difference from one of them over the seeds that both have, and p after Holm's correction.

    None for that line itself, and for one whose runs are no repetitions of each other.
    """
    baseline = against.by_seed(name)
    found = [None if line is against else _difference(line.by_seed(name), baseline) for line in lines]
    adjusted = iter(statistics.holm([one.p for one in found if one]))
    return [(one, next(adjusted)) if one else None for one in found]


def _difference(values: Mapping[Any, float], baseline: Mapping[Any, float]) -> PairedDifference | None:
    common = [seed for seed in values if seed in baseline]
    if not common:
        return None
    return statistics.paired_difference([values[seed] for seed in common], [baseline[seed] for seed in common])


def by_cost(lines: Sequence[Line], cost: str, score: str | None) -> tuple[list[Line], set[int]]:
    """Sorts lines by cost, then the best score first, those without a cost last.

    Returns:
        The lines, and the places of those on the Pareto frontier: no line has a higher score at the same or a lower
        cost. No line is on it where there are no scores.
    """
    points = [(_mean(line, cost), _mean(line, score) if score else math.nan) for line in lines]
    order = sorted(range(len(lines)), key=lambda place: _sortable(*points[place]))
    front = pareto_front(pd.DataFrame(points, columns=["cost", "score"], dtype=float), "cost", "score")
    best = set(front.itertuples(index=False, name=None))
    return [lines[place] for place in order], {at for at, place in enumerate(order) if points[place] in best}


def _mean(line: Line, name: str) -> float:
    found = estimate(line, name)
    return found.mean if found else math.nan


def _sortable(cost: float, score: float) -> tuple[float, float]:
    return (math.inf if math.isnan(cost) else cost, math.inf if math.isnan(score) else -score)
