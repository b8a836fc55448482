"""Runs to tables: nothing lost, nothing mixed, the same bytes for the same runs."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from analysis import collect, load, verify
from dualformer.results import result_set
from dualformer.results.code import digest
from dualformer.results.result import SCHEMA_VERSION
from tests.helpers import synthetic_runs

ROOT = Path(__file__).resolve().parents[2]


def read(path):
    with open(path, newline="") as file:
        return {row["run_id"]: row for row in csv.DictReader(file)}


def test_every_expected_run_is_a_row_with_its_status_and_reason(table):
    rows = read(table)
    assert len(rows) == 9
    assert [rows[letter * 12]["status"] for letter in "abc"] == ["error", "missing", "missing"]
    assert rows["a" * 12]["reason"] == "loss is NaN at step 40"
    assert rows["b" * 12]["reason"] == "started, not finished"
    assert rows["c" * 12]["reason"] == "never started"
    assert rows["c" * 12]["model.attention"] == "GF"


def test_missing_values_stay_empty(table):
    row = read(table)["a" * 12]
    assert row["top1"] == row["latency_ms_p50"] == row["peak_mem_gib"] == ""


def test_configuration_is_flat_and_the_host_stays_behind(table):
    row = read(table)["000000000003"]
    assert (row["model.attention"], row["train.steps"], row["top1_relation"]) == ("LG", "500", "0.98828125")
    assert row["provenance.torch"] == "2.13.0"
    assert not any("host" in name or "command" in name for name in row)
    assert "a-secret-host" not in table.read_text() + table.with_suffix(".manifest.json").read_text()


def test_the_sheet_says_what_is_there_and_what_is_not(table):
    sheet = json.loads(table.with_suffix(".manifest.json").read_text())
    assert sheet["schema_version"] == SCHEMA_VERSION
    assert sheet["commits"] == [synthetic_runs.COMMIT]
    assert sheet["missing"] == ["c" * 12, "b" * 12]
    assert set(sheet["expected"]) == set(sheet["finished"]) | set(sheet["missing"])
    assert sheet["text"] == "base: {}\n"


def test_same_runs_give_the_same_bytes_whatever_the_order_of_the_launch_record(runs, table):
    before = table.read_bytes()
    path = runs / "ablations.grid.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "runs": record["runs"][::-1]}))
    assert collect.main(["--runs", str(runs), "--out", str(table.parents[1])]) == 0
    assert table.read_bytes() == before


def test_rows_sort_numbers_by_size(tmp_path):
    for run_id, frames in (("1" * 12, 16), ("2" * 12, 128), ("3" * 12, 8)):
        synthetic_runs.write_run(tmp_path, run_id, synthetic_runs.config("LG", frames=frames), {})
    differs = {
        run_id: {"model.num_frames": frames} for run_id, frames in (("1" * 12, 16), ("2" * 12, 128), ("3" * 12, 8))
    }
    synthetic_runs.write_grid(tmp_path, "frames", differs)
    [(_, rows)] = collect.collect(tmp_path, *collect.find_records(tmp_path))
    assert [row["model.num_frames"] for row in rows] == [8, 16, 128]


def test_mixed_commits_are_refused_unless_allowed(runs, tmp_path, capsys):
    path = runs / "000000000000" / "provenance.json"
    path.write_text(json.dumps({**synthetic_runs.PROVENANCE, "commit": "f" * 40}))
    command = ["--runs", str(runs), "--out", str(tmp_path / "out")]
    assert collect.main(command) == 2
    message = capsys.readouterr().err
    assert "f" * 40 in message
    assert "--allow-mixed-code" in message
    assert not (tmp_path / "out").exists()
    assert collect.main([*command, "--allow-mixed-code"]) == 0
    sheet = json.loads((tmp_path / "out/ablations/example-cpu-3000.manifest.json").read_text())
    assert sheet["commits"] == [synthetic_runs.COMMIT, "f" * 40]


def test_uncommitted_changes_of_one_commit_are_mixed_code_too(runs, tmp_path, capsys):
    for number in range(6):
        code = "123456789012" if number else "00000000000e"  # both look like numbers
        path = runs / f"{number:012d}" / "provenance.json"
        path.write_text(json.dumps({**synthetic_runs.PROVENANCE, "dirty": True, "code": code}))
    command = ["--runs", str(runs), "--out", str(tmp_path / "out")]
    assert collect.main(command) == 2
    message = capsys.readouterr().err
    assert "1 of 00000000000e, 5 of 123456789012" in message and "--allow-mixed-code" in message
    assert collect.main([*command, "--allow-mixed-code"]) == 0
    path = tmp_path / "out/ablations/example-cpu-3000.csv"
    sheet = json.loads(path.with_suffix(".manifest.json").read_text())
    assert sheet["codes"] == {"00000000000e": {}, "123456789012": {}}
    assert set(load.load_table(path).frame["provenance.code"].dropna()) == {"00000000000e", "123456789012"}
    (reason,) = [told for told in checked(result_set.read_table(path)) if told.startswith("mixed")]
    assert reason.startswith("mixed code: 00000000000e, 123456789012 (")


def checked(found):
    """What speaks against invented numbers of a grid that isn't finished."""
    return verify.verify(found, quick=True, allow_missing=True)


