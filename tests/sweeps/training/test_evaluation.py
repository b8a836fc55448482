"""Evaluation: views, averages, memory, videos that can't be read, and training that doesn't notice."""

import copy

import pytest
import torch
from torch import nn

from dualformer import create_model
from dualformer.data.dataset import VideoDataset
from sweeps.run_config import EvaluateConfig, RunConfig
from sweeps.training.errors import EvaluationError
from sweeps.training.evaluation import average_views, evaluate, predict
from sweeps.training.predictions import read_predictions
from sweeps.training.scoring import score
from tests.helpers.small_run import MODEL, context_of, small_config, write_bright_and_dark


def evaluating(config):
    """The context of a run that is evaluated so."""
    return context_of(RunConfig(evaluate=config))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_bright_and_dark(tmp_path_factory.mktemp("data"))


def held_out(root, views=(1, 1), **changes):
    config = small_config(root, **changes)
    return VideoDataset(config.data, "test", num_frames=4, crop_size=(12, 12), views=views)


def small_model():
    torch.manual_seed(0)
    fields = {name: value for name, value in MODEL.items() if name not in ("name", "crop_size")}
    overrides = {**fields.pop("overrides"), "drop_path_rate": 0.2}
    return create_model("dualformer_tiny", num_classes=2, crop_size=12, **fields, **overrides)


