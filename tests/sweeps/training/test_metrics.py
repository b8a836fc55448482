"""Metrics: against counts by hand and formulas written out, from memory and from the file, with little to score."""

import csv
import json

import pytest
import torch

from dualformer.results.result import Result, write_result
from sweeps.training import metrics
from sweeps.training.predictions import Predictions, PredictionsError, read_predictions, write_predictions
from sweeps.training.scoring import class_table, factor_accuracy, reliability, score
from sweeps.training.tables import write_tables

CLASSES = ("up same", "down same", "up different", "down different")
FACTORS = {"relation": ("same", "same", "different", "different"), "motion": ("up", "down", "up", "down")}


def predictions(probabilities, labels, classes=CLASSES, factors=FACTORS, unread=()):
    files = tuple(f"{number}.mp4" for number in range(len(labels)))
    values = torch.as_tensor(probabilities, dtype=torch.float32).reshape(len(labels), len(classes))
    return Predictions(classes, files, torch.tensor(labels, dtype=torch.int64), values, tuple(unread), factors)


FOUR = predictions(
    [[0.7, 0.1, 0.1, 0.1], [0.4, 0.3, 0.2, 0.1], [0.0, 0.3, 0.4, 0.3], [0.1, 0.2, 0.3, 0.4]], [0, 1, 1, 3]
)


def random_predictions(videos=60, num_classes=8, sharpness=3.0, **changes):
    generator = torch.Generator().manual_seed(0)
    logits = sharpness * torch.randn(videos, num_classes, generator=generator)
    labels = torch.where(torch.rand(videos, generator=generator) < 0.5, logits.argmax(dim=1), 0).tolist()
    return predictions(logits.softmax(dim=1), labels, [f"class {n}" for n in range(num_classes)], {}, **changes)


def test_scores_equal_a_count_by_hand():
    scores = score(FOUR)
    assert scores["top1"] == 0.5
    assert scores["chance_top1"] == 0.5
    assert scores["top1_relation"] == 0.75  # the third is called different (0.7) and is the same
    assert scores["top1_motion"] == 0.75  # the second is called up (0.6) and goes down; the third's down has 0.6
    assert scores["mean_class_accuracy"] == pytest.approx(2 / 3)  # 1, 0 of 2, no video, 1
    # One is 0.7 sure and right; three are 0.4 sure, and one of them is right.
    assert scores["calibration_error"] == pytest.approx((1 * (1 - 0.7) + 3 * (0.4 - 1 / 3)) / 4)
    assert scores["top5"] is None, "of four classes, five are no choice"
    assert (scores["num_videos"], scores["num_failed_videos"]) == (4, 0)


def test_a_factor_is_called_by_its_summed_probability():
    probabilities = torch.tensor([[0.4, 0.0, 0.3, 0.3]])
    assert factor_accuracy(probabilities, torch.tensor([2]), FACTORS["relation"]) == 1.0
    assert score(predictions(probabilities, [2]))["top1"] == 0.0


def test_top5_takes_the_five_most_probable():
    probabilities = torch.linspace(0, 1, 8).repeat(4, 1)
    assert score(predictions(probabilities, [7, 3, 2, 0], list("abcdefgh"), {}))["top5"] == 0.5


def test_the_calibration_error_is_the_mean_gap_of_its_table():
    found = random_predictions()
    rows = [row for row in reliability(found) if row["videos"]]
    assert len(rows) > 5
    assert sum(row["videos"] for row in rows) == 60
    assert all(row["from"] <= row["confidence"] <= row["to"] for row in rows)
    expected = sum(row["videos"] * abs(row["confidence"] - row["accuracy"]) for row in rows) / 60
    assert score(found)["calibration_error"] == pytest.approx(expected, abs=1e-6)


def test_full_confidence_belongs_to_the_last_bin():
    found = predictions([[1.0, 0.0], [0.96, 0.04]], [1, 0], ("a", "b"), {})
    assert [row["videos"] for row in reliability(found)] == [0] * 14 + [2]
    assert score(found)["calibration_error"] == pytest.approx(0.98 - 0.5, abs=1e-6), "one bin, not one for each"


def test_the_class_table_names_what_a_class_is_taken_for():
    rows = class_table(FOUR)
    assert [row["videos"] for row in rows] == [1, 2, 0, 1]
    assert [row["accuracy"] for row in rows] == [1.0, 0.0, None, 1.0]
    assert (rows[0]["confused_with"], rows[0]["confused_videos"]) == (None, 0)
    assert (rows[1]["confused_with"], rows[1]["confused_videos"]) == ("up same", 1)
    assert rows[2]["factor_relation"] == "different"


