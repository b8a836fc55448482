"""Launches that are repeated, killed, left alone or several at once lose nothing and do nothing twice."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from analysis import collect
from dualformer.results.result import read_result
from sweeps.launching import detached, ledger, retry, status
from sweeps.launching.grid import load_grid
from tests.helpers.launches import ROOT, computed, listed, run, run_dirs


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


class Launcher:
    """The command line in a process of its own, as from a shell."""

    def __init__(self, worker: str, *flags: str) -> None:
        program = (
            f"import sys; from sweeps.launching.launcher import main; sys.exit(main(sys.argv[1:], worker='{worker}'))"
        )
        arguments = ["--grid", "three.yaml", "--profile", "two.yaml", "--executor", "local", *flags]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
            # Where the tests run in the background, Ctrl-C is ignored, and what they start would ignore it too.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip

    def end(self) -> tuple[int, str]:
        output, _ = self.process.communicate(timeout=120)
        return self.process.returncode, output


@pytest.fixture
def launcher(folder: Path):
    started = []

    def launcher(worker: str, *flags: str) -> Launcher:
        started.append(Launcher(f"tests.helpers.fake_workers:{worker}", *flags))
        return started[-1]

    yield launcher
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
            each.process.wait()


def test_launching_some_rows_does_not_forget_the_others(folder: Path):
    assert run("ok", executor="debug") == 0
    assert run("ok", "--only", "seed=1", executor="debug") == 0
    assert len(json.loads(Path("runs/three.grid.json").read_text())["runs"]) == 3


def test_launches_of_one_grid_with_other_values_are_all_listed(folder: Path, capsys: pytest.CaptureFixture):
    assert run("seed_1_raises", executor="debug") == 1
    assert run("seed_1_raises", "--set", "train.steps=7", executor="debug") == 1
    assert run("ok", "--set", "train.steps=7", "--only", "seed=0", executor="debug") == 0
    shown = [(differs["seed"], differs["train.steps"]) for differs in listed().values()]
    assert sorted(shown) == [(0, 0), (0, 7), (1, 0), (1, 7), (2, 0), (2, 7)]
    launches = json.loads(Path("runs/three.grid.json").read_text())["launches"]
    assert [launch["overrides"] for launch in launches] == [{}, {"train.steps": 7}, {"train.steps": 7}]
    assert [len(launch["runs"]) for launch in launches] == [3, 3, 1]
    capsys.readouterr()
    assert status.main([]) == 0
    assert "three: 6 runs, 4 ok, 2 error" in capsys.readouterr().out
    (table,) = collect.collect(Path("runs"), *collect.find_records(Path("runs")))
    assert len(table[1]) == 6 and sorted(row["train.steps"] for row in table[1]) == [0, 0, 0, 7, 7, 7]


def test_retry_goes_on_with_each_launch_of_a_grid(folder: Path, monkeypatch: pytest.MonkeyPatch):
    run("seed_1_raises", executor="debug")
    run("seed_1_raises", "--set", "train.steps=7", executor="debug")
    started = []
    monkeypatch.setattr(detached, "start", lambda *arguments: started.append(arguments[2]) or 0)
    assert retry.main(["three"]) == 0
    assert ["--set=train.steps=7" in arguments for arguments in started] == [False, True]


def test_runs_that_are_gone_or_would_be_others_today_are_no_longer_listed(folder: Path, monkeypatch, capsys):
    run("ok", executor="debug")
    gone, other, _ = run_dirs()
    shutil.rmtree(gone)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "seed": 99}))
    assert run("ok", "--only", "seed=2", executor="debug") == 0
    assert set(listed()) == {run_dirs()[2].name} and other.exists()
    assert "2 runs of earlier launches are no longer listed: gone" in capsys.readouterr().out


def test_two_launchers_with_other_values_at_once_are_both_listed(launcher):
    both = [launcher("ok", "--set", f"train.steps={steps}") for steps in (7, 8)]
    assert [each.end()[0] for each in both] == [0, 0]
    assert len(listed()) == 6


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_the_processes_and_keeps_the_state(launcher, number: signal.Signals):
    first = launcher("endless")
    wait_until(lambda: sum((run_dir / "metrics.jsonl").exists() for run_dir in run_dirs()) == 2)
    pids = [event["pid"] for run_dir in run_dirs() for event in ledger.read(run_dir) if event["event"] == "start"]
    first.process.send_signal(number)
    status, output = first.end()
    assert status == 1 and "goes on from here" in output and "Traceback" not in output
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert run("ok") == 0
    assert computed() == [1, 1, 1]


def test_a_killed_launcher_loses_nothing_and_nothing_is_done_twice(launcher):
    first = launcher("slow")
    wait_until(lambda: any((run_dir / "metrics.jsonl").exists() for run_dir in run_dirs()))
    first.process.kill()
    first.end()
    assert run("slow") == 0
    assert computed() == [1, 1, 1]


def test_two_launchers_at_once_compute_every_run_once(launcher):
    both = [launcher("slow"), launcher("slow")]
    assert [each.end()[0] for each in both] == [0, 0]
    assert computed() == [1, 1, 1]


def test_no_wait_leaves_the_runs_to_themselves(folder: Path):
    command = [sys.executable, str(ROOT / "sweeps" / "launch.py"), "--grid", "three.yaml", "--only", "seed=0"]
    flags = ["--executor", "local", "--no-wait", "--set", "measure.samples=2"]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    (planned,) = load_grid("three.yaml", overrides=["measure.samples=2"], only=["seed=0"]).runs
    wait_until(lambda: read_result(Path("runs", planned.run_id)))


def test_a_run_folder_that_is_removed_meanwhile_starts_anew(launcher):
    first = launcher("slow")
    wait_until(lambda: any((run_dir / "metrics.jsonl").exists() for run_dir in run_dirs()))
    (removed, *_) = [run_dir for run_dir in run_dirs() if (run_dir / "metrics.jsonl").exists()]
    shutil.rmtree(removed)
    status, output = first.end()
    assert status == 0, output
    assert f"{removed.name}: its folder was removed; the run starts anew" in output
    assert computed() == [1, 1, 1]


def test_a_waiting_run_whose_folder_is_removed_is_computed_all_the_same(launcher):
    first = launcher("slow", "--set", "measure.samples=3")
    runs = [Path("runs", run.run_id) for run in load_grid("three.yaml", overrides=["measure.samples=3"]).runs]
    wait_until(lambda: sum((run_dir / "metrics.jsonl").exists() for run_dir in runs) == 2)
    (waiting,) = [run_dir for run_dir in runs if not (run_dir / "metrics.jsonl").exists()]
    shutil.rmtree(waiting)
    status, output = first.end()
    assert status == 0 and read_result(waiting).status == "ok", output


def test_a_launcher_that_fails_leaves_no_workers_behind(launcher):
    first = launcher("endless")
    wait_until(lambda: sum((run_dir / "metrics.jsonl").exists() for run_dir in run_dirs()) == 2)
    pids = [event["pid"] for run_dir in run_dirs() for event in ledger.read(run_dir) if event["event"] == "start"]
    shutil.rmtree(Path("runs"), ignore_errors=True)
    Path("runs").touch()  # nothing can be written there any more
    status, output = first.end()
    assert status == 1 and "error: " in output, output
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in pids), 20)
