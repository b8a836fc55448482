"""Verifying: a sound result set passes, and every planted error is found, all at once."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from analysis import collect, verify
from dualformer.results import result_set
from tests.helpers import sound_runs

ROOT = Path(__file__).resolve().parents[2]
RUN, SECOND, THIRD = sorted(sound_runs.run_ids())


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return sound_runs.write_sweep(tmp_path_factory.mktemp("sound") / "runs")


@pytest.fixture
def runs(sound, tmp_path):
    shutil.copytree(sound, tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture
def table(runs, tmp_path):
    assert collect.main(["--runs", str(runs), "--out", str(tmp_path / "out")]) == 0
    return tmp_path / "out" / "patterns" / "example-cpu-3000.csv"


def change(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def edit(table, edited):
    edited(pd.read_csv(table, dtype=str, keep_default_na=False)).to_csv(table, index=False)


def reasons(path, **options):
    """By arithmetic alone: what else there is to say is looked at in `test_verify_anew`."""
    options = {"quick": True, **options}
    return [reason for found in result_set.read(path) for reason in verify.verify(found, **options)]


def test_sound_results_pass_as_runs_and_as_a_table(runs, table, capsys):
    assert verify.main([str(runs)]) == verify.main([str(table)]) == verify.main([str(table.parents[1])]) == 0
    assert "nothing speaks against it" in capsys.readouterr().out


@pytest.mark.parametrize("source", ["runs", "table"])
@pytest.mark.parametrize(
    ("file", "fields", "words"),
    [
        ("result", {"num_views": 12}, "num_views is 12, not 2 clips x 1 crops"),
        ("result", {"gmacs_total": 7.5}, "gmacs_total is 7.5, not 2 views x 0.0"),
        ("result", {"gflops_total": 0.11}, "gflops_total is 0.11, not 2 x 0.00"),
        ("result", {"top1": 93.5}, "top1 is 93.5, not a fraction from 0 to 1"),
        ("result", {"top1_relation": -0.1}, "top1_relation is -0.1, not a fraction"),
        ("result", {"top1": 0.9, "top5": 0.8}, "top1 <= top5 doesn't hold: 0.9, 0.8"),
        ("result", {"latency_ms_p20": 1000.0}, "latency_ms_p20 <= latency_ms_p50 <= latency_ms_p80 doesn't hold"),
        ("result", {"peak_mem_gib": 0}, "peak_mem_gib is 0, not positive"),
        ("result", {"params_m": "many"}, "params_m is 'many', not a number"),
        ("result", {"roofline_ms": 99.0}, "is below the least time that the machine's ceilings allow, 99 ms"),
        ("result", {"throughput_clips_per_s": 10.0}, "by its throughput a pass takes 200 ms: nobody waited"),
        ("result", {"flags": ["throttled: software power cap"]}, "while it was timed: throttled: software power cap"),
        ("result", {"flags": ["2 other processes on the GPU"]}, "while it was timed: 2 other processes on the GPU"),
        ("result", {"flags": ["times never settled"]}, "while it was timed: times never settled"),
        ("result", {"throughput_clips_per_s": 150.0}, "a pass takes 13.3333 ms, and no flag says why"),
        (
            "result",
            {"throughput_clips_per_s": 900.0},
            "a pass takes 2.22222 ms, below what the machine's ceilings give",
        ),
        ("result", {"latency_ms_p80": 14.0}, "vary, and no flag says so"),
        ("result", {"peak_mem_gib": 1e-9}, "peak_mem_gib is 1e-09, and the weights alone are"),
        ("result", {"reason": "well"}, "status 'ok', yet a reason why it isn't: well"),
        ("result", {"top1": 0.501}, "top1 0.501 of 64 videos is 32.06 videos, which is no whole number"),
        ("result", {"num_videos": 32}, "32 videos scored and 0 failed, of 64 in the data set"),
        ("result", {"chance_top1": 0.125}, "chance_top1 is 0.125, below 1 of 4 classes"),
        (
            "result",
            {"latency_ms_p50": None, "top1": None},
            "ok, yet without latency_ms_p50, top1, for which its config",
        ),
        ("result", {"compile_s": 3.0}, "has compile_s, for which its config doesn't ask"),
        ("provenance", {"threads": 2}, "ran with 2 threads, and 1 were asked for"),
        ("provenance", {"driver": "550"}, "ran on a cpu, yet has driver"),
        ("provenance", {"finished_utc": "2025-01-01"}, "before it started"),
        ("provenance", {"measurement_version": 0}, "measurement version 0: its numbers don't mean"),
        ("result", {"flags": ["bound by the host: starting takes 9 of 9 ms"]}, "while it was timed: bound by the host"),
        ("provenance", {"commit": None, "torch": None}, "missing provenance: commit, torch"),
        ("provenance", {"device": "cuda"}, "missing provenance: cuda, driver"),
        ("provenance", {"torch": "2.6.0"}, "mixed torch: 2.13.0, 2.6.0"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else value,
)
def test_planted_error_is_found(runs, tmp_path, source, file, fields, words):
    change(runs / RUN / f"{file}.json", **fields)
    if source == "table":
        assert collect.main(["--runs", str(runs), "--out", str(tmp_path / "out")]) == 0
    assert any(words in reason for reason in reasons(runs if source == "runs" else tmp_path / "out"))
    assert verify.main([str(runs)]) == 1


def test_mixed_hardware_is_found(runs):
    change(runs / RUN / "provenance.json", device_name="NVIDIA H200")
    assert reasons(runs) == ["mixed device_name: Example(R) CPU 3000, NVIDIA H200"]


def test_busy_neighbours_of_a_cpu_are_for_the_reader(runs):
    change(runs / RUN / "result.json", flags=["other processes used 0.4 cores"])
    assert reasons(runs) == []


def test_disturbed_times_can_be_allowed(runs):
    change(runs / RUN / "result.json", flags=["throttled: software power cap"])
    assert verify.main([str(runs)]) == 1
    assert verify.main([str(runs), "--allow-disturbed", "--quick"]) == 0


def test_dirty_tree_is_found_where_a_clean_one_is_claimed(runs):
    change(runs / RUN / "provenance.json", dirty=True)
    assert reasons(runs) == [f"{RUN}: ran from a dirty tree, and a clean one is claimed"]


def test_admitted_dirt_passes_unless_cleanliness_is_asked_for(runs, tmp_path):
    change(runs / RUN / "provenance.json", dirty=True)
    assert collect.main(["--runs", str(runs), "--out", str(tmp_path / "out")]) == 0
    assert reasons(tmp_path / "out") == []
    assert len(reasons(tmp_path / "out", clean=True)) == 1


def test_whitewashed_sheet_is_found(runs, tmp_path):
    change(runs / RUN / "provenance.json", dirty=True)
    assert collect.main(["--runs", str(runs), "--out", str(tmp_path / "out")]) == 0
    change(next((tmp_path / "out").rglob("*.manifest.json")), dirty=False, commits=["f" * 40])
    assert len(reasons(tmp_path / "out")) == 3


def test_copied_run_is_found(runs):
    copy = runs / ("e" * 12)
    copy.mkdir()
    for path in (runs / RUN).iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    assert f"{copy / 'result.json'} is the result of run {RUN}" in reasons(runs)
    change(copy / "result.json", run_id="e" * 12)
    assert reasons(runs) == [f"{'e' * 12}: the same configuration as {RUN}"]


def test_one_choice_of_two_networks_is_no_copy(runs):
    """As after an edit of a model's default."""
    copy = runs / ("e" * 12)
    copy.mkdir()
    for path in (runs / RUN).iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    change(copy / "result.json", run_id="e" * 12)
    change(copy / "provenance.json", network="0123456789ab")
    assert reasons(runs) == []


