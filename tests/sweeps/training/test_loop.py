"""Training: exact resume in every way to train, what is kept, and what ends it."""

import contextlib
import copy
import itertools
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from dualformer import ConfigError, load_weights
from dualformer.results.files import read_lines
from dualformer.results.result import read_result
from dualformer.weights import WeightsError
from sweeps import machine_lock
from sweeps.run import build_datasets, build_model, execute
from sweeps.training import checkpoint
from sweeps.training import loop as training
from sweeps.training.errors import TrainingError
from sweeps.training.learner import Learner
from sweeps.training.loop import train
from sweeps.training.processes import Team
from tests.helpers.small_run import MODEL, context_of, prepare_run, small_config, write_bright_and_dark
from tests.sweeps.launching.test_torchrun import torchrun

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_bright_and_dark(tmp_path_factory.mktemp("data"))


def trained(config, run_dir, device=CPU):
    """Trains in `run_dir`; returns the model's weights."""
    run_dir.mkdir(exist_ok=True)
    model = build_model(config, num_classes=2).to(device)
    train_set, test_set = build_datasets(config, model.config)
    train(model, train_set, context_of(config, run_dir, device=device), held_out=test_set)
    return model.state_dict()


def assert_same_bits(one, other):
    """Whether two states, mappings and lists of tensors and plain values, are the same to the bit."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            assert_same_bits(one[name], other[name])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for left, right in zip(one, other):
            assert_same_bits(left, right)
    else:
        assert one == other


CHANCE = {"overrides": {**MODEL["overrides"], "drop_path_rate": 0.3, "attention_dropout": 0.1}}
WAYS = {
    "plain": {},
    "sgd": {"train": {"optimizer": "sgd", "learning_rate": 0.1, "groups": "intended", "num_workers": 2}},
    "average": {"train": {"ema": 0.9, "micro_steps": 3, "clip_grad_norm": 0.5}},
    "bfloat16": {"train": {"precision": "bfloat16", "schedule": "step", "milestones": [0.5]}},
    "float16": {"train": {"precision": "float16", "ema": 0.5, "clip_grad_norm": 1.0}},
    "mixup": {"train": {"epochs": 3, "steps": 0}, "data": {"augment": {"flip": True, "mixup": 0.8, "cutmix": 1.0}}},
    "evaluating": {"train": {"evaluate_every": 2, "ema": 0.9}},
}


@pytest.fixture
def learned(monkeypatch):
    """Takes what every training of a test ends with: all that a step depends on."""
    states, finish = [], Learner.finish

    def keep(learner):
        states.append(copy.deepcopy(learner.state_dict()))
        finish(learner)

    monkeypatch.setattr(Learner, "finish", keep)
    return states


def interrupted(config, run_dir, monkeypatch, updates, device=CPU):
    """Trains until just before an update."""
    update, calls = Learner.update, itertools.count()

    def dying_update(*args):
        if next(calls) == updates:
            raise KeyboardInterrupt
        return update(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Learner, "update", dying_update)
        trained(config, run_dir, device)


@pytest.mark.parametrize(
    ("way", "save_every", "killed_after"),
    [
        *((way, 2, 5) for way in WAYS),
        ("plain", 1, 3),
        ("plain", 4, 2),
        ("average", 1, 1),
        ("average", 2, 3),
        ("float16", 4, 5),
    ],
)
def test_a_killed_and_resumed_run_ends_with_the_same_bits(
    root, tmp_path, monkeypatch, learned, way, save_every, killed_after
):
    config = small_config(root, model={"overrides": CHANCE["overrides"]}).changed(**WAYS[way])
    config = config.changed(train={"save_every": save_every})
    unbroken = trained(config, tmp_path / "unbroken")
    interrupted(config, tmp_path / "killed", monkeypatch, killed_after)
    found = checkpoint.load(tmp_path / "killed")
    assert (found[0] if found else 0) == killed_after // save_every * save_every
    assert_same_bits(unbroken, trained(config, tmp_path / "killed"))
    assert_same_bits(*learned)
    if config.train.evaluate_every:
        best = [torch.load(tmp_path / run / "best.pt", weights_only=True) for run in ("unbroken", "killed")]
        assert_same_bits(*best)


def test_a_process_that_is_killed_and_started_again_ends_with_the_same_bits(root, tmp_path):
    train = {"steps": 30, "save_every": 1, "ema": 0.9, "precision": "bfloat16", "micro_steps": 2, "num_workers": 1}
    config = small_config(root, train=train, model={"overrides": CHANCE["overrides"]})
    unbroken, killed = prepare_run(tmp_path / "unbroken", config), prepare_run(tmp_path / "killed", config)
    program = "import sys; from sweeps.run import execute; execute(sys.argv[1])"
    process = subprocess.Popen([sys.executable, "-c", program, killed], start_new_session=True)
    execute(unbroken)
    try:
        wait_until(lambda: any(path.name >= "00000003" for path in killed.glob("checkpoints/[0-9]*.pt")))
    finally:
        os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and read_result(killed) is None
    done = max(int(path.name[:8]) for path in killed.glob("checkpoints/[0-9]*.pt"))
    execute(killed)
    assert read_result(unbroken).final_train_loss == read_result(killed).final_train_loss
    assert any(line["step"] > done for line in read_lines(killed / "metrics.jsonl")) and done < 30
    newest = [checkpoint.load(run_dir)[1] for run_dir in (unbroken, killed)]
    for state in newest:
        del state["progress"]
    assert_same_bits(*newest)
    assert (unbroken / "predictions.csv").read_bytes() == (killed / "predictions.csv").read_bytes()


def test_two_processes_that_are_stopped_and_started_again_end_with_the_same_bits(root, tmp_path):
    """With batch norms, and with shares of three and two clips in two parts."""
    train = {"batch_size": 5, "micro_steps": 2, "ema": 0.9, "save_every": 2, "evaluate_every": 3}
    model = {"overrides": {**CHANCE["overrides"], "coarse_sizes": [[1, 1, 1]]}}
    (tmp_path / "config.json").write_text(json.dumps(small_config(root, train=train, model=model).to_dict()))
    status, told, errors = torchrun(
        2, "-m", "tests.helpers.together", "resumed", tmp_path / "config.json", tmp_path / "run"
    )
    assert status == 0, errors
    assert told.count("resumed at step 4") == 2, "by both"
    one, two = (
        [torch.load(tmp_path / f"run.{name}/process.{rank}.pt") for rank in (0, 1)] for name in ("unbroken", "stopped")
    )
    assert any("running_mean" in name for name in one[0])
    assert_same_bits(one, two)
    for name, value in one[0].items():
        torch.testing.assert_close(one[1][name], value)
    states = [checkpoint.load(tmp_path / f"run.{name}")[1] for name in ("unbroken", "stopped")]
    for state in states:
        del state["progress"]
    assert_same_bits(*states)


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_evaluating_on_the_way_changes_no_bit_and_keeps_the_best(root, tmp_path, learned, monkeypatch):
    model = {"overrides": CHANCE["overrides"]}
    trained(small_config(root, model=model), tmp_path / "alone")
    accuracies = iter([0.25, 0.75, 0.5])
    real = training.evaluate
    monkeypatch.setattr(training, "evaluate", lambda *args, **keep: {**real(*args, **keep), "top1": next(accuracies)})
    config = small_config(root, model=model, train={"evaluate_every": 2})
    trained(config, tmp_path / "evaluated")
    assert_same_bits(*learned)
    lines = read_lines(tmp_path / "evaluated/metrics.jsonl")
    held_out = [(line["step"], line["held_out_top1"]) for line in lines if "held_out_top1" in line]
    assert held_out == [(2, 0.25), (4, 0.75), (6, 0.5)]
    best = torch.load(tmp_path / "evaluated/best.pt", weights_only=True)
    assert (best["step"], best["top1"]) == (4, 0.75)
    four = small_config(root, model=model, train={"stop_after": 4})
    assert_same_bits(best["model"], trained(four, tmp_path / "four"))


def test_weights_stay_and_are_what_was_evaluated(root, tmp_path):
    config = small_config(root, train={"save_every": 3, "evaluate_every": 6, "ema": 0.5})
    weights = trained(config, tmp_path)
    for name in ("weights.pt", "best.pt"):
        fresh = build_model(config.changed(seed=1), num_classes=2)
        report = load_weights(fresh, tmp_path / name)
        assert (report.layout, report.missing) == ("dualformer", ())
        assert_same_bits(fresh.state_dict(), weights)
    _, state = checkpoint.load(tmp_path)
    assert not torch.equal(state["model"]["head.weight"], weights["head.weight"])
    trained(small_config(root), tmp_path / "unsaved")
    assert not list(tmp_path.glob("unsaved/*.pt"))


def test_stopping_early_takes_the_first_steps_of_the_same_schedule(root, tmp_path, learned):
    lines = []
    for name, changes in (("long", {}), ("short", {"stop_after": 4})):
        trained(small_config(root, train={"log_every": 1, **changes}), tmp_path / name)
        lines.append(
            [(line["step"], line["lr"], line["loss"]) for line in read_lines(tmp_path / name / "metrics.jsonl")]
        )
    assert len(lines[0]) == 6 and lines[1] == lines[0][:4]


def test_epochs_pass_over_every_clip(root, tmp_path):
    config = small_config(
        root, train={"steps": 0, "epochs": 1.5, "batch_size": 8, "warmup_epochs": 0.5, "log_every": 1}
    )
    trained(config, tmp_path)
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [1, 2]  # of 8 clips


def test_a_checkpoint_of_another_run_is_refused_by_name(root, tmp_path):
    trained(small_config(root, train={"save_every": 3}), tmp_path)
    other = small_config(root, train={"save_every": 3, "learning_rate": 1e-2})
    with pytest.raises(TrainingError, match=rf"is of run \w{{12}} \(dualformer_tiny\), .* run {other.run_id} \(dualf"):
        trained(other, tmp_path)
    trained(small_config(root, train={"save_every": 2, "num_workers": 1, "keep_checkpoints": 5}), tmp_path)


def test_as_many_checkpoints_are_kept_as_wanted(root, tmp_path):
    trained(small_config(root, train={"save_every": 1, "keep_checkpoints": 3}), tmp_path)
    kept = sorted(path.name[:8] for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["00000004", "00000005", "00000006"]


def test_weights_of_a_file_are_where_training_starts(root, tmp_path, capsys):
    config = small_config(root, train={"save_every": 6})
    weights = trained(config, tmp_path / "first")
    again = small_config(root, model={"weights": str(tmp_path / "first/weights.pt")})
    assert_same_bits(build_model(again, num_classes=2).state_dict(), weights)
    assert "layout dualformer" in capsys.readouterr().out
    other_classes = build_model(again, num_classes=5)
    assert other_classes.head.weight.shape[0] == 5
    assert torch.equal(other_classes.stages[0].embed.proj.weight, weights["stages.0.embed.proj.weight"])
    gone = small_config(root, model={"weights": str(tmp_path / "none.pt")})
    with pytest.raises(ConfigError, match=r"model.weights: no weights file .*none\.pt"):
        build_model(gone, num_classes=2)
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(WeightsError, match=r"text\.pt"):
        build_model(small_config(root, model={"weights": str(tmp_path / "text.pt")}), num_classes=2)


@pytest.mark.parametrize(("rank", "holds"), [(0, True), (1, False), (2, True), (3, False)])
def test_one_process_of_each_machine_keeps_timings_off(rank, holds):
    nested = pytest.raises(RuntimeError, match="don't nest") if holds else contextlib.nullcontext()
    with (
        training.machine(context_of(small_config("."), team=Team(rank, size=4, local_size=2))),
        nested,
        machine_lock.exclusive(),
    ):
        pass


def test_workers_change_no_bit(root, tmp_path):
    one = trained(small_config(root, train={"steps": 3}), tmp_path / "one")
    two = trained(small_config(root, train={"steps": 3, "num_workers": 2}), tmp_path / "two")
    assert_same_bits(one, two)


def test_another_seed_changes_the_weights(root, tmp_path):
    one = trained(small_config(root, train={"steps": 1}), tmp_path / "one")
    two = trained(small_config(root, train={"steps": 1}, seed=1), tmp_path / "two")
    assert not torch.equal(one["head.weight"], two["head.weight"])


def test_a_run_stopped_after_its_last_step_still_reports_its_training(root, tmp_path):
    config = small_config(root, train={"save_every": 2, "steps": 4})
    model = build_model(config, num_classes=2)
    train_set, _ = build_datasets(config, model.config)
    first = train(model, train_set, context_of(config, tmp_path))
    again = train(build_model(config, num_classes=2), train_set, context_of(config, tmp_path))
    assert again["final_train_loss"] == first["final_train_loss"] and again["train_clips_per_s"] > 0


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_loss_that_is_not_finite_names_step_and_videos(root, tmp_path, precision):
    config = small_config(
        root, train={"learning_rate": 1e9, "warmup_steps": 0, "precision": precision, "save_every": 1}
    )
    with pytest.raises(
        TrainingError, match=r"loss is (nan|inf) at step \d+ on train/(bright|dark)/\d\.mp4, train/"
    ) as told:
        trained(config, tmp_path)
    failed = json.loads((tmp_path / "failed_batch.json").read_text())
    assert f"loss is {failed['loss']} at step {failed['step']} on" in str(told.value)
    assert checkpoint.load(tmp_path)[0] == failed["step"] - 1, "no weights are saved that it has spoilt"
    assert len(failed["files"]) == 4 and all(file in str(told.value) for file in failed["files"])


def test_a_video_that_breaks_while_training_is_named_past_the_stated_share(root, tmp_path):
    copy = write_bright_and_dark(tmp_path / "data")
    config = small_config(copy, train={"steps": 20})
    model = build_model(config, num_classes=2)
    train_set, _ = build_datasets(config, model.config)
    (copy / "train/dark/0.mp4").write_bytes(b"")
    with pytest.raises(TrainingError, match=r"1 of 8 videos failed: .*dark/0\.mp4: empty file"):
        train(model, train_set, context_of(config, tmp_path))
    tolerant = small_config(copy, train={"steps": 4, "micro_steps": 3}, data={"max_failed_share": 0.2})
    assert train(model, train_set, context_of(tolerant, tmp_path))["train_clips_per_s"] > 0


def test_learns_what_anything_can_learn(root, tmp_path):
    config = small_config(root, train={"steps": 40, "learning_rate": 3e-3})
    model = build_model(config, num_classes=2)
    train_set, _ = build_datasets(config, model.config)
    assert train(model, train_set, context_of(config, tmp_path))["final_train_loss"] < 0.5  # ln 2 = 0.69 at chance


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_gpu_trains_as_a_cpu_does_and_resumes(root, tmp_path, monkeypatch, precision):
    """To rounding: a GPU adds up in no fixed order."""
    train = {"precision": precision, "ema": 0.5, "micro_steps": 2, "clip_grad_norm": 1.0, "num_workers": 2}
    train |= {"optimizer": "sgd", "save_every": 2, "log_every": 1, "evaluate_every": 3}
    model = {"overrides": {**MODEL["overrides"], "drop_path_rate": 0.0}}
    config, gpu = small_config(root, train=train, model=model), torch.device("cuda")
    on_cpu = trained(config.changed(train={"precision": "float32"}), tmp_path / "cpu")
    unbroken = trained(config, tmp_path / "unbroken", gpu)
    interrupted(config, tmp_path / "killed", monkeypatch, 5, gpu)
    resumed = trained(config, tmp_path / "killed", gpu)
    for name, value in unbroken.items():
        torch.testing.assert_close(resumed[name], value, rtol=1e-2, atol=1e-4)
        torch.testing.assert_close(value.cpu(), on_cpu[name], rtol=2e-2, atol=2e-3)
    losses = [line["loss"] for line in read_lines(tmp_path / "unbroken/metrics.jsonl") if "loss" in line]
    expected = [line["loss"] for line in read_lines(tmp_path / "cpu/metrics.jsonl") if "loss" in line]
    assert losses == pytest.approx(expected, rel=1e-2)
