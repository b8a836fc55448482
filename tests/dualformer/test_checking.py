"""The shared checks see what is wrong: letters with one fault each are planted, and the right check fails."""

import pytest

from dualformer.attention.full import FullAttention
from dualformer.attention.local_window import LocalWindowAttention
from dualformer.checking import CHECKS, check_letter, examples
from tests.helpers.planted import FREE, copied


def failures(letter, names=tuple(name for name in CHECKS if name not in ("export", "compile"))):
    return {finding.name: finding.detail for finding in check_letter(letter, names) if not finding.ok}


@pytest.mark.parametrize("cls", [FullAttention, LocalWindowAttention])
def test_a_right_copy_passes(tmp_path, cls):
    with copied(tmp_path, cls):
        assert failures(FREE) == {}


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
    with copied(tmp_path, cls, (old, new)):
        assert message in failures(FREE, (check,))[check]


@pytest.mark.slow
@pytest.mark.parametrize("check", ["export", "compile"])
def test_a_break_of_the_graph_fails_export_and_compile(tmp_path, check):
    branch = "if x.sum() > 0:\n            x = x + 1\n        q, k, v = self"
    with copied(tmp_path, FullAttention, ("q, k, v = self", branch)):
        assert failures(FREE, (check,))


def test_examples_always_try_an_attention_without_biases():
    assert examples("L")["no_qkv_bias"] == {"window_size": (2, 3, 3), "qkv_bias": False}
