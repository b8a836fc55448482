"""Draw all figures and the report from the tables.

Each notebook is executed in a fresh kernel.

    python analysis/regenerate.py [--results DIR ...] [--figures DIR] [--report FILE]

Reads the tables that `collect.py` wrote (of each grid, those in the first of the given folders that has any); writes
`<figures>/*.png`, `<figures>/*.svg` and one self-contained HTML page. The notebooks in git stay as they are, without
outputs. A grid without results leaves its figure out, which the report says.

Exit status: 0 all made; 1 a notebook failed (the others are done, the report shows the error); 2 nothing to draw from.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path[0] = str(ROOT)

from analysis.places import OUTPUT  # noqa: E402
from dualformer.arguments import parse_and_run, program  # noqa: E402
from dualformer.results.files import write_text  # noqa: E402

DEFAULT_RESULTS = [OUTPUT / "results"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--results",
        type=Path,
        nargs="+",
        default=DEFAULT_RESULTS,
        metavar="DIR",
        help="folders of tables, the first that has a grid goes first (default: where collect writes)",
    )
    parser.add_argument(
        "--figures",
        type=Path,
        metavar="DIR",
        help="where figures go (default: build/figures; of the default results in a checkout, analysis/figures)",
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FILE",
        help="page to write (default: report.html beside the figures' folder, or in --figures)",
    )


def run(options: argparse.Namespace) -> int:
    """Draws and reports; returns the exit status."""
    from analysis import load, report  # here, so that --help doesn't wait for pandas and matplotlib

    output = OUTPUT if options.results == DEFAULT_RESULTS else Path("build")  # committed pictures are of those alone
    figures = (options.figures or output / "figures").resolve()
    page = (options.report or (figures if options.figures else output) / "report.html").resolve()
    folders = [folder.resolve() for folder in options.results]
    try:
        results = load.load_all(folders)
    except load.LoadError as error:
        print(f"{program('regenerate')}: {error}", file=sys.stderr)
        return 2
    if not results:
        places = ", ".join(map(str, options.results))
        print(
            f"{program('regenerate')}: no result tables in {places}; analysis/collect.py writes them from runs",
            file=sys.stderr,
        )
        return 2
    executed = [report.execute(path, folders, figures) for path in sorted(report.NOTEBOOKS.glob("*.ipynb"))]
    page.parent.mkdir(parents=True, exist_ok=True)
    write_text(page, report.render(executed, results))
    kinds = [part.kind for parts in executed for part in parts]
    print(f"Look at {page} ({kinds.count('image')} figure(s), also as PNG and SVG in {figures})")
    return int("failure" in kinds)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line and runs it; returns the exit status."""
    return parse_and_run(sys.modules[__name__], arguments)


if __name__ == "__main__":
    sys.exit(main())
