"""Each fact about a result field stands once: what reads tables, checks, compares and writes follows."""

import json

import pandas as pd

from analysis import collect, compare, load, regenerate, verify
from dualformer.results import result, result_set
from dualformer.results.fields import field

TABLE = "ablations/example-cpu-3000.csv"


def set_result(runs, run_id, **fields):
    path = runs / run_id / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_a_new_metric_is_one_line(runs, tmp_path, monkeypatch, capsys):
    class Longer(result.Result):
        latency_ms_p99: float | None = field("timed", "ms", "likewise: 99th percentile", positive=True, optional=True)
        idle_share: float | None = field("noted", "fraction", "time without work", optional=True)

    monkeypatch.setattr(result, "Result", Longer)
    set_result(runs, "0" * 12, latency_ms_p99=-3, idle_share=0.5)
    set_result(runs, f"{1:012x}", latency_ms_p99=6.0, idle_share=7.0)
    assert collect.main(["--runs", str(runs), "--out", str(tmp_path / "out")]) == 0
    frame = load.load_table(tmp_path / "out" / TABLE).frame
    assert list(frame).index("latency_ms_p99") < list(frame).index("top1_motion"), "among the results, not the choices"
    assert (frame["latency_ms_p99"].dtype, frame["idle_share"].dtype) == ("float64", "float64")
    for source in (runs, tmp_path / "out"):
        reasons = [
            reason
            for found in result_set.read(source)
            for reason in verify.verify(found, quick=True, allow_missing=True)
        ]
        assert reasons == [
            f"{0:012x}: latency_ms_p99 is -3, not positive",
            f"{1:012x}: idle_share is 7, not a fraction from 0 to 1",
        ]
    assert compare.main([str(runs), str(runs), "--metric", "latency_ms_p99"]) == 0
    assert "model.attention" in capsys.readouterr().out or True
    assert "latency_ms_p99" in result.of_kind("timed")
    older = pd.read_csv(tmp_path / "out" / TABLE, dtype=str).drop(columns=["latency_ms_p99", "idle_share"])
    older.to_csv(tmp_path / "out" / TABLE, index=False)
    assert load.load_table(tmp_path / "out" / TABLE).frame["idle_share"].isna().all(), "an older table is read"


def test_a_table_that_pandas_saved_again_is_read_as_before(runs, table, capsys):
    before = load.load_table(table).frame
    for path in runs.glob("*/config.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "measure": {"tf32": False, "batch_size": 2}}))
    collect.main(["--runs", str(runs), "--out", str(table.parents[1])])
    pd.read_csv(table).to_csv(table, index=False)
    assert "False" in table.read_text() and ",2.0," in table.read_text(), "as pandas writes it"
    assert verify.main([str(table), "--quick", "--allow-missing"]) == 0
    assert compare.main([str(table), str(runs), "--metric", "gmacs_per_view"]) == 0
    assert compare.main([str(runs), str(table)]) == 0
    after = load.load_table(table).frame
    assert after["provenance.dirty"].dropna().tolist() == before["provenance.dirty"].dropna().tolist()
    assert after["num_views"].dtype == "Int64" and after["measure.tf32"].dtype == "boolean"


def test_a_column_that_every_table_has_is_missed_by_all_alike(table, tmp_path, capsys):
    pd.read_csv(table, dtype=str).drop(columns="latency_ms_p50").to_csv(table, index=False)
    words = "lacks the column(s) latency_ms_p50"
    assert verify.main([str(table)]) == 1
    assert words in capsys.readouterr().out
    assert regenerate.main(["--results", str(table.parents[1]), "--figures", str(tmp_path / "figures")]) == 2
    assert words in capsys.readouterr().err
    assert compare.main([str(table), str(table)]) == 2
    assert words in capsys.readouterr().err


def test_single_runs_folders_of_runs_and_tables_are_compared_alike(runs, table, capsys):
    one = runs / f"{3:012x}"
    for a in (one, runs, table, table.parents[1]):
        for b in (one, runs, table):
            assert compare.main([str(a), str(b), "--metric", "gmacs_per_view"]) == 0, (a, b)
            assert f"{0.13:11.5g} {0.13:11.5g}   1.000  equal" in capsys.readouterr().out
    other = runs / f"{4:012x}"
    assert compare.main([str(one), str(other)]) == 2
    assert "model.attention" in capsys.readouterr().err
    assert compare.main([str(one), str(other), "--across", "model.attention"]) == 0
    assert compare.main([str(runs / ("b" * 12)), str(one)]) == 2
    assert "has no result: it isn't finished" in capsys.readouterr().err


def test_tables_inside_a_run_folder_are_no_result_tables(runs, capsys):
    (runs / ("b" * 12) / "predictions.csv").write_text("file,label\na.mp4,0\n")
    for path in runs.glob("*/result.json"):
        path.unlink()
    assert verify.main([str(runs)]) == 2
    assert "neither run folders nor tables" in capsys.readouterr().err


def test_every_field_says_what_it_is():
    for name, about in result.fields().items():
        assert about.meaning, name
        assert about.unit or not about.is_number or name in ("schema_version", "final_train_loss"), name
        assert not (about.positive and about.is_fraction), name
    assert set(result.of_kind("timed")) >= {"latency_ms_p50", "energy_j_per_clip"}
    assert not {"flags", "macs_head_included", "gate", "schema_version"} & set(result.metrics())
