"""Compare two sets of results, run by run.

Says which is quicker, smaller or better.

    dualformer compare A B [--metric FIELD] [--across FIELD ...]

A and B are runs, folders of runs, tables, or folders of tables; `A@COMMIT` keeps the rows of one commit. Rows are
joined by configuration: what was chosen must be equal, and what was found (commit, versions, host) may differ; so may
fields that can't change what a run comes to. Rows of one run id are the same run, however it was spelt. Sets that
differ in device, precision, batch size, threads, schema or measurement version are refused, unless `--across` names it;
so does any other field, such as `--across model.attention`, tell that A and B are meant to differ in it.

The ratio is B / A. Folders of runs keep every timed pass, so ratios of latencies come with a bootstrap interval, and
"no difference seen" is said where it spans 1. The interval holds what varied while these runs were timed, not what
would vary between runs on another day. Tables keep quantiles only: no interval can be given.

Exit status: 0 compared, 2 refused.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualformer.arguments import parse_and_run, printable, program
from dualformer.config import nearest
from dualformer.results import result_set, statistics
from dualformer.results.result import metrics, of_kind
from dualformer.results.result_set import ResultSetError, is_number
from dualformer.results.statistics import LEVEL
from dualformer.results.table import Row, configuration, whole
from sweeps.run_config import irrelevant_fields

if TYPE_CHECKING:
    import numpy as np

LATENCY = "latency_ms_p50"

CONDITIONS = {
    "device": ("provenance.device_name", "device"),
    "threads": ("provenance.threads", "threads"),
    "precision": ("measure.precision",),
    "batch": ("measure.batch_size",),
    "schema": ("schema_version",),
    "measurement": ("provenance.measurement_version",),
}
"""What numbers depend on beside the network: the name that `--across` takes -> its fields, the first of which says."""

_SHOWN = 160  # characters of a reason

ONE_VALUE = ("device", "schema", "measurement")
"""Conditions of which a comparison holds one value only: no configuration would tell its rows apart."""


class CompareError(Exception):
    """The two sets can't be set side by side."""


@dataclasses.dataclass(frozen=True)
class Side:
    """One of the two sets.

    Attributes:
        name: as it was typed.
        rows: of any status.
        samples_ms: run id -> times of single passes, where they were kept.
    """

    name: str
    rows: list[Row]
    samples_ms: Mapping[str, list[float]]


@dataclasses.dataclass(frozen=True)
class Pair:
    """A run of A and the run of B of the same configuration.

    Attributes:
        label: what tells this pair from the others.
        a: the metric of A's run.
        b: the metric of B's run.
        draws: bootstrap draws of b / a; None where no samples were kept.
        disturbed: what the two rows say disturbed their timing, in words.
        edited: whether the two are other networks though they were chosen alike: a model's default was edited between.
    """

    label: str
    a: float
    b: float
    draws: np.ndarray | None
    disturbed: tuple[str, ...] = ()
    edited: bool = False

    @property
    def ratio(self) -> float:
        return self.b / self.a if self.a else float("nan")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="A", help="the baseline: a run, a folder of runs, a table, or a folder of tables")
    parser.add_argument("b", metavar="B", help="what is compared with it; @COMMIT at the end keeps one commit's rows")
    parser.add_argument(
        "--metric",
        choices=metrics(),
        default=LATENCY,
        metavar="FIELD",
        help=f"{', '.join(metrics())} (default: {LATENCY})",
    )
    parser.add_argument(
        "--across",
        nargs="+",
        action="extend",
        default=[],
        metavar="FIELD",
        help=f"let A and B differ in this: {', '.join(CONDITIONS)}, or any field of the configuration (default: none)",
    )


