"""Print a grid's results as a table of a paper, with intervals.

It has a line for each setting, with tests and costs.

    dualformer table GRID [--by FIELD ...] [--against VALUE] [--format md|tex|csv|html] [--columns NAME ...]

A line takes together the runs that agree in the fields of --by; unless told otherwise, those that the grid varies but
the seed. Accuracies are means with a 95 % t-interval over seeds, or a Wilson interval over the held-out videos where
there is one seed. --against names a line by its values as in the grid, with commas between those of several fields: of
every other one there is the paired difference over common seeds, and p of a paired t-test after Holm's correction.

Lines are sorted by cost, then accuracy; those on the Pareto frontier are bold. Runs that failed are counted, and times
that were disturbed or withheld are marked; reasons stand below. There is one table for each device of the grid.

LaTeX needs the package booktabs. CSV has one number in each column, and all devices in one table.

Exit status: 0 printed; 2 nothing to print, or called wrongly, with the reason.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis import collect
from analysis.places import OUTPUT
from dualformer.arguments import one_line, parse_and_run, program
from dualformer.config import nearest
from dualformer.results import result, result_set
from dualformer.results.layout import TABLE
from dualformer.results.table import Row, configuration

if TYPE_CHECKING:
    from analysis.columns import Page
    from analysis.lines import Line

FORMATS = ("md", "tex", "csv", "html")
FOLDERS = tuple(dict.fromkeys((Path("build/results"), OUTPUT / "results")))
SORTED_BY = ("gmacs_total", "gmacs_per_view", "params_m", "latency_ms_p50", "peak_mem_gib", "energy_j_per_clip")

Source = tuple[Mapping[str, Any], list[Row]]
"""The sheet and the rows of one device."""


class TableError(Exception):
    """There is nothing to print, or not by these fields."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("grid", metavar="GRID", help="name of the grid")
    parser.add_argument(
        "--by",
        nargs="+",
        action="extend",
        default=[],
        metavar="FIELD",
        help="fields that lines are told apart by, dotted (default: what the grid varies but the seed)",
    )
    parser.add_argument(
        "--against", metavar="VALUE", help="line that the others are compared with, by its values (default: none)"
    )
    parser.add_argument("--format", choices=FORMATS, default="md", help="Markdown, LaTeX, CSV or HTML (default: md)")
    parser.add_argument(
        "--columns",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="runs, difference, p, pairs, or fields of results (default: those that there is anything to say of)",
    )
    parser.add_argument(
        "--cost", choices=SORTED_BY, default="gmacs_total", help="what lines are sorted by (default: gmacs_total)"
    )
    parser.add_argument(
        "--machine",
        metavar="NAME",
        help="the table of this device alone, by its name or its file's (default: a table for each)",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--results",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="folders of tables, the first that has the grid (default: build/results, then where collect writes)",
    )
    source.add_argument("--runs", type=Path, metavar="DIR", help="read run folders instead (default: tables)")
    parser.add_argument(
        "--allow-mixed-code",
        action="store_true",
        help="with --runs: let a table hold runs of different states of the same file (default: refuse)",
    )


