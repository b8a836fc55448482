"""The commands: help without torch, one line for what can't be, models by any name."""

import argparse
import importlib
import subprocess
import sys

import pytest
import torch

from sweeps.measuring import bounds, options, side_by_side
from sweeps.run_config import MeasureConfig
from tests.helpers.planted import FREE

COMMANDS = {
    "side-by-side": "sweeps.measuring.comparison",
    "roofline": "sweeps.measuring.roofline",
    "max-batch": "sweeps.measuring.max_batch",
    "cost": "sweeps.launching.plan_cost",
    "metrics": "sweeps.training.metrics",
}
SMALL = ["--num-frames", "4", "--crop-size", "32", "--device", "cpu"]

OWN = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, width=8):
        super().__init__()
        self.conv, self.head = nn.Conv3d(3, width, 3, 2, 1), nn.Linear(width, num_classes)

    def forward(self, clip):
        return self.head(self.conv(clip).relu().mean(dim=(2, 3, 4)))

def net(num_classes=5):
    return Net(num_classes)
"""


def call(command, *arguments):
    return importlib.import_module(COMMANDS[command]).main(list(arguments))


def parser_of(module):
    parser = argparse.ArgumentParser()
    importlib.import_module(module).add_arguments(parser)
    return parser


@pytest.mark.parametrize("module", COMMANDS.values())
def test_every_flag_has_words_and_says_its_default(module):
    for action in parser_of(module)._actions:
        assert action.help
        if action.option_strings and "--help" not in action.option_strings:
            assert "default" in action.help, action.option_strings
            assert action.default in (None, []) or str(action.default) in action.help


@pytest.mark.parametrize("module", COMMANDS.values())
def test_help_needs_neither_torch_nor_a_decoder(module):
    program = (
        "import argparse, importlib, sys\n"
        f"importlib.import_module({module!r}).add_arguments(argparse.ArgumentParser())\n"
        "print([name for name in ('torch', 'av', 'decord', 'pandas', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_choices_are_those_of_the_config():
    assert options.choices(MeasureConfig, "precision") == ("float32", "bfloat16", "float16")
    assert options.choices(MeasureConfig, "samples") == ()
    for command in ("side-by-side", "roofline", "max-batch"):
        (action,) = (a for a in parser_of(COMMANDS[command])._actions if a.dest == "precision")
        assert tuple(action.choices) == options.choices(MeasureConfig, "precision")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dualformer_tiny", ("dualformer_tiny", None)),
        ("dualformer_tiny:LG", ("dualformer_tiny", "LG")),
        ("dualformer_tiny:LL,LG,LG,F", ("dualformer_tiny", "LL,LG,LG,F")),
        ("pkg.mod:fn", ("pkg.mod:fn", None)),
        ("pkg.mod:fn:LG", ("pkg.mod:fn", "LG")),
        ("argparse:fn", ("argparse:fn", None)),
        ("some_module:fn:LG", ("some_module:fn", "LG")),
        ("dualformer_tinny:LG", ("dualformer_tinny", "LG")),
    ],
)
def test_networks_are_named_with_or_without_a_pattern(text, expected):
    assert options.split_network(text) == expected


@pytest.mark.parametrize("text", ["dualformer_tiny:", "pkg.mod:", "a.b:c:d:e", "dualformer_tiny:LG:FF", "pkg.mod:fn:"])
def test_what_names_no_network_is_refused(text, capsys):
    assert call("side-by-side", text) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_networks_of_one_s_own_are_compared_bounded_and_gated(tmp_path, monkeypatch, capsys):
    (tmp_path / "own_net.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    assert call("side-by-side", "own_net:net", "dualformer_tiny:LL", "own_net:net", *SMALL, "--samples", "3") == 0
    table = capsys.readouterr().out
    assert [line.split()[0] for line in table.splitlines()[1:4]] == ["own_net:net", "dualformer_tiny:LL", "own_net:net"]
    assert "own_net:net (3)" in table


def test_a_network_without_blocks_is_one_part(tmp_path, monkeypatch, capsys):
    (tmp_path / "own_net2.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bounds, "COPY_BYTES", {"cpu": 2**20})
    monkeypatch.setattr(bounds, "MATRIX_SIZE", {"cpu": 64})
    assert call("roofline", "own_net2:net", *SMALL, "--samples", "3") in (0, 1)
    out = capsys.readouterr().out
    assert "outside the blocks" in out and "whole network" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["dualformer_tinny"], "unknown model 'dualformer_tinny'; did you mean 'dualformer_tiny'"),
        (["dualformer_tinny:LG"], "unknown model 'dualformer_tinny'; did you mean 'dualformer_tiny'"),
        ([f"dualformer_tiny:{FREE}L"], f"'{FREE}'"),
        (["vivit_base:LG"], "attention"),
        (["no.such.module:fn"], "no module 'no'"),
    ],
)
@pytest.mark.parametrize("command", ["side-by-side", "roofline"])
def test_networks_that_there_are_not_are_one_line_and_status_2(capsys, command, arguments, said):
    assert call(command, *arguments) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith(f"{command}: ") and said in err


@pytest.mark.parametrize(
    "flags",
    [
        ["--precision", "float64"],
        ["--precision", "fp16"],
        ["--device", "gpu"],
        ["--threads", "0"],
        ["--samples", "-3"],
        ["--batch-size", "many"],
        ["--crop-size", "32x"],
        ["--crop-size", "1x2x3"],
        ["--num-frames", "0"],
        ["--attention-backend", "fast"],
    ],
)
@pytest.mark.parametrize("command", ["side-by-side", "roofline"])
def test_values_that_there_are_not_are_refused(capsys, command, flags):
    with pytest.raises(SystemExit) as caught:
        call(command, "dualformer_tiny", *flags)
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"{command}: argument {flags[0]}: ") and said.count("\n") == 1


@pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="it must be missing")
@pytest.mark.parametrize("command", ["side-by-side", "roofline"])
def test_a_device_that_is_missing_is_one_line_and_status_2(capsys, command):
    assert call(command, "dualformer_tiny", "--device", "cuda") == 2
    assert capsys.readouterr().err == f"{command}: --device cuda: this machine has no CUDA device\n"


@pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="it must be missing")
def test_largest_batch_without_a_gpu_is_one_line_that_names_no_flag(capsys):
    assert call("max-batch", "dualformer_tiny") == 2
    said = capsys.readouterr().err
    assert said == "max-batch: the largest batch is searched on a GPU, and this machine has no CUDA device\n"


def test_settings_that_torch_refuses_and_memory_that_is_not_there_are_one_line(capsys, monkeypatch):
    assert call("side-by-side", "dualformer_tiny", *SMALL, "--attention-backend", "cudnn") == 1
    monkeypatch.setattr(side_by_side, "random_clip", lambda *_: torch.empty(2**60))
    assert call("side-by-side", "dualformer_tiny", *SMALL) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("side-by-side: torch refuses: ") and second == "side-by-side: out of memory"


PART = bounds.Part("block", 2, 1.0, 1.0, bound_ms=2.0, time_ms=4.0)


def test_more_than_all_is_said_to_be_wrong():
    ceilings = bounds.Ceilings(100.0, 10.0)
    right = bounds.Roofline(ceilings, (PART,), time_ms=8.0)
    assert right.beaten == [] and "wrong" not in bounds.table(right)
    disturbed = bounds.Roofline(ceilings, (PART,), time_ms=3.0, flags=("other processes used 1.0 cores",))
    assert disturbed.beaten == ["whole network"]
    last = bounds.table(disturbed).splitlines()[-2:]
    assert last[0].startswith("wrong: less time than its bound took whole network")
    assert last[1] == "disturbed: other processes used 1.0 cores"


def test_ceilings_that_a_time_beats_are_measured_again(monkeypatch):
    from dualformer.registry import create_model

    found = iter([bounds.Ceilings(1e-6, 1e-6), bounds.Ceilings(1e6, 1e-6), bounds.Ceilings(1e-6, 1e6)])
    monkeypatch.setattr(bounds, "measure_ceilings", lambda *args: next(found))
    model = create_model("dualformer_tiny", num_frames=4, crop_size=32)
    result = bounds.roofline(model, MeasureConfig(samples=2), device="cpu", threads=1)
    assert result.ceilings == bounds.Ceilings(1e6, 1e6) and not result.beaten


def test_ceilings_that_stay_too_low_are_told_and_make_the_status_1(monkeypatch, capsys):
    monkeypatch.setattr(bounds, "measure_ceilings", lambda *args: bounds.Ceilings(1e-6, 1e-6))
    assert call("roofline", "dualformer_tiny", *SMALL, "--samples", "2") == 1
    assert "wrong: less time than its bound took" in capsys.readouterr().out
