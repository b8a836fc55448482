"""Launches by the local executor: what they leave, what they say, and what becomes of runs that fail."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from dualformer.data import progress
from dualformer.results.files import read_lines
from dualformer.results.result import read_result
from sweeps import machine_lock
from sweeps.launching import following, ledger
from tests.helpers.launches import GRID, ROOT, computed, listed, run, run_dirs
from tests.helpers.small_run import MODEL, write_bright_and_dark


def test_a_sweep_leaves_its_files_and_is_not_done_twice(folder: Path, capsys: pytest.CaptureFixture):
    assert run("ok") == 0
    for run_dir in run_dirs():
        assert read_result(run_dir).status == "ok"
        assert json.loads((run_dir / "config.json").read_text())["model"]["crop_size"] == 16
        assert "=== attempt" in (run_dir / "log").read_text()
        assert [event["event"] for event in ledger.read(run_dir)] == ["submit", "submitted", "start", "end"]
    record = json.loads(Path("runs/three.grid.json").read_text())
    assert [listed["run_id"] for listed in record["runs"]] == [run_dir.name for run_dir in run_dirs()]
    assert [listed["differs"] for listed in record["runs"]] == [{"seed": 0}, {"seed": 1}, {"seed": 2}]
    assert record["text"] == GRID and "commit" in record
    assert "top-1 0.500" in capsys.readouterr().out
    assert run("ok") == 0
    assert computed() == [1, 1, 1]
    assert "3 finished before" in capsys.readouterr().out


def test_a_failed_run_is_a_row_and_stops_no_other(folder: Path, capsys: pytest.CaptureFixture):
    assert run("seed_1_raises") == 1
    results = [read_result(run_dir) for run_dir in run_dirs()]
    assert [result.status for result in results] == ["ok", "error", "ok"]
    assert results[1].reason == "ValueError: seed 1 is unlucky"
    assert "Traceback" in (run_dirs()[1] / "log").read_text()
    assert "seed 1 is unlucky" in capsys.readouterr().out
    assert run("ok") == 1, "a failure stays one until it is asked for again"
    assert run("ok", "--retry", "error") == 0
    assert computed() == [1, 1, 1]
    assert json.loads((run_dirs()[1] / "result.1.json").read_text())["status"] == "error"


def test_a_run_that_keeps_dying_is_given_up_with_its_last_words(folder: Path):
    assert run("killed", "--only", "seed=0") == 1
    result = read_result(run_dirs()[0])
    assert result.status == "error"
    assert re.search(r"process was killed.*log ends: .*last words.*attempt 2", result.reason)
    assert [event["event"] for event in ledger.read(run_dirs()[0])].count("start") == 2


def test_a_run_that_died_once_is_tried_again(folder: Path):
    assert run("killed_once") == 0
    assert computed() == [1, 1, 1]


def test_ending_well_without_a_result_is_not_success(folder: Path):
    assert run("forgetful", "--only", "seed=0") == 1
    assert read_result(run_dirs()[0]).status == "error"


def test_a_torn_result_is_computed_again(folder: Path):
    assert run("ok", executor="debug") == 0
    torn = run_dirs()[2] / "result.json"
    torn.write_text(torn.read_text()[:100])
    assert run("ok", executor="debug") == 0
    assert computed() == [1, 1, 2]


def test_an_edited_grid_adds_its_new_runs_and_keeps_the_old(folder: Path):
    assert run("ok", executor="debug") == 0
    old = run_dirs()
    Path("three.yaml").write_text(GRID.replace("[0, 1, 2]", "[0, 1, 3]"))
    assert run("ok", executor="debug") == 0
    assert computed() == [1, 1, 1]
    assert read_result(old[2]).status == "ok"
    record = json.loads(Path("runs/three.grid.json").read_text())
    assert sorted(listed["differs"]["seed"] for listed in record["runs"]) == [0, 1, 2, 3]


def test_rows_of_other_code_are_pointed_out(folder: Path, capsys: pytest.CaptureFixture):
    assert run("ok", executor="debug") == 0
    (run_dirs()[0] / "provenance.json").write_text(
        '{"code": "0", "code_files": {"sweeps/run.py": "0123456789ab", "gone.py": "0"}}'
    )
    assert run("ok", executor="debug") == 0
    assert "1 finished runs used files that have changed since (sweeps/run.py)" in capsys.readouterr().out


def test_gpus_are_shared_out_between_runs_of_different_needs(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    Path("two.yaml").write_text("max_attempts: 2\n")
    rows = "rows: [{seed: 7, resources.gpus_per_node: 2}, {seed: 8, resources.gpus_per_node: 3}]\n"
    Path("three.yaml").write_text(GRID + rows)
    assert run("sees_gpus") == 0
    seen = {run_dir: read_lines(run_dir / "seen.jsonl") for run_dir in run_dirs()}
    assert [len(lines) for lines in seen.values()] == [1, 1, 1, 2, 3], "a process for each GPU"
    assert [len(lines[0]["gpus"].split(",")) for lines in seen.values()] == [1, 1, 1, 2, 3]
    first = [lines[0] for lines in seen.values()]
    spans = [(line["start"], line["end"], gpu) for line in first for gpu in line["gpus"].split(",")]
    for start, end, gpu in spans:
        assert sum(other == gpu and begun < end and start < ended for begun, ended, other in spans) == 1


@pytest.mark.slow
def test_two_processes_of_one_machine_reach_the_weights_of_one(folder: Path):
    write_bright_and_dark(Path("data"))
    # What is dropped at random depends on the shape of a process' share, so nothing is.
    model = {**MODEL, "overrides": {**MODEL["overrides"], "drop_path_rate": 0.0}}
    train = {"steps": 10, "batch_size": 8, "warmup_steps": 2, "save_every": 5}
    base = {"model": model, "data": {"root": "data"}, "train": train, "measure": {"latency": False}}
    Path("three.yaml").write_text(yaml.safe_dump({"base": base}))
    (run_dir,) = run_dirs()
    weights = []
    for processes in (1, 2):
        Path("two.yaml").write_text(f"tasks_per_node: {processes}\n")
        assert run("trained") == 0, read_result(run_dir)
        assert json.loads((run_dir / "provenance.json").read_text())["num_processes"] == processes
        weights.append(torch.load(run_dir / "kept.pt", weights_only=True)["model"])
        shutil.rmtree(run_dir)
    one, two = weights
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-5)


def test_the_script_starts_without_an_installed_package(folder: Path):
    script = ROOT / "sweeps" / "launch.py"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, str(script), "--grid", "three.yaml", "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")


def test_failed_runs_are_told_with_the_flag_that_computes_them_again(folder: Path, capsys: pytest.CaptureFixture):
    run("seed_1_raises", executor="debug")
    told = capsys.readouterr().out
    assert "the same command with --retry error computes the 1 that failed again" in told
    run("seed_1_raises", executor="debug")
    assert "--retry error" in capsys.readouterr().out
    assert run("ok", "--retry", "error", executor="debug") == 0
    assert "--retry" not in capsys.readouterr().out


def test_the_order_and_number_of_runs_can_be_limited(folder: Path):
    assert run("ok", "--limit", "1", "--axis", "seed=7,8", executor="debug") == 0
    assert [differs["seed"] for differs in listed().values()] == [7]
    (launch,) = json.loads(Path("runs/three.grid.json").read_text())["launches"]
    assert launch["arguments"][-2:] == ["--limit=1", "--axis=seed=7,8"]


def test_a_launcher_says_what_its_runs_wait_for(folder: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    assert following._REPORT_EVERY_S <= 15 and machine_lock.REPEAT_S <= 15 and progress.INTERVAL_S <= 15
    monkeypatch.setattr(following, "_REPORT_EVERY_S", 0.3)
    assert run("drawing", "--only", "seed=0") == 0
    said = capsys.readouterr().out
    assert "1 under way, 0 waiting; " in said and "embedded data set: drawing and encoding: 8/4608 clips" in said


def test_help_is_quick_and_needs_no_torch(folder: Path):
    for name in ("launcher", "status", "logs", "cancel", "retry"):
        program = (
            f"import sys, argparse; import sweeps.launching.{name} as command; parser = argparse.ArgumentParser()\n"
            "command.add_arguments(parser); parser.format_help()\n"
            "assert all(action.help for action in parser._actions)\n"
            "assert not {'torch', 'pandas', 'matplotlib'} & set(sys.modules), 'torch'"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, (name, done.stderr)