def write_code(run, **files):
    """Makes a run one of these project files, and so of today, when more is kept of each run."""
    path = run / "provenance.json"
    code = {"code": digest(files), "code_files": files, "network": "0" * 12}
    path.write_text(json.dumps({**json.loads(path.read_text()), **code}))
    result = json.loads((run / "result.json").read_text())
    if result["status"] == "ok":
        newer = {"train_gmacs_per_clip": 0.3, "data_wait_share": 0.1, "in_order_share": 0.0, "calibration_error": 0.1}
        (run / "result.json").write_text(json.dumps({**result, **newer, "mean_class_accuracy": result["top1"]}))


def test_files_that_one_run_alone_used_are_no_mixed_code(runs, tmp_path):
    """As after adding an attention, a grid or a test."""
    for number in range(6):
        own = {"dualformer/attention/new.py": "ffffffffffff"} if number == 3 else {}
        commit = "e" * 40 if number == 3 else synthetic_runs.COMMIT
        write_code(runs / f"{number:012d}", **{"dualformer/macs.py": "000000000000", **own})
        path = runs / f"{number:012d}" / "provenance.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "commit": commit}))
    write_code(runs / ("a" * 12), **{"dualformer/macs.py": "000000000000"})
    assert collect.main(["--runs", str(runs), "--out", str(tmp_path / "out")]) == 0
    path = tmp_path / "out/ablations/example-cpu-3000.csv"
    codes = json.loads(path.with_suffix(".manifest.json").read_text())["codes"]
    assert sorted(len(files) for files in codes.values()) == [1, 2]
    for source in (path, runs):
        assert [reason for found in result_set.read(source) for reason in checked(found)] == []


def test_a_file_that_two_runs_used_and_that_changed_is_mixed_code_and_named(runs, tmp_path, capsys):
    for number in range(6):
        write_code(runs / f"{number:012d}", **{"dualformer/macs.py": f"{number // 5:012d}", "sweeps/run.py": "1" * 12})
    write_code(runs / ("a" * 12), **{"sweeps/run.py": "1" * 12})
    assert collect.main(["--runs", str(runs), "--out", str(tmp_path / "out")]) == 2
    assert "mixed code: dualformer/macs.py differs between rows" in capsys.readouterr().err
    assert collect.main(["--runs", str(runs), "--out", str(tmp_path / "out"), "--allow-mixed-code"]) == 0
    for source in (tmp_path / "out", runs):
        told = [reason for found in result_set.read(source) for reason in checked(found)]
        assert told == ["mixed code: dualformer/macs.py differs between rows"]


def test_each_device_has_its_own_table_and_missing_runs_are_in_all(runs, tmp_path):
    path = runs / "000000000000" / "provenance.json"
    path.write_text(json.dumps({**synthetic_runs.PROVENANCE, "device_name": "NVIDIA H200"}))
    assert collect.main(["--runs", str(runs), "--out", str(tmp_path / "out")]) == 0
    gpu, cpu = (read(tmp_path / "out" / "ablations" / f"{name}.csv") for name in ("nvidia-h200", "example-cpu-3000"))
    assert set(gpu) == {"000000000000", "c" * 12}
    assert len(cpu) == 8
    assert "c" * 12 in cpu
    assert "000000000000" not in cpu


def test_results_without_provenance_are_kept(runs, tmp_path):
    for path in runs.glob("*/provenance.json"):
        path.unlink()
    assert collect.main(["--runs", str(runs), "--out", str(tmp_path / "out")]) == 0
    assert len(read(tmp_path / "out" / "ablations" / "unknown-device.csv")) == 9


def test_tables_do_not_say_whose_home_folder_it_was(runs, tmp_path):
    path = runs / "000000000000" / "result.json"
    reason = f"{Path.home()}/clips/1.mp4 is empty"
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": "error", "reason": reason}))
    assert collect.main(["--runs", str(runs), "--out", str(tmp_path / "out")]) == 0
    assert read(tmp_path / "out/ablations/example-cpu-3000.csv")["000000000000"]["reason"] == "~/clips/1.mp4 is empty"


