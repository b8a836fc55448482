"""Results tables: typed when they are sound, refused by name when they are not."""

import json
from pathlib import Path

import pandas as pd
import pytest

from analysis import collect, load
from dualformer.results.result import ROW_STATUSES
from tests.helpers import synthetic_runs

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def path(tmp_path):
    synthetic_runs.write_ablations(tmp_path / "runs")
    collect.main(["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")])
    return tmp_path / "out" / "ablations" / "example-cpu-3000.csv"


def edit(path, change):
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    change(frame).to_csv(path, index=False)


def test_columns_are_typed_and_missing_is_missing(path):
    table = load.load_table(path)
    frame = table.frame.set_index("run_id")
    assert frame["status"].value_counts().to_dict() == {"ok": 6, "missing": 2, "error": 1}
    assert frame["num_videos"].dtype == "Int64"
    assert frame.loc["000000000003", "top1_relation"] == pytest.approx(506 / 512)  # whole videos
    assert frame.loc["000000000003", "macs_head_included"] is True or frame.loc["000000000003", "macs_head_included"]
    assert frame["top1"].isna().sum() == 3
    assert frame["train.steps"].dtype == "float64"
    assert frame["model.attention"].dtype == "string"
    assert (table.grid, table.device) == ("ablations", "example-cpu-3000")


def test_a_run_id_or_commit_of_digits_stays_text(tmp_path):
    synthetic_runs.write_run(tmp_path / "runs", "123456789012", synthetic_runs.config("LG"), {}, commit="1" * 40)
    synthetic_runs.write_grid(tmp_path / "runs", "one", {"123456789012": {}})
    collect.main(["--runs", str(tmp_path / "runs"), "--out", str(tmp_path)])
    frame = load.load_table(tmp_path / "one" / "example-cpu-3000.csv").frame
    assert frame["run_id"].tolist() == ["123456789012"]
    assert frame["provenance.commit"].tolist() == ["1" * 40]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda frame: frame.drop(columns=["top1", "params_m"]), "lacks the column(s) params_m, top1"),
        (lambda frame: frame.assign(schema_version="2"), "column 'schema_version' holds [2]"),
        (lambda frame: frame.assign(status="fine"), "column 'status' holds ['fine']"),
        (lambda frame: frame.assign(top1="high"), "column 'top1' should be float64"),
        (lambda frame: frame.assign(macs_head_included="perhaps"), "column 'macs_head_included' should be boolean"),
        (lambda frame: frame.iloc[1:], "its runs are not the 9 that its sheet expects"),
        (lambda frame: pd.concat([frame, frame.iloc[:1]]), "has two rows"),
    ],
)
def test_what_is_wrong_is_named(path, change, words):
    edit(path, change)
    with pytest.raises(load.LoadError) as error:
        load.load_table(path)
    assert words in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        (json.dumps({"schema_version": 9}), "has schema version 9"),
        (json.dumps({"schema_version": 1, "grid": "g"}), "lacks the field.s. device, "),
    ],
)
def test_a_bad_sheet_is_refused(path, text, words):
    path.with_suffix(".manifest.json").write_text(text)
    with pytest.raises(load.LoadError, match=words):
        load.load_table(path)


def test_a_table_without_sheet_is_refused(path):
    path.with_suffix(".manifest.json").unlink()
    with pytest.raises(load.LoadError, match=r"manifest\.json is missing"):
        load.load_table(path)


def test_the_first_folder_that_has_the_grid_is_taken(path, tmp_path, monkeypatch, capsys):
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv(load.RESULTS_VARIABLE, f"{tmp_path / 'empty'}:{tmp_path / 'out'}")
    assert [table.grid for table in load.load_grid("ablations")] == ["ablations"]
    assert load.load_grid("scaling") == []
    assert "no results of grid 'scaling'" in capsys.readouterr().out


def test_published_rows_all_have_numbers_and_a_source():
    published = load.load_published()
    assert published[["gmacs_total", "top1_percent", "source"]].notna().all(axis=None)
    assert published["top1_percent"].between(1, 100).all()
    assert published["name"].dropna().is_unique
    assert published["name"].notna().sum() == 10


def test_published_totals_are_views_times_cost_per_view():
    rows = load.load_published().dropna(subset=["gmacs_per_view", "views_temporal", "views_spatial"])
    views = rows["views_temporal"] * rows["views_spatial"]
    assert len(rows) > 100
    assert (rows["gmacs_per_view"] * views / rows["gmacs_total"]).to_numpy() == pytest.approx(1, abs=0.02)


def test_committed_tables_can_be_loaded_and_name_no_host():
    paths = sorted((ROOT / "analysis" / "results").glob("*/*.csv"))
    if not paths:
        pytest.skip("no results are committed")
    for path in paths:
        table = load.load_table(path)
        assert table.grid == path.parent.name
        assert not any(name.endswith(".host") for name in table.frame)
        assert set(table.frame["status"]) <= set(ROW_STATUSES)
