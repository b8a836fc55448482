"""Evaluation: scores by hand, factors, views, and videos that can't be read."""

import csv

import pytest
import torch

from dualformer.data.dataset import VideoDataset
from sweeps.evaluate import factor_accuracy, predict, score, write_predictions
from sweeps.run_config import EvaluateConfig
from tests.small_run import small_config, write_bright_and_dark

FACTORS = {"relation": ("same", "same", "different", "different"), "motion": ("up", "down", "up", "down")}


def test_scores_equal_a_count_by_hand():
    probabilities = torch.tensor(
        [[0.7, 0.1, 0.1, 0.1], [0.4, 0.3, 0.2, 0.1], [0.0, 0.3, 0.4, 0.3], [0.1, 0.2, 0.3, 0.4]]
    )
    labels = torch.tensor([0, 1, 1, 3])
    scores = score(probabilities, labels, FACTORS)
    assert scores["top1"] == 0.5
    assert scores["chance_top1"] == 0.5
    assert scores["top1_relation"] == 0.75  # the third is called different (0.7) and is the same
    assert scores["top1_motion"] == 0.75  # the second is called up (0.6) and goes down; the third's down has 0.6
    assert "top5" not in scores


def test_a_factor_is_called_by_its_summed_probability():
    probabilities = torch.tensor([[0.4, 0.0, 0.3, 0.3]])
    assert factor_accuracy(probabilities, torch.tensor([2]), FACTORS["relation"]) == 1.0
    assert score(probabilities, torch.tensor([2]), FACTORS)["top1"] == 0.0


def test_top5_takes_the_five_most_probable():
    probabilities = torch.linspace(0, 1, 8).repeat(4, 1)
    assert score(probabilities, torch.tensor([7, 3, 2, 0]), {})["top5"] == 0.5


class MeanBrightness(torch.nn.Module):
    """Logits that follow the clip's mean level: dark or bright."""

    def forward(self, clip):
        level = clip.mean(dim=(1, 2, 3, 4))
        return torch.stack([level, -level], dim=1)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_every_video_is_predicted_once_from_all_its_views(tmp_path, batch_size):
    root = write_bright_and_dark(tmp_path / "data")
    dataset = VideoDataset(small_config(root).data, "test", num_frames=2, crop_size=(12, 12), views=(3, 3))
    predictions = predict(MeanBrightness(), dataset, EvaluateConfig(batch_size=batch_size), torch.device("cpu"))
    assert predictions["files"] == [entry.file for entry in dataset.entries]
    assert score(predictions["probabilities"], predictions["labels"], {})["top1"] == 1.0
    views = dataset[0]["clip"]
    assert views.shape == (9, 3, 2, 12, 12)
    expected = MeanBrightness()(views).softmax(dim=-1).mean(dim=0)
    torch.testing.assert_close(predictions["probabilities"][0], expected)


def test_a_video_that_breaks_is_named_and_not_scored(tmp_path):
    root = write_bright_and_dark(tmp_path / "data")
    dataset = VideoDataset(small_config(root).data, "test", num_frames=2, crop_size=(12, 12), views=(1, 1))
    (root / "test/dark/1.mp4").write_bytes(b"")
    predictions = predict(MeanBrightness(), dataset, EvaluateConfig(batch_size=2), torch.device("cpu"))
    assert len(predictions["files"]) == 7
    (failure,) = predictions["failures"]
    assert "dark/1.mp4: empty file" in failure


def test_scores_can_be_taken_again_from_the_saved_predictions(tmp_path):
    probabilities = torch.rand(6, 4, generator=torch.Generator().manual_seed(0)).softmax(dim=-1)
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    predictions = {"probabilities": probabilities, "labels": labels, "files": list("abcdef")}
    write_predictions(tmp_path / "predictions.csv", predictions, ("k", "l", "m", "n"))
    with open(tmp_path / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    again = torch.tensor([[float(row[name]) for name in "klmn"] for row in rows])
    assert [row["label"] for row in rows] == ["klmn"[label] for label in labels]
    assert score(again, labels, FACTORS) == score(probabilities, labels, FACTORS)
