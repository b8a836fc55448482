import math

import pytest
import torch
from torch import nn

from dualformer import list_models
from dualformer.config import ConfigError
from sweeps.run import build_datasets, build_model
from sweeps.run_config import RunConfig, TokenLabelConfig
from sweeps.training.checkpoint import load as load_checkpoint
from sweeps.training.learner import Learner
from sweeps.training.loop import train
from sweeps.training.token_labels import TokenLabels, load_teacher, match_grid, soft_labels
from tests.helpers import small_run
from tests.helpers.small_models import clip_for, distinct_models, reduced, small_model

LABELS = TokenLabelConfig(teacher="dualformer_base")
TARGET = torch.tensor([3, 0])
CPU = torch.device("cpu")


def criterion_of(student="dualformer_tiny", teacher="dualformer_base", config=LABELS, **changes) -> TokenLabels:
    student, teacher = small_model(student), small_model(teacher)
    with torch.no_grad():  # fresh networks are nearly silent; trained ones are not
        for number, model in enumerate((student, teacher)):
            model.head.weight.normal_(generator=torch.Generator().manual_seed(number))
    return TokenLabels(student, teacher, config, **changes)


def test_labels_of_a_token_by_hand():
    """Logits 3 2 1 0 -9 of which two stay: e^3, e^2 and three times e^0 over their sum."""
    total = math.e**3 + math.e**2 + 3
    expected = torch.tensor([math.e**3, math.e**2, 1, 1, 1]) / total
    logits = torch.tensor([3.0, 2.0, 1.0, 0.0, -9.0])
    torch.testing.assert_close(soft_labels(logits, top_k=2), expected)
    torch.testing.assert_close(soft_labels(logits.flip(0), top_k=2), expected.flip(0))
    assert soft_labels(logits, top_k=9).equal(logits.softmax(-1))


def test_loss_by_hand():
    """Half the clip's cross-entropy and half the mean over all tokens, each computed in a loop."""
    criterion = criterion_of().eval()  # no dropout, so that the same can be computed twice
    clip = clip_for(criterion.model)
    student, teacher, mlp = criterion.model, criterion.teacher, criterion.token_head
    log_probability = student(clip).log_softmax(-1)
    of_clip = -sum(log_probability[row, label] for row, label in enumerate(TARGET.tolist())) / 2
    own, theirs = student.forward_features(clip), teacher.forward_features(clip)
    assert own.shape[2:] == theirs.shape[2:]
    of_tokens = []
    for place in torch.cartesian_prod(*map(torch.arange, (2, *own.shape[2:]))).tolist():
        b, t, h, w = place
        logits = teacher.head(theirs[b, :, t, h, w])
        kept = logits.topk(2).indices.tolist()
        label = torch.tensor([logits[k].item() if k in kept else 0.0 for k in range(5)]).softmax(0)
        of_tokens.append(-(label * mlp(own[b, :, t, h, w]).log_softmax(0)).sum())
    for weight in (0.5, 0.25):
        criterion.config = TokenLabelConfig(teacher="dualformer_base", top_k=2, weight=weight)
        expected = (1 - weight) * of_clip + weight * torch.stack(of_tokens).mean()
        torch.testing.assert_close(criterion(clip, TARGET), expected)
    assert not torch.isclose(of_clip, torch.stack(of_tokens).mean(), rtol=0.05)


def test_soft_targets_and_label_smoothing_are_the_clips():
    criterion = criterion_of(label_smoothing=0.1).eval()
    plain = criterion_of().eval()
    clip = clip_for(plain.model)
    shares = torch.nn.functional.one_hot(TARGET, 5) * 0.9 + 0.02
    torch.testing.assert_close(criterion(clip, TARGET), plain(clip, shares))


def test_grids_are_matched_by_means_and_by_interpolation():
    logits = torch.arange(8.0).reshape(1, 2, 2, 2, 1)
    assert match_grid(logits, (2, 2, 2)).equal(logits)
    assert match_grid(logits, (1, 1, 1)).item() == 3.5
    assert match_grid(logits, (2, 1, 1)).flatten().tolist() == [1.5, 5.5]
    finer = match_grid(logits, (2, 1, 4))  # rows averaged, columns interpolated
    assert finer.flatten().tolist() == [1.0, 1.25, 1.75, 2.0, 5.0, 5.25, 5.75, 6.0]