class MeanBrightness(nn.Module):
    """Logits that follow the clip's mean level: dark or bright. Keeps the sizes of the batches it was given."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def forward(self, clip):
        self.sizes.append(len(clip))
        level = clip.mean(dim=(1, 2, 3, 4))
        return torch.stack([level, -level], dim=1)


@pytest.mark.parametrize("views", [(4, 1), (4, 3), (1, 3), (10, 3)])
@pytest.mark.parametrize("average", ["probability", "score"])
def test_every_video_is_predicted_once_from_all_its_views(root, views, average):
    dataset = held_out(root, views)
    config = EvaluateConfig(num_clips=views[0], num_crops=views[1], average=average, batch_size=8)
    predictions, _ = predict(MeanBrightness(), dataset, evaluating(config))
    assert list(predictions.files) == [entry.file for entry in dataset.entries]
    assert score(predictions)["top1"] == 1.0
    clips = dataset[0]["clip"]
    assert clips.shape == (views[0] * views[1], 3, 4, 12, 12)
    logits = MeanBrightness()(clips)
    expected = logits.softmax(dim=-1).mean(dim=0) if average == "probability" else logits.mean(dim=0).softmax(dim=-1)
    torch.testing.assert_close(predictions.probabilities[0], expected)


def test_averages_differ_where_views_disagree():
    logits = torch.tensor([[4.0, 0.0], [0.0, 1.0], [0.0, 2.0], [0.0, 2.0]])
    by_probability = average_views(logits, 2, "probability")
    torch.testing.assert_close(by_probability[0, 0], (torch.tensor(4.0).sigmoid() + torch.tensor(-1.0).sigmoid()) / 2)
    torch.testing.assert_close(average_views(logits, 2, "score")[0, 0], torch.tensor(1.5).sigmoid())
    torch.testing.assert_close(by_probability[1], average_views(logits, 2, "score")[1])


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_no_more_clips_than_asked_go_through_the_network_at_once(root, batch_size):
    model, dataset = MeanBrightness(), held_out(root, (4, 3))
    predictions, _ = predict(model, dataset, evaluating(EvaluateConfig(batch_size=batch_size)))
    assert max(model.sizes) <= batch_size
    assert sum(model.sizes) == 8 * 12
    whole, _ = predict(MeanBrightness(), dataset, evaluating(EvaluateConfig(batch_size=96)))
    torch.testing.assert_close(predictions.probabilities, whole.probabilities, rtol=0, atol=1e-6)


def test_a_video_that_breaks_is_named_and_not_scored(tmp_path, capsys):
    root = write_bright_and_dark(tmp_path / "data")
    dataset = held_out(root)
    (root / "test/dark/1.mp4").write_bytes(b"")
    scores = evaluate(MeanBrightness(), dataset, context_of(small_config(root), tmp_path))
    assert (scores["num_videos"], scores["num_failed_videos"]) == (7, 1)
    told = capsys.readouterr().out
    assert "dark/1.mp4: empty file" in told
    assert "scored 7 of 8 videos; 1 could not be read" in told
    saved = read_predictions(tmp_path / "predictions.csv")
    assert saved.unread == ("test/dark/1.mp4",)
    assert score(saved) == scores


def test_videos_left_out_beforehand_are_expected_all_the_same(tmp_path):
    root = write_bright_and_dark(tmp_path / "data")
    (root / "test/dark/1.mp4").write_bytes(b"")
    dataset = held_out(root, data={"max_failed_share": 0.5})
    scores = evaluate(MeanBrightness(), dataset, context_of(small_config(root), tmp_path))
    assert (scores["num_videos"], scores["num_failed_videos"]) == (7, 1)
    assert read_predictions(tmp_path / "predictions.csv").unread == ("test/dark/1.mp4",)


def test_no_readable_video_is_an_error(tmp_path):
    root = write_bright_and_dark(tmp_path / "data")
    dataset = held_out(root)
    for file in root.glob("test/*/*.mp4"):
        file.write_bytes(b"")
    with pytest.raises(EvaluationError, match="none of the 8 held-out videos"):
        predict(MeanBrightness(), dataset, evaluating(EvaluateConfig()))


def test_scores_that_are_no_numbers_are_an_error(root):
    class Overflowing(MeanBrightness):
        def forward(self, clip):
            return super().forward(clip) * float("inf")

    with pytest.raises(EvaluationError, match="not finite"):
        predict(Overflowing(), held_out(root), evaluating(EvaluateConfig()))


def test_the_network_computes_in_the_precision_of_training(root):
    dtypes = []
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 12 * 12, 2))
    model[1].register_forward_hook(lambda module, args, output: dtypes.append(output.dtype))
    for precision in ("float32", "bfloat16"):
        config = small_config(root, train={"precision": precision})
        scores = evaluate(model, held_out(root), context_of(config), keep=False)
        assert scores["num_videos"] == 8
    assert dtypes == [torch.float32, torch.bfloat16]


class Remembering(nn.Module):
    """Computes a table when it is first needed, as a position bias may be."""

    def __init__(self):
        super().__init__()
        self.scale, self.table = nn.Parameter(torch.ones(2)), None

    def forward(self, clip):
        if self.table is None:
            self.table = torch.arange(2, dtype=torch.float32, device=clip.device)
        return clip.mean(dim=(1, 2, 3, 4))[:, None] * self.scale * self.table


def test_what_a_network_keeps_from_an_evaluation_can_be_trained_with(root):
    model = Remembering()
    predict(model, held_out(root), evaluating(EvaluateConfig()))
    model(torch.ones(1, 3, 4, 12, 12)).sum().backward()
    assert model.scale.grad.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_training_does_not_notice_an_evaluation(root, num_workers):
    """Steps after an evaluation are, bit by bit, the steps without one: random numbers, modes, what modules keep."""
    dataset, config = held_out(root, (2, 1)), EvaluateConfig(num_workers=num_workers)
    clips = torch.randn(4, 3, 4, 12, 12, generator=torch.Generator().manual_seed(0))
    weights = []
    for evaluates in (False, True):
        model = small_model().train()
        model.head.eval()  # a mode that training chose for a part
        if evaluates:
            torch.manual_seed(5)
            before = torch.get_rng_state()
            predict(model, dataset, evaluating(config))
            assert torch.equal(torch.get_rng_state(), before)
            assert model.training and not model.head.training
        torch.manual_seed(6)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(2):
            nn.functional.cross_entropy(model(clips), torch.tensor([0, 1, 0, 1])).backward()
            optimizer.step()
        weights.append(copy.deepcopy(model.state_dict()))
    without, among = weights
    assert all(torch.equal(value, among[name]) for name, value in without.items())
