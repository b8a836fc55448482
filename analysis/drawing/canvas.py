"""What all figures share: the look, the frame around the panels, the footer that says where data come from, the files.

Colours stand for the same kind of attention in every figure and markers differ too, so that the figures survive a
greyscale print.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from analysis.load import FOLDER, Table
from dualformer.results.files import write_bytes

FIGURES_VARIABLE = "ANALYSIS_FIGURES"

STYLE: dict[Any, Any] = {
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

styled = matplotlib.rc_context(STYLE)
"""Decorator of the functions that draw."""


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
    _take_names_as_they_are(drawing.figure)
    folder = folder or figures_folder()
    folder.mkdir(parents=True, exist_ok=True)
    saved = SavedFigure(folder / f"{name}.png", folder / f"{name}.svg", drawing.title)
    software = f"analysis/drawing, matplotlib {matplotlib.__version__}"
    png = {"Title": drawing.title, "Source": drawing.source, "Software": software}
    svg = {"Title": drawing.title, "Source": drawing.source, "Creator": software, "Date": None}
    with matplotlib.rc_context(STYLE):
        for path, metadata in ((saved.png, png), (saved.svg, svg)):
            content = io.BytesIO()
            drawing.figure.savefig(content, format=path.suffix[1:], dpi=180, metadata=metadata)
            write_bytes(path, content.getbuffer())
    return saved


def _take_names_as_they_are(figure: Figure) -> None:
    """Between two dollar signs matplotlib would look for a formula, and fail where a name holds none."""
    for text in figure.findobj(Text):
        if "$" in text.get_text() and "\\mathdefault" not in text.get_text():  # which its own tick labels hold
            text.set_parse_math(False)


def provenance_line(results: Iterable[Table], extra: str = "") -> str:
    """Runs, commit, device and date of what a figure shows, for its footer and metadata."""
    parts = []
    for table in results:
        sheet, finished = table.sheet, table.sheet["finished"]
        listed = ", ".join(finished) if len(finished) <= 4 else f"{len(finished)} runs, {_digest(finished)}"
        commits = ", ".join(commit[:10] for commit in sheet["commits"]) or "not recorded"
        changed = " + uncommitted changes" if sheet["dirty"] else ""
        started = table.frame["provenance.started_utc"].dropna()
        date = max(started)[:10] if len(started) else "not recorded"
        data = f"{table.grid}: {listed} (table {table.digest})"
        parts.append(f"{data} · commit {commits}{changed} · {sheet['device_name']} · {date}")
    return "\n".join([*parts, extra] if extra else parts)


def _digest(run_ids: Iterable[str]) -> str:
    """A short name for a set of run ids, whatever their order."""
    return "ids " + hashlib.sha256(" ".join(sorted(run_ids)).encode()).hexdigest()[:12]


def nothing(title: str, source: str) -> Drawing:
    """A figure that says that there is nothing to draw yet."""
    figure, [axis] = panels(9, 3, title, "No run has anything to draw; the list of runs says why.", source, widths=[1])
    axis.set_axis_off()
    return Drawing(figure, title, source)


def panels(
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
    places = [(row, column) for row in range(rows) for column in range(len(widths))]
    return figure, [figure.add_subplot(grid[place]) for place in places]


def latency_name(frame: pd.DataFrame) -> str:
    batch = frame.get("measure.batch_size", pd.Series(dtype="float64")).dropna().unique()
    name = f"latency in ms, batch of {batch[0]:g}" if len(batch) == 1 else "latency of one batch in ms"
    replayed = set(frame.get("measure.cuda_graph", pd.Series(dtype="object")).dropna())
    return f"{name},\nCUDA graph replayed" if replayed == {True} else name
