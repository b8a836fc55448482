"""Cost against frames and against resolution for every attention pattern, both axes logarithmic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from analysis.drawing import canvas
from analysis.load import Table
from analysis.tables import LATENCY
from dualformer.results.disturbance import LEGEND


@canvas.styled
def draw(lines: dict[str, pd.DataFrame], table: Table) -> canvas.Drawing:
    """Cost against frames and against resolution for every pattern, both axes logarithmic.

    Args:
        lines: first value of `tables.growth`; runs that failed are crosses with their status.
        table: where the rows come from.
    """
    title = "How the cost of attention grows with the clip"
    source = canvas.provenance_line([table])
    every = pd.concat(lines.values())
    measures = {"gmacs_per_view": "GMACs per view", "gmacs_relative": "GMACs, relative to the\ncheapest pattern",
                "latency_ms_p50": canvas.latency_name(every),
                "peak_mem_gib": "peak memory, GiB"}  # fmt: skip
    measures = {column: label for column, label in measures.items() if every[column].notna().any()}
    drawn = {axis: rows for axis, rows in lines.items() if len(rows)}
    if not measures:
        return canvas.nothing(title, source)
    subtitle = (
        "Each line is one attention pattern in the same network; × n is the growth when the last step doubles the axis."
    )
    height = 1.8 + 3.1 * len(measures)
    layout: dict[str, Any] = {
        "widths": [1] * len(drawn),
        "rows": len(measures),
        "wspace": 0.8,
        "left": 0.85,
        "right": 2.3,
    }
    figure, axes = canvas.panels(13, height, title, subtitle, source, **layout)
    for row, (column, label) in enumerate(measures.items()):
        for number, (axis_name, rows) in enumerate(drawn.items()):
            axis = axes[row * len(drawn) + number]
            _growth_panel(axis, rows, axis_name, column)
            axis.set_ylabel(label)
            if row == 0:
                axis.set_title(_fixed_line(rows, axis_name))
    return canvas.Drawing(figure, title, source)


def _growth_panel(axis: Axes, rows: pd.DataFrame, axis_name: str, column: str) -> None:
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7) if column == "gmacs_relative" else (1, 2, 5)))
    axis.yaxis.set_minor_formatter(NullFormatter())
    lines = {label: line.dropna(subset=[column]).drop_duplicates(axis_name) for label, line in rows.groupby("label")}
    lines = {label: line for label, line in lines.items() if len(line)}
    for line in lines.values():
        first = line.iloc[0]
        style: dict[str, Any] = {"marker": first["marker"], "color": first["colour"], "markersize": 5, "linewidth": 1.6}
        axis.plot(line[axis_name], line[column], **style)
        if column == LATENCY and len(hollow := line[line["disturbed"] != ""]):
            axis.plot(hollow[axis_name], hollow[column], **style | {"linestyle": "none", "markerfacecolor": "white"})
    values = sorted(rows[axis_name].unique())
    axis.set_xticks(values, [f"{value:g}" for value in values])
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_xlabel("frames per clip" if axis_name == "frames" else "side of the frame, pixels")
    axis.grid(True)
    failed = rows[rows["status"] != "ok"]
    if failed[column].isna().any():
        axis.set_ymargin(0.15)  # room for the crosses
    _label_ends(axis, lines, axis_name, column)
    if column == LATENCY:
        _explain_disturbed(axis, rows, axis_name)
    _cross_failures(axis, failed, axis_name, column)


def _explain_disturbed(axis: Axes, rows: pd.DataFrame, axis_name: str) -> None:
    """Says what hollow marks mean, and which times are withheld, where there are any."""
    hidden = rows[rows["withheld"]]
    words = [LEGEND] * bool(((rows["disturbed"] != "") & ~rows["withheld"]).any())
    words += [
        f"{label} withheld at {', '.join(f'{x:g}' for x in sorted(some[axis_name].unique()))}"
        for label, some in hidden.groupby("label")
    ]
    axis.text(0.01, 0.98, "\n".join(words), transform=axis.transAxes, va="top", fontsize=7.5, color="#333333")


def _cross_failures(axis: Axes, failed: pd.DataFrame, axis_name: str, column: str) -> None:
    """A cross for every run that failed, at the upper edge where its value is unknown; in words in the first row."""
    style: dict[str, Any] = {
        "marker": "x",
        "color": "#111111",
        "markersize": 8,
        "markeredgewidth": 1.6,
        "zorder": 5,
        "clip_on": False,
    }
    for row in failed.itertuples():
        x, value = getattr(row, axis_name), getattr(row, column)
        if pd.notna(value):
            axis.plot(x, value, **style)
        else:
            axis.plot(x, 0.97, transform=axis.get_xaxis_transform(), **style)
    if column != "gmacs_per_view":
        return
    words = [
        f"× {label} {status} at {', '.join(f'{x:g}' for x in sorted(rows[axis_name].unique()))}"
        for (label, status), rows in failed.groupby(["label", "status"])
    ]
    axis.text(0.99, 0.02, "\n".join(words), transform=axis.transAxes, ha="right", va="bottom", fontsize=7.5,
              color="#333333", bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1})  # fmt: skip


def _doubling(line: pd.DataFrame, axis_name: str, column: str) -> float:
    """Growth factor per doubling of the axis, between the last two points."""
    if len(line) < 2:
        return float("nan")
    (x0, y0), (x1, y1) = line[[axis_name, column]].to_numpy(dtype=float)[-2:]
    return float((y1 / y0) ** (np.log(2) / np.log(x1 / x0)))


def _label_ends(axis: Axes, lines: dict[str, pd.DataFrame], axis_name: str, column: str) -> None:
    """Names each line at its last point, moved apart vertically where lines end close together."""
    ends = {label: line[[axis_name, column]].iloc[-1].tolist() for label, line in lines.items()}
    first, last = axis.get_xticks()[[0, -1]]
    axis.autoscale_view()
    to_points = 72 / axis.figure.dpi
    heights = {label: axis.transData.transform(end)[1] * to_points for label, end in ends.items()}
    column_of_names = sorted((label for label in lines if ends[label][0] == last), key=heights.__getitem__)
    top = (axis.get_window_extent().y1 - 5) * to_points
    spread = dict(zip(column_of_names, _spread([heights[label] for label in column_of_names], gap=11, top=top)))
    for label, line in lines.items():
        factor = _doubling(line, axis_name, column)
        growth = f"× {factor:.1f}" if np.isfinite(factor) and column != "gmacs_relative" else ""
        offset = (8, spread[label] - heights[label]) if label in spread else (-6, 8)
        right = label in spread or ends[label][0] == first
        axis.annotate("  ".join(filter(None, [label, line["words"].iloc[0], growth])), ends[label], offset,
                      textcoords="offset points", ha="left" if right else "right", va="center",
                      fontsize=8, color=line["colour"].iloc[0])  # fmt: skip


def _spread(heights: Sequence[float], gap: float, top: float) -> list[float]:
    """Moves ascending heights apart to at least `gap`: upwards, then down again from `top`."""
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + gap) if placed else height)
    for index, above in enumerate(reversed(range(len(placed)))):
        placed[above] = min(placed[above], top - index * gap)
    return placed


def _fixed_line(rows: pd.DataFrame, axis_name: str) -> str:
    fixed = "side_px" if axis_name == "frames" else "frames"
    value = rows[fixed].iloc[0]
    return (
        f"against frames, at {value:g}x{value:g} pixels"
        if fixed == "side_px"
        else f"against resolution, at {value:g} frames"
    )