def test_one_class_among_the_videos_is_scored_alone():
    scores = score(predictions([[0.9, 0.1], [0.2, 0.8]], [0, 0], ("a", "b"), {}))
    assert scores["mean_class_accuracy"] == scores["top1"] == 0.5
    assert scores["chance_top1"] == 1.0


def test_no_video_gives_no_figures():
    scores = score(predictions([], [], unread=["x.mp4"]))
    assert {name: value for name, value in scores.items() if value is not None} == {
        "num_videos": 0,
        "num_failed_videos": 1,
    }
    assert {"top1", "mean_class_accuracy", "top1_motion"} <= scores.keys()
    assert Result(run_id="x", status="ok", **scores).top1 is None


@pytest.mark.parametrize(
    "found", [FOUR, random_predictions(unread=["broken.mp4", "a, b.mp4"])], ids=["factors", "many"]
)
def test_the_saved_predictions_give_the_same_figures_again(tmp_path, capsys, found):
    run_dir = tmp_path / "0123456789ab"
    run_dir.mkdir()
    write_predictions(run_dir / "predictions.csv", found)
    write_tables(run_dir, found)
    write_result(run_dir, Result(run_id=run_dir.name, status="ok", **score(found)))
    tables = {path.name: path.read_bytes() for path in run_dir.glob("*.csv")}
    for name in ("confusion.csv", "calibration.csv"):
        (run_dir / name).unlink()
    again = read_predictions(run_dir / "predictions.csv")
    assert torch.equal(again.probabilities, found.probabilities), "every bit is kept"
    assert metrics.main([str(run_dir / "predictions.csv")]) == 0
    assert {path.name: path.read_bytes() for path in run_dir.glob("*.csv")} == tables
    told = capsys.readouterr().out
    assert f"top1 {'':17} {score(found)['top1']}\n" in told
    if found.unread:
        assert "scored 60 of 62 videos; 2 could not be read" in told


def test_a_result_that_says_otherwise_is_told(tmp_path, capsys):
    run_dir = tmp_path / "0123456789ab"
    run_dir.mkdir()
    write_predictions(run_dir / "predictions.csv", FOUR)
    write_tables(run_dir, FOUR)
    write_result(run_dir, Result(run_id=run_dir.name, status="ok", **{**score(FOUR), "top1": 0.75}))
    assert metrics.main([str(run_dir)]) == 1
    assert capsys.readouterr().err == "result.json says otherwise: top1 is 0.75 there\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "no such file"),
        ("file,label\n", "columns are not file, label and at least two classes"),
        ("file,label,a,b\nx.mp4,c,0.5,0.5\n", "row 2: "),
        ("file,label,a,b\nx.mp4,a,0.5,0.5\ny.mp4,a,0.5\n", "row 3: 3 columns, not 4"),
        ("file,label,a,b\nx.mp4,a,0.5,half\n", "row 2: could not convert"),
        ("file,label,a,b\nx.mp4,a,7,-6\n", "not from 0 to 1"),
    ],
)
def test_what_is_no_predictions_is_refused(tmp_path, capsys, text, reason):
    if text is not None:
        (tmp_path / "predictions.csv").write_text(text)
    assert metrics.main([str(tmp_path / "predictions.csv")]) == 2
    assert reason in capsys.readouterr().err
    assert not list(tmp_path.glob("c*.csv"))


def test_class_names_may_hold_anything(tmp_path):
    names = ('say "hello", quietly', "label", "factor_x")
    found = predictions([[0.2, 0.3, 0.5]], [1], names, {})
    write_predictions(tmp_path / "predictions.csv", found)
    write_tables(tmp_path, found)
    assert read_predictions(tmp_path / "predictions.csv").classes == names
    with open(tmp_path / "confusion.csv", newline="") as file:
        assert list(csv.reader(file))[2] == ["label", "0", "0", "1"]
    assert metrics.main([str(tmp_path)]) == 0


def test_tables_of_other_classes_are_not_mixed_in(tmp_path):
    write_predictions(tmp_path / "predictions.csv", FOUR)
    write_tables(tmp_path, predictions([[1.0, 0.0]], [0], ("a", "b"), {}))
    with pytest.raises(PredictionsError, match="classes are not those"):
        read_predictions(tmp_path / "predictions.csv")


def test_scores_are_plain_numbers():
    assert json.loads(json.dumps(score(random_predictions()))) == score(random_predictions())