@pytest.mark.parametrize("teacher", list_models())
@pytest.mark.parametrize("student", ["dualformer_tiny", "vivit_base"])
def test_every_model_teaches_and_never_changes(student: str, teacher: str):
    criterion = criterion_of(student, teacher).train()
    before = {name: value.clone() for name, value in criterion.teacher.state_dict().items()}
    optimizer = torch.optim.SGD(criterion.parameters(), 0.1)
    clip = clip_for(criterion.model)
    labels = criterion.teach(clip)
    criterion(clip, TARGET).backward()
    optimizer.step()
    assert all(value.equal(before[name]) for name, value in criterion.teacher.state_dict().items())
    assert not criterion.teacher.training and criterion.teach(clip).equal(labels)
    assert all(weight.grad is None for weight in criterion.teacher.parameters())


@pytest.mark.parametrize("student", distinct_models())
def test_every_weight_of_every_student_gets_a_gradient(student: str):
    criterion = criterion_of(student).train()
    if student == "timesformer_divided":  # zero at the start by design, which stops what is before them
        for block in criterion.model.blocks:
            nn.init.normal_(block.temporal_fc.weight, std=0.02)
    criterion(clip_for(criterion.model), TARGET).backward()
    silent = [
        name for name, weight in criterion.named_parameters() if weight.grad is None or not weight.grad.abs().sum()
    ]
    assert silent == []


@pytest.mark.parametrize("student", distinct_models())
def test_logits_and_features_are_those_of_the_two_methods(student: str):
    model = small_model(student).eval()
    clip = clip_for(model)
    logits, features = model.logits_and_features(clip)
    assert logits.equal(model(clip)) and features.equal(model.forward_features(clip))


