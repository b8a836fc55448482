"""How long a training is and how quickly it learns, step by step."""

import pytest

from sweeps.run_config import TrainConfig
from sweeps.training.schedule import Schedule


def test_cosine_warms_up_and_falls_to_zero():
    schedule = Schedule.of(TrainConfig(steps=110, warmup_steps=10, learning_rate=2.0), num_clips=1)
    rates = [schedule.rate(step) for step in range(111)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == rates[10] == pytest.approx(2.0)
    assert rates[60] == pytest.approx(1.0)
    assert rates[110] == pytest.approx(0.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_steps_fall_at_shares_of_training():
    """TimeSformer's recipe: a tenth at epoch 11 of 15, a hundredth at epoch 14, no warm-up."""
    recipe = {"epochs": 15, "batch_size": 8, "learning_rate": 0.005, "schedule": "step", "warmup_steps": 0}
    schedule = Schedule.of(TrainConfig(**recipe, milestones=(11 / 15, 14 / 15)), num_clips=80)
    assert schedule.steps == 150
    rates = [schedule.rate(step) for step in range(150)]
    assert rates == pytest.approx([0.005] * 110 + [0.0005] * 30 + [0.00005] * 10)


def test_steps_warm_up_too():
    config = TrainConfig(steps=100, schedule="step", milestones=(0.5,), decay=0.5, warmup_steps=4, learning_rate=1.0)
    schedule = Schedule.of(config, num_clips=1)
    assert [schedule.rate(step) for step in (0, 3, 4, 49, 50, 99)] == pytest.approx([0.25, 1, 1, 1, 0.5, 0.5])


@pytest.mark.parametrize(
    ("epochs", "num_clips", "batch_size", "steps"),
    [(30, 240_000, 64, 112_500), (1, 10, 4, 3), (0.5, 10, 4, 2), (1.1, 10, 1, 11), (2, 3, 32, 1)],
)
def test_epochs_are_steps_rounded_up(epochs, num_clips, batch_size, steps):
    assert Schedule.of(TrainConfig(epochs=epochs, batch_size=batch_size), num_clips).steps == steps


def test_warmup_can_be_given_in_epochs():
    config = TrainConfig(epochs=30, warmup_epochs=2.5, batch_size=64, learning_rate=1e-3)
    schedule = Schedule.of(config, num_clips=6400)
    assert (schedule.steps, schedule.warmup_steps) == (3000, 250)
    assert schedule.rate(124) == pytest.approx(0.5e-3)


def test_stopping_early_leaves_the_schedule_as_it_is():
    long = Schedule.of(TrainConfig(epochs=3, batch_size=1), num_clips=100)
    short = Schedule.of(TrainConfig(epochs=3, batch_size=1, stop_after=20), num_clips=100)
    assert (long.end, short.end, short.steps) == (300, 20, 300)
    assert [short.rate(step) for step in range(20)] == [long.rate(step) for step in range(20)]
    assert Schedule.of(TrainConfig(steps=5, stop_after=20), num_clips=100).end == 5
