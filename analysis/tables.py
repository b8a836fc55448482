"""Selections and statistics between the raw tables and the figures.

Every selection that leaves rows out also returns them, each with its reason, so that a reader sees what a figure does
not show.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd

from analysis.drawing import style
from analysis.load import Table
from dualformer.results.disturbance import MARK, disturbances, is_withheld
from dualformer.results.statistics import wilson_interval
from dualformer.results.table import value

RE_REPORTS = ("as cited", "mmaction2", "mmaction2 port", "mmaction2 trained", "pytorchvideo", "reference", "paper")
"""Suffixes of published variants that report a model again; left out where the first report is in the table too."""

SEED = "seed"
ATTENTION = "model.attention"
MODEL = "model.name"
FRAMES = "model.num_frames"
SIDE = "model.crop_size"
LATENCY = "latency_ms_p50"


def accuracies(frame: pd.DataFrame) -> list[str]:
    """Accuracy columns worth a panel: every factor's where the label has factors, else `top1` where it was measured."""
    bounds = ("_low", "_high")  # of the intervals that `ablation` adds
    factors = [name for name in frame if name.startswith("top1_") and not name.endswith(bounds)]
    factors = [name for name in factors if frame[name].notna().any()]
    return factors or [name for name in ["top1"] if frame[name].notna().any()]


def chance(frame: pd.DataFrame, accuracy: str) -> float:
    """Chance level of an accuracy column, NaN where it can't be known.

    The stated level (`chance_<column>`) where there is one. Otherwise, a factor of a label whose k factors make up p^k
    classes, p prime, has p values, so its chance level is 1/p. The highest level where rows differ.
    """
    levels = list(frame.get(f"chance_{accuracy}", pd.Series(dtype="float64")).dropna())
    if not levels and accuracy != "top1":
        levels = [_factor_chance(classes, len(accuracies(frame))) for classes in frame["num_classes"].dropna()]
    return max(levels, default=math.nan)


def _factor_chance(num_classes: int, num_factors: int) -> float:
    values = round(num_classes ** (1 / num_factors))
    prime = values > 1 and all(values % divisor for divisor in range(2, values))
    return 1 / values if prime and values**num_factors == num_classes else math.nan


def shows_growth(table: Table) -> bool:
    """Whether a grid is about longer or larger clips: it has several sizes of them, and nothing was learned."""
    sizes = [name for name in (FRAMES, SIDE) if name in table.sheet["differs"] and name in table.frame]
    return any(table.frame[name].nunique() > 1 for name in sizes) and not accuracies(table.frame)


def ablation(table: Table) -> pd.DataFrame:
    """All rows of the table, in the order of a figure, with what a figure needs besides the measured columns.

    Added columns: `label` (pattern, and whatever else differs but the seed), `words`, `family`, `colour` and `marker`
    of the pattern, `disturbed` (what speaks against its times, "" for nothing) and `withheld` (whether it has none for
    that), and `<accuracy>_low`, `<accuracy>_high` (95 % Wilson intervals over `num_videos`).
    """
    frame = table.frame.copy()
    frame["pattern"] = frame.get(ATTENTION, pd.Series(index=frame.index, dtype="string"))
    frame["label"] = labels(table)
    looks = [style.of_pattern(pattern if pd.notna(pattern) else None) for pattern in frame["pattern"]]
    frame["words"] = [look.words if pd.notna(pattern) else "" for look, pattern in zip(looks, frame["pattern"])]
    for name in ("family", "colour", "marker"):
        frame[name] = [getattr(look, name) for look in looks]
    frame["disturbed"], frame["withheld"] = disturbed(frame), withheld(frame)
    for column in dict.fromkeys(["top1", *accuracies(frame)]):
        bounds = [_interval(*pair) for pair in zip(frame[column], frame["num_videos"], strict=True)]
        frame[f"{column}_low"], frame[f"{column}_high"] = zip(*bounds, strict=True)
    order = frame["family"].map(style.rank)
    return frame.assign(rank=order).sort_values(["rank", "label", "run_id"]).drop(columns="rank").reset_index(drop=True)


def disturbed(frame: pd.DataFrame) -> list[str]:
    """For each row, what speaks against its times, in words; "" where nothing does."""
    return ["; ".join(disturbances(row)) for row in _rows_of_times(frame)]


def withheld(frame: pd.DataFrame) -> list[bool]:
    """For each row, whether its times are withheld."""
    return [is_withheld(row) for row in _rows_of_times(frame)]


