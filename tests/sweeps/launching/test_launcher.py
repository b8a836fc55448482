import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
import yaml

from analysis import collect
from dualformer.data import progress
from dualformer.results.files import read_lines
from dualformer.results.result import read_result
from sweeps import machine_lock
from sweeps.launching import detached, following, ledger, retry, status
from sweeps.launching import launcher as launch
from sweeps.launching.grid import load_grid
from tests.helpers.small_run import MODEL, write_bright_and_dark

ROOT = Path(__file__).parents[3]
GRID = "base: {model: {name: dualformer_tiny, num_frames: 4, crop_size: 16}}\naxes: {seed: [0, 1, 2]}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a grid of three runs and a profile of two processes, where sweeps of these tests run."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "three.yaml").write_text(GRID)
    (tmp_path / "two.yaml").write_text("max_parallel: 2\nmax_attempts: 2\n")
    return tmp_path


def run(worker: str, *flags: str, executor: str = "local") -> int:
    arguments = ["--grid", "three.yaml", "--profile", "two.yaml", "--executor", executor, *flags]
    return launch.main(arguments, worker=f"tests.helpers.fake_workers:{worker}")


def run_dirs() -> list[Path]:
    return [Path("runs", run.run_id) for run in load_grid("three.yaml").runs]


def computed() -> list[int]:
    """How often each run of the grid was computed."""
    return [len(read_lines(run_dir / "computed.jsonl")) for run_dir in run_dirs()]


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
    (run_dirs()[0] / "provenance.json").write_text('{"code_files": {"sweeps/run.py": "0123456789ab", "gone.py": "0"}}')
    assert run("ok", executor="debug") == 0
    assert "1 finished runs used files that have changed since (sweeps/run.py)" in capsys.readouterr().out


def test_launching_some_rows_does_not_forget_the_others(folder: Path):
    assert run("ok", executor="debug") == 0
    assert run("ok", "--only", "seed=1", executor="debug") == 0
    assert len(json.loads(Path("runs/three.grid.json").read_text())["runs"]) == 3


def test_dry_run_shows_ids_differences_and_costs_and_starts_nothing(folder: Path, capsys: pytest.CaptureFixture):
    Path("two.yaml").write_text("gpus_per_node: 2\ntime_min: 30\n")
    assert run("ok", "--dry-run", executor="auto") == 0
    *rows, total, estimate = capsys.readouterr().out.splitlines()
    for line, planned in zip(rows, load_grid("three.yaml").runs, strict=True):
        assert planned.run_id in line and f"seed={planned.config.seed}" in line and "[GPUs 2, at most 30 min]" in line
    assert "3 to do; nothing was started" in total
    assert "at most 3 GPU-hours" in estimate
    assert not Path("runs").exists()


def test_dry_run_goes_by_what_finished_runs_took(folder: Path, capsys: pytest.CaptureFixture):
    assert run("ok", "--only", "seed=0", executor="debug") == 0
    assert run("ok", "--dry-run", "--set", "resources.nodes=2", executor="auto") == 0
    shown = capsys.readouterr().out
    assert "2 to do" in shown and "median of 1" in shown and "[CPUs 1, nodes 2, at most" in shown


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--grid", "thre.yaml"], "no grid 'thre.yaml'"),
        (["--set", "sed=1"], "unknown field 'sed'; did you mean 'seed'"),
        (["--profile", "nowhere"], "no profile 'nowhere'"),
        (["--retry", "eror"], "invalid choice 'eror'; did you mean 'error'"),
        (["--retri", "error"], "did you mean '--retry'"),
    ],
)
def test_wrong_flags_exit_with_2_and_start_nothing(folder: Path, flags: list[str], message: str, capsys):
    try:
        status = run("ok", *flags)
    except SystemExit as error:  # argparse exits by itself
        status = error.code
    assert status == 2 and message in capsys.readouterr().err and not Path("runs").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--set", "resources.gpus_per_node=2"], "seed=0: it asks for 2 GPUs, and this machine has 0"),
        (["--set", "resources.nodes=2"], "seed=0: it asks for 2 nodes, and this is one machine"),
        (["--set", "device=cuda"], "seed=0: device is 'cuda', and this machine has none"),
        (["--set", "measure.cuda_graph=true"], "seed=0: measure.cuda_graph needs a GPU"),
        (["--executor", "slurm"], "no Slurm here"),
        (["--runs", "runs%j"], "stands for a number in names of files"),
    ],
)
def test_what_can_never_be_had_here_starts_nothing_nor_is_shown(
    folder: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("slurm.queue.answers", lambda: False)
    before = sorted(folder.iterdir())
    for more in ([], ["--dry-run"]):
        assert run("ok", *flags, *more) == 2
        assert message in capsys.readouterr().err
    assert sorted(folder.iterdir()) == before


def test_what_is_planned_for_another_place_is_shown_with_a_note(
    folder: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("slurm.queue.answers", lambda: False)
    assert run("ok", "--set", "resources.gpus_per_node=8", "--dry-run", executor="auto") == 0
    assert "note: here a launch would be refused: seed=0: it asks for 8 GPUs" in capsys.readouterr().err


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


def listed() -> dict[str, dict]:
    return {
        listed["run_id"]: listed["differs"] for listed in json.loads(Path("runs/three.grid.json").read_text())["runs"]
    }


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


def test_a_runs_folder_that_cannot_be_made_is_an_error_of_its_own(folder: Path, capsys: pytest.CaptureFixture):
    Path("runs").write_text("a file is in the way")
    assert run("ok") == 2
    assert "error: " in capsys.readouterr().err


def test_the_script_starts_without_an_installed_package(folder: Path):
    script = ROOT / "sweeps" / "launch.py"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, str(script), "--grid", "three.yaml", "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")


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


def test_failed_runs_are_told_with_the_flag_that_computes_them_again(folder: Path, capsys: pytest.CaptureFixture):
    run("seed_1_raises", executor="debug")
    told = capsys.readouterr().out
    assert "the same command with --retry error computes the 1 that failed again" in told
    run("seed_1_raises", executor="debug")
    assert "--retry error" in capsys.readouterr().out
    assert run("ok", "--retry", "error", executor="debug") == 0
    assert "--retry" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("resources.time_min=0", "time_min must be at least 1"),
        ("resources.time_min=1", r"signal_delay_s (90) must be shorter than time_min (1)"),
        ("resources.nodes=0", "nodes must be at least 1"),
        ("resources.nodes=1000000", "nodes: "),
        ("resources.gpus_per_node=-1", "gpus_per_node must be at least 0"),
        ("resources.mem_gib=0", "mem_gib must be positive"),
        ("resources.mem_gib=1e9", "mem_gib: "),
    ],
)
@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_resources_that_no_place_could_give_are_refused_before_anything_is_written(folder, flag, message, more, capsys):
    assert run("ok", "--set", flag, *more) == 2
    assert message in capsys.readouterr().err and not Path("runs").exists()


