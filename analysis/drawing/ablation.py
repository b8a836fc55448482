"""Accuracy, cost and latency of every attention pattern of an ablation, one row each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from analysis import tables
from analysis.drawing import canvas, style
from analysis.load import Table
from dualformer.results.disturbance import LEGEND, MARK


@canvas.styled
def draw(frame: pd.DataFrame, table: Table) -> canvas.Drawing:
    """Accuracy (with 95 % interval and chance level), cost and latency of every attention pattern, one row each.

    Args:
        frame: rows of `tables.ablation`; rows that are not ok keep their line and show their status.
        table: where the rows come from.
    """
    accuracies = tables.accuracies(frame)
    title = _title(table, learned=bool(accuracies))
    source = canvas.provenance_line([table])
    costs = [name for name in ("gmacs_per_view", "latency_ms_p50") if frame[name].notna().any()]
    panels = len(accuracies + costs)
    if not panels:
        return canvas.nothing(title, source)
    names = list(dict.fromkeys(frame["label"]))
    height = 2.5 + 0.42 * len(names)
    figure, axes = canvas.panels(11.5, height, title, _study_line(frame), source, widths=[1] * panels, left=2.15)
    for axis, column in zip(axes, accuracies):
        _accuracy_panel(axis, frame, names, column)
    for axis, column in zip(axes[len(accuracies) :], costs):
        (_macs_panel if column == "gmacs_per_view" else _latency_panel)(axis, frame, names)
    _pattern_axis(axes[0], frame, names)
    for axis in axes[1:]:
        axis.tick_params(labelleft=False)
    _mark_failures(axes[0], frame, names)
    return canvas.Drawing(figure, title, source)


def _title(table: Table, learned: bool) -> str:
    """What the figure shows, by what the grid varies."""
    differs = table.sheet["differs"]
    kinds = {tables.ATTENTION: "attention pattern", tables.MODEL: "network"}
    kind = next((words for field, words in kinds.items() if field in differs), "setting")
    return f"What each {kind} learns, and what it costs" if learned else f"What each {kind} costs"


def _accuracy_panel(axis: Axes, frame: pd.DataFrame, names: Sequence[str], column: str) -> None:
    for row, place in _places(frame, names):
        value = getattr(row, column)
        if pd.isna(value):
            continue
        _interval(axis, place, value, getattr(row, f"{column}_low"), getattr(row, f"{column}_high"), row)
    _write_means(axis, frame, names, column, "{:.0%}", np.full(len(names), 1.06))
    level = tables.chance(frame, column)
    if not np.isnan(level):
        axis.axvline(level, color="#444444", linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        axis.text(level, -0.72, f"chance {level:.0%}", ha="center", va="bottom", fontsize=7.5, color="#444444")
    axis.set_xlim(0, 1.25)
    axis.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axis.xaxis.set_major_formatter(PercentFormatter(1))
    axis.set_xlabel("held-out accuracy\n(95 % interval)")
    name = "top-1" if column == "top1" else column.removeprefix("top1_").replace("_", " ")
    _dress(axis, names, f"{name} accuracy")


def _macs_panel(axis: Axes, frame: pd.DataFrame, names: Sequence[str]) -> None:
    for row, place in _places(frame.drop_duplicates(["label", "gmacs_per_view"]), names):
        axis.barh(place, row.gmacs_per_view, height=0.5, color=row.colour)
    reach = frame["gmacs_per_view"].max()
    _write_means(axis, frame, names, "gmacs_per_view", "{:.3g}", _means(frame, names, "gmacs_per_view") + reach * 0.03)
    axis.set_xlim(0, reach * 1.25)
    axis.set_xlabel("GMACs per view\n(counted, not estimated)")
    _dress(axis, names, "computation")


def _latency_panel(axis: Axes, frame: pd.DataFrame, names: Sequence[str]) -> None:
    for row, place in _places(frame, names):
        if row.withheld:
            axis.text(0, place, f" withheld{MARK}", va="center", fontsize=8, color="#777777")
            continue
        _interval(axis, place, row.latency_ms_p50, row.latency_ms_p20, row.latency_ms_p80, row, bool(row.disturbed))
    reach = frame[["latency_ms_p50", "latency_ms_p80"]].max().max()
    ends = _means(frame, names, "latency_ms_p80").fillna(_means(frame, names, "latency_ms_p50"))
    _write_means(axis, frame, names, "latency_ms_p50", "{:.3g}", ends + reach * 0.05)
    axis.set_xlim(0, reach * 1.3)
    name = f"{canvas.latency_name(frame)}\n(median, 20th to 80th percentile)"
    axis.set_xlabel("\n".join([name, *_legend(frame)]))
    _dress(axis, names, "time")


def _legend(frame: pd.DataFrame) -> list[str]:
    """What the marks of times mean that are there; nothing where none is."""
    lines = []
    if ((frame["disturbed"] != "") & ~frame["withheld"]).any():
        lines.append(LEGEND)
    if frame["withheld"].any():
        lines.append(f"{MARK} its clock can't be believed")
    return lines


def _interval(
    axis: Axes, place: float, value: float, low: float, high: float, row: Any, is_disturbed: bool = False
) -> None:
    """A mark with its interval, whose ends stay visible where it is narrower than the mark; hollow if disturbed."""
    face = "white" if is_disturbed else row.colour
    axis.plot(value, place, row.marker, color=row.colour, markerfacecolor=face, markersize=6.5, zorder=3)
    axis.plot([low, high], [place, place], color=row.colour, linewidth=1.4)
    axis.plot([low, high], [place, place], "|", color=row.colour, markersize=9, markeredgewidth=1.4)


def _places(frame: pd.DataFrame, names: Sequence[str]) -> Iterable[tuple[Any, float]]:
    """Each row with its height on the pattern axis; runs that differ in the seed alone stand close together."""
    for place, name in enumerate(names):
        rows = frame[frame["label"] == name]
        offsets = np.linspace(-0.2, 0.2, len(rows)) if len(rows) > 1 else [0.0]
        yield from zip(rows.itertuples(), place + np.asarray(offsets))


def _means(frame: pd.DataFrame, names: Sequence[str], column: str) -> pd.Series:
    return frame.groupby("label")[column].mean().reindex(names)


def _write_means(
    axis: Axes, frame: pd.DataFrame, names: Sequence[str], column: str, form: str, at: Iterable[float]
) -> None:
    """Writes the mean over seeds of `column` at the given x, a line per pattern."""
    for place, (value, x) in enumerate(zip(_means(frame, names, column), at)):
        if pd.notna(value):
            axis.text(x, place, form.format(value), va="center", fontsize=8.5, color="#222222")


def _dress(axis: Axes, names: Sequence[str], title: str) -> None:
    axis.set_title(title, pad=14)
    axis.set_ylim(len(names) - 0.5, -0.7)
    axis.set_yticks(range(len(names)))
    axis.grid(True, axis="x")
    axis.spines["left"].set_visible(False)
    axis.tick_params(axis="y", length=0)


def _pattern_axis(axis: Axes, frame: pd.DataFrame, names: Sequence[str]) -> None:
    """Pattern in bold, in its colour, and in words below."""
    axis.set_yticks(range(len(names)), [""] * len(names))
    transform = axis.get_yaxis_transform()
    for place, name in enumerate(names):
        row = frame[frame["label"] == name].iloc[0]
        axis.text(-0.05, place - (0.12 if row.words else 0), name, transform=transform, ha="right", va="center",
                  weight="bold", fontsize=10, color=row.colour)  # fmt: skip
        network = style.network_of(row.family)
        words = row.words + (f" ({network})" if network else "")
        axis.text(
            -0.05, place + 0.24, words, transform=transform, ha="right", va="center", fontsize=7.5, color="#555555"
        )


def _mark_failures(axis: Axes, frame: pd.DataFrame, names: Sequence[str]) -> None:
    """Writes status and reason on the line of a pattern none of whose runs is ok."""
    for place, name in enumerate(names):
        rows = frame[frame["label"] == name]
        if not (rows["status"] == "ok").any():
            text = f"{rows.iloc[0].status}: {rows.iloc[0].reason}"
            axis.text(0.02, place, text[:46], va="center", fontsize=8, style="italic", color="#777777",
                      transform=axis.get_yaxis_transform(),
                      bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})  # fmt: skip


def _study_line(frame: pd.DataFrame) -> str:
    """What was trained on what, from the configuration of the rows; says when it is a small demonstration."""
    words = []
    trained = frame["num_videos"].notna().any()
    if trained and set(frame.get("data.root", pd.Series(dtype="string")).dropna()) == {"embedded"}:
        words.append("Small demonstration runs on generated clips")
    shapes = frame.reindex(columns=["model.num_frames", "model.crop_size"]).dropna().drop_duplicates()
    if len(shapes) == 1:
        frames, side = shapes.iloc[0]
        words.append(f"{int(frames)} frames of {_pixels(side)} pixels")
    for column, text in (("train.steps", "{:g} training steps"), ("num_videos", "{:g} held-out clips")):
        values = frame.get(column, pd.Series(dtype="float64")).dropna().unique()
        if len(values) == 1 and values[0] > 0:
            words.append(text.format(values[0]))
    seeds = frame.get("seed", pd.Series(dtype="float64")).dropna().nunique()
    words.append(f"{seeds} seeds, a mark each, mean written" if seeds > 1 else "one seed")
    return "; ".join(words)


def _pixels(side: Any) -> str:
    """`32` and `[32, 32]` -> `32x32`."""
    numbers = [part.strip() for part in str(side).strip("[]").split(",")]
    return "x".join(numbers if len(numbers) == 2 else [f"{float(numbers[0]):g}"] * 2)
