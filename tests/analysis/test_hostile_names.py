"""Names that a user, or a file from elsewhere, brings are text in tables, in the report and on a terminal."""

import csv
import json
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from analysis import collect, load, report
from dualformer.results import layout, table
from sweeps.launching import status
from tests.helpers import hostile, synthetic_runs

ROOT = Path(__file__).parents[2]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A grid whose runs bear hostile names wherever one can stand."""
    runs = tmp_path / "runs"
    differs = {}
    for number, name in enumerate(hostile.NAMES):
        run_id = f"{number:012x}"
        chosen = synthetic_runs.config(name, name=name)
        chosen["data"]["root"] = name
        chosen["model"]["overrides"] = {name: name}
        result = {"top1": 0.5, "num_videos": 8, "num_classes": 4, **synthetic_runs.counted(1.0)}
        if number % 2:
            result = {"status": "error", "reason": f"{name}: no such class '{name}'"}
        differs[run_id] = {"model.attention": name, f"model.overrides.{name}": name}
        synthetic_runs.write_run(runs, run_id, chosen, result, decoder=name, started_utc=name, device_name=hostile.HTML)
    synthetic_runs.write_grid(runs, "ablations", differs)
    return runs


@pytest.fixture
def results(runs: Path, tmp_path: Path) -> Path:
    assert collect.main(["--runs", str(runs), "--out", str(tmp_path / "results")]) == 0
    return tmp_path / "results"


class Elements(HTMLParser):
    """Counts elements with their attributes' names, and keeps the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.found[" ".join([tag, *sorted(name for name, _ in attrs)])] += 1

    def handle_data(self, data: str) -> None:
        self.text += data


def elements(template: str) -> set[str]:
    """What a template makes itself; levels of headings and kinds of cells are put in."""
    text = re.sub(r"\{%.*?%\}", "", template.replace("h{{ part.level }}", "h2").replace("{{ cell }}", "td"))
    return {*Elements(text).found, "th", "h3"}


def test_the_report_has_no_element_that_its_template_does_not_make(results: Path, tmp_path: Path):
    command = [sys.executable, str(ROOT / "analysis" / "regenerate.py"), "--results", str(results)]
    done = subprocess.run(
        [*command, "--figures", str(tmp_path / "figures")], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    page = Elements((tmp_path / "figures" / "report.html").read_text())
    assert set(page.found) <= elements((ROOT / "analysis" / "report.html.j2").read_text())
    assert page.found["img alt src"] == 2
    assert page.text.count(hostile.HTML) > 3 and hostile.SCRIPT in page.text
    assert not list(tmp_path.rglob("planted"))


def test_a_name_in_a_notebooks_own_html_brings_no_element_along():
    part = report.table_of(
        f"<table><caption>{hostile.HTML}</caption><tr><th>a</th></tr><tr><td>{hostile.HTML}b</td></tr>"
    )
    page = Elements(report.render([[part, report.Part("note", hostile.SCRIPT)]], []))
    assert not {tag for tag in page.found if tag.startswith(("img", "script"))}


def test_no_cell_of_a_table_is_a_formula_and_all_are_read_back(results: Path, runs: Path):
    (path,) = (results / "ablations").glob("*.csv")
    for row in csv.reader(path.read_text().splitlines()):
        assert not [cell for cell in row if re.match(r"[=+@\t\r\n]|-\D", cell)], row
    rows, problems = table.read_rows(path)
    assert not problems and len(rows) == len(hostile.NAMES)
    read = {row["run_id"]: row for row in rows}
    for number, name in enumerate(hostile.NAMES):
        row = read[f"{number:012x}"]
        assert row["data.root"] == " ".join(name.split()) == row["provenance.decoder"]
    frame = load.load_table(path).frame.set_index("run_id")
    assert frame.loc[f"{hostile.NAMES.index(hostile.FORMULA):012x}", "data.root"] == hostile.FORMULA


def test_the_terminal_gets_one_line_a_run_and_nothing_to_act_on(runs: Path, capsys: pytest.CaptureFixture):
    assert status.main(["--once", "--runs", str(runs)]) == 0
    assert collect.main(["--runs", str(runs), "--out", str(runs.parent / "again")]) == 0
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) == len(hostile.NAMES) + 3  # a header, the sums, and what collect says
    assert not [letter for letter in shown if not letter.isprintable() and letter != "\n"]


@pytest.mark.parametrize("run_id", ["../outside", "/etc", "a/b", "..", "", "a\0b", 5, None, "x" * 300])
def test_a_record_that_leads_out_of_its_folder_is_none(runs: Path, run_id: object, capsys: pytest.CaptureFixture):
    record = runs / f"ablations{layout.LAUNCH_RECORD}"
    record.write_text(json.dumps({**json.loads(record.read_text()), "runs": [{"run_id": run_id, "differs": {}}]}))
    synthetic_runs.write_run(runs.parent, "outside", {}, {"top1": 0.9})
    assert collect.main(["--runs", str(runs), "--out", str(runs.parent / "again")]) == 2
    assert "is not a launch record" in capsys.readouterr().err
    assert status.main(["--once", "--runs", str(runs)]) == 0
    assert "0.9" not in capsys.readouterr().out
