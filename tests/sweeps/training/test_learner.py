"""One step: the gradient of a batch in parts, precision, clipping, groups, averages, and a criterion's own weights."""

import copy

import pytest
import torch
from torch import nn

from dualformer import create_model
from sweeps.run_config import RunConfig
from sweeps.training import learner as learning
from sweeps.training.learner import ClipLoss, Learner
from sweeps.training.processes import Team
from tests.helpers.small_models import clip_for, small_model
from tests.helpers.small_run import MODEL, context_of

CPU = torch.device("cpu")


def make(model=None, **train):
    """A learner of a small model; `train` are fields of its config."""
    config = RunConfig.from_dict({"model": MODEL, "train": {"steps": 10, **train}})
    if model is None:
        torch.manual_seed(0)
        overrides = {**MODEL["overrides"], "drop_path_rate": 0.0}
        sizes = {field: MODEL[field] for field in ("num_frames", "crop_size")}
        model = create_model(MODEL["name"], num_classes=3, **sizes, **overrides)
    return Learner(model, context_of(config))


def batch_of(clips, model, soft=False):
    """`clips` clips of noise with labels, as `collate` makes them."""
    generator = torch.Generator().manual_seed(clips)
    batch = {
        "clip": torch.randn(clips, *model.config.clip_shape, generator=generator),
        "label": torch.randint(3, (clips,), generator=generator),
    }
    if soft:
        batch["target"] = torch.rand(clips, 3, generator=generator).softmax(-1)
    return batch


def gradient(learner):
    return {name: weight.grad.clone() for name, weight in learner.model.named_parameters()}


def step(learner, batch, rate=1e-2, seed=0):
    loss = learner.backward(batch, seed, share=1.0)
    learner.update(rate)
    return loss


@pytest.mark.parametrize(("clips", "micro_steps"), [(6, 2), (7, 3), (5, 4), (2, 5), (1, 3)])
@pytest.mark.parametrize("soft", [False, True], ids=["labels", "shares"])
def test_parts_of_a_batch_add_up_to_its_gradient(clips, micro_steps, soft):
    whole, parts = make(label_smoothing=0.1), make(label_smoothing=0.1, micro_steps=micro_steps)
    batch = batch_of(clips, whole.model, soft)
    losses = [learner.backward(batch, seed=0, share=1.0) for learner in (whole, parts)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    expected, got = gradient(whole), gradient(parts)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-5, atol=1e-6)


def test_shares_of_a_team_weigh_loss_and_gradient():
    one, other = make(), make()
    batch = batch_of(4, one.model)
    assert one.backward(batch, 0, share=0.5) == pytest.approx(0.5 * other.backward(batch, 0, share=1.0))
    assert torch.allclose(one.model.head.weight.grad, 0.5 * other.model.head.weight.grad)


def test_targets_of_shares_take_the_place_of_labels():
    learner = make()
    batch = batch_of(4, learner.model)
    hard = learner.backward(batch, 0, share=1.0)
    same = {**batch, "target": nn.functional.one_hot(batch["label"], 3).float()}
    assert learner.backward(same, 0, share=1.0) == pytest.approx(hard, rel=1e-6)
    assert learner.backward({**batch, "target": same["target"].flip(1)}, 0, share=1.0) != pytest.approx(hard)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_autocast_computes_in_less_and_keeps_weights_and_loss_in_float32(precision):
    exact, rough = make(), make(precision=precision)
    seen = []
    rough.model.head.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    batch = batch_of(4, exact.model)
    losses = [step(learner, batch) for learner in (exact, rough)]
    assert seen == [getattr(torch, precision)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)
    assert not torch.equal(exact.model.head.weight.grad, rough.model.head.weight.grad)
    assert {weight.dtype for weight in rough.model.parameters()} == {torch.float32}
    for one, other in zip(exact.model.parameters(), rough.model.parameters()):
        torch.testing.assert_close(
            one, other, rtol=0, atol=2.1e-2
        )  # Adam's first step is the rate, in either direction


def test_a_float16_gradient_that_overflows_is_no_step_and_lowers_the_scale():
    learner = make(precision="float16", clip_grad_norm=1.0)
    before = copy.deepcopy(learner.model.state_dict())
    learner._scaler.load_state_dict({**learner._scaler.state_dict(), "scale": 2.0**40})
    loss = step(learner, batch_of(4, learner.model))
    assert loss == loss
    assert all(torch.equal(before[name], value) for name, value in learner.model.state_dict().items())
    assert learner.state_dict()["scaler"]["scale"] == 2.0**39
    learner._scaler.load_state_dict({**learner._scaler.state_dict(), "scale": 2.0**8})
    step(learner, batch_of(4, learner.model))
    assert not torch.equal(before["head.weight"], learner.model.head.weight)


def test_float16_gradients_are_clipped_as_they_are_without_the_scale():
    exact, rough = (make(precision=precision, clip_grad_norm=0.1) for precision in ("float32", "float16"))
    for learner in (exact, rough):
        step(learner, batch_of(4, learner.model))
        norm = torch.stack([weight.grad.norm() for weight in learner.model.parameters()]).norm()
        assert norm.item() == pytest.approx(0.1, rel=1e-3)