def test_fields_that_only_a_result_knows_are_kept(runs, tmp_path):
    path = runs / "000000000000" / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "temperature_c": 61.5}))
    assert collect.main(["--runs", str(runs), "--out", str(tmp_path / "out")]) == 0
    assert read(tmp_path / "out/ablations/example-cpu-3000.csv")["000000000000"]["temperature_c"] == "61.5"


def test_disturbances_compile_time_and_bound_are_carried(runs, tmp_path):
    path = runs / "000000000000" / "result.json"
    fields = {"flags": ["throttled: software power cap"], "compile_s": 12.5, "roofline_ms": 0.75}
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    assert collect.main(["--runs", str(runs), "--out", str(tmp_path / "out")]) == 0
    row = load.load_table(tmp_path / "out/ablations/example-cpu-3000.csv").frame.set_index("run_id").loc["0" * 12]
    assert json.loads(row["flags"]) == fields["flags"]
    assert (row["compile_s"], row["roofline_ms"]) == (12.5, 0.75)


def test_a_torn_result_is_a_missing_row(runs, tmp_path):
    (runs / "000000000000" / "result.json").write_text('{"schema_version": 1, "run')
    assert collect.main(["--runs", str(runs), "--out", str(tmp_path / "out")]) == 0
    row = read(tmp_path / "out/ablations/example-cpu-3000.csv")["000000000000"]
    assert (row["status"], row["reason"]) == ("missing", "result.json is not readable JSON")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema_version": 7}, "schema version 7"),
        ({"run_id": "f" * 12}, "is the result of run ffffffffffff"),
        ({"status": "fine"}, "unknown status 'fine'"),
    ],
)
def test_a_result_that_is_not_what_it_claims_is_refused(runs, tmp_path, capsys, change, words):
    path = runs / "000000000000" / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert collect.main(["--runs", str(runs), "--out", str(tmp_path / "out")]) == 2
    assert words in capsys.readouterr().err


def test_a_table_with_more_finished_runs_is_not_replaced_unless_told(runs, tmp_path, capsys):
    arguments = ["--runs", str(runs), "--out", str(tmp_path / "out")]
    assert collect.main(arguments) == 0
    table, sheet = (tmp_path / "out/ablations" / f"example-cpu-3000{ending}" for ending in (".csv", ".manifest.json"))
    before = table.read_bytes(), sheet.read_bytes()
    (runs / "000000000000" / "result.json").unlink()
    assert collect.main(arguments) == 2
    assert "has 7 finished runs, and these are 6" in capsys.readouterr().err
    assert (table.read_bytes(), sheet.read_bytes()) == before
    assert collect.main([*arguments, "--replace"]) == 0 == collect.main(arguments)
    assert table.read_bytes() != before[0]


def test_a_user_without_a_home_can_collect(runs, tmp_path, monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("pathlib.Path.home", homeless)
    assert collect.main(["--runs", str(runs), "--out", str(tmp_path / "out")]) == 0


def test_unknown_grid_suggests_the_nearest(runs, capsys):
    assert collect.main(["--runs", str(runs), "--grid", "ablation.yaml"]) == 2
    assert "did you mean 'ablations'?" in capsys.readouterr().err


def test_nothing_launched_and_nothing_finished_are_errors(tmp_path, capsys):
    assert collect.main(["--runs", str(tmp_path)]) == 2
    assert "no grid was launched" in capsys.readouterr().err
    (tmp_path / "ablations.grid.json").write_text('{"runs": [1]}')
    assert collect.main(["--runs", str(tmp_path)]) == 2
    assert "is not a launch record" in capsys.readouterr().err
    synthetic_runs.write_grid(tmp_path, "ablations", {"a" * 12: {}})
    assert collect.main(["--runs", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "has finished yet" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_table_that_can_not_be_written_leaves_the_old_one(runs, table, monkeypatch, capsys):
    before = table.read_bytes()
    (runs / "000000000000" / "result.json").unlink()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert collect.main(["--runs", str(runs), "--out", str(table.parents[1]), "--replace"]) == 2
    assert "No space left" in capsys.readouterr().err
    assert table.read_bytes() == before
    assert not list(table.parent.glob(".*"))


def test_the_script_runs_from_a_checkout_without_heavy_imports(runs, tmp_path):
    code = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='loaded');"
    code += "print({'torch', 'pandas', 'matplotlib'} & set(sys.modules))"
    script = str(ROOT / "analysis" / "collect.py")
    loaded = subprocess.run([sys.executable, "-c", code, script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "set()"
    command = [sys.executable, script, "--runs", str(runs), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "9 rows (6 ok, 1 error, 2 missing)" in done.stdout
