"""Makes every figure and the report again from result files, by executing each notebook in a fresh kernel.

    python analysis/regenerate.py [--results DIR ...] [--figures DIR] [--report FILE]

Reads the tables that `collect.py` wrote (of each grid, those in the first of the given folders that has any); writes
`<figures>/*.png`, `<figures>/*.svg` and one self-contained HTML page. The notebooks in git stay as they are, without
outputs. A grid without results leaves its figure out, which the report says.

Exit status: 0 all made; 1 a notebook failed (the others are done, the report shows the error); 2 nothing to draw from.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jinja2
import nbclient
import nbformat

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path[0] = str(ROOT)

from analysis import load, plots, tables  # noqa: E402

NOTEBOOKS = ROOT / "analysis" / "notebooks"
TITLE = "Space-time attention for video: accuracy and cost"


@dataclasses.dataclass(frozen=True)
class Part:
    """One piece of the report: a `heading`, `paragraph`, `note`, `image` (base64 PNG), `table` (HTML) or `failure`."""

    kind: str
    text: str
    alt: str = ""
    level: int = 0


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    figures = (options.figures or ROOT / "analysis" / "figures").resolve()
    report = (options.report or (figures if options.figures else ROOT / "analysis") / "report.html").resolve()
    folders = [folder.resolve() for folder in options.results]
    try:
        results = load_all(folders)
    except load.LoadError as error:
        print(f"regenerate: {error}", file=sys.stderr)
        return 2
    if not results:
        places = ", ".join(map(str, options.results))
        print(f"regenerate: no result tables in {places}; analysis/collect.py writes them from runs", file=sys.stderr)
        return 2
    executed = [execute(path, folders, figures) for path in sorted(NOTEBOOKS.glob("*.ipynb"))]
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(render(executed, results), encoding="utf-8")
    kinds = [part.kind for parts in executed for part in parts]
    print(f"Look at {report} ({kinds.count('image')} figure(s), also as PNG and SVG in {figures})")
    return int("failure" in kinds)


def load_all(folders: Sequence[Path]) -> list[load.Table]:
    """Loads every table that the notebooks may use, by grid and device.

    Raises:
        LoadError: one of them can't be trusted.
    """
    grids = sorted({path.parent.name for folder in folders for path in folder.glob("*/*.csv")})
    return [table for grid in grids for table in load.load_grid(grid, folders)]


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
        plots.FIGURES_VARIABLE: str(figures),
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
            table = data["text/html"]
            yield Part("table", table) if "<td" in table else Part("note", _nothing(table))


def _nothing(table: str) -> str:
    """What to say of a table without rows, which looks like one that is broken."""
    caption = re.search(r"<caption>(.*?)</caption>", table)
    return f"{caption.group(1)}: none" if caption else "none"


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
    return {
        "grid": table.grid,
        "manifest": table.manifest,
        "digest": table.digest,
        "num_ok": int((table.frame["status"] == "ok").sum()),
        "runs": runs.astype(object).where(runs.notna(), "").to_dict("records"),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    default = [ROOT / "analysis" / "results"]
    parser.add_argument("--results", type=Path, nargs="+", default=default, help="default: analysis/results")
    parser.add_argument("--figures", type=Path, help="default: analysis/figures")
    parser.add_argument("--report", type=Path, help="default: analysis/report.html, or report.html in --figures")
    return parser


if __name__ == "__main__":
    sys.exit(main())
