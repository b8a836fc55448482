"""A time that was disturbed or withheld looks it: in tables, figures, the report and the launcher's line."""

import json

import pandas as pd
import pytest

from analysis import collect, load, report, tables
from analysis.drawing import ablation, growth
from dualformer.results.disturbance import LEGEND, disturbances
from dualformer.results.result import Result
from sweeps.launching import following
from tests.helpers import synthetic_runs

FLAG = "throttled: software power cap"
DOUBT = "times withheld: two passes took 1.00 times as long as one, not 1.8 to 2.2 times"
TIMES = ("latency_ms_p50", "latency_ms_p20", "latency_ms_p80")


def result_of(runs, number, **fields):
    path = runs / f"{number:012x}" / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.fixture
def found(tmp_path):
    """Both grids, with a throttled and a withheld row in each."""
    runs = synthetic_runs.write_all(tmp_path / "runs")
    for first in (0, 4096):
        result_of(runs, first, flags=[FLAG, "other processes used 0.3 cores"])
        result_of(runs, first + 1, **dict.fromkeys(TIMES), reason=DOUBT)
    assert collect.main(["--runs", str(runs), "--out", str(tmp_path / "out")]) == 0
    return {grid: load.load_grid(grid, [tmp_path / "out"])[0] for grid in ("ablations", "scaling")}


def test_what_speaks_against_a_time():
    timed = {"status": "ok", "reason": "", "latency_ms_p50": 3.0}
    assert disturbances({**timed, "flags": [FLAG, "other processes used 0.3 cores"]}) == [FLAG]
    assert disturbances({**timed, "flags": ["times never settled"]}) == ["times never settled"]
    assert disturbances({"status": "ok", "reason": DOUBT}) == [DOUBT]
    assert disturbances({**timed, "flags": []}) == disturbances(timed) == []
    assert disturbances({"status": "oom", "reason": "out of memory", "flags": [FLAG]}) == []
    assert disturbances({**timed, "latency_ms_p50": None, "flags": [FLAG]}) == [], "nothing was timed"


def test_tables_mark_it_and_say_why(found):
    table = tables.accuracy_table(tables.ablation(found["ablations"])).set_index("pattern")
    assert table.loc["LL", "latency_ms_p50"].endswith("*") and table.loc["LL", "* disturbed"] == FLAG
    assert table.loc["LS", "latency_ms_p50"] == "withheld*" and table.loc["LS", "* disturbed"] == DOUBT
    assert not table.loc["DD", "latency_ms_p50"].endswith("*") and table.loc["DD", "* disturbed"] == ""


def test_undisturbed_tables_have_no_such_column(found):
    frame = tables.ablation(found["ablations"]).query("label == 'DD'")
    assert not any("disturbed" in name for name in tables.accuracy_table(frame))


def hollow(axis):
    return [line for line in axis.lines if line.get_markerfacecolor() == "white" and line.get_marker() != "None"]


def test_figures_draw_it_hollow_with_a_legend(found):
    figure = ablation.draw(tables.ablation(found["ablations"]), found["ablations"]).figure
    time = next(axis for axis in figure.axes if "latency" in axis.get_xlabel())
    assert len(hollow(time)) == 1 and LEGEND in time.get_xlabel()
    assert any("withheld" in text.get_text() for text in time.texts)
    assert not any(hollow(axis) for axis in figure.axes if axis is not time)

    lines, _ = tables.growth(found["scaling"])
    figure = growth.draw(lines, found["scaling"]).figure
    times = [axis for axis in figure.axes if "latency" in axis.get_ylabel()]
    assert [len(hollow(axis)) for axis in times] == [1, 0]
    words = " ".join(text.get_text() for axis in times for text in axis.texts)
    assert LEGEND in words and "LL withheld at 16" in words


def test_undisturbed_figures_say_nothing_of_it(tmp_path):
    runs = synthetic_runs.write_all(tmp_path / "runs")
    collect.main(["--runs", str(runs), "--out", str(tmp_path / "out")])
    (table,) = load.load_grid("ablations", [tmp_path / "out"])
    figure = ablation.draw(tables.ablation(table), table).figure
    assert not any(hollow(axis) or LEGEND in axis.get_xlabel() for axis in figure.axes)


def test_the_report_names_it(found):
    page = report.render([], [found["ablations"]])
    assert f"disturbed while it was timed: {FLAG}" in page and DOUBT in page


def test_the_launchers_line_names_it():
    timed = Result(run_id="a" * 12, status="ok", latency_ms_p50=12.5, flags=[FLAG])
    assert following._figures(timed) == f"12.5 ms* ({FLAG})"
    assert following._figures(Result(run_id="a" * 12, status="ok", reason=DOUBT)) == DOUBT
    assert following._figures(Result(run_id="a" * 12, status="ok", latency_ms_p50=12.5, flags=[])) == "12.5 ms"


def test_times_of_tables_without_flags_are_as_they_were():
    frame = pd.DataFrame({"status": ["ok"], "reason": [None], "latency_ms_p50": [1.0]})
    assert tables.disturbed(frame) == [""]
