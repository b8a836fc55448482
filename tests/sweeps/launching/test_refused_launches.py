"""What can't be computed starts nothing and says so; what would be computed is shown without starting it."""

import sys
from pathlib import Path

import pytest

from sweeps.launching.grid import load_grid
from tests.helpers.launches import run


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


def test_a_runs_folder_that_cannot_be_made_is_an_error_of_its_own(folder: Path, capsys: pytest.CaptureFixture):
    Path("runs").write_text("a file is in the way")
    assert run("ok") == 2
    assert "error: " in capsys.readouterr().err


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


@pytest.mark.parametrize("name", ["a%j", "a%A", "x%t%a"])
def test_a_folder_whose_name_submitit_would_change_is_refused(folder: Path, name: str, capsys: pytest.CaptureFixture):
    assert run("ok", "--runs", name) == 2
    assert "stands for a number in names of files" in capsys.readouterr().err
    assert run("ok", "--runs", "100%", executor="debug") == 0
