"""Attentions: found by being there, equal to their twins, what each of them promises, and the edges of their rules."""

import itertools
import re
import subprocess
import sys

import pytest
import torch

from dualformer import attention
from dualformer.attention import find, letters
from dualformer.attention.base import Attention, Place
from dualformer.attention.global_pyramid import GlobalPyramidAttention
from dualformer.attention.local_window import LocalWindowAttention
from dualformer.attention.patterns import check_pattern, symbols
from dualformer.attention.pooling import factorise
from dualformer.attention.shifted_window import ShiftedWindowAttention
from dualformer.attention.windows import even_windows
from dualformer.checking import CHECKS, GRIDS, TOLERANCE, build, examples, tokens, twin_errors
from dualformer.config import ConfigError
from dualformer.reference import naive, num_twins
from dualformer.tracing import shared_functions
from tests.helpers.planted import FREE, plant

SLOW = {"export", "compile"}
every_letter = pytest.mark.parametrize("letter", letters())


def cases():
    for letter in letters():
        for (example, fields), grid in itertools.product(examples(letter).items(), GRIDS):
            yield pytest.param(letter, GRIDS[grid], fields, id=f"{letter}-{grid}-{example}")


@pytest.mark.parametrize(("letter", "grid", "fields"), cases())
def test_equals_its_naive_twin_forward_and_backward(letter, grid, fields):
    module = build(letter, grid, **fields).double()
    assert shared_functions(module, tokens(module)) == []
    errors = twin_errors(module, tokens(module))
    assert {"output", "gradient of input", "gradient of proj.weight"} < set(errors)
    assert {name: error for name, error in errors.items() if not error <= TOLERANCE[torch.float64]} == {}


@every_letter
@pytest.mark.parametrize(
    "check",
    [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in CHECKS if name != "twin"],
)
def test_keeps_what_every_attention_promises(letter, check):
    CHECKS[check](letter)


@every_letter
def test_naive_context_restores_the_fast_path(letter):
    module = build(letter, (4, 6, 6))
    assert num_twins(module) == 1
    with pytest.raises(RuntimeError, match="stop"), naive(module):
        assert module.forward == module.naive
        raise RuntimeError("stop")
    assert "forward" not in vars(module)


def test_naive_context_puts_back_a_forward_that_was_there_before():
    module = build("F", (2, 2, 2))
    module.forward = lambda x: x + 1
    mine = module.forward
    with naive(module), naive(module):
        assert module.forward == module.naive
    assert module.forward is mine


def test_a_run_imports_the_letters_that_it_uses_and_no_other():
    code = (
        "import sys, dualformer; dualformer.create_model('dualformer_tiny', attention='FD', num_frames=2, crop_size=32)"
    )
    code += "; print(*[name for name in sys.modules if name.startswith('dualformer.attention.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = {name.rpartition(".")[2] for name in done.stdout.split()}
    assert {"full", "divided"} <= imported
    assert not imported & {"local_window", "shifted_window", "global_pyramid"}


def test_a_planted_file_is_found_and_forgotten(tmp_path):
    plant(tmp_path, line=f"letter: str = {FREE!r}  # of planted")
    before = letters()
    with attention.also_in(tmp_path):
        assert set(letters()) == {*before, FREE}
        assert find(FREE).words == "planted"
        assert symbols(f"{FREE}12{FREE}") == (f"{FREE}12", FREE)
    assert letters() == before
    assert not [name for name in sys.modules if name == "dualformer.attention.planted"]
    with pytest.raises(ConfigError, match=f"unknown letter '{FREE}'; valid: "):
        find(FREE)


@pytest.mark.parametrize(
    "line",
    [
        'letter = "w"',
        'letter = "WW"',
        'letter = ""',
        "letter = W",
        "letter = 5",
        'letter = "W" + ""',
        "letter = \"W'",
        'letter: str = "1"',
    ],
)
def test_a_malformed_letter_is_named_with_its_file(tmp_path, line):
    plant(tmp_path, line=line)
    with attention.also_in(tmp_path), pytest.raises(ConfigError, match=r"planted\.py: letter = .* one capital letter"):
        letters()


def test_two_files_with_one_letter_are_both_named(tmp_path):
    plant(tmp_path, name="one")
    plant(tmp_path, name="other")
    with (
        attention.also_in(tmp_path),
        pytest.raises(ConfigError, match=r"have the letter '.': .*one\.py and .*other\.py"),
    ):
        letters()


def test_a_file_that_cannot_be_imported_hurts_its_letter_alone(tmp_path):
    (tmp_path / "broken.py").write_text(f'import torch.missing\n\n\nclass Broken:\n    letter = "{FREE}"\n')
    with attention.also_in(tmp_path):
        assert find("F").letter == "F"
        with pytest.raises(ConfigError, match=r"attention '.': .*broken\.py can't be imported: ModuleNotFoundError"):
            find(FREE)


def test_a_file_without_its_class_is_named(tmp_path):
    (tmp_path / "empty.py").write_text(f'letter = "{FREE}"\n')
    with attention.also_in(tmp_path), pytest.raises(ConfigError, match=r"empty\.py says letter '.' and has 0 classes"):
        find(FREE)


def test_a_letter_needs_words():
    with pytest.raises(TypeError, match="Wordless has the letter 'W' and no `words`"):
        type("Wordless", (LocalWindowAttention,), {"letter": "W"})


