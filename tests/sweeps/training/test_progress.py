"""What a training says: rates, the share of time that it waits for data, and where else its lines go."""

import sys
import time
import types

import pytest

from dualformer.config import ConfigError
from dualformer.results.files import read_lines
from sweeps.run_config import RunConfig, TrainConfig
from sweeps.training.progress import Progress
from sweeps.training.schedule import Schedule
from sweeps.training.tracking import tracking
from tests.helpers.small_run import context_of


def make(run_dir, **train):
    return Progress(run_dir, Schedule.of(TrainConfig(**{"steps": 4, "log_every": 2, **train}), num_clips=1))


def slow(batches, seconds):
    for batch in batches:
        time.sleep(seconds)
        yield batch


def test_time_spent_waiting_is_told_from_time_spent_training(tmp_path, capsys):
    progress = make(tmp_path)
    for step, _ in enumerate(progress.timed(slow(range(4), 0.03))):
        if step >= 2:
            time.sleep(0.27)
        progress.step(step, loss=1.0, rate=0.1, clips=3)
    first, second = read_lines(tmp_path / "metrics.jsonl")
    assert first["data_wait_share"] > 0.6 > 0.3 > second["data_wait_share"] > 0
    summary = progress.summary()
    assert first["data_wait_share"] > summary["data_wait_share"] > second["data_wait_share"]
    assert f"{first['data_wait_share']:.0%} waiting for data" in capsys.readouterr().out


def test_a_pause_counts_nowhere(tmp_path):
    progress = make(tmp_path, log_every=1)
    progress.step(0, loss=1.0, rate=0.1, clips=1)
    with progress.paused():
        time.sleep(0.5)
    time.sleep(0.01)
    progress.step(1, loss=1.0, rate=0.1, clips=1)
    assert read_lines(tmp_path / "metrics.jsonl")[-1]["clips_per_s"] > 4
    assert progress.summary()["train_clips_per_s"] > 4


def test_a_progress_goes_on_from_what_was_saved(tmp_path):
    one = make(tmp_path)
    one.failures.add("a.mp4: empty file")
    one.step(0, loss=3.0, rate=0.1, clips=2)
    assert one.held_out(0, 0.5)
    other = make(tmp_path)
    other.load_state_dict(one.state_dict())
    assert other.failures == {"a.mp4: empty file"}
    assert not other.held_out(0, 0.5) and other.held_out(0, 0.75)
    other.step(1, loss=1.0, rate=0.1, clips=2)
    assert other.summary()["final_train_loss"] == 2.0


def test_lines_go_to_tensorboard(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = RunConfig.from_dict({"train": {"steps": 4, "log_to": ["tensorboard"]}})
    with tracking(context_of(config, tmp_path)) as track:
        track({"step": 2, "steps": 4, "loss": 0.5})
        track({"step": 4, "steps": 4, "loss": 0.25})
    found = events.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert found.Tags()["scalars"] == ["loss"]
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [(2, 0.5), (4, 0.25)]


def test_tensorboard_shows_each_step_once_whatever_was_done_again(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = RunConfig.from_dict({"train": {"steps": 6, "log_to": ["tensorboard"]}})
    for start, steps in ((0, (1, 2, 3)), (2, (3, 4))):
        with tracking(context_of(config, tmp_path), start) as track:
            for step in steps:
                track({"step": step, "loss": float(start)})
    found = events.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [(1, 0), (2, 0), (3, 2), (4, 2)]


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_what_is_not_installed_says_how_to_get_it(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    config = RunConfig.from_dict({"train": {"steps": 4, "log_to": [name]}})
    expected = pytest.raises(ConfigError, match=rf"train.log_to: {name} is not installed \(pip install {name}\)")
    with expected, tracking(context_of(config, tmp_path)):
        pass


def test_wandb_stays_offline_unless_it_is_told_otherwise(tmp_path, monkeypatch):
    calls = []

    class Run:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            calls.append("finished")

        def log(self, figures, step):
            calls.append((step, figures))

    def init(**arguments):
        calls.append(arguments["mode"])
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    config = RunConfig.from_dict({"train": {"steps": 4, "log_to": ["wandb"]}})
    with tracking(context_of(config, tmp_path)) as track:
        track({"step": 2, "steps": 4, "loss": 0.5})
    assert calls == ["offline", (2, {"loss": 0.5}), "finished"]
