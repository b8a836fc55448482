"""The shared checks see what is wrong: letters with one fault each are planted, and the right check fails."""

import inspect
from pathlib import Path

import pytest

from dualformer import attention
from dualformer.attention.full import FullAttention
from dualformer.attention.local_window import LocalWindowAttention
from dualformer.checking import CHECKS, check_letter, examples


def planted_copy(folder, cls, *changes):
    """The file of an attention under the letter W, with texts of it replaced."""
    text = Path(inspect.getfile(cls)).read_text()
    for old, new in [(f'letter = "{cls.letter}"', 'letter = "W"'), *changes]:
        assert old in text
        text = text.replace(old, new)
    (folder / "planted.py").write_text(text)
    return attention.also_in(folder)


def failures(letter, names=tuple(name for name in CHECKS if name not in ("export", "compile"))):
    return {finding.name: finding.detail for finding in check_letter(letter, names) if not finding.ok}


@pytest.mark.parametrize("cls", [FullAttention, LocalWindowAttention])
def test_a_right_copy_passes(tmp_path, cls):
    with planted_copy(tmp_path, cls):
        assert failures("W") == {}


FAULTS = {
    "keys for values": (FullAttention, "twin", "self.attend(q, k, v)", "self.attend(q, k, k)", "output differs"),
    "too cheap": (FullAttention, "cost", "4 * n * c * c", "3 * n * c * c", "macs() says"),
    "without a twin": (FullAttention, "twin", "def naive(", "def other(", "abstract method"),
    "ignored option": (
        LocalWindowAttention,
        "twin",
        "even_windows(place.grid, self.options.window_size)",
        "even_windows(place.grid, (2, 3, 3))",
        "differs from the naive twin's",
    ),
    "option without example": (
        LocalWindowAttention,
        "options",
        ', "relative_bias": True}',
        "}",
        "no example gives relative_bias another value",
    ),
    "wrong gradient": (FullAttention, "twin", "self.attend(q, k, v)", "self.attend(q, k, v.detach())", "gradient of"),
    "mixed samples": (
        FullAttention,
        "samples",
        "self.attend(q, k, v)",
        "self.attend(q, k, v.flip(0))",
        "depends on the others",
    ),
    "written input": (FullAttention, "shapes", "q, k, v = self.qkv(x", "q, k, v = self.qkv(x.mul_(2)", "written to"),
    "other shape": (FullAttention, "shapes", ".view_as(x)\n\n    def macs", "\n\n    def macs", "became"),
    "dead parameter": (
        FullAttention,
        "gradients",
        "bias=place.qkv_bias)\n",
        "bias=place.qkv_bias)\n        self.idle = nn.Linear(2, 2)\n",
        "no gradient reaches idle.weight",
    ),
    "no dropout": (FullAttention, "dropout", "self.proj_drop(self.proj(", "self.proj((", "does nothing"),
    "half precision": (
        FullAttention,
        "autocast",
        "return self.proj_drop",
        "k = k + (100 if q.dtype != x.dtype else 0) * q.roll(1, 1)\n        return self.proj_drop",
        "autocast is off",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_fails_its_check(tmp_path, fault):
    cls, check, old, new, message = FAULTS[fault]
    with planted_copy(tmp_path, cls, (old, new)):
        assert message in failures("W", (check,))[check]


@pytest.mark.slow
@pytest.mark.parametrize("check", ["export", "compile"])
def test_a_break_of_the_graph_fails_export_and_compile(tmp_path, check):
    with planted_copy(tmp_path, FullAttention, ("q, k, v = self", "print(x.sum().item())\n        q, k, v = self")):
        assert failures("W", (check,))


def test_examples_always_try_an_attention_without_biases():
    assert examples("L")["no_qkv_bias"] == {"window_size": (2, 3, 3), "qkv_bias": False}