@pytest.mark.parametrize("missing", ["macs", "naive", "forward"])
def test_an_attention_without_cost_or_twin_can_not_be_made(missing):
    methods = {name: lambda self, x=None: x for name in ("macs", "naive", "forward") if name != missing}
    incomplete = type("Incomplete", (Attention,), methods)
    with pytest.raises(TypeError, match=missing):
        incomplete(Place(dim=12, num_heads=3, grid=(2, 2, 2)))


def test_options_of_another_attention_are_refused():
    place = Place(dim=12, num_heads=3, grid=(2, 2, 2))
    with pytest.raises(TypeError, match=r"LocalWindowAttention was given GlobalPyramidAttention\.Options"):
        LocalWindowAttention(place, GlobalPyramidAttention.Options())


def test_windows_are_published_where_those_divide_and_even_elsewhere():
    assert even_windows((16, 56, 56), (8, 7, 7)) == ((2, 8, 8), (8, 7, 7))
    assert even_windows((12, 8, 3), (8, 7, 7)) == ((2, 2, 1), (6, 4, 3))
    for size, limit in itertools.product(range(1, 40), range(1, 12)):
        (count, *_), (length, *_) = even_windows((size, 1, 1), (limit, 1, 1))
        assert length <= limit
        assert (count - 1) * length < size <= count * length


def moved_tokens(cls):
    """How many tokens of a 4x6x6 grid change with the first one, in windows of 2x3x3."""
    torch.manual_seed(0)
    place = Place(dim=12, num_heads=3, grid=(4, 6, 6))
    module = cls(place, cls.Options(window_size=(2, 3, 3))).double().eval()
    x = torch.randn(1, 4, 6, 6, 12, dtype=torch.float64)
    changed = x.clone()
    changed[0, 0, 0, 0] += 1.0
    return (module(x) != module(changed)).any(dim=-1)[0]


def test_no_token_leaves_its_window():
    moved = moved_tokens(LocalWindowAttention)
    assert moved[:2, :3, :3].all()
    assert moved.sum() == 2 * 3 * 3


def test_shifted_windows_do_not_attend_across_the_border():
    moved = moved_tokens(ShiftedWindowAttention)
    assert moved[:1, :1, :1].all()
    assert moved.sum() == 1


@pytest.mark.parametrize("grid", [(5, 7, 3), (16, 14, 14)])
def test_pyramid_sees_every_token(grid):
    options = GlobalPyramidAttention.Options(fine_size=(2, 3, 3), coarse_size=(2, 2, 2))
    module = GlobalPyramidAttention(Place(dim=12, num_heads=3, grid=grid), options).double().eval()
    x = torch.randn(1, *grid, 12, dtype=torch.float64, requires_grad=True)
    fine, coarse = module.pyramid(x)
    (seen,) = torch.autograd.grad(fine.sum(), x)
    assert (seen.abs().sum(dim=-1) > 0).all()
    assert coarse.shape[1] <= 8


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        ((4, 14, 14), [(1, 7, 7), (4, 2, 2)]),  # stage 1 as published
        ((4, 7, 7), [(1, 7, 7), (4, 1, 1)]),  # stage 2 as published
        ((4, 14, 28), [(1, 7, 7), (4, 2, 4)]),  # 448 pixels wide
        ((2, 10, 3), [(1, 5, 3), (2, 2, 1)]),
    ],
)
def test_coarse_cells_factorise(kernel, expected):
    assert factorise(kernel) == expected


def test_pyramid_of_the_published_stages():
    def sizes(grid, fine, coarse):
        options = GlobalPyramidAttention.Options(fine_size=fine, coarse_size=coarse)
        with torch.device("meta"):
            levels = GlobalPyramidAttention(Place(dim=8, num_heads=1, grid=grid), options).levels
        return {name: level.size for name, level in levels.items()}

    assert sizes((16, 56, 56), (8, 7, 7), (4, 4, 4)) == {"fine": (8, 7, 7), "coarse": (4, 4, 4)}
    assert sizes((8, 56, 56), (8, 7, 7), (4, 4, 4)) == {"fine": (8, 7, 7), "coarse": (4, 4, 4)}
    assert sizes((16, 7, 7), (16, 7, 7), None) == {}
    assert sizes((32, 7, 7), (16, 7, 7), None) == {"fine": (16, 7, 7)}


def test_unmasked_windows_need_no_mask():
    place = Place(dim=8, num_heads=1, grid=(16, 14, 14))
    assert LocalWindowAttention(place).bias(batch=2) is None


def test_patterns_are_rows_of_symbols():
    assert symbols("LG") == ("L", "G")
    assert symbols("L1L22GL") == ("L1", "L22", "G", "L")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("Gl", "unknown letter 'l'; did you mean 'L'"),
        ("", f"empty; it is a pattern of the letters {', '.join(letters())}"),
        ("1L", "starts with a number"),
        ("L G", "unknown letter ' '"),
        ("L\n", "unknown letter '\n'"),
    ],
)
def test_bad_patterns_are_named(pattern, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_pattern(pattern)


def test_bad_places_and_options_are_named():
    with pytest.raises(ConfigError, match="12 channels can't be split over 5 heads"):
        Place(dim=12, num_heads=5, grid=(2, 2, 2))
    with pytest.raises(ConfigError, match="window_size must be positive"):
        LocalWindowAttention.Options(window_size=(0, 7, 7))
    with pytest.raises(ConfigError, match="coarse_size must be positive"):
        GlobalPyramidAttention.Options(coarse_size=(1, 0, 1))
