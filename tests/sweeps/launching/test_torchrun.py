"""Several processes for one run, started by torchrun: the same figures and weights as one, and nobody left waiting."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from dualformer.data.dataset import TrainBatches
from dualformer.results.result import read_result
from slurm.task import leads, num_processes, on_torchrun
from sweeps import run as worker
from sweeps.launching import launcher, ledger
from sweeps.launching.grid import load_grid
from sweeps.training import metrics
from sweeps.training.processes import Team
from tests.helpers import together
from tests.helpers.small_run import MODEL, small_config, write_bright_and_dark

ROOT = Path(__file__).parents[3]
BATCH_NORM = {**MODEL, "overrides": {**MODEL["overrides"], "coarse_sizes": [[1, 1, 1]], "drop_path_rate": 0.0}}
VIEWS = ((4, 1), (4, 3), (1, 3), (10, 3))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Eight videos to train on and seven to test on."""
    root = write_bright_and_dark(tmp_path_factory.mktemp("data"))
    (root / "test/dark/3.mp4").unlink()
    return root


def torchrun(processes, *arguments, timeout=400, **environment):
    """Runs a module of this project in several processes; returns exit status, output and errors."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    variables = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "CUDA_VISIBLE_DEVICES": "",
        **environment,
    }
    done = subprocess.run(
        [*command, *map(str, arguments)], cwd=ROOT, env=variables, capture_output=True, text=True, timeout=timeout
    )
    return done.returncode, done.stdout, done.stderr


def launch(processes, grid, runs, *flags, **environment):
    """Launches a grid in several processes."""
    arguments = ("-m", "tests.helpers.together", "launch", "--grid", grid, "--runs", runs, *flags)
    return torchrun(processes, *arguments, **environment)


def launch_alone(grid, runs, *flags):
    """Launches a grid in this process."""
    return launcher.main(
        ["--grid", str(grid), "--runs", str(runs), "--executor", "debug", *flags],
        worker="tests.helpers.together:execute",
    )


def exit_codes(errors):
    """The exit status of each process, by rank, as torchrun tells it of those that fail."""
    return {int(rank): int(code) for rank, code in re.findall(r"rank +: (\d+).*?\n +exitcode +: (-?\d+)", errors)}


def test_any_number_of_processes_predicts_the_same(data, tmp_path):
    configs = {}
    for clips, crops in VIEWS:
        evaluate = {"num_clips": clips, "num_crops": crops, "batch_size": 5}
        model = {**BATCH_NORM, "crop_size": 12}
        configs[f"{clips}x{crops}"] = small_config(data, model=model, evaluate=evaluate).to_dict()
    (tmp_path / "configs.json").write_text(json.dumps(configs))
    together.predictions(tmp_path / "configs.json", tmp_path / "1")
    for size in (2, 3, 4):
        status, _, errors = torchrun(
            size, "-m", "tests.helpers.together", "predictions", tmp_path / "configs.json", tmp_path / str(size)
        )
        assert status == 0, errors
    for views, (clips, crops) in zip(configs, VIEWS, strict=True):
        alone = torch.load(tmp_path / f"1.{views}.pt", weights_only=False)
        assert len(alone["files"]) == 7
        for size in (2, 3, 4):
            found = torch.load(tmp_path / f"{size}.{views}.pt", weights_only=False)
            torch.testing.assert_close(found["probabilities"], alone["probabilities"], rtol=0, atol=1e-6)
            error = found["scores"].pop("calibration_error")
            assert error == pytest.approx(alone["scores"]["calibration_error"], abs=1e-6)
            rest = {name: value for name, value in alone["scores"].items() if name != "calibration_error"}
            assert found["scores"] == rest
            assert found["clips"] == alone["clips"] == 7 * clips * crops, "each view was computed once"
            assert (found["files"], found["unread"]) == (alone["files"], alone["unread"])


def test_batch_norms_see_the_whole_batch(tmp_path):
    size = 3
    status, _, errors = torchrun(size, "-m", "tests.helpers.together", "batch_norm", tmp_path / "norm")
    assert status == 0, errors
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv3d(2, 3, 1), nn.BatchNorm3d(3), nn.Conv3d(3, 1, 1))
    clips = torch.randn(7, 2, 2, 3, 3) * 3 + 5
    for _ in range(2):
        model(clips).square().mean(dim=(1, 2, 3, 4)).sum().div(7).backward()
    expected = {**model.state_dict(), **{f"{name}.grad": value.grad for name, value in model.named_parameters()}}
    for rank in range(size):
        found = torch.load(tmp_path / f"norm.{rank}.pt")
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=f"{name} of process {rank}")


@pytest.mark.parametrize("size", [2, 3])
def test_the_shares_of_a_step_are_the_batch_that_one_process_takes(data, size):
    """Which clips a step sees, and how they are augmented, is a matter of their numbers, not of who reads them."""
    augment = {"flip": True, "crop_area": [0.3, 0.9]}
    config = small_config(data, data={"augment": augment})
    train_set, _ = worker.build_datasets(config, worker.chosen_model(config))
    teams = [Team(rank, size) for rank in range(size)]
    whole = iter(TrainBatches(len(train_set), 5, seed=config.seed))
    shares = [iter(team.share(TrainBatches(len(train_set), 5, seed=config.seed))) for team in teams]
    for _ in range(4):
        batch, parts = next(whole), [next(share) for share in shares]
        assert [part[0] for part in parts] == batch[:size]
        assert sorted(key for part in parts for key in part) == sorted(batch)
        for rank, part in enumerate(parts):
            for place, key in enumerate(part):
                expected = train_set[batch[rank + size * place]]["clip"]
                assert torch.equal(train_set[key]["clip"], expected)


@pytest.fixture(scope="module")
def grid(data, tmp_path_factory):
    """Two small trainings of a network with batch norms."""
    train = {"steps": 6, "batch_size": 5, "warmup_steps": 2, "log_every": 2, "save_every": 2, "evaluate_every": 3}
    train |= {"optimizer": "sgd", "learning_rate": 0.1}
    evaluate = {"num_clips": 2, "num_crops": 3, "batch_size": 4}
    base = {"device": "cpu", "model": BATCH_NORM, "data": {"root": str(data)}, "train": train, "evaluate": evaluate}
    path = tmp_path_factory.mktemp("grid") / "two.yaml"
    path.write_text(yaml.safe_dump({"base": {**base, "measure": {"latency": False}}, "axes": {"seed": [0, 1]}}))
    return path


def run_dirs(grid, runs):
    return [runs / run.run_id for run in load_grid(str(grid)).runs]


def test_two_processes_end_with_the_weights_and_figures_of_one(grid, tmp_path):
    assert launch_alone(grid, tmp_path / "1") == 0
    status, told, errors = launch(2, grid, tmp_path / "2")
    assert status == 0, errors
    assert told.count("=== attempt") == 2, "each run is told of once"
    assert told.count("step 6/6  loss") == 2, "what follows is silent"
    for one, two in zip(run_dirs(grid, tmp_path / "1"), run_dirs(grid, tmp_path / "2"), strict=True):
        assert {path.name for path in two.glob("process.*")} == {"process.0", "process.1"}
        assert json.loads((two / "provenance.json").read_text())["num_processes"] == 2
        alone, shared = (torch.load(run_dir / "weights.pt", weights_only=True)["model"] for run_dir in (one, two))
        assert any("running_mean" in name for name in alone)
        for name, value in alone.items():
            torch.testing.assert_close(shared[name], value, rtol=1e-5, atol=1e-5, msg=name)
        first, second = read_result(one), read_result(two)
        for name in ("status", "top1", "mean_class_accuracy", "chance_top1", "num_videos", "num_failed_videos"):
            assert getattr(first, name) == getattr(second, name), name
        assert second.final_train_loss == pytest.approx(first.final_train_loss, abs=1e-5)
        assert second.calibration_error == pytest.approx(first.calibration_error, abs=1e-5)
        assert metrics.main([str(two)]) == 0, "the saved predictions give the figures of the result"


@pytest.mark.parametrize(
    ("failing", "reason"), [(0, "ZeroDivisionError: by zero"), (1, "process 1 of 2: ZeroDivisionError: by zero")]
)
def test_an_error_of_one_process_is_a_row_and_ends_all(grid, tmp_path, capsys, failing, reason):
    status, _, errors = launch(2, grid, tmp_path, WORKER="one_raises", FAILING=str(failing))
    first, second = run_dirs(grid, tmp_path)
    assert status == 1
    result = read_result(first)
    assert result.status == "error", errors
    assert result.reason.startswith(f"{reason} (together.py:")
    assert result.params_m > 0, "what the leader had found is kept"
    assert read_result(second) is None, "a broken team computes nothing more"
    assert not ledger.is_claimed(first)
    assert launch_alone(grid, tmp_path) == 1, "one run is still not ok"
    assert "1 finished before" in capsys.readouterr().out
    assert read_result(second).status == "ok"


def test_a_process_that_is_killed_leaves_the_run_unfinished(grid, tmp_path, capsys):
    status, _, errors = launch(2, grid, tmp_path, "--only", "seed=0", WORKER="one_is_killed")
    (run_dir,) = [path for path in run_dirs(grid, tmp_path) if path.exists()]
    assert status == 1
    assert read_result(run_dir) is None, "nobody said why, so another attempt may do better"
    assert launch_alone(grid, tmp_path, "--only", "seed=0") == 0, errors
    assert "resumed at step 2" in capsys.readouterr().out, "a checkpoint is of any number of processes"
    assert read_result(run_dir).status == "ok"


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_gpus_end_with_the_weights_and_figures_of_one(grid, tmp_path):
    """Over NCCL; convolutions may round to TF32."""
    flags, visible = ("--set", "device=cuda", "--only", "seed=0"), {"CUDA_VISIBLE_DEVICES": "0,1"}
    for size in (1, 2):
        status, _, errors = launch(size, grid, tmp_path / str(size), *flags, "--executor", "debug", **visible)
        assert status == 0, errors
    (one,), (two,) = ([path.parent for path in (tmp_path / str(size)).glob("*/result.json")] for size in (1, 2))
    assert json.loads((two / "provenance.json").read_text())["num_processes"] == 2
    alone, shared = (torch.load(run_dir / "weights.pt", weights_only=True)["model"] for run_dir in (one, two))
    for name, value in alone.items():
        torch.testing.assert_close(shared[name].cpu(), value.cpu(), rtol=1e-2, atol=1e-3, msg=name)
    assert read_result(two).top1 == read_result(one).top1


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_on_one_gpu_keeps_nobody_waiting(grid, tmp_path, failing):
    flags, visible = ("--set", "device=cuda", "--only", "seed=0"), {"CUDA_VISIBLE_DEVICES": "0,1"}
    status, _, errors = launch(2, grid, tmp_path, *flags, WORKER="one_raises", FAILING=str(failing), **visible)
    assert status == 1
    (path,) = tmp_path.glob("*/result.json")
    assert "ZeroDivisionError: by zero" in read_result(path.parent).reason, errors


@pytest.mark.gpu
def test_more_processes_than_gpus_are_refused(grid, tmp_path):
    flags, visible = ("--set", "device=cuda", "--only", "seed=0"), {"CUDA_VISIBLE_DEVICES": "0"}
    status, _, errors = launch(2, grid, tmp_path, *flags, **visible)
    assert status == 1
    (path,) = tmp_path.glob("*/result.json")
    assert read_result(path.parent).reason == "2 processes on this machine, and its GPUs are 1", errors


def test_an_error_that_all_meet_stops_no_other_run(grid, tmp_path):
    status, _, errors = launch(2, grid, tmp_path, WORKER="all_raise")
    assert [read_result(run_dir).status for run_dir in run_dirs(grid, tmp_path)] == ["error", "ok"]
    assert read_result(run_dirs(grid, tmp_path)[0]).reason == "nothing to score"
    assert status == 1
    assert set(exit_codes(errors).values()) <= {1, -15}, "torchrun may end the others while they leave"


def test_what_can_not_be_done_together_is_refused_by_all(grid, tmp_path):
    flags = [["--executor", "local"], ["--no-wait"], ["--only", "seed=7"], ["--no-such-flag"], ["--dry-run"]]
    listed = json.dumps([["--grid", str(grid), "--runs", str(tmp_path / "runs"), *each] for each in flags])
    status, told, errors = torchrun(2, "-m", "tests.helpers.together", "launch_in_turn", listed, tmp_path / "statuses")
    assert status == 0, errors
    for rank in range(2):
        assert json.loads((tmp_path / f"statuses.{rank}").read_text()) == [2, 2, 2, 2, 0]
    assert errors.count("--executor local: the processes that torchrun started compute the runs themselves") == 1
    assert errors.count("--no-wait: torchrun ends its processes") == 1
    assert errors.count("unknown argument --no-such-flag") == 1
    assert all(told.count(path.name) == 1 for path in run_dirs(grid, tmp_path)), "the plan is shown once"
    assert not (tmp_path / "runs").exists()


def test_who_started_a_process_is_seen_from_its_environment(monkeypatch):
    assert (num_processes(), leads(), on_torchrun()) == (1, True, False)
    names = {"RANK": "2", "WORLD_SIZE": "3", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "x"}
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    assert (num_processes(), leads()) == (1, True), "half of the variables are somebody else's"
    monkeypatch.setenv("MASTER_PORT", "1")
    assert (num_processes(), leads(), on_torchrun()) == (3, False, True)
    monkeypatch.setenv("RANK", "0")
    assert leads()
