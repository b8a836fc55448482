"""The tables of docs/models.md are what the code counts, and no published figure is far from it."""

import runpy
from pathlib import Path

import pytest

from dualformer import list_models

DOCS = Path(__file__).parents[2] / "docs"
SCRIPT = runpy.run_path(str(DOCS / "models.py"))
PUBLISHED = SCRIPT["PUBLISHED"]


def test_committed_tables_are_those_the_code_writes():
    document = (DOCS / "models.md").read_text()
    assert SCRIPT["render"](document) == document


def test_every_model_has_a_published_figure_of_both_kinds():
    for quantity in ("params_m", "gmacs"):
        assert {entry.name for entry in PUBLISHED if getattr(entry, quantity) is not None} == set(list_models())


def test_published_figures_are_within_one_percent():
    lines = (DOCS / "models.md").read_text().partition("<!-- published -->")[2].partition("<!-- end -->")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines.strip().splitlines()[2:]]
    assert len(rows) == len(PUBLISHED)
    pairs = [(row[0], row[at], row[at + 1]) for row in rows for at in (2, 5) if row[at]]
    assert len(pairs) > 30
    for name, published, ours in pairs:
        assert float(ours) == pytest.approx(float(published), rel=0.01), name


@pytest.mark.parametrize(
    ("published", "ours", "digit", "expected"),
    [
        (60, 60.49, None, "="),
        (60, 60.51, None, "+0.85 %"),
        (87.9, 87.94, None, "="),
        (590, 587.5, 10, "="),
        (590, 584.0, 10, "-1.02 %"),
        (455.2, 451.5, None, "-0.81 %"),
    ],
)
def test_difference_is_told_by_the_published_digits(published, ours, digit, expected):
    assert SCRIPT["difference"](published, ours, digit) == expected


def test_every_note_is_explained():
    text = (DOCS / "models.md").read_text()
    for note in {entry.note for entry in PUBLISHED} - {""}:
        assert f"\n- **{note}** " in text
