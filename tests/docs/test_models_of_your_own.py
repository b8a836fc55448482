"""The code of docs/models_of_your_own.md does what it says, from a folder that holds its files and nothing else."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "models_of_your_own.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"<!-- ([^>]+) -->\n```\w+\n(.*?)```", PAGE, re.S)
CODE = "import sys; from dualformer.cli import main; sys.exit(main(sys.argv[1:]))"


def blocks(kind):
    return [text for title, text in BLOCKS if title == kind]


@pytest.fixture
def folder(tmp_path):
    for title, text in BLOCKS:
        if title.startswith("file: "):
            (tmp_path / title.removeprefix("file: ")).write_text(text)
    return tmp_path


def python(folder, code, *arguments):
    """Runs code as a console script does, without the working directory on the path."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, timeout=500)


def dualformer(folder, *arguments):
    return python(folder, CODE, *arguments)


def commands(kind):
    """Words of each command, comments and the program's name left out."""
    return [line.partition("#")[0].split()[1:] for text in blocks(kind) for line in text.strip().splitlines()]


def test_checked_as_the_page_says(folder):
    (command,) = commands("command")
    done = dualformer(folder, *command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok      contract" in done.stdout


def test_grid_is_planned_with_every_network(folder):
    only = [] if _has_torchvision() else ["--only", "network=mine", "network=dualformer", "network=video_swin"]
    dry_run = commands("commands")[0]
    done = dualformer(folder, *dry_run, *only)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "model.name=my_models:convnet" in done.stdout


def _has_torchvision():
    code = "import torchvision.models.video"
    return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.slow
def test_commands_of_the_page_make_one_table(folder):
    only = ["--only", "network=mine", "network=dualformer"]
    _, launch, collect, side_by_side = commands("commands")
    done = dualformer(folder, *launch, "--executor", "local", *only)
    assert done.returncode == 0, done.stdout + done.stderr
    done = dualformer(folder, *collect)
    assert done.returncode == 0, done.stdout + done.stderr
    (table,) = (folder / "results" / "my_grid").glob("*.csv")
    assert "my_models:convnet" in table.read_text() and "dualformer_tiny" in table.read_text()
    done = dualformer(folder, *side_by_side)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "my_models:convnet" in done.stdout and "dualformer_tiny:LL" in done.stdout


def test_module_at_hand(folder):
    (code,) = blocks("python")
    check = "\nassert logits.shape == (2, 5)\nprint(dualformer.count_macs(model).total)"
    path = "import os, sys; sys.path.append(os.getcwd())\n"
    done = python(folder, path + code + check)
    assert done.returncode == 0, done.stderr
    stated = re.search(r"count_macs\(model\)\.total  # (\d+)", code)
    assert done.stdout.strip() == stated[1]


def test_network_of_transformers(folder):
    pytest.importorskip("transformers", reason="needs transformers")
    (code,) = blocks("python, needs transformers")
    namespace = {"dualformer": __import__("dualformer")}
    exec(code, namespace)
    assert namespace["model"].config.num_classes == 5


def test_variant_of_ours(folder):
    code = (
        "from dualformer import create_model; print(create_model('my_variants:narrow', crop_size=64).config.embed_dims)"
    )
    done = python(folder, code)
    assert done.stdout.strip() == "(32, 64, 160, 256)", done.stderr


def test_every_optional_part_is_explained():
    from dualformer.model_contract import PARTS

    table = PAGE.partition("All else is optional")[2]
    named = {"closed_form": "matrix_work"}
    assert not [part for part in PARTS if named.get(part, part) not in table]
