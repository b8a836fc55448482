"""The figures: drawn from selections of `tables`, readable without the code, and signed with where they come from.

Every function returns a `Drawing`; `save` writes it as PNG and SVG with its provenance in a footer line and in the
file's metadata. Colours stand for the same kind of attention in every figure (Okabe and Ito's colour-blind-safe set),
and markers differ too, so that the figures survive a greyscale print.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

from analysis import tables
from analysis.load import FOLDER, Table

FIGURES_VARIABLE = "ANALYSIS_FIGURES"

COLOURS = {
    "window": "#0072B2",
    "shifted": "#56B4E9",
    "pooled": "#009E73",
    "dual": "#D55E00",
    "divided": "#CC79A7",
    "full": "#B8860B",
    "conv": "#8C8C8C",
    "other": "#4D4D4D",
}
MARKERS = {
    "window": "s",
    "shifted": "D",
    "pooled": "^",
    "dual": "o",
    "divided": "v",
    "full": "P",
    "conv": ".",
    "other": "X",
}
FAMILY_NAMES = {
    "window": "windows",
    "dual": "window + pyramid",
    "pooled": "pooled",
    "divided": "divided",
    "full": "full",
    "conv": "convolution",
    "other": "other attention",
}

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
"""What the Kinetics-400 figure shows: GMACs per video from and to, top-1 in percent from and to."""

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": "#222222",
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "svg.hashsalt": "analysis",
}


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A figure and the words that say what it shows and where it comes from."""

    figure: Figure
    title: str
    source: str


@dataclasses.dataclass(frozen=True)
class SavedFigure:
    """The files of a figure; a notebook displays the PNG itself."""

    png: Path
    svg: Path
    title: str

    def _repr_png_(self) -> tuple[bytes, dict[str, str]]:
        return self.png.read_bytes(), {"alt": self.title}


def figures_folder() -> Path:
    """Where notebooks write: `$ANALYSIS_FIGURES` where set, else `analysis/figures`."""
    return Path(os.environ.get(FIGURES_VARIABLE) or FOLDER / "figures")


def save(drawing: Drawing, name: str, folder: Path | None = None) -> SavedFigure:
    """Writes `<name>.png` and `<name>.svg`, the same bytes for the same data, with title and source as metadata."""
    folder = folder or figures_folder()
    folder.mkdir(parents=True, exist_ok=True)
    saved = SavedFigure(folder / f"{name}.png", folder / f"{name}.svg", drawing.title)
    software = f"analysis/plots.py, matplotlib {matplotlib.__version__}"
    png = {"Title": drawing.title, "Source": drawing.source, "Software": software}
    svg = {"Title": drawing.title, "Source": drawing.source, "Creator": software, "Date": None}
    with matplotlib.rc_context(STYLE):
        for path, metadata in ((saved.png, png), (saved.svg, svg)):
            content = io.BytesIO()
            drawing.figure.savefig(content, format=path.suffix[1:], dpi=180, metadata=metadata)
            path.write_bytes(content.getvalue())
    return saved


@matplotlib.rc_context(STYLE)
def accuracy_vs_cost(published: pd.DataFrame, counts: pd.DataFrame, results: Sequence[Table] = ()) -> Drawing:
    """Top-1 against cost per video on Kinetics-400 as published, and our exact counts beside the published ones.

    Args:
        published: rows of `tables.published_points`.
        counts: rows of `tables.compare_counts`; without any of our counts the second panel is left out.
        results: the tables that our counts come from.
    """
    title = "Kinetics-400: what accuracy costs, as published"
    counted = counts.dropna(subset=["our_gmacs"])
    source = provenance_line(results, extra="published numbers: analysis/published/kinetics400.csv")
    subtitle = (
        "Top-1 accuracy against the cost of classifying one video, all its views together. Published “GFLOPs” count a "
        "multiply-accumulate once, so the axis says MACs."
    )
    panels = {"widths": (3, 1), "wspace": 0.36, "right": 1.15} if len(counted) else {"widths": (1,)}
    figure, axes = _canvas(13 if len(counted) else 9.5, 7, title, subtitle, source, **panels)
    _published_scatter(axes[0], published, counted)
    if len(counted):
        _count_differences(axes[1], counted)
    return Drawing(figure, title, source)


