"""Every model computes what the published implementation computes, given its state dict in its own layout."""

import pytest
import torch

from dualformer import create_model
from dualformer.weights import load_weights
from tests.helpers.golden_values import GOLDEN, golden, ruled_clip, ruled_state

RELATIVE = 1e-9
NAMES = sorted(path.stem for path in GOLDEN.glob("*.json") if path.stem != "macs")


def assert_described(tensor, values):
    flat = tensor.flatten()
    assert flat.sum().item() == pytest.approx(values["sum"], rel=RELATIVE)
    assert flat.norm().item() == pytest.approx(values["l2"], rel=RELATIVE)
    for index, value in values["at"]:
        assert flat[index].item() == pytest.approx(value, rel=RELATIVE), f"at {index}"


def pooled(model, clip):
    """What the head is given, before it is averaged if it is a map."""
    if hasattr(model, "class_token"):
        return model.class_token(clip)
    return model.encode(clip)[:, 0] if hasattr(model, "encode") else model.forward_features(clip)


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_equals_the_published_implementation(name):
    values = golden(name)
    model = create_model(values["model"], **values["overrides"]).double().eval()
    assert sum(p.numel() for p in model.parameters()) == values["parameters"]
    report = load_weights(model, ruled_state(values["state_dict"]))
    assert not report.missing and not report.unexpected

    clip = ruled_clip(values["input_shape"])
    features = pooled(model, clip)
    logits = model.head(features.mean(dim=(2, 3, 4)) if features.ndim == 5 else features)
    if "features" in values:
        assert list(features.shape) == values["features"]["shape"]
        assert_described(features, values["features"])
    assert_described(logits, values["logits"])
    assert logits[0].topk(5).indices.tolist() == values.get("top5", logits[0].topk(5).indices.tolist())
    if logits.shape[0] > 1:  # small models: also through the front door
        torch.testing.assert_close(model(clip), logits, rtol=1e-12, atol=1e-12)
