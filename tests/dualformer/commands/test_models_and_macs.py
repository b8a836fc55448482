"""What is listed about models, and how their counts are shown and held against other counters."""

import re

import pytest

from dualformer import count_macs, create_model, cross_check, list_models
from dualformer.cli import main
from dualformer.commands import models
from dualformer.registry import model_config

SMALL = ["--num-frames", "4", "--crop-size", "64"]


def lines(capsys, *words, status=0):
    assert main(list(words)) == status
    return capsys.readouterr().out.splitlines()


def test_models_are_listed_with_size_cost_clip_and_paper(capsys):
    head, *rows = lines(capsys, "models", "*_tiny")
    assert head.split("  ")[0] == "model" and "GMACs per view" in head
    name, params_m, gmacs, clip, paper = re.split(r"  +", rows[0])
    assert (name, clip, paper) == ("dualformer_tiny", "32x224x224", "ECCV 2022, arXiv 2112.04674")
    with_head = sum(weight.numel() for weight in create_model("dualformer_tiny").parameters())
    assert params_m == f"{with_head / 1e6:.3f}"
    assert gmacs == f"{count_macs('dualformer_tiny').total / 1e9:.2f}"
    assert [row.split()[0] for row in rows] == list_models("*_tiny")


@pytest.mark.parametrize("name", list_models())
def test_every_model_names_its_paper(name):
    assert re.fullmatch(r"\w+ \d{4}, arXiv \d{4}\.\d{5}", models.paper(type(model_config(name))))


def test_names_alone(capsys):
    assert lines(capsys, "models", "vi*", "--names") == list_models("vi*")


def test_a_pattern_that_matches_nothing_is_an_error(capsys):
    lines(capsys, "models", "dualformer_tinny", status=2)
    assert main(["models", "dualformer_tinny"]) == 2
    assert "no model matches 'dualformer_tinny'; did you mean 'dualformer_tiny'" in capsys.readouterr().err


@pytest.mark.parametrize("head", [(), ("--head",), ("--no-head",)])
@pytest.mark.parametrize("name", ["dualformer_tiny", "vivit_base"])
def test_macs_are_shown_by_operator_and_part(name, head, capsys):
    include_head = {(): None, ("--head",): True, ("--no-head",): False}[head]
    count = count_macs(name, include_head=include_head, num_frames=4, crop_size=64)
    shown = lines(capsys, "macs", name, *SMALL, *head, "--depth", "1")
    assert shown[0] == f"{name}, one view of 4x64x64, 400 classes"
    assert shown[1].startswith(
        f"{count.total / 1e9:.3f} GMACs (head {'included' if count.head_included else 'left out'})"
    )
    table = {row[0]: row[1] for line in shown[2:] if len(row := line.split()) == 3}
    for macs in (
        count.by_operator,
        {part: value for part, value in count.by_module.items() if part and "." not in part},
    ):
        for part, value in macs.items():
            assert float(table[part]) == pytest.approx(value / 1e9, rel=6e-3)
    assert ("head" in table) == count.head_included


def test_macs_of_a_changed_model(capsys):
    changed = ["--attention", "DD", "--num-classes", "7", "--set", "depths=[1, 1, 1, 1]", "pooling=average"]
    shown = lines(capsys, "macs", "dualformer_tiny", "--num-frames", "4", "--crop-size", "64", "96", *changed)
    fields = {"attention": "DD", "num_classes": 7, "depths": (1, 1, 1, 1), "pooling": "average"}
    count = count_macs("dualformer_tiny", num_frames=4, crop_size=(64, 96), **fields)
    assert shown[0] == "dualformer_tiny, one view of 4x64x96, 7 classes"
    assert shown[1].startswith(f"{count.total / 1e9:.3f} GMACs")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dualformer_tinny"], "unknown model 'dualformer_tinny'; did you mean 'dualformer_tiny'"),
        (["vivit_base", "--attention", "LG"], "attention"),
        (["dualformer_tiny", "--attention", "LX"], "attention"),
        (["dualformer_tiny", "--set", "poolin=max"], "unknown field 'poolin'; did you mean 'pooling'"),
        (["dualformer_tiny", "--set", "pooling"], "--set pooling: expected FIELD=VALUE"),
        (["dualformer_tiny", "--set", "num_classes=3"], "--set num_classes: has a flag of its own"),
        (["dualformer_tiny", "--set", "pooling=3"], "pooling"),
        (["dualformer_tiny", "--crop-size", "1", "2", "3"], "--crop-size takes one number or two, got 3"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_models_are_one_line_and_status_2(words, message, capsys):
    assert main(["macs", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("dualformer macs: ") and message in error and len(error.splitlines()) == 1


@pytest.mark.parametrize("name", ["dualformer_tiny", "video_swin_tiny", "timesformer_divided", "vivit_base"])
def test_every_counter_agrees(name, capsys):
    shown = lines(capsys, "macs", name, "--check", *SMALL)
    assert [line.split("  ")[0] for line in shown[2:]] == ["dualformer", "closed form", "torch", "fvcore", "ptflops"]
    assert all("  agrees  " in line for line in shown[3:])


def test_a_counter_that_differs_is_named_and_status_1(capsys, monkeypatch):
    monkeypatch.setattr(cross_check, "ptflops_macs", lambda model: 17)
    shown = lines(capsys, "macs", "dualformer_tiny", "--check", *SMALL, status=1)
    assert [line.split("  ")[0] for line in shown if "DIFFERS" in line] == ["ptflops"]


def test_a_counter_that_can_not_count_says_why(capsys, monkeypatch):
    def refuse(model):
        raise RuntimeError("no such operator\nat all")

    monkeypatch.setattr(cross_check, "torch_flops", refuse)
    shown = lines(capsys, "macs", "dualformer_tiny", "--check", *SMALL)
    assert [line.split("  ")[0] for line in shown if "can't count it" in line] == ["torch"]
    assert shown[-1] == "torch: RuntimeError: no such operator"


def test_cross_check_sees_uncounted_attention():
    model = create_model("dualformer_tiny", num_frames=4, crop_size=64).eval()
    forgetful = cross_check.fvcore_macs(model, handlers={"aten::scaled_dot_product_attention": None})
    ours = count_macs(model, include_head=True)
    assert cross_check.fvcore_macs(model) == ours.by_operator != forgetful


def test_counts_are_compared_by_the_others_conventions():
    counts = {
        count.counter: count
        for count in cross_check.cross_check(model_config("dualformer_tiny", num_frames=4, crop_size=64))
    }
    ours = count_macs("dualformer_tiny", include_head=True, num_frames=4, crop_size=64)
    assert counts["torch"].ours == 2 * ours.matrix_work
    assert counts["fvcore"].ours == ours.total
    assert counts["ptflops"].ours == counts["closed form"].ours == ours.matrix_work
