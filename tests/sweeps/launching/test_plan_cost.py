"""Plans of grids: rates of like runs only, and nothing that is unknown for free."""

import json

import pytest

from analysis import collect
from dualformer.results.result import Result, write_result
from slurm.profile import load_profile
from sweeps.launching import dry_run, plan_cost
from sweeps.launching.grid import load_grid

GRID = """
base: {model.num_frames: 8, model.crop_size: 16, train.steps: 100, train.batch_size: 36}
axes:
  model.attention: [LG, FF]
  seed: [0, 1]
"""


@pytest.fixture
def grid(tmp_path):
    (tmp_path / "four.yaml").write_text(GRID)
    return load_grid(tmp_path / "four.yaml")


def finish(runs, planned, **fields):
    folder = runs / planned.run_id
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(planned.config.to_dict()))
    write_result(folder, Result(run_id=planned.run_id, status="ok", **fields))


def test_rate_of_a_run_holds_for_other_seeds_and_steps_and_no_other_network(grid, tmp_path):
    lg, _, ff, _ = grid.runs
    assert (lg.config.model.attention, ff.config.model.attention) == ("LG", "FF")
    finish(tmp_path / "runs", lg, train_clips_per_s=2.0, throughput_clips_per_s=50.0, energy_j_per_clip=10.0)
    costs = plan_cost.estimate(grid.runs, plan_cost.read_rows(tmp_path / "runs"))
    assert set(costs) == {planned.run_id for planned in grid.runs if planned.config.model.attention == "LG"}
    assert costs[lg.run_id].device_hours == pytest.approx(0.5)
    assert costs[lg.run_id].energy_kwh == pytest.approx(3600 * 30 / 3.6e6)