def test_repeated_dropped_and_foreign_rows_of_a_table_are_found(table):
    edit(table, lambda frame: pd.concat([frame.iloc[1:], frame.iloc[1:2]]))
    first, second = json.loads(table.with_suffix(".manifest.json").read_text())["expected"][:2]
    told = reasons(table)
    assert (told[0], told[-1]) == (f"{first}: no row, though the sheet expects one", f"{second}: 2 rows of one run")
    edit(table, lambda frame: frame.assign(run_id=["d" * 12, *frame["run_id"][1:]]))
    assert f"{'d' * 12}: a row that the sheet doesn't expect" in reasons(table)


def test_table_without_sheet_is_found(table):
    table.with_suffix(".manifest.json").unlink()
    assert f"{table.with_suffix('.manifest.json')} is missing" in reasons(table)


def test_unknown_schema_and_status_are_found(runs, table):
    edit(table, lambda frame: frame.assign(schema_version="7", status="fine"))
    assert f"{RUN}: unknown schema version 7" in reasons(table)
    assert f"{RUN}: unknown status 'fine'" in reasons(table)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("64,", "much,"),
        lambda text: text.replace("ok", "ok,ok,ok"),
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("run_id", "id"),
        lambda text: "\0" + text,
    ],
    ids=["word", "cells", "half", "header", "null"],
)
def test_damaged_table_is_rejected_and_never_crashes(table, damage):
    table.write_text(damage(table.read_text()))
    assert verify.main([str(table)]) == 1


@pytest.mark.parametrize("file", ["result", "config", "provenance"])
@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"run_id": [1], "flags": 3}'])
def test_damaged_record_is_rejected_and_never_crashes(runs, file, text):
    (runs / RUN / f"{file}.json").write_text(text)
    assert verify.main([str(runs)]) == 1


def test_every_reason_is_listed_at_once(runs, capsys):
    change(runs / RUN / "result.json", num_views=3, top1=2.0, flags=["throttled: hardware slowdown"])
    change(runs / SECOND / "provenance.json", dirty=True)
    (runs / THIRD / "config.json").write_text("{")
    assert verify.main([str(runs)]) == 1
    output = capsys.readouterr().out
    for words in ("clips x 1 crops", "3 views x", "fraction", "throttled", "dirty tree", "is not JSON"):
        assert words in output


def test_nothing_to_check_is_an_error(tmp_path, capsys):
    assert verify.main([str(tmp_path)]) == verify.main([str(tmp_path / "nowhere")]) == 2
    errors = capsys.readouterr().err
    assert "neither run folders nor tables" in errors and "no file or folder" in errors


def test_committed_results_pass():
    folder = ROOT / "analysis" / "results"
    if not list(folder.glob("*/*.csv")):
        pytest.skip("no results are committed")
    assert reasons(folder, allow_disturbed=True, quick=False) == []
