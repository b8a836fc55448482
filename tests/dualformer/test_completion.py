"""What a shell gets after TAB, asked the way a shell asks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dualformer.attention import letters

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path):
    """Where the shell is: a grid and a cluster profile of one's own, and a runs folder with two runs."""
    for name in ("0123456789ab", "01ffffffffff"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.json").write_text("{}")
    (tmp_path / "runs/mine.grid.json").write_text("{}")
    (tmp_path / "runs/unfinished").mkdir()
    (tmp_path / "mine.yaml").touch()
    (tmp_path / "notes.txt").touch()
    return tmp_path


def completed(line, folder):
    """The words that complete a line, and the modules that finding them took."""
    answer = folder / "answer"
    environment = {
        **os.environ,
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        "_ARGCOMPLETE_SUPPRESS_SPACE": "1",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "COMP_TYPE": "9",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-X", "importtime", "-m", "dualformer"]
    process = subprocess.run(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True, check=True)
    modules = {
        line.rpartition("|")[2].strip() for line in process.stderr.splitlines() if line.startswith("import time")
    }
    return sorted(word.strip() for word in answer.read_text().splitlines()), modules


CASES = {
    "dualformer mo": ["models"],
    "dualformer check-v": ["check-videos"],
    "dualformer models --na": ["--names"],
    "dualformer models video_swin_": ["video_swin_base", "video_swin_small", "video_swin_tiny"],
    "dualformer macs vivit": ["vivit_base"],
    "dualformer predict clip.mp4 --model timesformer_d": ["timesformer_divided"],
    "dualformer predict clip.mp4 --num-crops ": ["1", "3"],
    "dualformer fields train.token_labels.weight": [
        "train.token_labels.weight",
        "train.token_labels.weight_set",
        "train.token_labels.weights",
    ],
    "dualformer prepare kin": ["kinetics"],
}


@pytest.mark.parametrize("line", CASES)
def test_completion(line, folder):
    words, modules = completed(line, folder)
    assert words == CASES[line]
    assert "torch" not in modules and "dualformer.cli" in modules


COMPLETERS = {
    "models('timesformer_j')": ["timesformer_joint"],
    "grids('kinetics')": ["kinetics400.yaml", "kinetics600.yaml"],
    "grids('mi')": ["mine.yaml"],
    "grids('./')": ["./mine.yaml", "./runs/"],
    "grids('nowhere/')": [],
    "profiles('pri')": ["private"],
    "runs('01')": ["0123456789ab", "01ffffffffff"],
    "runs('', argparse.Namespace(runs='elsewhere'))": [],
    "runs_and_launched('')": ["0123456789ab", "01ffffffffff", "mine"],
    "launched('m')": ["mine"],
    "assignments('model.n')": ["model.name=", "model.num_frames="],
    "assignments('model.name=vivit')": ["model.name=vivit_base"],
    "assignments('train.optimizer=')": ["train.optimizer=adamw", "train.optimizer=sgd"],
    "assignments('measure.tf32=t')": ["measure.tf32=true"],
    "assignments('model.attention=LG,L')": [f"model.attention=LG,L{letter}" for letter in letters()],
    "assignments('train.steps=')": [],
    "assignments('nothing=')": [],
    "fields('measure.warmup')": ["measure.warmup", "measure.warmup_limit"],
    "letters('L')": [f"L{letter}" for letter in letters()],
}


@pytest.mark.parametrize("call", COMPLETERS)
def test_completers(call, folder):
    imports = "import argparse, sys; from dualformer.completion import *; from sweeps.completion import *"
    code = f"{imports}; print({call}, 'torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert (process.stderr, process.stdout) == ("", f"{COMPLETERS[call]} False\n")