def test_a_grid_that_is_refused_later_leaves_nothing_either(folder: Path):
    assert run("ok", "--set", "resources.gpus_per_node=7") == 2
    assert not list(Path("runs").rglob("*.json*"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["model.crop_size=64"], "model.crop_size: 64x64 is larger than the embedded data's training frames, 16x32"),
        (["data.resize=8"], "16x16 is larger than the embedded data's training frames, 8x16"),
        (["data.test_resize=8"], "embedded data's test frames"),
        (["data.augment.short_side=[8, 32]"], "embedded data's training frames, 8x16"),
        (["model.num_frames=64"], "64 frames at stride 1 need 64, and embedded videos have"),
        (["data.frame_stride=16"], "4 frames at stride 16 need 49"),
        (["train.token_labels.teacher=dualformer_base"], "name the weights of dualformer_base"),
        (["data.root=.", "data.resize=8"], "16x16 is larger than the resized training frames, 8x8"),
        (["data.root=.", "data.test_resize=[64, 8]"], "16x16 is larger than the resized test frames, 64x8"),
        (["train.log_to=[wandb]"], "wandb is not installed (pip install wandb)"),
        (["data.decoder=torchcodec"], "decoder 'torchcodec' needs the package torchcodec"),
        (["device=cpu", "measure.attention_backend=cudnn"], "measure.attention_backend 'cudnn' needs a GPU"),
    ],
)
def test_what_training_would_refuse_is_refused_before(
    folder: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    for package in ("wandb", "torchcodec"):
        monkeypatch.setitem(sys.modules, package, None)
    assert run("ok", "--dry-run", "--set", "train.steps=5", *flags) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags",
    [["data.augment.crop_area=[0.5, 1]", "data.test_resize=64"], ["data.short_video=loop"], ["data.root=."]],
)
def test_what_training_can_do_is_not_refused(folder: Path, flags: list[str]):
    assert run("ok", "--dry-run", "--set", "train.steps=5", "data.frame_stride=1", *flags) == 0


def test_a_dry_run_draws_and_writes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setenv("DUALFORMER_CACHE", str(folder / "cache"))
    assert run("ok", "--dry-run", "--set", "train.epochs=2", "data.embedded.num_train=80000") == 0
    assert not Path("runs").exists() and not Path("cache").exists()
    assert sorted(path.name for path in folder.iterdir()) == ["three.yaml", "two.yaml"]


def test_the_order_and_number_of_runs_can_be_limited(folder: Path):
    assert run("ok", "--limit", "1", "--axis", "seed=7,8", executor="debug") == 0
    assert [differs["seed"] for differs in listed().values()] == [7]
    (launch,) = json.loads(Path("runs/three.grid.json").read_text())["launches"]
    assert launch["arguments"][-2:] == ["--limit=1", "--axis=seed=7,8"]


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


def test_a_launcher_says_what_its_runs_wait_for(folder: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    assert following._REPORT_EVERY_S <= 15 and machine_lock.REPEAT_S <= 15 and progress.INTERVAL_S <= 15
    monkeypatch.setattr(following, "_REPORT_EVERY_S", 0.3)
    assert run("drawing", "--only", "seed=0") == 0
    said = capsys.readouterr().out
    assert "1 under way, 0 waiting; " in said and "embedded data set: drawing and encoding: 8/4608 clips" in said


@pytest.mark.parametrize("name", ["a%j", "a%A", "x%t%a"])
def test_a_folder_whose_name_submitit_would_change_is_refused(folder: Path, name: str, capsys: pytest.CaptureFixture):
    assert run("ok", "--runs", name) == 2
    assert "stands for a number in names of files" in capsys.readouterr().err
    assert run("ok", "--runs", "100%", executor="debug") == 0


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
