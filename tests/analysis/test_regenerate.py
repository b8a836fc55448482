"""From results to report: every notebook from a fresh kernel, and a page that needs nothing else."""

import base64
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from analysis import collect, load, regenerate, report
from tests.helpers import synthetic_runs

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "analysis" / "notebooks").glob("*.ipynb"))


def ids(path):
    return path.stem


@pytest.mark.parametrize("path", NOTEBOOKS, ids=ids)
def test_notebooks_are_stripped_and_thin(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    for cell in code:
        assert cell.outputs == []
        assert cell.execution_count is None
        assert len(cell.source.splitlines()) <= 10
        assert "def " not in cell.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=ids)
def test_notebook_words_are_headings_and_plain_paragraphs(path):
    """The report shows these two alone; anything richer would come out as its markup."""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            assert not re.search(r"[*_`<>|\[\]]", cell.source)


def test_all_notebooks_end_to_end(tmp_path):
    """No grid of growing clips: a figure for every other, the published one, and a sentence in place of the growth."""
    synthetic_runs.write_ablations(tmp_path / "runs")
    synthetic_runs.write_published_sizes(tmp_path / "runs")
    assert collect.main(["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "results")]) == 0
    before = {path: path.read_bytes() for path in NOTEBOOKS}
    command = [sys.executable, str(ROOT / "analysis" / "regenerate.py"), "--results", str(tmp_path / "results")]
    done = subprocess.run(
        [*command, "--figures", str(tmp_path / "figures")], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "2_variants.ipynb ..." in done.stdout
    assert f"Look at {tmp_path / 'figures' / 'report.html'}" in done.stdout
    names = {
        "accuracy_vs_cost",
        *(f"{path.parent.name}_{path.stem}" for path in (tmp_path / "results").glob("*/*.csv")),
    }
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        "report.html", *(f"{name}.{ending}" for name in names for ending in ("png", "svg")),
    }  # fmt: skip
    page = (tmp_path / "figures" / "report.html").read_text()
    assert len(names) == 3 and page.count("data:image/png;base64,") == 3
    assert "No grid here varies the length or the size of clips" in page
    assert synthetic_runs.COMMIT in page
    for reason in ("loss is NaN at step 40", "started, not finished", "never started", "another report of a row shown"):
        assert reason in page
    assert not re.search(r"""(src|href)=["']?(https?:|//|/)|@import|url\(""", page)
    assert before == {path: path.read_bytes() for path in NOTEBOOKS}


def test_a_table_without_rows_says_so():
    empty = pd.DataFrame({"run": [], "reason": []})
    cell = nbformat.v4.new_code_cell()
    for shown in (
        empty.style.hide(),
        empty.style.hide().set_caption("Rows left out"),
        pd.DataFrame({"run": ["a"]}).style.hide(),
    ):
        cell.outputs.append(nbformat.v4.new_output("display_data", {"text/html": shown.to_html()}))
    parts = list(report._parts(cell))
    assert [(part.kind, part.text) for part in parts[:2]] == [("note", "none"), ("note", "Rows left out: none")]
    assert parts[2].kind == "table" and parts[2].rows == (("run",), ("a",))


BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.skipif(not BROWSER, reason="no chromium to look at the report with")
@pytest.mark.parametrize("width", [1280, 420])
def test_the_report_in_a_browser(tmp_path, width):
    """Every figure is drawn, and nothing but a table's own scroll bar is wider than the window."""
    synthetic_runs.write_all(tmp_path / "runs")
    collect.main(["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "results")])
    figure = base64.b64encode(next((ROOT / "analysis" / "figures").glob("*.png")).read_bytes()).decode()
    wide = pd.DataFrame({f"column {number}": ["word" * 9] for number in range(12)}).to_html()
    parts = [report.Part("heading", "A heading", level=2), report.Part("image", figure, alt="a figure")]
    page = report.render([[*parts, report.table_of(wide)]], load.load_all([tmp_path / "results"]))
    asked = """<script>addEventListener('load', () => {
        const page = document.documentElement, images = [...document.images];
        document.title = JSON.stringify([page.scrollWidth <= page.clientWidth, images.length,
            images.every(image => image.naturalWidth > 0 && image.clientWidth <= page.clientWidth)]) })</script>"""
    (tmp_path / "page.html").write_text(page.replace("</body>", f"{asked}</body>"))
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += [f"--window-size={width},900", "--dump-dom", str(tmp_path / "page.html")]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    assert re.search("<title>(.*?)</title>", shown).group(1) == "[true,1,true]"


def test_nothing_to_draw_from_is_an_error(tmp_path, capsys):
    assert regenerate.main(["--results", str(tmp_path), "--figures", str(tmp_path / "figures")]) == 2
    assert "no result tables" in capsys.readouterr().err
    assert not (tmp_path / "figures").exists()


def test_a_table_that_can_not_be_trusted_is_an_error(tmp_path, capsys):
    (tmp_path / "results" / "ablations").mkdir(parents=True)
    (tmp_path / "results" / "ablations" / "cpu.csv").write_text("run_id\n")
    assert regenerate.main(["--results", str(tmp_path / "results"), "--figures", str(tmp_path / "figures")]) == 2
    assert "cpu.manifest.json is missing" in capsys.readouterr().err


def test_a_failing_notebook_is_reported_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    synthetic_runs.write_ablations(tmp_path / "runs")
    collect.main(["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "results")])
    for name, source in (("1_bad", "raise RuntimeError('<no such thing>')"), ("2_good", "print('all is well')")):
        cells = [nbformat.v4.new_markdown_cell(f"# {name[2:]}"), nbformat.v4.new_code_cell(source)]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / f"{name}.ipynb")
    monkeypatch.setattr(report, "NOTEBOOKS", tmp_path)
    options = ["--results", str(tmp_path / "results"), "--figures", str(tmp_path / "figures")]
    assert regenerate.main([*options, "--report", str(tmp_path / "page.html")]) == 1
    assert "1_bad.ipynb failed: RuntimeError: <no such thing>" in capsys.readouterr().err
    page = (tmp_path / "page.html").read_text()
    assert "&lt;no such thing&gt;" in page
    assert "all is well" in page


def test_headings_without_content_are_dropped():
    Part = report.Part
    parts = [Part("heading", "title", level=2), Part("heading", "empty", level=3), Part("heading", "full", level=3),
             Part("note", "text"), Part("heading", "last", level=3)]  # fmt: skip
    assert [part.text for part in report._without_empty_headings(parts)] == ["title", "full", "text"]


def test_grids_are_taken_from_the_first_folder_that_has_them(tmp_path):
    for name, write in (("a", synthetic_runs.write_ablations), ("b", synthetic_runs.write_all)):
        write(tmp_path / name / "runs")
        collect.main(["--runs", str(tmp_path / name / "runs"), "--out", str(tmp_path / name / "results")])
    found = load.load_all([tmp_path / "a" / "results", tmp_path / "b" / "results"])
    assert [table.grid for table in found] == ["ablations", "published_sizes", "scaling"]
    assert isinstance(found[0], load.Table)
