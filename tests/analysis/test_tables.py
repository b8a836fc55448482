"""Selections and statistics: exact where a closed value exists, and no row left out without a reason."""

import math

import pandas as pd
import pytest

from analysis import collect, load, tables
from dualformer.results.statistics import wilson_interval
from tests.helpers import synthetic_runs


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    collect.main(["--runs", str(synthetic_runs.write_all(folder / "runs")), "--out", str(folder / "out")])
    return {grid: load.load_grid(grid, [folder / "out"])[0] for grid in ("ablations", "scaling", "published_sizes")}


def test_ablation_keeps_every_row_in_figure_order(results):
    frame = tables.ablation(results["ablations"])
    assert list(frame["label"]) == ["LL", "LS", "GG", "LG", "DD", "FF", "GF", "LD", "LF"]
    assert tables.accuracies(frame) == ["top1_motion", "top1_relation"]
    dual = frame.set_index("label").loc["LG"]
    assert (dual["top1_relation_low"], dual["top1_relation_high"]) == wilson_interval(0.99, 256)
    assert set(tables.failures(frame)["reason"]) == {"loss is NaN at step 40", "started, not finished", "never started"}


def test_accuracy_table_shows_percent_and_leaves_gaps_empty(results):
    table = tables.accuracy_table(tables.ablation(results["ablations"])).set_index("pattern")
    assert table.loc["GG", "top1_motion %"] == "52.0 [45.8, 58.0]"
    assert table.loc["LD", "top1_motion %"] == ""
    assert table.loc["LD", "gmacs_per_view"] == "0.120"


def test_chance_levels():
    frame = pd.DataFrame({"top1_a": [0.5], "top1_b": [0.5], "chance_top1": [0.25], "num_classes": [4]})
    assert tables.chance(frame, "top1") == 0.25
    assert tables.chance(frame, "top1_a") == 0.5
    assert math.isnan(tables.chance(frame.assign(num_classes=6), "top1_a"))  # 2 x 3 values: which is which?
    assert math.isnan(tables.chance(frame.assign(num_classes=16), "top1_a"))  # 4 x 4 or 2 x 8
    assert tables.chance(frame.assign(num_classes=9), "top1_b") == pytest.approx(1 / 3)
    assert tables.chance(frame.assign(chance_top1_a=0.125), "top1_a") == 0.125


def test_data_without_factors_are_scored_by_top1_alone():
    frame = pd.DataFrame({"top1": [0.7, None], "status": ["ok", "error"]})
    assert tables.accuracies(frame) == ["top1"]
    assert tables.accuracies(frame.assign(top1=None)) == []


def test_labels_say_what_differs_but_the_seed(tmp_path):
    differs = {}
    for number, (pattern, steps) in enumerate([("LG", 100), ("LG", 200), ("FF", 100)]):
        run = synthetic_runs.config(pattern)
        run["train"]["steps"] = steps
        differs[str(number) * 12] = {"model.attention": pattern, "train.steps": steps, "seed": number}
        synthetic_runs.write_run(tmp_path / "runs", str(number) * 12, run, {})
    synthetic_runs.write_grid(tmp_path / "runs", "steps", differs)
    collect.main(["--runs", str(tmp_path / "runs"), "--out", str(tmp_path)])
    [table] = load.load_grid("steps", [tmp_path])
    assert tables.labels(table) == ["FF steps=100", "LG steps=100", "LG steps=200"]


def test_published_points_leave_out_second_reports_and_say_so():
    published = load.load_published()
    kept, left_out = tables.published_points(published)
    assert len(kept) + len(left_out) == len(published)
    assert left_out["reason"].notna().all()
    kept_names = set(zip(kept["model"], kept["variant"]))
    assert {("DualFormer", "T"), ("Video Swin", "B (22K)"), ("TimeSformer", "joint 8f (mmaction2)")} <= kept_names
    assert not {("DualFormer", "S (as cited)"), ("Video Swin", "T (mmaction2)")} & kept_names
    assert published["name"].dropna().isin(kept["name"]).all()


def test_pareto_front_is_what_nothing_beats():
    frame = pd.DataFrame({"cost": [1, 2, 2, 3, 4, None], "score": [5, 7, 6, 7, 9, 99]})
    front = tables.pareto_front(frame, "cost", "score")
    assert list(zip(front["cost"], front["score"])) == [(1, 5), (2, 7), (4, 9)]


def test_counts_are_joined_by_name(results):
    counts = tables.compare_counts(load.load_published(), [results["published_sizes"]]).set_index("name")
    assert len(counts) == 10
    assert counts.loc["vivit_base", "difference_percent"] == pytest.approx((451.6 / 455.2 - 1) * 100)
    assert counts.loc["video_swin_tiny", "our_gmacs_total"] == pytest.approx(88.06 * 12)


def test_counts_without_results_are_gaps():
    counts = tables.compare_counts(load.load_published(), [])
    assert len(counts) == 10
    assert counts["our_gmacs"].isna().all()


def test_growth_finds_both_lines_and_lists_the_rest(results):
    lines, left_out = tables.growth(results["scaling"])
    assert set(lines["frames"]["side_px"]) == {112}
    assert sorted(set(lines["frames"]["frames"])) == [8, 16, 32, 64]
    assert sorted(set(lines["side_px"]["side_px"])) == [56, 112, 224, 448]
    assert "oom" in set(lines["side_px"]["status"])
    assert lines["frames"].groupby("frames")["gmacs_relative"].min().tolist() == [1, 1, 1, 1]
    assert set(left_out["reason"]) == {"on neither line"}
    drawn = set(lines["frames"]["run_id"]) | set(lines["side_px"]["run_id"])
    assert drawn | set(left_out["run_id"]) == set(results["scaling"].frame["run_id"])


def test_growth_takes_pairs_of_sides():
    assert tables._side_px("[64, 256]") == 128
    assert tables._side_px(224.0) == 224
    assert math.isnan(tables._side_px(None))


def test_class_accuracy_and_calibration_are_shown_where_they_were_taken():
    columns = ("label", "status", "params_m", "gmacs_per_view", "latency_ms_p50", "peak_mem_gib", "run_id")
    frame = pd.DataFrame(
        {name: ["a", "b"] if name in ("label", "status", "run_id") else [1.0, 2.0] for name in columns}
    )
    frame = frame.assign(
        top1=[0.5, float("nan")], top1_low=0.4, top1_high=0.6, mean_class_accuracy=[0.25, float("nan")]
    )
    shown = tables.accuracy_table(frame)
    assert list(shown["mean_class_accuracy %"]) == ["25.0", ""]
    assert "calibration_error %" not in shown
