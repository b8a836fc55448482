"""Where in a clip did the evidence for a class lie? Grad-CAM on the map that a model pools.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization" (ICCV 2017), with
the average over height and width taken over time as well.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from dualformer.model_contract import name_of, need, part, unwrapped


def gradcam(model: nn.Module, clip: Tensor, target: int | None = None) -> tuple[Tensor, Tensor]:
    """Computes how much each place of a clip speaks for a class.

    Args:
        model: a model that pools its map, in eval mode.
        clip: one normalised clip [1, 3, T, H, W].
        target: index of the class; None means the one with the highest score.

    Returns:
        Evidence [T, H, W], interpolated to the clip's size, from 0 to 1 at the strongest place (all 0 where nothing
        speaks for the class), and the logits [num_classes].

    Raises:
        LacksPartError: the model gives no map.
        ValueError: the model doesn't classify by pooling its map (it has a class token), or there is no such class.
    """
    with torch.enable_grad():
        (logits,), features = _logits_and_map(model, clip)  # [num_classes], [1, C, t, h, w]
    target = int(logits.argmax()) if target is None else target
    if not 0 <= target < len(logits):
        raise ValueError(f"class {target} of {len(logits)}")
    gradient = torch.autograd.grad(logits[target], features, allow_unused=True)[0] if features.requires_grad else None
    if gradient is None:
        raise _not_pooled(model)
    weights = gradient.mean(dim=(2, 3, 4), keepdim=True)
    evidence = (weights * features).sum(dim=1, keepdim=True).relu().detach()
    evidence = functional.interpolate(evidence, clip.shape[2:], mode="trilinear")[0, 0]
    return evidence / evidence.max().clamp_min(torch.finfo(evidence.dtype).tiny), logits.detach()


def _logits_and_map(model: nn.Module, clip: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and map of one pass, the map a part of the logits' graph where they are made of it."""
    if (both := part(model, "logits_and_features")) is not None:
        return both(clip)
    with _recorded(model) as maps:
        logits = model(clip)
    if not maps:
        raise _not_pooled(model)
    return logits, maps[-1]


def _not_pooled(model: nn.Module) -> ValueError:
    return ValueError(f"{name_of(model)} classifies by a class token: it has no pooled map for Grad-CAM")


@contextlib.contextmanager
def _recorded(model: nn.Module) -> Iterator[list[Tensor]]:
    """Gives a list that fills with what the model's `forward_features` returns."""
    maps: list[Tensor] = []
    compute: Callable[[Tensor], Tensor] = need(model, "forward_features", "Grad-CAM")

    def forward_features(clip: Tensor) -> Tensor:
        maps.append(compute(clip))
        return maps[-1]

    attributes = vars(unwrapped(model))
    attributes["forward_features"] = forward_features  # an instance attribute shadows the method
    try:
        yield maps
    finally:
        del attributes["forward_features"]
