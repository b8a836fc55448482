"""The command that checks one model or letter: what it prints, what it finds, and its exit status."""

import sys

import pytest
import torch
from torch import nn

from dualformer import attention, check, model_checking
from dualformer.model_checking import Subject, check_model, subject
from dualformer.registry import model_config

SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.body = nn.Conv3d(3, 6, 3, stride=2)
        self.fc = nn.Linear(6, num_classes)

    def forward(self, clip):
        return self.fc(self.body(clip).mean(dim=(2, 3, 4)))

class TrainsOtherwise(Net):
    def forward(self, clip):
        return torch.cat([super().forward(clip)] * (2 if self.training else 1))

class Mixes(Net):
    def forward(self, clip):
        return super().forward(clip - clip.mean(dim=0))

class Detached(Net):
    def forward(self, clip):
        return super().forward(clip).detach() + 0 * torch.ones((), requires_grad=True)

class NotFinite(Net):
    def forward(self, clip):
        return super().forward(clip).log() - torch.inf
"""
SIZE = ["--num-frames", "4", "--crop-size", "16"]
SMALL = {
    "num_frames": 4,
    "crop_size": 32,
    "embed_dims": (8, 16),
    "depths": (2, 1),
    "num_heads": (1, 2),
    "fine_sizes": ((2, 2, 2),) * 2,
    "coarse_sizes": (None, None),
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "checked_models.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(model_checking, "BENCHMARK_S", 0.0)
    yield
    sys.modules.pop("checked_models", None)


def lines_by_check(printed):
    """{check: (verdict, detail)} of what the command printed."""
    lines = [line.split(None, 2) for line in printed.splitlines() if line.startswith(("ok", "FAILED"))]
    return {name: (verdict, detail) for verdict, name, detail in lines}


def test_network_by_import_path(capsys):
    assert check.main(["checked_models:Net", *SIZE]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("checked_models:Net: Adapted, checked on clips of 4x16x16\n")
    found = lines_by_check(printed)
    assert list(found) == list(model_checking.CHECKS)
    assert "no closed form, so it is counted only" in found["cost"][1]
    assert "no naive twins" in found["twin"][1]
    assert "has head, forward_features" in found["parts"][1]
    assert "the median of only" in found["speed"][1]


@pytest.mark.parametrize(
    ("name", "failed", "words"),
    [
        ("TrainsOtherwise", "contract", "in train mode it "),
        ("Mixes", "samples", "depend on the others of its batch"),
        ("Detached", "gradients", "no finite gradient reaches"),
        ("NotFinite", "contract", "logits aren't finite"),
    ],
)
def test_broken_promise_is_found(capsys, name, failed, words):
    about = Subject(*[model_config(f"checked_models:{name}", num_frames=4, crop_size=16)] * 2)
    findings = {finding.name: finding for finding in check_model(about)}
    assert not findings[failed].ok
    if name != "TrainsOtherwise":  # the wrapper refuses that in words of its own
        assert words in findings[failed].detail
    assert check.main([f"checked_models:{name}", *SIZE]) == 1
    assert f"FAILED  {failed}" in capsys.readouterr().out


def small_subject():
    return Subject(*[model_config("dualformer_tiny", **SMALL)] * 2)


def test_model_of_the_registry_keeps_all_promises():
    findings = list(check_model(small_subject()))
    assert all(finding.ok for finding in findings), findings
    details = {finding.name: finding.detail for finding in findings}
    assert "equals its 3 naive twins" in details["twin"]
    assert "closed form equals the counter" in details["cost"]
    assert "has no" not in details["parts"]


def test_wrong_twin_and_wrong_cost_are_found(monkeypatch):
    about = small_subject()
    letter = attention.find("L")
    fast = letter.forward
    monkeypatch.setattr(letter, "forward", lambda self, x: 1.001 * fast(self, x))
    monkeypatch.setattr(letter, "macs", lambda self: 7)
    monkeypatch.setattr(type(about.config), "matrix_work", lambda self, *, include_head: 7)
    findings = {finding.name: finding for finding in check_model(about)}
    assert not findings["twin"].ok and "differs from that of the naive twins" in findings["twin"].detail
    assert not findings["cost"].ok and "the closed form says 7" in findings["cost"].detail


def test_slow_model_is_checked_at_a_reduced_size():
    about = subject("timesformer_divided")
    assert (about.published.depth, about.config.depth, about.config.crop_size) == (12, 2, (64, 64))
    assert about.size == "8x64x64 and depth 2, reduced from 8x224x224"
    asked = subject("timesformer_divided", num_frames=2, crop_size=32)
    assert asked.config == asked.published


def test_letter_with_its_words_and_options(capsys, monkeypatch):
    monkeypatch.setattr("dualformer.checking.check_letter.__defaults__", (("options", "cost"),))
    assert check.main(["L"]) == 0
    printed = capsys.readouterr().out
    style = attention.style.of_letter("L")
    assert printed.startswith(f"L: {style.words} (LocalWindowAttention)")
    assert style.colour in printed and "option window_size" in printed
    assert "speed" in lines_by_check(printed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dualformer_tin"], "did you mean 'dualformer_tiny'"),
        (["q"], "unknown letter 'q'"),
        (["L", "--num-frames", "3"], "flags are for models"),
        (["checked_models:Net"], "give num_frames and crop_size"),
        (["checked_models:Net", *SIZE, "--set", "width"], "expected FIELD=VALUE"),
        (["checked_models:Nat", *SIZE], "did you mean 'Net'"),
        (["checked_models:Net", *SIZE, "--set", "num_frames=3"], "--set num_frames: has a flag of its own"),
    ],
)
def test_what_cannot_be_checked(capsys, arguments, message):
    assert check.main(arguments) == 2
    errors = capsys.readouterr().err
    assert message in errors and len(errors.splitlines()) == 1


@pytest.mark.parametrize("flag", ["--num-frames", "--crop-size"])
@pytest.mark.parametrize("value", ["0", "-3", "many"])
def test_sizes_that_there_are_not_are_refused(capsys, flag, value):
    with pytest.raises(SystemExit) as caught:
        check.main(["vivit_base", flag, value])
    said = capsys.readouterr().err
    assert caught.value.code == 2 and f"argument {flag}: " in said and len(said.splitlines()) == 1


def test_modes_and_precision_are_put_back():
    about = small_subject()
    list(check_model(about))
    assert all(p.dtype == torch.float32 for p in about.model.parameters())
    assert isinstance(about.model, nn.Module)
