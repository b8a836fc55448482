"""The gate: what a network is compared with is said, and each precision has its own tolerance."""

import pytest
import torch
from torch import nn

import dualformer
from dualformer import reference
from dualformer.registry import list_models
from sweeps.measuring import gate
from sweeps.measuring.measurement import measure
from sweeps.run_config import MeasureConfig
from tests.helpers.small_models import distinct_models, small_model


class Convnet(nn.Module):
    """A network that nobody has written a twin for."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv3d(3, 8, 3, 2, 1), nn.Linear(8, 5)

    def forward(self, clip):
        return self.head(self.conv(clip).relu().mean(dim=(2, 3, 4)))


def own_model():
    torch.manual_seed(0)
    return dualformer.adapt(Convnet(), (3, 4, 16, 16), num_classes=5)


@pytest.mark.parametrize("name", distinct_models())
def test_models_of_the_registry_are_compared_with_their_twins(name):
    model = small_model(name).eval()
    clip = torch.randn(2, *model.config.clip_shape)
    with torch.no_grad():
        found = gate.compare(model, model(clip), gate.reference_logits(model, clip), MeasureConfig())
    assert found.compared_with == "twins" and found.num_twins == reference.num_twins(model) > 0
    assert found.reason == ""


def test_a_model_without_twins_is_compared_with_itself_and_that_is_recorded():
    found = measure(own_model(), MeasureConfig(samples=2), device="cpu", threads=1).details["gate"]
    assert (found["compared_with"], found["num_twins"]) == ("self", 0)
    assert found["error"] <= found["tolerance"] == gate.TOLERANCE["float32"]


def test_a_model_without_twins_is_not_timed_where_it_computes_something_else_each_time():
    model = own_model()
    model.register_forward_hook(lambda module, inputs, logits: logits + torch.randn_like(logits))
    result = measure(model, MeasureConfig(samples=2), device="cpu", threads=1)
    assert result.status == "error" and "differ from the reference" in result.reason
    assert result.details["gate"]["compared_with"] == "self" and "samples_ms" not in result.details


@pytest.mark.parametrize(
    ("precision", "tf32", "expected"),
    [
        ("float32", False, 1e-4),
        ("float32", True, 1e-2),
        ("bfloat16", False, 5e-2),
        ("bfloat16", True, 5e-2),
        ("float16", False, 1e-2),
        ("float16", True, 1e-2),
    ],
)
def test_tf32_widens_the_tolerance_of_float32_alone(monkeypatch, precision, tf32, expected):
    monkeypatch.setitem(gate.TOLERANCE, "tf32", 2e-2)
    expected = 2e-2 if (precision, tf32) == ("float32", True) else expected
    assert gate.tolerance(MeasureConfig(precision=precision, tf32=tf32)) == expected


def test_what_is_no_number_is_no_agreement_and_plain_json():
    found = gate.Gate("self", 0, float("nan"), 1e-4)
    assert found.reason and found.to_dict()["error"] == "nan"


def test_every_model_is_there_to_be_tried():
    assert set(distinct_models()) <= set(list_models())