def run(options: argparse.Namespace) -> int:
    """Compares; returns the exit status."""
    try:
        a, b = read_side(options.a), read_side(options.b)
        pairs, left_out = compare(a, b, options.metric, options.across)
    except (CompareError, ResultSetError, OSError) as error:
        print(printable(f"{program('compare')}: {error}"), file=sys.stderr)
        return 2
    for letter, side in (("A", a), ("B", b)):
        commits = result_set.values(side.rows, "provenance.commit")
        print(
            printable(
                f"{letter}: {side.name}, {len(side.rows)} rows, commit {', '.join(map(str, commits)) or 'unknown'}"
            )
        )
    print(printable("\n".join(table(pairs, options.metric))))
    for pair in pairs:
        for flag in pair.disturbed:
            print(printable(f"disturbed: {pair.label}: {flag}"))
        if pair.edited:
            print(
                printable(
                    f"note: {pair.label}: not the same network in A and B, since a default of the model was edited"
                )
            )
    for reason in left_out:
        print(printable(f"left out: {reason}"))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line and runs it; returns the exit status."""
    return parse_and_run(sys.modules[__name__], arguments, prog="dualformer compare")


def read_side(name: str) -> Side:
    """Reads a result set, or of `PATH@COMMIT` the rows whose commit starts so.

    Raises:
        ResultSetError: there are no rows.
        CompareError: a file is torn, so that nobody knows which rows there would be.
    """
    path, _, commit = (name, "", "") if Path(name).exists() else name.partition("@")
    sets = result_set.read(Path(path))
    if damaged := [problem for found in sets for problem in found.damaged]:
        raise CompareError("; ".join(damaged))
    rows = [row for found in sets for row in found.rows if str(row.get("provenance.commit", "")).startswith(commit)]
    if not all(isinstance(row.get("run_id"), str) for row in rows):
        raise CompareError(f"rows of '{path}' have no run_id that is text")
    if not rows:
        raise ResultSetError(f"no row of '{path}'" + (f" comes from commit {commit}" if commit else ""))
    return Side(name, rows, {run_id: times for found in sets for run_id, times in found.samples_ms.items()})


def compare(a: Side, b: Side, metric: str = LATENCY, across: Iterable[str] = ()) -> tuple[list[Pair], list[str]]:
    """Joins two sets by configuration and takes the ratio of one metric.

    Args:
        a: the baseline.
        b: what is compared with it.
        metric: a measured field.
        across: names of `CONDITIONS`, or fields of the configuration, in which the sets may differ.

    Returns:
        The pairs that both have the metric, and every row left out with its reason.

    Raises:
        CompareError: the sets differ in a condition that `across` doesn't name, a row has several partners, `across`
            names nothing, or there is no pair at all.
    """
    import numpy as np  # here, so that --help doesn't wait for it

    across = list(across)
    _refuse_mixed(a, b, across)
    joined, left_out = _join(a, b, _fields(a, b, across))
    random = np.random.default_rng(0)
    pairs = []
    for (row_a, row_b), label in zip(joined, _labels(joined)):
        sides = (("A", a, row_a), ("B", b, row_b))
        if lacking := [(letter, row) for letter, _, row in sides if not is_number(row.get(metric))]:
            left_out += [f"{label}: {letter} has no {metric} ({_why(row)})" for letter, row in lacking]
            continue
        of_a, of_b = (side.samples_ms.get(row["run_id"], []) for _, side, row in sides)
        draws = statistics.ratio_draws(of_b, of_a, random) if metric == LATENCY else None
        flags = tuple(f"{letter}: {flag}" for letter, _, row in sides for flag in result_set.flags(row))
        pairs.append(Pair(label, row_a[metric], row_b[metric], draws, flags, _is_edited(row_a, row_b)))
    if not pairs:
        raise CompareError(_no_pair(a, b, joined, left_out, metric))
    return pairs, left_out


def _is_edited(a: Row, b: Row) -> bool:
    """Whether two rows chose one network, spelt alike, and had two."""
    chosen = [{name: value for name, value in row.items() if name.startswith("model.")} for row in (a, b)]
    networks = [row.get("provenance.network") for row in (a, b)]
    return None not in networks and networks[0] != networks[1] and chosen[0] == chosen[1]


def _join(a: Side, b: Side, ignored: set[str]) -> tuple[list[tuple[Row, Row]], list[str]]:
    """Pairs of rows of one configuration or one run, and each row that has no partner, in words."""
    ours, theirs = _by_configuration("A", a, ignored), _by_configuration("B", b, ignored)
    spelt = {row["run_id"]: key for key, row in ours.items()}
    theirs = {spelt.get(row["run_id"], key): row for key, row in theirs.items()}
    joined = [(row, theirs[key]) for key, row in ours.items() if key in theirs]
    left_out = [f"only A has {_name(row)}" for key, row in ours.items() if key not in theirs]
    return joined, left_out + [f"only B has {_name(row)}" for key, row in theirs.items() if key not in ours]


def table(pairs: Sequence[Pair], metric: str) -> list[str]:
    """The comparison as lines of text, with the geometric mean of all ratios where there are several."""
    width = max(len("geometric mean"), *(len(pair.label) for pair in pairs))
    lines = [f"{'run':{width}} {'A':>11} {'B':>11} {'B / A':>7}  {metric}"]
    lines += [
        f"{pair.label:{width}} {pair.a:11.5g} {pair.b:11.5g} {pair.ratio:7.3f}  {verdict(pair, metric)}"
        for pair in pairs
    ]
    if len(pairs) > 1 and all(pair.ratio > 0 for pair in pairs):
        draws = [pair.draws for pair in pairs if pair.draws is not None]
        everywhere = len(draws) == len(pairs)
        mean = statistics.geometric_mean([pair.ratio for pair in pairs])
        said = _interval(statistics.geometric_mean(draws)) if everywhere else ""
        lines.append(f"{'geometric mean':{width}} {'':11} {'':11} {mean:7.3f}  {said}".rstrip())
    return lines


def verdict(pair: Pair, metric: str) -> str:
    """What the ratio of a pair means, in words."""
    if pair.draws is not None:
        return _interval(pair.draws)
    if metric in of_kind("counted"):
        return "equal" if pair.a == pair.b else "counted, so exact"
    if metric == LATENCY:
        return "no interval: a table keeps quantiles and no passes, of which a run's folder has two or more"
    return "no interval: this metric is kept as one number"


def _interval(draws: np.ndarray) -> str:
    low, high = statistics.interval(draws)
    seen = ", no difference seen" if low <= 1 <= high else ""
    return f"{LEVEL:.0%} [{low:.3f}, {high:.3f}]{seen}"


def _refuse_mixed(a: Side, b: Side, across: Sequence[str]) -> None:
    reasons = []
    for condition, (field, *_) in CONDITIONS.items():
        of_a, of_b = result_set.values(a.rows, field), result_set.values(b.rows, field)
        mixed = condition in ONE_VALUE and len({json.dumps(value) for value in of_a + of_b}) > 1
        if condition not in across and (mixed or of_a != of_b):
            said = " against ".join(", ".join(map(str, values)) or "unknown" for values in (of_a, of_b))
            reasons.append(f"they differ in {condition} ({said}; --across {condition} compares them all the same)")
    if reasons:
        raise CompareError("; ".join(reasons))


def _fields(a: Side, b: Side, across: Iterable[str]) -> set[str]:
    """Fields that `across` names."""
    known = {name for row in [*a.rows, *b.rows] for name in configuration(row)}
    ignored: set[str] = set()
    for name in across:
        if name not in CONDITIONS and name not in known:
            raise CompareError(f"--across {name}: no such field{nearest(name, [*CONDITIONS, *known])}")
        ignored.update(CONDITIONS.get(name, (name,)))
    return ignored


def _by_configuration(letter: str, side: Side, ignored: set[str]) -> dict[str, Row]:
    """Rows by what was chosen, in the order of the set."""
    found: dict[str, Row] = {}
    for row in side.rows:
        content = {name: whole(value) for name, value in _chosen(row).items() if name not in ignored}
        key = json.dumps(content, sort_keys=True)
        if key in found:
            raise CompareError(
                f"{letter} has two rows for one configuration, {found[key]['run_id']} and {row['run_id']}: "
                "fewer fields in --across, or PATH@COMMIT, would tell them apart"
            )
        found[key] = row
    return found


def _chosen(row: Row) -> Row:
    """What was chosen and can matter."""
    return {name: value for name, value in configuration(row).items() if name not in irrelevant_fields()}


def _labels(joined: Sequence[tuple[Row, Row]]) -> list[str]:
    """For every pair, in which fields it differs from other pairs, and its two runs from each other."""
    chosen = [(_chosen(row_a), _chosen(row_b)) for row_a, row_b in joined]
    names = list(dict.fromkeys(name for pair in chosen for row in pair for name in row))
    varying = [name for name in names if len({json.dumps(row.get(name)) for pair in chosen for row in pair}) > 1]
    labels = []
    for (row_a, _), (of_a, of_b) in zip(joined, chosen):
        parts = [
            f"{name}={_text(of_a, name)}" + (f"->{_text(of_b, name)}" if of_a.get(name) != of_b.get(name) else "")
            for name in varying
        ]
        labels.append(" ".join(parts) or row_a["run_id"])
    return labels


def _text(row: Row, name: str) -> str:
    value = row.get(name)
    return value if isinstance(value, str) else json.dumps(value)


def _name(row: Row) -> str:
    parts = [str(row[name]) for name in ("model.name", "model.attention") if name in row]
    return f"{row['run_id']} ({' '.join(parts)})" if parts else row["run_id"]


def _why(row: Row) -> str:
    return f"{row.get('status')}: {row['reason']}" if row.get("reason") else str(row.get("status"))


def _no_pair(a: Side, b: Side, joined: Sequence[Any], left_out: Sequence[str], metric: str) -> str:
    """Why nothing is left to compare."""
    if joined:
        return f"no pair has {metric}: {'; '.join(reason[:_SHOWN] for reason in left_out[:10])}"
    names = sorted({name for row in [*a.rows, *b.rows] for name in _chosen(row)})
    differing = [name for name in names if result_set.values(a.rows, name) != result_set.values(b.rows, name)]
    return f"no run of A has the configuration of one of B; they differ in {', '.join(differing)} (see --across)"


if __name__ == "__main__":
    sys.exit(main())
