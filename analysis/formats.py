r"""A table as Markdown, LaTeX, HTML or CSV, its texts escaped, so that no name can act as markup or as a formula.

LaTeX needs the package booktabs. HTML is a fragment in plain ASCII, so that no encoding has to be known. CSV has a
number or a text in each cell and a header of names with units.
"""

from __future__ import annotations

import dataclasses
import html
import re
from collections.abc import Sequence
from typing import Any

from dualformer.arguments import one_line
from dualformer.results.files import csv_text


@dataclasses.dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: as read.
        marks: signs that refer to notes.
        strong: whether it stands out.
    """

    text: str
    marks: str = ""
    strong: bool = False


@dataclasses.dataclass(frozen=True)
class Printed:
    """A table to print.

    Attributes:
        caption: what it is a table of.
        heads: of its columns, with units.
        num_texts: how many columns, from the left, are text and not numbers.
        lines: of cells, one for each head.
        notes: below it, each of one sentence or more.
    """

    caption: str
    heads: Sequence[str]
    num_texts: int
    lines: Sequence[Sequence[Cell]]
    notes: Sequence[str]


def markdown(table: Printed) -> str:
    """Returns a table of GitHub's Markdown, its caption before it and its notes below as a list."""
    rule = ["---" if at < table.num_texts else "---:" for at in range(len(table.heads))]
    body = [[_markdown_cell(cell) for cell in line] for line in table.lines]
    lines = [" | ".join(line) for line in ([escape_markdown(head) for head in table.heads], rule, *body)]
    notes = [f"- {escape_markdown(note)}" for note in table.notes]
    return "\n".join([escape_markdown(table.caption), "", *(f"| {line} |" for line in lines), "", *notes]).rstrip("\n")


def latex(table: Printed) -> str:
    """Returns a `table` of LaTeX with rules of booktabs, its notes below in small type."""
    kinds = "".join("l" if at < table.num_texts else "r" for at in range(len(table.heads)))
    body = [_latex_line([_latex_cell(cell) for cell in line]) for line in table.lines]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape_latex(table.caption)}}}",
            rf"\begin{{tabular}}{{{kinds}}}",
            r"\toprule",
            _latex_line([escape_latex(head) for head in table.heads]),
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            *(rf"\par\footnotesize {escape_latex(note)}" for note in table.notes),
            r"\end{table}",
        ]
    )


def as_html(table: Printed) -> str:
    """Returns a `<table>` and a list of its notes."""
    heads = "".join(f'<th scope="col">{_escape_html(head)}</th>' for head in table.heads)
    body = ["<tr>" + "".join(map(_html_cell, line)) + "</tr>" for line in table.lines]
    notes = ["<ul>", *(f"<li>{_escape_html(note)}</li>" for note in table.notes), "</ul>"] if table.notes else []
    lines = [
        f"<table>\n<caption>{_escape_html(table.caption)}</caption>",
        f"<thead><tr>{heads}</tr></thead>",
        "<tbody>",
    ]
    text = "\n".join([*lines, *body, "</tbody>\n</table>", *notes])
    return text.encode("ascii", "xmlcharrefreplace").decode()


def as_csv(names: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    """Returns a table of plain values, None being empty."""
    return csv_text(map(_plain, line) for line in (names, *lines)).rstrip("\n")


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is: underscores within words and brackets that are no link stay readable."""
    text = re.sub(r"([\\`*<>|~&$#])", r"\\\1", _single(text))
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text).replace("](", r"]\(").replace("][", r"]\[").replace("![", r"\![")


_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"{\char34}", "†": r"\textdagger{}", "‡": r"\textdaggerdbl{}", "§": r"\S{}",
    "Δ": r"$\Delta$", "−": "$-$", "–": "--", "—": "---", "±": r"$\pm$", "×": r"$\times$",
}  # fmt: skip


def escape_latex(text: str) -> str:
    """Text that LaTeX sets as it is."""
    return "".join(_LATEX.get(letter, letter) for letter in _single(text))


def _markdown_cell(cell: Cell) -> str:
    text = escape_markdown(cell.text)
    return (f"**{text}**" if cell.strong else text) + (f" {cell.marks}" if cell.marks else "")


def _latex_cell(cell: Cell) -> str:
    text = escape_latex(cell.text)
    marks = rf"\textsuperscript{{{escape_latex(cell.marks)}}}" if cell.marks else ""
    return (rf"\textbf{{{text}}}" if cell.strong else text) + marks


def _latex_line(cells: Sequence[str]) -> str:
    """A line of a tabular; a bracket or star at its start would be taken for an argument of the line break before."""
    line = " & ".join(cells)
    return ("{}" if line.startswith(("[", "*")) else "") + line + r" \\"


def _html_cell(cell: Cell) -> str:
    text = _escape_html(cell.text)
    marks = f"<sup>{_escape_html(cell.marks)}</sup>" if cell.marks else ""
    return f"<td>{f'<strong>{text}</strong>' if cell.strong else text}{marks}</td>"


def _plain(value: Any) -> Any:
    return _single(value) if isinstance(value, str) else value


def _escape_html(text: str) -> str:
    return html.escape(_single(text))


def _single(text: str) -> str:
    """Text on one line, as tables of results keep it."""
    return one_line(" ".join(text.split()))
