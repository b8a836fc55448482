"""Top-1 accuracy against cost per video on Kinetics-400 as published, and our exact counts beside those published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter

from analysis import tables
from analysis.drawing import canvas, style
from analysis.load import Table

HIGHLIGHTED = ("DualFormer", "TimeSformer", "Video Swin", "ViViT-B/16x2", "ViViT-L/16x2")
NAMED_POINTS = {
    ("DualFormer", "T"): ("DualFormer-T", 9, -1, "left"),
    ("DualFormer", "S"): ("DualFormer-S", -8, 0, "right"),
    ("DualFormer", "B"): ("DualFormer-B", -4, 9, "right"),
    ("Video Swin", "T"): ("Video Swin-T", 4, -13, "left"),
    ("Video Swin", "S"): ("Swin-S", 0, 9, "center"),
    ("Video Swin", "B"): ("Swin-B", 0, 9, "center"),
    ("Video Swin", "B (22K)"): ("Swin-B, IN-22K", -6, 8, "center"),
    ("Video Swin", "L (mmaction2)"): ("Swin-L, IN-22K", 0, 10, "center"),
    ("Video Swin", "L 384"): ("Swin-L, 384 px", 0, 9, "center"),
    ("TimeSformer", "divided 8f"): ("TimeSformer", -9, 0, "right"),
    ("TimeSformer", "HR 16f 448"): ("TimeSformer-HR", 8, -5, "left"),
    ("TimeSformer", "L 96f"): ("TimeSformer-L", 2, 10, "center"),
    ("TimeSformer", "joint 8f (mmaction2)"): ("TimeSformer, joint", 8, -6, "left"),
    ("TimeSformer", "space-only 8f (mmaction2)"): ("space only", -9, 0, "right"),
    ("ViViT-B/16x2", "model 1 spatio-temporal"): ("ViViT-B", 0, -13, "center"),
    ("ViViT-L/16x2", "model 1 crop 320"): ("ViViT-L, 320 px", 9, 0, "left"),
    ("ViViT-L/16x2", "FE (JFT)"): ("ViViT-L, JFT", 9, 0, "left"),
}
"""Published points with a name beside them: text, offset in points, alignment."""
WINDOW = (100, 200_000, 74.0, 88.5)
"""What the figure shows: GMACs per video from and to, top-1 in percent from and to."""


@canvas.styled
def draw(published: pd.DataFrame, counts: pd.DataFrame, results: Sequence[Table] = ()) -> canvas.Drawing:
    """Top-1 against cost per video on Kinetics-400 as published, and our exact counts beside the published ones.

    Args:
        published: rows of `tables.published_points`.
        counts: rows of `tables.compare_counts`; without any of our counts the second panel is left out.
        results: the tables that our counts come from.
    """
    title = "Kinetics-400: what accuracy costs, as published"
    counted = counts.dropna(subset=["our_gmacs"])
    source = canvas.provenance_line(results, extra="published numbers: analysis/published/kinetics400.csv")
    subtitle = (
        "Top-1 accuracy against the cost of classifying one video, all its views together. Published “GFLOPs” count a "
        "multiply-accumulate once, so the axis says MACs."
    )
    panels: dict[str, Any] = {"widths": (3, 1), "wspace": 0.36, "right": 1.15} if len(counted) else {"widths": (1,)}
    figure, axes = canvas.panels(13 if len(counted) else 9.5, 7, title, subtitle, source, **panels)
    _published_scatter(axes[0], published, counted)
    if len(counted):
        _count_differences(axes[1], counted)
    return canvas.Drawing(figure, title, source)


def _published_scatter(axis: Axes, published: pd.DataFrame, counted: pd.DataFrame) -> None:
    front = tables.pareto_front(published[_small_pretraining(published)], "gmacs_total", "top1_percent")
    axis.step(front["gmacs_total"], front["top1_percent"], where="post", color="#BBBBBB", linewidth=1, zorder=1)
    for family, look in style.published_families().items():
        rows = published[published["attention_family"] == family]
        if not len(rows):
            continue
        bright = rows["model"].isin(HIGHLIGHTED)
        for chosen, size, alpha, order in ((~bright, 18, 0.35, 2), (bright, 52, 1.0, 4)):
            _points(axis, rows[chosen], look, size, alpha, order)
        axis.scatter([], [], s=36, marker=look.marker, color=look.colour, label=look.words)
    axis.scatter(
        [], [], s=36, facecolor="none", edgecolor="#444444", label="hollow: pretrained on more\nthan ImageNet-1K"
    )
    axis.plot([], [], color="#BBBBBB", label="best without such pretraining")
    if len(counted):
        axis.scatter(
            counted["our_gmacs_total"], counted["top1_percent"], marker="|", s=170, linewidth=1.4, color="#111111",
            zorder=5, label="our exact count",
        )  # fmt: skip
    for row in published.itertuples():
        _name_point(axis, row)
    axis.set_xscale("log")
    axis.set_xlim(WINDOW[:2])
    axis.set_ylim(WINDOW[2:])
    _count_outside(axis, published)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_xlabel("GMACs per video, all views (printed as “GFLOPs” in the papers; FLOPs proper are twice as many)")
    axis.set_ylabel("top-1 accuracy on Kinetics-400, %")
    axis.grid(True)
    axis.legend(loc="lower right", fontsize=8, handletextpad=0.4, labelspacing=0.45)


def _count_outside(axis: Axes, published: pd.DataFrame) -> None:
    """Says how many published points the axes leave out."""
    left, right, low, high = WINDOW
    inside = published["gmacs_total"].between(left, right) & published["top1_percent"].between(low, high)
    text = f"{(~inside).sum()} of {len(published)} published points lie outside: below {left} GMACs or below {low:g} %"
    axis.text(0.01, 0.012, text, transform=axis.transAxes, fontsize=7.5, color="#777777")


def _points(axis: Axes, rows: pd.DataFrame, look: style.Style, size: float, alpha: float, order: int) -> None:
    filled = _small_pretraining(rows)
    if look.marker == ".":
        size *= 1.6
    for chosen, face in ((filled, look.colour), (~filled, "white")):
        axis.scatter(
            rows.loc[chosen, "gmacs_total"], rows.loc[chosen, "top1_percent"], s=size, marker=look.marker,
            facecolor=face, edgecolor=look.colour, linewidth=1.1, alpha=alpha, zorder=order,
        )  # fmt: skip


def _small_pretraining(rows: pd.DataFrame) -> pd.Series:
    return rows["pretrain"].isin(["none", "IN-1K"])


def _name_point(axis: Axes, row: Any) -> None:
    if (row.model, row.variant) not in NAMED_POINTS or (row.model == "TimeSformer" and row.pretrain == "IN-1K"):
        return
    text, across, up, side = NAMED_POINTS[row.model, row.variant]
    colour = style.published_families()[row.attention_family].colour
    axis.annotate(
        text, (row.gmacs_total, row.top1_percent), (across, up), textcoords="offset points", ha=side, va="center",
        fontsize=8, weight="bold" if row.model == HIGHLIGHTED[0] else "normal", color=colour, zorder=6,
        path_effects=[withStroke(linewidth=2.5, foreground="white")],
    )  # fmt: skip


def _count_differences(axis: Axes, counted: pd.DataFrame) -> None:
    """Our count minus the published one, in percent, with both numbers written out."""
    places = list(range(len(counted)))
    axis.axvspan(-1, 1, color="#F3F3F3", zorder=0)
    axis.axvline(0, color="#888888", linewidth=0.8)
    for place, row in zip(places, counted.itertuples()):
        colour = style.published_families()[row.attention_family].colour
        axis.plot([0, row.difference_percent], [place, place], color=colour, linewidth=1.6)
        axis.plot(row.difference_percent, place, "o", color=colour, markersize=5)
        numbers = f"{row.our_gmacs:.1f} vs {row.published_gmacs:g}"
        axis.text(
            1.03, place, numbers, transform=axis.get_yaxis_transform(), va="center", fontsize=7.5, color="#333333"
        )
    axis.text(
        1.03,
        -0.75,
        "ours vs published",
        transform=axis.get_yaxis_transform(),
        va="center",
        fontsize=7.5,
        color="#777777",
    )
    reach = max(1.3, counted["difference_percent"].abs().max() * 1.15)
    axis.set_xlim(-reach, reach)
    axis.set_ylim(len(counted) - 0.4, -1.1)
    axis.set_yticks(places, counted["name"], fontsize=8)
    axis.tick_params(axis="y", length=0)
    axis.set_title("Our exact GMACs per view")
    axis.set_xlabel("difference, % (grey: within 1 %)")