@matplotlib.rc_context(STYLE)
def attention_ablation(frame: pd.DataFrame, table: Table) -> Drawing:
    """Accuracy (with 95 % interval and chance level), cost and latency of every attention pattern, one row each.

    Args:
        frame: rows of `tables.ablation`; rows that are not ok keep their line and show their status.
        table: where the rows come from.
    """
    title = "What each attention pattern learns, and what it costs"
    source = provenance_line([table])
    accuracies = tables.accuracies(frame)
    costs = [name for name in ("gmacs_per_view", "latency_ms_p50") if frame[name].notna().any()]
    panels = len(accuracies + costs)
    if not panels:
        return _nothing(title, source)
    names = list(dict.fromkeys(frame["label"]))
    height = 2.5 + 0.42 * len(names)
    figure, axes = _canvas(11.5, height, title, _study_line(frame), source, widths=[1] * panels, left=2.15)
    for axis, column in zip(axes, accuracies):
        _accuracy_panel(axis, frame, names, column)
    for axis, column in zip(axes[len(accuracies) :], costs):
        (_macs_panel if column == "gmacs_per_view" else _latency_panel)(axis, frame, names)
    _pattern_axis(axes[0], frame, names)
    for axis in axes[1:]:
        axis.tick_params(labelleft=False)
    _mark_failures(axes[0], frame, names)
    return Drawing(figure, title, source)


@matplotlib.rc_context(STYLE)
def cost_growth(lines: dict[str, pd.DataFrame], table: Table) -> Drawing:
    """Cost against frames and against resolution for every pattern, both axes logarithmic.

    Args:
        lines: first value of `tables.growth`; runs that failed are crosses with their status.
        table: where the rows come from.
    """
    title = "How the cost of attention grows with the clip"
    source = provenance_line([table])
    every = pd.concat(lines.values())
    measures = {"gmacs_per_view": "GMACs per view", "gmacs_relative": "GMACs, relative to the\ncheapest pattern",
                "latency_ms_p50": _latency_name(every),
                "peak_mem_gib": "peak memory, GiB"}  # fmt: skip
    measures = {column: label for column, label in measures.items() if every[column].notna().any()}
    drawn = {axis: rows for axis, rows in lines.items() if len(rows)}
    if not measures:
        return _nothing(title, source)
    subtitle = (
        "Each line is one attention pattern in the same network; × n is the growth when the last step doubles the axis."
    )
    height = 1.8 + 3.1 * len(measures)
    layout = {"widths": [1] * len(drawn), "rows": len(measures), "wspace": 0.8, "left": 0.85, "right": 2.3}
    figure, axes = _canvas(13, height, title, subtitle, source, **layout)
    for row, (column, label) in enumerate(measures.items()):
        for number, (axis_name, rows) in enumerate(drawn.items()):
            axis = axes[row * len(drawn) + number]
            _growth_panel(axis, rows, axis_name, column)
            axis.set_ylabel(label)
            if row == 0:
                axis.set_title(_fixed_line(rows, axis_name))
    return Drawing(figure, title, source)


def provenance_line(results: Iterable[Table], extra: str = "") -> str:
    """Runs, commit, device and date of what a figure shows, for its footer and metadata."""
    parts = []
    for table in results:
        manifest, finished = table.manifest, table.manifest["finished"]
        listed = ", ".join(finished) if len(finished) <= 4 else f"{len(finished)} runs, {_digest(finished)}"
        commits = ", ".join(commit[:10] for commit in manifest["commits"]) or "not recorded"
        changed = " + uncommitted changes" if manifest["dirty"] else ""
        started = table.frame["provenance.started_utc"].dropna()
        date = max(started)[:10] if len(started) else "not recorded"
        data = f"{table.grid}: {listed} (table {table.digest})"
        parts.append(f"{data} · commit {commits}{changed} · {manifest['device_name']} · {date}")
    return "\n".join([*parts, extra] if extra else parts)


def _digest(run_ids: Iterable[str]) -> str:
    """A short name for a set of run ids, whatever their order."""
    return "ids " + hashlib.sha256(" ".join(sorted(run_ids)).encode()).hexdigest()[:12]


def _nothing(title: str, source: str) -> Drawing:
    """A figure that says that there is nothing to draw yet."""
    figure, [axis] = _canvas(9, 3, title, "No run has anything to draw; the list of runs says why.", source, widths=[1])
    axis.set_axis_off()
    return Drawing(figure, title, source)