def test_a_gradient_within_the_limit_is_left_alone():
    free, limited = make(), make(clip_grad_norm=1e6)
    for learner in (free, limited):
        step(learner, batch_of(4, learner.model))
    assert torch.equal(free.model.head.weight, limited.model.head.weight)


def test_sgd_is_nesterovs_with_the_groups_of_the_rule():
    learner = make(optimizer="sgd", momentum=0.8, weight_decay=0.1, groups="intended", backbone_factor=0.5)
    assert isinstance(learner.optimizer, torch.optim.SGD)
    weight = learner.model.stages[0].blocks[0].mlp.fc1.weight
    expected, velocity = weight.detach().clone(), 0.0
    for rate in (0.2, 0.1):
        learner.backward(batch_of(4, learner.model), 0, share=1.0)
        gradient = weight.grad + 0.1 * expected
        velocity = 0.8 * velocity + gradient
        expected = expected - rate * 0.5 * (gradient + 0.8 * velocity)
        learner.update(rate)
        torch.testing.assert_close(weight, expected)


def test_sgd_without_momentum():
    step(learner := make(optimizer="sgd", momentum=0.0), batch_of(4, learner.model))


def test_the_average_follows_weights_and_statistics_and_leaves_integers_alone():
    model = small_model("dualformer_tiny", drop_path_rate=0.0, num_classes=3)
    learner = make(model, ema=0.75)
    counters = [name for name, value in model.state_dict().items() if not value.is_floating_point()]
    tables = {name: value.clone() for name, value in model.named_buffers() if not value.is_floating_point()}
    expected = None
    for number in range(3):
        step(learner, {"clip": clip_for(model, 4), "label": torch.arange(4) % 3}, seed=number)
        now = {name: value.clone() for name, value in model.state_dict().items()}
        expected = (
            now
            if expected is None
            else {name: expected[name].lerp(now[name], 0.25) for name in now if name not in counters}
        )
    got = learner.evaluated.state_dict()
    assert any("running_mean" in name for name in expected)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value)
        assert not torch.equal(got[name], model.state_dict()[name]) or name in counters or value.numel() == 0
    assert counters and all(got[name] == 3 for name in counters)
    for name, table in dict(learner.evaluated.named_buffers()).items():
        if name in tables and name not in counters:
            assert torch.equal(table, tables[name])
    learner.finish()
    assert torch.equal(model.head.weight, learner.evaluated.head.weight)


def test_tables_of_indices_survive_averaging():
    model = small_model("video_swin_tiny", drop_path_rate=0.0, num_classes=3)
    learner = make(model, ema=0.999)
    before = {name: value.clone() for name, value in model.named_buffers()}
    for number in range(2):
        step(learner, {"clip": clip_for(model, 2), "label": torch.tensor([0, 1])}, seed=number)
    assert any("bias_index" in name for name in before)
    assert all(torch.equal(value, before[name]) for name, value in learner.evaluated.named_buffers())


class WithHead(ClipLoss):
    """A criterion with weights of its own, and a frozen part that is none of them."""

    def __init__(self, model):
        super().__init__(model, 0.0)
        self.own = nn.Linear(3, 3)
        self.frozen = nn.Linear(3, 3).requires_grad_(False)

    def forward(self, clip, target):
        return nn.functional.cross_entropy(self.own(self.frozen(self.model(clip))), target)


def test_a_criterions_own_weights_train_as_the_head_does_and_are_saved(monkeypatch):
    monkeypatch.setattr(learning, "make_criterion", lambda model, context: WithHead(model))
    learner = make(groups="intended", weight_decay=0.1)
    before = copy.deepcopy(learner.criterion.own.weight)
    step(learner, batch_of(4, learner.model))
    assert not torch.equal(before, learner.criterion.own.weight)
    groups = {id(weight): group for group in learner.optimizer.param_groups for weight in group["params"]}
    group = groups[id(learner.criterion.own.weight)]
    assert (group["lr_factor"], group["weight_decay"]) == (1.0, 0.1)
    state = learner.state_dict()
    assert set(state["criterion"]) == {"own.weight", "own.bias"}
    assert set(state["model"]) == set(learner.model.state_dict()), "under the model's own names"
    other = make(groups="intended", weight_decay=0.1)
    other.load_state_dict(copy.deepcopy(state))
    assert torch.equal(other.criterion.own.weight, learner.criterion.own.weight)
    batch = batch_of(4, learner.model)
    assert step(other, batch) == step(learner, batch)
    assert torch.equal(other.criterion.own.weight, learner.criterion.own.weight)


def test_an_empty_share_of_a_team_is_a_gradient_of_zero(monkeypatch):
    """All clips of this process failed; the others wait for its part."""
    learner = make(micro_steps=2)
    learner.team = Team(rank=1, size=2)
    empty = {"clip": torch.empty(0), "label": torch.empty(0, dtype=torch.int64)}
    assert learner.backward(empty, 0, share=0.0) == 0.0
    assert all(not weight.grad.any() for weight in learner.model.parameters())
