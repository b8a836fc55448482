"""The page about adding an attention works as written: its file is planted, checked, and its grid expanded."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import dualformer
from dualformer import attention
from dualformer.attention import style
from dualformer.checking import CHECKS, check_letter
from dualformer.registry import model_config

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "adding_an_attention.md").read_text()
FILE, USE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(GRID,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
LETTER = re.search(r'letter = "(.)"', FILE)[1]


@pytest.fixture
def planted(tmp_path):
    if LETTER in attention.letters():
        pytest.skip(f"the project has an attention {LETTER} of its own")
    (tmp_path / "axial.py").write_text(FILE)
    with attention.also_in(tmp_path):
        yield attention.find(LETTER)


def test_the_file_passes_every_check(planted):
    quick = [name for name in CHECKS if name != "compile"]
    assert [finding for finding in check_letter(LETTER, quick) if not finding.ok] == []


def test_the_calls_work(planted):
    exec(USE, {})
    model = dualformer.create_model("dualformer_tiny", attention=LETTER, num_frames=2, crop_size=32)
    assert isinstance(model.stages[0].blocks[0].attn, planted)


def test_bad_axes_are_refused(planted):
    for axes in ([], [0, 0], [3]):
        with pytest.raises(
            dualformer.ConfigError, match=rf"attention_options\.{LETTER}: axes must be some of 0, 1 and 2"
        ):
            model_config("dualformer_tiny", attention=LETTER, attention_options={LETTER: {"axes": axes}})


def test_it_is_drawn_in_its_own_words_and_colour(planted):
    drawn = style.of_pattern(2 * LETTER)
    assert (drawn.words, drawn.colour) == (planted.words, planted.colour)
    assert style.of_pattern(f"{LETTER}G").words == "axial + pyramid"


def test_the_grid_sweeps_the_option(planted):
    grid = yaml.safe_load(GRID)
    [(path, values)] = grid["axes"].items()
    *_, field, letter, option = path.split(".")
    assert (field, letter) == ("attention_options", LETTER)
    model = grid["base"]["model"]
    for value in values:
        changes = {**model["overrides"], "attention_options": {letter: {option: value}}}
        config = model_config(model["name"], attention=model["attention"], **changes)
        block = config.build().stages[0].blocks[0]
        assert list(getattr(block.attn.options, option)) == value


def test_the_file_is_as_clean_as_the_project(tmp_path):
    width = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["line-length"]
    assert max(map(len, FILE.splitlines())) <= width
