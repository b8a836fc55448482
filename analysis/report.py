"""The report: notebooks executed in fresh kernels, and what they show as one HTML page."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jinja2
import nbclient
import nbformat

from analysis import load, tables
from analysis.drawing import canvas

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "analysis" / "notebooks"
TITLE = "Space-time attention for video: accuracy and cost"


@dataclasses.dataclass(frozen=True)
class Part:
    """One piece of the report: a `heading`, `paragraph`, `note`, `image` (base64 PNG), `table` or `failure`.

    Attributes:
        kind: which of these.
        text: its words, as plain text; a table's caption; an image's data.
        alt: what an image shows.
        level: of a heading.
        rows: of a table, the header first.
    """

    kind: str
    text: str
    alt: str = ""
    level: int = 0
    rows: tuple[tuple[str, ...], ...] = ()


def execute(path: Path, folders: Sequence[Path], figures: Path) -> list[Part]:
    """Executes a notebook in a fresh kernel and returns what it shows; an error ends up as its last part."""
    started = time.monotonic()
    print(f"{path.name} ...", end=" ", flush=True)
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook,
        timeout=300,
        resources={"metadata": {"path": str(ROOT)}},
        extra_arguments=["--IPKernelApp.log_level=ERROR", "--HistoryManager.enabled=False"],
    )
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        load.RESULTS_VARIABLE: os.pathsep.join(map(str, folders)),
        canvas.FIGURES_VARIABLE: str(figures),
    }
    failure = []
    try:
        client.execute(env=environment)
    except nbclient.exceptions.CellExecutionError as error:
        failure = [Part("failure", f"{path.name} failed: {error.ename}: {error.evalue}")]
    except (nbclient.exceptions.CellTimeoutError, nbclient.exceptions.DeadKernelError) as error:
        failure = [Part("failure", f"{path.name} failed: {error}")]
    if failure:
        print(failure[0].text, file=sys.stderr)
    print(f"{time.monotonic() - started:.1f} s")
    return [part for cell in notebook.cells for part in _parts(cell)] + failure


def render(notebooks: Sequence[Sequence[Part]], results: Sequence[load.Table]) -> str:
    """Returns the report as one HTML page that needs nothing else to be displayed."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ROOT / "analysis"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    sections = [{"parts": _without_empty_headings(parts)} for parts in notebooks]
    template = environment.get_template("report.html.j2")
    return template.render(title=TITLE, notebooks=sections, tables=[_summary(table) for table in results])


def _parts(cell: nbformat.NotebookNode) -> Iterator[Part]:
    """What a reader of the report sees of a cell: its words and its outputs, never its code."""
    if cell.cell_type == "markdown":
        for block in cell.source.split("\n\n"):
            marks = len(block) - len(block.lstrip("#"))
            yield Part("heading", block[marks:].strip(), level=marks + 1) if marks else Part("paragraph", block)
        return
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        if output.output_type == "stream":
            yield Part("note", output.text)
        elif "image/png" in data:
            alt = output.metadata.get("image/png", {}).get("alt", "")
            yield Part("image", data["image/png"].replace("\n", ""), alt=alt)
        elif "text/html" in data:
            yield table_of(data["text/html"])


def table_of(html: str) -> Part:
    """Returns a table of a notebook as plain text, from which the page makes its own; names can't bring elements along.

    One without rows is said in words, since it would look like one that is broken.
    """
    reader = _TableReader()
    reader.feed(html)
    reader.close()
    if len(reader.rows) > 1:
        return Part("table", reader.caption, rows=tuple(map(tuple, reader.rows)))
    return Part("note", f"{reader.caption}: none" if reader.caption else "none")


class _TableReader(HTMLParser):
    """The text of a table: `caption`, and `rows` of cells."""

    def __init__(self) -> None:
        super().__init__()
        self.caption = ""
        self.rows: list[list[str]] = []
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
        if tag in ("td", "th", "caption"):
            self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "caption":
            self.caption += data
        elif self._inside and self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


def _without_empty_headings(parts: Sequence[Part]) -> list[Part]:
    """Drops a heading that the next one of its level, or the end, follows at once."""
    following = [*parts[1:], Part("heading", "", level=0)]
    return [
        part
        for part, after in zip(parts, following)
        if not (part.kind == after.kind == "heading" and after.level <= part.level)
    ]


def _summary(table: load.Table) -> dict[str, Any]:
    shown = {"run_id": "run_id", "status": "status", "reason": "reason", "provenance.torch": "torch",
             "provenance.threads": "threads", "provenance.started_utc": "started_utc"}  # fmt: skip
    runs = table.frame[list(shown)].rename(columns=shown).assign(label=tables.labels(table))
    runs["disturbed"] = tables.disturbed(table.frame)
    return {
        "grid": table.grid,
        "sheet": table.sheet,
        "digest": table.digest,
        "num_ok": int((table.frame["status"] == "ok").sum()),
        "runs": runs.astype(object).where(runs.notna(), "").to_dict("records"),
    }