def _rows_of_times(frame: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """What a frame holds about times, as plain rows; what is not known is absent."""
    for row in frame.reindex(columns=["status", "reason", "flags", LATENCY]).to_dict("records"):
        yield {name: value(name, str(cell)) for name, cell in row.items() if pd.notna(cell)}


def _interval(share: Any, trials: Any) -> tuple[float, float]:
    known = pd.notna(share) and pd.notna(trials)
    return wilson_interval(float(share), float(trials)) if known else (math.nan, math.nan)


def labels(table: Table) -> list[str]:
    """A name per run that says only what differs between runs: the pattern, then `field=value`, never the seed."""
    frame, differs = table.frame, [name for name in table.sheet["differs"] if name in table.frame]
    extras = [name for name in differs if name not in (SEED, ATTENTION, MODEL)]
    heads = [name for name in (MODEL, ATTENTION) if name in differs] or [
        name for name in (ATTENTION, MODEL) if name in frame and frame[name].notna().any()
    ][:1]
    shown = model_labels(frame[MODEL].dropna()) if MODEL in frame else {}
    result = []
    for _, row in frame.iterrows():
        parts = [shown.get(row[name], str(row[name])) for name in heads if pd.notna(row[name])]
        parts += [f"{name.rpartition('.')[2]}={_plain(row[name])}" for name in extras if pd.notna(row[name])]
        result.append(" ".join(parts) or row["run_id"])
    return result


def model_labels(names: Iterable[str]) -> dict[str, str]:
    """A short name for each model: of `package.module:function` the function, the whole where two would be alike."""
    names = set(names)
    functions = Counter(name.rpartition(":")[2] for name in names)
    return {name: short if functions[short := name.rpartition(":")[2]] == 1 else name for name in names}


def failures(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows whose status is not ok, with their reason: what to print below a figure."""
    shown = [name for name in ("label", "run_id", "status", "reason") if name in frame]
    return frame.loc[frame["status"] != "ok", shown].reset_index(drop=True)


def accuracy_table(frame: pd.DataFrame) -> pd.DataFrame:
    """The ablation as a table for reading: accuracies in percent with intervals, costs with units."""
    rows = {"pattern": frame["label"], "status": frame["status"]}
    for column in dict.fromkeys([*accuracies(frame), "top1"]):
        if frame[column].notna().any():
            bounds = zip(frame[column], frame[f"{column}_low"], frame[f"{column}_high"], strict=True)
            rows[f"{column} %"] = [_percent(*values) for values in bounds]
    for column in ("mean_class_accuracy", "calibration_error"):
        if column in frame and frame[column].notna().any():
            rows[f"{column} %"] = [f"{100 * value:.1f}" if pd.notna(value) else "" for value in frame[column]]
    for column in ("params_m", "gmacs_per_view", LATENCY, "peak_mem_gib"):
        rows[column] = [digits(value) if pd.notna(value) else "" for value in frame[column]]
    rows["run_id"] = frame["run_id"]
    if any(why := disturbed(frame)):
        marked = zip(rows[LATENCY], why, withheld(frame), strict=True)
        rows[LATENCY] = [f"{'withheld' if hidden else time}{MARK if told else ''}" for time, told, hidden in marked]
        rows[f"{MARK} disturbed"] = why
    return pd.DataFrame(rows)


def published_points(published: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Splits published rows into those to draw and those left out, the latter with a `reason`.

    A row tagged as another report of a model is left out where the model's own row, or an earlier report, is there.
    """
    tag = re.compile(rf" \(({'|'.join(map(re.escape, RE_REPORTS))})\)$")
    names = [(row.model, tag.sub("", row.variant)) for row in published.itertuples()]
    reasons = []
    seen = {(row.model, row.variant) for row in published.itertuples() if not tag.search(row.variant)}
    for row, name in zip(published.itertuples(), names, strict=True):
        incomplete = pd.isna(row.gmacs_total) or pd.isna(row.top1_percent)
        repeated = tag.search(row.variant) is not None and name in seen
        reasons.append("incomplete" if incomplete else "another report of a row shown" if repeated else None)
        seen.add(name)
    reason = pd.Series(reasons, index=published.index, dtype="string")
    return published[reason.isna()], _with_reasons(published, reason)


def _with_reasons(published: pd.DataFrame, reason: pd.Series) -> pd.DataFrame:
    shown = ["model", "variant", "gmacs_total", "top1_percent", "source"]
    return published[shown].assign(reason=reason)[reason.notna()].reset_index(drop=True)


def pareto_front(frame: pd.DataFrame, cost: str, score: str) -> pd.DataFrame:
    """Rows that no other row beats: none has a higher score at the same or a lower cost. Sorted by cost."""
    ordered = frame.dropna(subset=[cost, score]).sort_values([cost, score], ascending=[True, False])
    best = ordered[score].cummax()
    return ordered[ordered[score] > best.shift(fill_value=-math.inf)]


def compare_counts(published: pd.DataFrame, tables: Iterable[Table]) -> pd.DataFrame:
    """Our exact count beside the published one, a row per compared model, in the order of the published rows.

    Columns: `name`, `model`, `variant`, `published_gmacs`, `our_gmacs` (both per view), `difference_percent`,
    `head_included`, `views`, `our_gmacs_total`, `top1_percent`, `source`, `run_id`, `attention_family`.
    Models without a result have NaN counts.
    """
    columns = [MODEL, "gmacs_per_view", "macs_head_included", "run_id"]
    found = [table.frame.reindex(columns=columns).dropna(subset=["gmacs_per_view"]) for table in tables]
    # A count doesn't depend on the device: only counts that differ are kept apart.
    ours = pd.concat(found).drop_duplicates(columns[:2]) if found else pd.DataFrame(columns=columns)
    ours = ours.set_axis(["name", "our_gmacs", "head_included", "run_id"], axis=1)
    theirs = published.dropna(subset=["name"]).rename(columns={"gmacs_per_view": "published_gmacs"})
    joined = theirs.merge(ours, on="name", how="left")
    joined["views"] = joined["views_temporal"] * joined["views_spatial"]
    joined["our_gmacs_total"] = joined["our_gmacs"] * joined["views"]
    joined["difference_percent"] = (joined["our_gmacs"] / joined["published_gmacs"] - 1) * 100
    shown = ["name", "model", "variant", "published_gmacs", "our_gmacs", "difference_percent", "head_included", "views"]
    return joined[[*shown, "our_gmacs_total", "top1_percent", "source", "run_id", "attention_family"]]


def growth(table: Table) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    """Cost against clip length and against resolution, for every pattern, plus the rows on neither line.

    Returns `{"frames": rows, "side_px": rows}` and the excluded rows with a `reason`. Each set of rows varies one of
    the columns `frames`, `side_px` and holds the other at the value with the most points; rows of any status are kept.
    Their column `gmacs_relative` is the cost in units of the cheapest pattern's on the same clip.
    """
    frame = ablation(table)
    frame["label"] = frame["pattern"].fillna(frame[MODEL].map(model_labels(frame[MODEL].dropna())))
    frame["frames"] = pd.to_numeric(frame[FRAMES])
    frame["side_px"] = [_side_px(value) for value in frame[SIDE]]
    known = frame.dropna(subset=["frames", "side_px"])
    lines = {}
    for axis, fixed in (("frames", "side_px"), ("side_px", "frames")):
        counts = known.groupby(fixed)[axis].nunique()
        rows = known[known[fixed] == counts.idxmax()] if len(counts) and counts.max() > 1 else known.iloc[:0]
        relative = rows["gmacs_per_view"] / rows.groupby(axis)["gmacs_per_view"].transform("min")
        lines[axis] = rows.assign(gmacs_relative=relative).sort_values(["label", axis])
    drawn = lines["frames"].index.union(lines["side_px"].index)
    rest = frame.loc[frame.index.difference(drawn)]
    reasons = ["no clip size in the configuration" if pd.isna(row.frames + row.side_px) else "on neither line"
               for row in rest.itertuples()]  # fmt: skip
    return lines, rest.assign(reason=reasons)[["run_id", "label", "frames", "side_px", "reason"]]


def _side_px(value: Any) -> float:
    """Side of a square of the crop's area, from `224`, `[224, 224]` or nothing."""
    if pd.isna(value):
        return math.nan
    sides = json.loads(str(value))
    return math.sqrt(math.prod(sides)) if isinstance(sides, list) else float(sides)


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def digits(value: float, count: int = 3) -> str:
    """The first digits of a positive number that say anything: no 0.00, and no powers of ten."""
    before_point = math.floor(math.log10(value)) + 1 if value > 0 else 1
    return f"{value:.{max(0, count - before_point)}f}"


def _percent(value: float, low: float, high: float) -> str:
    return "" if pd.isna(value) else f"{value:.1%} [{low:.1%}, {high:.1%}]".replace("%", "")