def _canvas(
    width: float,
    height: float,
    title: str,
    subtitle: str,
    source: str,
    *,
    widths: Sequence[float],
    rows: int = 1,
    wspace: float = 0.12,
    left: float = 0.75,
    right: float = 0.35,
) -> tuple[Figure, list[Axes]]:
    """An empty figure with title, subtitle and footer around `rows` rows of panels; lengths in inches."""
    figure = Figure(figsize=(width, height))
    footer = 0.25 + 0.14 * len(source.splitlines())
    edges = {
        "left": left / width,
        "right": 1 - right / width,
        "top": 1 - 1.05 / height,
        "bottom": (footer + 0.65) / height,
    }
    grid = figure.add_gridspec(rows, len(widths), width_ratios=widths, wspace=wspace, hspace=0.28, **edges)
    figure.text(0.2 / width, 1 - 0.2 / height, title, va="top", fontsize=14, weight="bold", color="#111111")
    figure.text(0.2 / width, 1 - 0.49 / height, subtitle, va="top", fontsize=9.5, color="#444444")
    figure.text(0.2 / width, 0.12 / height, source, va="bottom", fontsize=6.5, color="#777777", linespacing=1.4)
    return figure, [figure.add_subplot(cell) for cell in grid]


def _published_scatter(axis: Axes, published: pd.DataFrame, counted: pd.DataFrame) -> None:
    front = tables.pareto_front(published[_small_pretraining(published)], "gmacs_total", "top1_percent")
    axis.step(front["gmacs_total"], front["top1_percent"], where="post", color="#BBBBBB", linewidth=1, zorder=1)
    for family, name in FAMILY_NAMES.items():
        rows = published[published["attention_family"] == family]
        bright = rows["model"].isin(HIGHLIGHTED)
        for chosen, size, alpha, order in ((~bright, 18, 0.35, 2), (bright, 52, 1.0, 4)):
            _points(axis, rows[chosen], family, size, alpha, order)
        axis.scatter([], [], s=36, marker=MARKERS[family], color=COLOURS[family], label=name)
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


def _points(axis: Axes, rows: pd.DataFrame, family: str, size: float, alpha: float, order: int) -> None:
    colour = COLOURS[family]
    filled = _small_pretraining(rows)
    if family == "conv":
        size *= 1.6
    for chosen, face in ((filled, colour), (~filled, "white")):
        axis.scatter(
            rows.loc[chosen, "gmacs_total"], rows.loc[chosen, "top1_percent"], s=size, marker=MARKERS[family],
            facecolor=face, edgecolor=colour, linewidth=1.1, alpha=alpha, zorder=order,
        )  # fmt: skip


def _small_pretraining(rows: pd.DataFrame) -> pd.Series:
    return rows["pretrain"].isin(["none", "IN-1K"])


def _name_point(axis: Axes, row: object) -> None:
    if (row.model, row.variant) not in NAMED_POINTS or (row.model == "TimeSformer" and row.pretrain == "IN-1K"):
        return
    text, across, up, side = NAMED_POINTS[row.model, row.variant]
    axis.annotate(
        text, (row.gmacs_total, row.top1_percent), (across, up), textcoords="offset points", ha=side, va="center",
        fontsize=8, weight="bold" if row.attention_family == "dual" else "normal",
        color=COLOURS[row.attention_family], zorder=6, path_effects=[withStroke(linewidth=2.5, foreground="white")],
    )  # fmt: skip


def _count_differences(axis: Axes, counted: pd.DataFrame) -> None:
    """Our count minus the published one, in percent, with both numbers written out."""
    places = np.arange(len(counted))
    axis.axvspan(-1, 1, color="#F3F3F3", zorder=0)
    axis.axvline(0, color="#888888", linewidth=0.8)
    for place, row in zip(places, counted.itertuples()):
        colour = _model_colour(row.model, row.variant)
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


def _model_colour(model: str, variant: str) -> str:
    families = {"DualFormer": "dual", "Video Swin": "window", "TimeSformer": "divided"}
    whole = variant.startswith(("joint", "model 1"))
    return COLOURS["full" if whole else "other" if variant.startswith("space") else families.get(model, "other")]


