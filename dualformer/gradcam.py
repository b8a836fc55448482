"""Where in a clip did the evidence for a class lie? Grad-CAM on the map that a model pools.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization" (ICCV 2017), with
the average over height and width taken over time as well.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional


def gradcam(model: nn.Module, clip: Tensor, target: int | None = None) -> tuple[Tensor, Tensor]:
    """Computes how much each place of a clip speaks for a class.

    Args:
        model: a model of `create_model` that pools its map, in eval mode.
        clip: one normalised clip [1, 3, T, H, W].
        target: index of the class; None means the one with the highest score.

    Returns:
        Evidence [T, H, W], interpolated to the clip's size, from 0 to 1 at the strongest place (all 0 where nothing
        speaks for the class), and the logits [num_classes].

    Raises:
        ValueError: the model doesn't classify by pooling `forward_features` (it has a class token), or there is no such
            class.
    """
    with _recorded(model) as maps, torch.enable_grad():
        (logits,) = model(clip)
    if not maps:
        raise ValueError(f"{type(model).__name__} classifies by a class token: it has no pooled map for Grad-CAM")
    target = int(logits.argmax()) if target is None else target
    if not 0 <= target < len(logits):
        raise ValueError(f"class {target} of {len(logits)}")
    (features,) = maps  # [1, C, t, h, w]
    (gradient,) = torch.autograd.grad(logits[target], features)
    weights = gradient.mean(dim=(2, 3, 4), keepdim=True)
    evidence = (weights * features).sum(dim=1, keepdim=True).relu().detach()
    evidence = functional.interpolate(evidence, clip.shape[2:], mode="trilinear")[0, 0]
    return evidence / evidence.max().clamp_min(torch.finfo(evidence.dtype).tiny), logits.detach()


@contextlib.contextmanager
def _recorded(model: nn.Module) -> Iterator[list[Tensor]]:
    """Gives a list that fills with what the model's `forward_features` returns."""
    maps, compute = [], model.forward_features

    def forward_features(clip: Tensor) -> Tensor:
        maps.append(compute(clip))
        return maps[-1]

    model.forward_features = forward_features  # an instance attribute shadows the method
    try:
        yield maps
    finally:
        del model.forward_features