def test_epochs_are_of_the_training_videos_and_stopping_early_costs_less(tmp_path):
    root = tmp_path / "data"
    for split, clips in (("train", 9), ("test", 4)):
        for name in ("dog", "cat"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for clip in range(clips):
                (folder / f"{clip}.mp4").touch()
    text = GRID.replace("train.steps: 100", f"train.epochs: 10, data.root: {root}")
    (tmp_path / "epochs.yaml").write_text(text.replace("axes:", "axes:\n  train.stop_after: [null, 2]"))
    whole, *_, short, _ = load_grid(tmp_path / "epochs.yaml").runs
    finish(tmp_path / "runs", whole, throughput_clips_per_s=3.0)
    assert (plan_cost.training_clips(whole.config), plan_cost.training_clips(short.config)) == (5 * 36, 2 * 36)
    costs = plan_cost.estimate([whole, short], plan_cost.read_rows(tmp_path / "runs"))
    assert costs[whole.run_id].device_hours == pytest.approx(180 / 3600)
    gone = whole.config.changed(data={"root": str(tmp_path / "gone")})
    assert plan_cost.training_clips(gone) is None


def test_forward_throughput_gives_a_guess_that_is_called_one(grid, tmp_path):
    finish(tmp_path / "runs", grid.runs[0], throughput_clips_per_s=6.0)
    planned = plan_cost.estimate(grid.runs, plan_cost.read_rows(tmp_path / "runs"))[grid.runs[1].run_id]
    assert planned.device_hours == pytest.approx(0.5) and "guess" in planned.ground


def test_other_data_or_batch_is_no_rate_of_training(grid, tmp_path):
    finish(tmp_path / "runs", grid.runs[0], train_clips_per_s=2.0)
    rows = plan_cost.read_rows(tmp_path / "runs")
    for change in ("train.batch_size=8", "data.holdout=0.5", "threads=2", "model.num_frames=4"):
        assert plan_cost.estimate(load_grid(tmp_path / "four.yaml", overrides=[change]).runs, rows) == {}


def test_runs_and_their_table_give_the_same_plan(grid, tmp_path):
    finish(tmp_path / "runs", grid.runs[0], train_clips_per_s=2.0, throughput_clips_per_s=50.0)
    listed = [{"run_id": grid.runs[0].run_id, "differs": {}}]
    (tmp_path / "runs" / "four.grid.json").write_text(json.dumps({"runs": listed}))
    assert collect.main(["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    by_runs, by_table = (
        plan_cost.estimate(grid.runs, plan_cost.read_rows(tmp_path / name)) for name in ("runs", "out")
    )
    assert by_runs == by_table != {}


def test_nothing_trained_costs_nothing(tmp_path):
    (tmp_path / "counts.yaml").write_text("base: {measure.latency: false}")
    [planned] = plan_cost.estimate(load_grid(tmp_path / "counts.yaml").runs, []).values()
    assert (planned.device_hours, planned.energy_kwh) == (0, 0)


def test_command_plans_a_grid(grid, tmp_path, capsys):
    finish(tmp_path / "runs", grid.runs[0], train_clips_per_s=2.0)
    command = ["--grid", str(tmp_path / "four.yaml"), "--results", str(tmp_path / "runs"), "--devices", "2"]
    assert plan_cost.main([*command, "--watts", "100"]) == 0
    *rows, total = capsys.readouterr().out.splitlines()
    assert [("30 min" in row, "rate unknown" in row) for row in rows] == [(True, False)] * 2 + [(False, True)] * 2
    assert "1 h of devices, 30 min on 2 of them, 0.1 kWh; 2 more runs have no measured rate" in total
    assert plan_cost.main(["--grid", "nothing.yaml"]) == 2


def test_dry_run_shows_the_plan(grid, tmp_path):
    finish(tmp_path / "runs", grid.runs[0], train_clips_per_s=2.0)
    *rows, total, training, _ = dry_run.describe(grid, tmp_path / "runs", load_profile(None))
    assert ["30 min (2 clips/s measured in training)" in row for row in rows] == [True, True, False, False]
    assert "3 to do" in total
    assert training.startswith("training, by measured rates: 30 min of devices")
    assert training.endswith("2 more runs have no measured rate")


def test_command_plans_a_recipe(capsys):
    recipe = ["--epochs", "30", "--videos", "240000", "--devices", "8", "--watts", "400"]
    assert plan_cost.main(["--clips-per-s", "8.0645", *recipe]) == 0
    assert capsys.readouterr().out == "248 device-hours, 31 h on 8 devices, 99.2 kWh\n"
    assert plan_cost.main(recipe) == 2
    assert capsys.readouterr().err == "cost: give --grid and --results, or --clips-per-s, --epochs and --videos\n"


@pytest.mark.parametrize("wrong", ["0", "-1", "nan", "inf", "many", ""])
def test_numbers_that_are_none_are_refused(capsys, wrong):
    for flag in ("--clips-per-s", "--epochs", "--videos", "--watts", "--devices"):
        with pytest.raises(SystemExit) as caught:
            plan_cost.main(["--grid", "ablations", f"{flag}={wrong}"])
        assert caught.value.code == 2
        assert f"argument {flag}: '{wrong}' is not a" in capsys.readouterr().err


@pytest.mark.parametrize("results", ["nothing", ".", "empty.csv", "broken"])
def test_without_results_nothing_is_known_and_nothing_is_free(grid, tmp_path, capsys, results):
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "broken" / "0123456789ab").mkdir(parents=True)
    (tmp_path / "broken" / "0123456789ab" / "result.json").write_text("{")
    assert plan_cost.main(["--grid", str(tmp_path / "four.yaml"), "--results", str(tmp_path / results)]) == 0
    told = capsys.readouterr()
    *rows, total = told.out.splitlines()
    assert all(row.endswith("rate unknown") for row in rows) and len(rows) == 4
    assert total == "four: time and energy unknown: no measured rate for 4 runs that train"
    assert "no finished runs in" in told.err


def test_runs_that_train_nothing_make_no_sum_where_others_are_unknown(tmp_path, capsys):
    (tmp_path / "two.yaml").write_text("axes: {train.steps: [0, 5]}\nbase: {model.crop_size: 16, model.num_frames: 8}")
    assert plan_cost.main(["--grid", str(tmp_path / "two.yaml"), "--results", str(tmp_path)]) == 0
    *rows, total = capsys.readouterr().out.splitlines()
    assert rows[0].endswith("trains nothing") and rows[1].endswith("rate unknown")
    assert total == "two: time and energy unknown: no measured rate for 1 runs that train"