def _accuracy_panel(axis: Axes, frame: pd.DataFrame, names: Sequence[str], column: str) -> None:
    for row, place in _places(frame, names):
        value = getattr(row, column)
        if pd.isna(value):
            continue
        _interval(axis, place, value, getattr(row, f"{column}_low"), getattr(row, f"{column}_high"), row.family)
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
        axis.barh(place, row.gmacs_per_view, height=0.5, color=COLOURS[row.family])
    reach = frame["gmacs_per_view"].max()
    _write_means(axis, frame, names, "gmacs_per_view", "{:.3g}", _means(frame, names, "gmacs_per_view") + reach * 0.03)
    axis.set_xlim(0, reach * 1.25)
    axis.set_xlabel("GMACs per view\n(counted, not estimated)")
    _dress(axis, names, "computation")


def _latency_panel(axis: Axes, frame: pd.DataFrame, names: Sequence[str]) -> None:
    for row, place in _places(frame, names):
        _interval(axis, place, row.latency_ms_p50, row.latency_ms_p20, row.latency_ms_p80, row.family)
    reach = frame[["latency_ms_p50", "latency_ms_p80"]].max().max()
    ends = _means(frame, names, "latency_ms_p80").fillna(_means(frame, names, "latency_ms_p50"))
    _write_means(axis, frame, names, "latency_ms_p50", "{:.3g}", ends + reach * 0.05)
    axis.set_xlim(0, reach * 1.3)
    axis.set_xlabel(f"{_latency_name(frame)}\n(median, 20th to 80th percentile)")
    _dress(axis, names, "time")


def _interval(axis: Axes, place: float, value: float, low: float, high: float, family: str) -> None:
    """A mark with its interval, whose ends stay visible where it is narrower than the mark."""
    axis.plot(value, place, MARKERS[family], color=COLOURS[family], markersize=6.5)
    axis.plot([low, high], [place, place], color=COLOURS[family], linewidth=1.4)
    axis.plot([low, high], [place, place], "|", color=COLOURS[family], markersize=9, markeredgewidth=1.4)


def _places(frame: pd.DataFrame, names: Sequence[str]) -> Iterable[tuple[object, float]]:
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
                  weight="bold", fontsize=10, color=COLOURS[row.family])  # fmt: skip
        words = row.words + (" (DualFormer)" if row.family == "dual" else "")
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


def _latency_name(frame: pd.DataFrame) -> str:
    batch = frame.get("measure.batch_size", pd.Series(dtype="float64")).dropna().unique()
    name = f"latency in ms, batch of {batch[0]:g}" if len(batch) == 1 else "latency of one batch in ms"
    replayed = set(frame.get("measure.cuda_graph", pd.Series(dtype="object")).dropna())
    return f"{name},\nCUDA graph replayed" if replayed == {True} else name


def _study_line(frame: pd.DataFrame) -> str:
    """What was trained on what, from the configuration of the rows; says when it is a small demonstration."""
    words = []
    trained = frame["num_videos"].notna().any()
    if trained and set(frame.get("data.root", pd.Series(dtype="string")).dropna()) == {"embedded"}:
        words.append("Small demonstration cells on generated clips")
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


def _pixels(side: object) -> str:
    """`32` and `[32, 32]` -> `32x32`."""
    numbers = [part.strip() for part in str(side).strip("[]").split(",")]
    return "x".join(numbers if len(numbers) == 2 else [f"{float(numbers[0]):g}"] * 2)


def _growth_panel(axis: Axes, rows: pd.DataFrame, axis_name: str, column: str) -> None:
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7) if column == "gmacs_relative" else (1, 2, 5)))
    axis.yaxis.set_minor_formatter(NullFormatter())
    lines = {label: line.dropna(subset=[column]).drop_duplicates(axis_name) for label, line in rows.groupby("label")}
    lines = {label: line for label, line in lines.items() if len(line)}
    for line in lines.values():
        family = line["family"].iloc[0]
        style = {"marker": MARKERS[family], "color": COLOURS[family], "markersize": 5, "linewidth": 1.6}
        axis.plot(line[axis_name], line[column], **style)
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
    _cross_failures(axis, failed, axis_name, column)


def _cross_failures(axis: Axes, failed: pd.DataFrame, axis_name: str, column: str) -> None:
    """A cross for every run that failed, at the upper edge where its value is unknown; in words in the first row."""
    style = {"marker": "x", "color": "#111111", "markersize": 8, "markeredgewidth": 1.6, "zorder": 5, "clip_on": False}
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
        axis.annotate("  ".join(filter(None, [label, tables.describe(label), growth])), ends[label], offset,
                      textcoords="offset points", ha="left" if right else "right", va="center",
                      fontsize=8, color=COLOURS[line["family"].iloc[0]])  # fmt: skip


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