def run(options: argparse.Namespace) -> int:
    """Prints; returns the exit status."""
    from analysis.load import LoadError  # here, so that --help doesn't wait for pandas

    grid = Path(options.grid).name.removesuffix(".yaml")
    try:
        if options.runs:
            sources = from_runs(options.runs, grid, options.allow_mixed_code)
        else:
            sources = from_tables(options.results or FOLDERS, grid)
        sources = of_device(sources, options.machine)
        pages = [page(*source, _words(options.by), options.against, options.cost) for source in sources]
        text = render(pages, options.format, _words(options.columns))
    except (TableError, LoadError, collect.CollectError, OSError) as error:
        print(f"{program('table')}: {one_line(str(error))}", file=sys.stderr)
        return 2
    print(text)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line and runs it; returns the exit status."""
    return parse_and_run(sys.modules[__name__], arguments, prog="dualformer table")


def from_tables(folders: Iterable[Path], grid: str) -> list[Source]:
    """Reads every device's table of a grid from the first folder that has any.

    Raises:
        TableError: no folder has one.
        LoadError: a table is there and can't be trusted.
    """
    from analysis.load import LoadError, load_table

    folders = list(folders)
    for folder in folders:
        if paths := sorted((folder / grid).glob(f"*{TABLE}")):
            found = [result_set.read_table(path) for path in paths]
            if problems := [problem for one in found for problem in one.problems]:
                raise LoadError("; ".join(problems))
            return [(load_table(one.source).sheet, one.rows) for one in found]
    known = {path.parent.name for folder in folders for path in folder.glob(f"*/*{TABLE}")}
    places = " or ".join(dict.fromkeys(map(_place, folders)))
    raise TableError(f"no table of grid '{grid}' in {places}" + (nearest(grid, known) if known else ": no tables"))


def from_runs(runs: Path, grid: str, allow_mixed_code: bool = False) -> list[Source]:
    """Reads the runs of a grid, as `collect` does.

    Raises:
        TableError: none of them has finished.
        CollectError: there is no such grid, or its runs can't stand in one table.
    """
    (record,) = collect.find_records(runs, [grid])
    sources = collect.collect(runs, record, allow_mixed_code)
    if not sources:
        raise TableError(f"no run of {grid} in '{runs}' has finished yet")
    return [(sheet, rows) for sheet, rows in sources]


def of_device(sources: list[Source], device: str | None) -> list[Source]:
    """The sources of one device, by its name or that of its file; all of them for None.

    Raises:
        TableError: there is none.
    """
    found = [one for one in sources if device in (None, one[0]["device"], one[0]["device_name"])]
    if not found:
        raise TableError(f"no results on '{device}'{nearest(str(device), [one[0]['device'] for one in sources])}")
    return found


def page(sheet: Mapping[str, Any], rows: list[Row], by: Sequence[str], against: str | None, cost: str) -> Page:
    """Puts the rows of a table together as lines, sorted.

    Raises:
        TableError: no such field, no such line, or nothing to compare lines by.
    """
    from analysis import lines
    from analysis.columns import Page

    fields = [_field(sheet, rows, name) for name in by] or usual_fields(sheet, rows)
    grouped = lines.group(rows, list(dict.fromkeys(fields)))
    score = next(iter(lines.accuracies(rows)), None)
    ordered, front = lines.by_cost(grouped, cost, score)
    chosen = None if against is None else _line(ordered, list(dict.fromkeys(fields)), against)
    if chosen is not None and score is None:
        raise TableError(f"--against {against}: no run of {sheet['grid']} on {sheet['device']} has an accuracy")
    return Page(sheet, list(dict.fromkeys(fields)), ordered, frozenset(front), cost, score, chosen)


def usual_fields(sheet: Mapping[str, Any], rows: Iterable[Row]) -> list[str]:
    """What a grid varies but the seed; the attention or else the model where it varies nothing else."""
    from analysis.tables import ATTENTION, MODEL, SEED

    rows = list(rows)
    varied = [name for name in sheet["differs"] if name != SEED]
    return varied or [name for name in (ATTENTION, MODEL) if any(name in row for row in rows)][:1]


def _field(sheet: Mapping[str, Any], rows: Iterable[Row], name: str) -> str:
    """The field that is meant; one that the grid varies may be called by the last part of its name."""
    from sweeps.run_config import describe_fields

    told = {name for row in rows for name in row}
    chosen = set(configuration(dict.fromkeys(told)))
    known = {*chosen, *(field.path for field in describe_fields()), *(name for name in told if "provenance." in name)}
    if name in known:
        return name
    ends = [field for field in sheet["differs"] if field.rpartition(".")[2] == name]
    if len(ends) == 1:
        return ends[0]
    if name in result.fields() or result.is_factor(name):
        raise TableError(f"--by {name}: that is what runs came to, not what they were chosen by (see --columns)")
    varied = ", ".join(sheet["differs"]) or "nothing"
    valid = [field for field in known if name.rpartition(".")[2] in field] or known
    raise TableError(f"--by {name}: no such field{_few(nearest(name, valid))}; {sheet['grid']} varies {varied}")


def _few(hint: str) -> str:
    """A hint that isn't a list of hundreds of fields."""
    return hint if len(hint) < 300 else " (see `dualformer fields`)"


def _line(lines: Sequence[Line], by: Sequence[str], wanted: str) -> Line:
    """The line whose values, words, or fields with values are those wanted."""
    from analysis.columns import labels, typed

    names = {}
    for line, words in zip(lines, labels(by, lines)):
        values = [typed(value) for value in line.values]
        pairs = [f"{name}={value}" for name, value in zip(by, values)]
        names.update({_joined(form): line for form in (words, pairs, values)})
    if _joined([wanted]) not in names:
        valid = [_joined(map(typed, line.values)) for line in lines]
        raise TableError(f"--against {wanted}: no such line{nearest(wanted, valid)}")
    return names[_joined([wanted])]


def _joined(parts: Iterable[str]) -> str:
    return ",".join(part.replace(", ", ",").strip() for part in parts)


def render(pages: Sequence[Page], form: str, names: Sequence[str] = ()) -> str:
    """Returns the pages as text in one of `FORMATS`, with the columns of these names.

    Raises:
        TableError: there is no such column.
    """
    from analysis import columns, formats, notes

    valid = ["runs", *columns.quantities(pages), *columns.COMPARED]
    for name in names:
        if name not in valid:
            raise TableError(f"--columns {name}: no such column{nearest(name, valid)}")
        if name in columns.COMPARED and any(page.against is None for page in pages):
            raise TableError(f"--columns {name}: compared with what? --against names a line")
    if form == "csv":
        return formats.as_csv(*notes.plain(pages, names or columns.usual(pages)))
    write = {"md": formats.markdown, "tex": formats.latex, "html": formats.as_html}[form]
    return "\n\n".join(write(notes.printed(page, names or columns.usual([page]))) for page in pages)


def _words(given: Iterable[str]) -> list[str]:
    """Words that were given apart, or with commas between them, each once."""
    return list(dict.fromkeys(word for text in given for word in text.split(",") if word))


def _place(folder: Path) -> str:
    here = Path.cwd()
    return str(folder.relative_to(here) if folder.is_relative_to(here) else folder)


if __name__ == "__main__":
    sys.exit(main())