def test_teacher_is_no_part_of_what_is_saved_or_trained():
    criterion = criterion_of()
    assert {name.partition(".")[0] for name in criterion.state_dict()} == {"model", "token_head"}
    assert {name.partition(".")[0] for name, _ in criterion.named_parameters()} == {"model", "token_head"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 4}, "num_classes of the teacher dualformer_base is 4, that of dualformer_tiny 5"),
        ({"num_frames": 4}, "num_frames of the teacher dualformer_base is 4, that of dualformer_tiny 8"),
        ({"crop_size": (16, 32)}, r"crop_size of the teacher dualformer_base is \(16, 32\), that of"),
    ],
)
def test_a_teacher_of_other_clips_or_classes_is_refused(changes: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        TokenLabels(small_model("dualformer_tiny"), small_model("dualformer_base", **changes), LABELS)


def fields_of(name: str) -> dict:
    return {field: value for field, value in reduced(name).items() if field not in ("num_frames", "crop_size")}


def test_a_file_of_weights_becomes_the_teacher(tmp_path):
    saved = small_model("vivit_base")
    torch.save(saved.state_dict(), tmp_path / "vivit.pth")
    config = TokenLabelConfig(
        teacher="vivit_base", weights=str(tmp_path / "vivit.pth"), overrides=fields_of("vivit_base")
    )
    loaded = load_teacher(config, small_model("dualformer_tiny").config)
    assert all(value.equal(saved.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_a_teacher_is_the_set_of_weights_that_is_named(tmp_path):
    trained = small_model("vivit_base").state_dict()
    averaged = {name: value + 1 for name, value in trained.items()}
    torch.save({"model": trained, "model_ema": averaged}, tmp_path / "vivit.pth")
    values = {"teacher": "vivit_base", "weights": str(tmp_path / "vivit.pth"), "overrides": fields_of("vivit_base")}
    for name, expected in ((None, trained), ("model_ema", averaged)):
        loaded = load_teacher(TokenLabelConfig(**values, weight_set=name), small_model("dualformer_tiny").config)
        assert all(value.equal(expected[key]) for key, value in loaded.state_dict().items())


def test_what_a_student_draws_does_not_depend_on_its_teacher(tmp_path):
    torch.save(small_model("vivit_base").state_dict(), tmp_path / "vivit.pth")
    config = TokenLabelConfig(
        teacher="vivit_base", weights=str(tmp_path / "vivit.pth"), overrides=fields_of("vivit_base")
    )
    student = small_model("dualformer_tiny").config
    before = torch.get_rng_state()
    load_teacher(config, student)
    assert torch.get_rng_state().equal(before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": None}, r"learned nothing.*weights of vivit_base with --set train\.token_labels\.weights=FILE"),
        ({"weights": "nowhere.pth"}, "nowhere.pth"),
        ({"teacher": "vivit_bas"}, "unknown model 'vivit_bas'; did you mean 'vivit_base'"),
        ({"overrides": {"num_frames": 4}}, "'num_frames' is the student's"),
        ({"overrides": {"dept": 4}}, "unknown field 'dept'; did you mean 'depth'"),
    ],
)
def test_a_teacher_that_cannot_be_had_is_named(tmp_path, changes: dict, message: str):
    torch.save(small_model("vivit_base").state_dict(), tmp_path / "vivit.pth")
    values = {"teacher": "vivit_base", "weights": str(tmp_path / "vivit.pth"), "overrides": fields_of("vivit_base")}
    with pytest.raises(ConfigError, match=message):
        load_teacher(TokenLabelConfig.from_dict({**values, **changes}), small_model("dualformer_tiny").config)


def test_weights_of_other_classes_or_clips_say_so(tmp_path):
    student = small_model("dualformer_tiny").config
    for changes in ({"num_classes": 7}, {"num_frames": 16}):
        torch.save(small_model("vivit_base", **changes).state_dict(), tmp_path / "vivit.pth")
        config = TokenLabelConfig(
            teacher="vivit_base", weights=str(tmp_path / "vivit.pth"), overrides=fields_of("vivit_base")
        )
        with pytest.raises(
            ConfigError, match="vivit_base can't teach dualformer_tiny on clips of 8x32x32 in 5 classes"
        ):
            load_teacher(config, student)


@pytest.fixture(scope="module")
def taught(tmp_path_factory) -> RunConfig:
    """A small run with a teacher, whose weights are a file."""
    folder = tmp_path_factory.mktemp("taught")
    config = small_run.small_config(small_run.write_bright_and_dark(folder / "clips"))
    torch.save(build_model(config, num_classes=2).state_dict(), folder / "teacher.pth")
    labels = {"teacher": "dualformer_tiny", "weights": str(folder / "teacher.pth")}
    labels["overrides"] = small_run.MODEL["overrides"]
    return config.changed(train={"token_labels": labels, "steps": 12, "learning_rate": 1e-2, "save_every": 4})


def run(config: RunConfig, folder) -> tuple[nn.Module, dict]:
    folder.mkdir(exist_ok=True)
    model = build_model(config, num_classes=2)
    train_set, _ = build_datasets(config, model.config)
    return model, train(model, train_set, small_run.context_of(config, folder))


def test_training_lowers_the_loss(taught, tmp_path):
    config = taught.changed(train={"steps": 40, "log_every": 1})
    run(config, tmp_path / "run")
    lines = [line.split('"loss": ')[1] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [float(line.split(",")[0]) for line in lines]
    assert sum(losses[-5:]) / 5 < 0.75 * sum(losses[:5]) / 5


def test_a_stopped_run_goes_on_with_the_same_bits(taught, tmp_path):
    whole, _ = run(taught, tmp_path)
    step, state = load_checkpoint(tmp_path)
    max((tmp_path / "checkpoints").iterdir()).unlink()
    assert step == 12 and load_checkpoint(tmp_path)[0] == 8
    resumed, _ = run(taught, tmp_path)
    assert all(a.equal(b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    mlp, optimizer = (load_checkpoint(tmp_path)[1][part] for part in ("criterion", "optimizer"))
    assert mlp and all(value.equal(state["criterion"][name]) for name, value in mlp.items())
    for number, moments in optimizer["state"].items():
        assert moments["exp_avg"].equal(state["optimizer"]["state"][number]["exp_avg"])


def test_the_mlp_is_trained_as_the_head_is(taught):
    model = build_model(taught, num_classes=2)
    learner = Learner(model, small_run.context_of(taught.changed(train={"groups": "released"})))
    placed = {id(weight): group for group in learner.optimizer.param_groups for weight in group["params"]}
    head = placed[id(model.head.weight)]
    for weight in learner.criterion.token_head.parameters():
        assert placed[id(weight)]["lr"] == head["lr"] and placed[id(weight)]["weight_decay"] == head["weight_decay"]
    assert len(placed) == sum(1 for _ in learner.criterion.parameters())
