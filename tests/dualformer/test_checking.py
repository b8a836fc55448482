"""The shared checks see what is wrong: letters with one fault each are planted, and the right check fails."""

import pytest

from baselines.timesformer import DividedBlock
from baselines.video_swin import WindowAttention
from baselines.vit import SelfAttention
from dualformer.attention.full import FullAttention
from dualformer.attention.local_window import LocalWindowAttention
from dualformer.checking import CHECKS, check_letter, examples
from dualformer.model_checking import Subject, check_model
from tests.helpers.planted import FREE, copied
from tests.helpers.small_models import small_config


def failures(letter, names=tuple(name for name in CHECKS if name not in ("export", "compile"))):
    return {finding.name: finding.detail for finding in check_letter(letter, names) if not finding.ok}


@pytest.mark.parametrize("cls", [FullAttention, LocalWindowAttention])
def test_a_right_copy_passes(tmp_path, cls):
    with copied(tmp_path, cls):
        assert failures(FREE) == {}


TWIN = "    def naive(self, x: Tensor) -> Tensor:\n"
OTHER = "    {}\n\n    def other(self, x: Tensor) -> Tensor:\n"
FAULTS = {
    "twin is the fast path": (FullAttention, "twin", TWIN, OTHER.format("naive = forward"), "Attention.forward"),
    "twin calls the fast path": (
        FullAttention,
        "twin",
        TWIN,
        OTHER.format("def naive(self, x: Tensor) -> Tensor:\n        return type(self).forward(self, x)"),
        "FullAttention.forward",
    ),
    "twin calls the module": (
        FullAttention,
        "twin",
        TWIN,
        OTHER.format("def naive(self, x: Tensor) -> Tensor:\n        return self(x)"),
        "FullAttention.forward",
    ),
    "twin with the fast helper": (
        LocalWindowAttention,
        "twin",
        "reference.attend(q, k, v, self.place.num_heads, bias)",
        "self.attend(q, k, v, bias)",
        "dualformer.attention.base.Attention.attend, dualformer.layers.multi_head",
    ),
    "twin with the fused kernel": (
        FullAttention,
        "twin",
        "reference.attend(q, k, v, self.place.num_heads)",
        "torch.nn.functional.scaled_dot_product_attention(q, k, v)",
        "it runs scaled_dot_product_attention as the fast path does",
    ),
    "twin with the fast geometry": (
        LocalWindowAttention,
        "twin",
        "_bias_of_box(box) if self.options.relative_bias else None",
        "_bias_of_box(box) if self.options.relative_bias and self.bias(1) is not None else None",
        "LocalWindowAttention.bias",
    ),
    "forward with the twin's helper": (
        FullAttention,
        "twin",
        "self.attend(q, k, v)",
        "torch.stack([reference.attend(*qkv, self.place.num_heads) for qkv in zip(q, k, v)])",
        "dualformer.reference.attend",
    ),
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


def test_a_twin_that_gives_what_the_fast_path_kept_fails_its_check(tmp_path):
    kept = ("return self.proj_drop(", "self.kept = self.proj_drop("), (".view_as(x)\n\n    def macs", KEPT)
    twin = OTHER.format("def naive(self, x: Tensor) -> Tensor:\n        return self.kept")
    with copied(tmp_path, FullAttention, *kept, (TWIN, twin)):
        assert failures(FREE, ("twin",))["twin"]


KEPT = ".view_as(x)\n        return self.kept\n\n    def macs"
OPTION = "        relative_bias: bool = False\n"


def test_an_option_that_nothing_reads_fails_its_check(tmp_path):
    option, tried = (OPTION, f"{OPTION}        reach: int = 1\n"), ('_bias": True}', '_bias": True, "reach": 2}')
    with copied(tmp_path, LocalWindowAttention, option, tried):
        assert "relative: reach 2 gives what the default 1 gives" in failures(FREE, ("options",))["options"]
    (tmp_path / "read").mkdir()
    read = ("self.layout.split(self.qkv(x))", "self.layout.split(self.qkv(x) * self.options.reach)")
    with copied(tmp_path / "read", LocalWindowAttention, option, tried, read):
        assert failures(FREE, ("options",)) == {}


@pytest.mark.parametrize("cls", [SelfAttention, DividedBlock, WindowAttention])
def test_a_baseline_whose_twin_is_its_fast_path_is_found(monkeypatch, cls):
    name = {"DividedBlock": "timesformer_divided", "WindowAttention": "video_swin_tiny"}.get(cls.__name__, "vivit_base")
    config = small_config(name)
    (right,) = (finding for finding in check_model(Subject(config, config)) if finding.name == "twin")
    monkeypatch.setattr(cls, "naive", cls.forward)
    (wrong,) = (finding for finding in check_model(Subject(config, config)) if finding.name == "twin")
    assert right.ok and not wrong.ok and f"{cls.__qualname__}.forward" in wrong.detail


@pytest.mark.slow
@pytest.mark.parametrize("check", ["export", "compile"])
def test_a_break_of_the_graph_fails_export_and_compile(tmp_path, check):
    branch = "if x.sum() > 0:\n            x = x + 1\n        q, k, v = self"
    with copied(tmp_path, FullAttention, ("q, k, v = self", branch)):
        assert failures(FREE, (check,))


def test_examples_always_try_an_attention_without_biases():
    assert examples("L")["no_qkv_bias"] == {"window_size": (2, 3, 3), "qkv_bias": False}
