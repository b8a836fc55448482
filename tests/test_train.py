"""Training: exact resume, schedule, groups, and a loss that stops being a number."""

import itertools
import json

import pytest
import torch

from sweeps.learner import Learner
from sweeps.train import TrainingError, train
from sweeps.worker import build_datasets, build_model
from tests.small_run import small_config, write_bright_and_dark

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_bright_and_dark(tmp_path_factory.mktemp("data"))


def trained(config, run_dir):
    """Trains in `run_dir`; returns the model's weights."""
    run_dir.mkdir(exist_ok=True)
    model = build_model(config, num_classes=2)
    train_set, _ = build_datasets(config, model.config)
    train(model, train_set, config, CPU, run_dir)
    return model.state_dict()


def assert_same_bits(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("save_every", "killed_after"), [(1, 3), (2, 3), (2, 5), (4, 2)])
def test_a_killed_and_resumed_run_ends_with_the_same_bits(root, tmp_path, monkeypatch, save_every, killed_after):
    changes = {"save_every": save_every}
    overrides = {"drop_path_rate": 0.3, "attention_dropout": 0.1}
    config = small_config(root, train=changes, model={"overrides": overrides}, data={"augment": {"flip": True}})
    unbroken = trained(config, tmp_path / "unbroken")

    update = Learner.update
    calls = itertools.count()

    def dying_update(*args):
        if next(calls) == killed_after:
            raise KeyboardInterrupt
        return update(*args)

    monkeypatch.setattr(Learner, "update", dying_update)
    with pytest.raises(KeyboardInterrupt):
        trained(config, tmp_path / "killed")
    monkeypatch.undo()
    steps_done = [json.loads(line)["step"] for line in (tmp_path / "killed/metrics.jsonl").read_text().splitlines()]
    assert max(steps_done) < config.train.steps
    assert_same_bits(unbroken, trained(config, tmp_path / "killed"))


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
    first = train(model, train_set, config, CPU, tmp_path)
    again = train(build_model(config, num_classes=2), train_set, config, CPU, tmp_path)
    assert again["final_train_loss"] == first["final_train_loss"] and again["train_clips_per_s"] > 0


def test_a_loss_that_is_not_finite_names_step_and_videos(root, tmp_path):
    config = small_config(root, train={"learning_rate": 1e30, "warmup_steps": 0})
    with pytest.raises(TrainingError, match=r"loss is (nan|inf) at step \d+ on train/(bright|dark)/\d\.mp4, train/"):
        trained(config, tmp_path)


def test_a_video_that_breaks_while_training_is_named_past_the_stated_share(root, tmp_path):
    copy = write_bright_and_dark(tmp_path / "data")
    config = small_config(copy, train={"steps": 20})
    model = build_model(config, num_classes=2)
    train_set, _ = build_datasets(config, model.config)
    (copy / "train/dark/0.mp4").write_bytes(b"")
    with pytest.raises(TrainingError, match=r"1 of 8 videos failed: .*dark/0\.mp4: empty file"):
        train(model, train_set, config, CPU, tmp_path)
    tolerant = small_config(copy, train={"steps": 4}, data={"max_failed_share": 0.2})
    assert train(model, train_set, tolerant, CPU, tmp_path)["train_clips_per_s"] > 0


def test_learns_what_anything_can_learn(root, tmp_path):
    config = small_config(root, train={"steps": 40, "learning_rate": 3e-3})
    model = build_model(config, num_classes=2)
    train_set, _ = build_datasets(config, model.config)
    assert train(model, train_set, config, CPU, tmp_path)["final_train_loss"] < 0.5  # ln 2 = 0.69 at chance
