"""Grad-CAM: by the formula, for every way in which a model gives its map, and refused where there is no pooled one."""

import pytest
import torch
from torch import nn

from dualformer import create_model
from dualformer.gradcam import gradcam
from dualformer.model_contract import LacksPartError

WEIGHT = torch.tensor([[1.0, -2.0, 0.5], [-1.0, 0.3, 2.0]])
CLIP = torch.randn(1, 3, 2, 4, 5, generator=torch.Generator().manual_seed(0))


class Pooling(nn.Module):
    """Mean of a map that is the clip itself, then a linear layer: its Grad-CAM can be written down."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, len(WEIGHT), bias=False)
        self.head.weight = nn.Parameter(WEIGHT)

    def forward_features(self, clip):
        return clip * 1.0

    def forward(self, clip):
        return self.head(self.forward_features(clip).mean(dim=(2, 3, 4)))


class Both(Pooling):
    def logits_and_features(self, clip):
        features = self.forward_features(clip)
        return self.head(features.mean(dim=(2, 3, 4))), features

    def forward(self, clip):
        raise AssertionError("one pass gives both")


class Apart(Pooling):
    """Its logits don't come from the map."""

    def forward(self, clip):
        return self.head(clip.mean(dim=(2, 3, 4)))


class NoMap(nn.Module):
    def forward(self, clip):
        return clip.mean(dim=(2, 3, 4))


@pytest.mark.parametrize("model", [Pooling(), Both()], ids=["features", "both"])
@pytest.mark.parametrize("target", [0, 1])
def test_evidence_is_the_map_weighted_by_its_gradient(model, target):
    evidence, logits = gradcam(model, CLIP.clone().requires_grad_(), target)
    expected = torch.einsum("c,cthw->thw", WEIGHT[target], CLIP[0]).relu()
    torch.testing.assert_close(evidence, expected / expected.max())
    torch.testing.assert_close(logits, (CLIP.mean(dim=(2, 3, 4)) @ WEIGHT.T)[0])
    assert "forward_features" not in vars(model)


def test_model_whose_logits_do_not_come_from_its_map_is_refused():
    with pytest.raises(ValueError, match="class token"):
        gradcam(Apart(), CLIP)
    model = create_model("vivit_base", num_frames=2, crop_size=32, embed_dim=8, num_heads=2, depth=1).eval()
    with pytest.raises(ValueError, match="vivit_base classifies by a class token"):
        gradcam(model, torch.zeros(1, *model.config.clip_shape))


def test_model_without_a_map_is_refused():
    with pytest.raises(LacksPartError, match="NoMap has no forward_features, so Grad-CAM can't be done"):
        gradcam(NoMap(), CLIP)


def test_class_that_is_not_there():
    with pytest.raises(ValueError, match="class 2 of 2"):
        gradcam(Pooling(), CLIP.clone().requires_grad_(), 2)
