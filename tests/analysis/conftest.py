"""Runs of a sweep that was never computed, and the table that is collected from them."""

import pytest

from analysis import collect
from tests.helpers import synthetic_runs


@pytest.fixture
def runs(tmp_path):
    synthetic_runs.write_ablations(tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture
def table(runs, tmp_path):
    assert collect.main(["--runs", str(runs), "--out", str(tmp_path / "out")]) == 0
    return tmp_path / "out" / "ablations" / "example-cpu-3000.csv"
