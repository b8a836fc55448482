"""Which weights train at which learning rate and with which weight decay: the named rules.

The configs of DualFormer (sail-sg/dualformer@058c10c) and Video Swin (SwinTransformer/Video-Swin-Transformer@db018fb)
ask by keywords for three things: the backbone at a tenth of the head's learning rate; no decay of norms; no decay of
what encodes position (DualFormer's PEG convolutions, Video Swin's bias tables). The library that reads them
(open-mmlab/mmcv@0627873, default_constructor.py) applies to each weight the longest keyword found in its name and
drops the others, so what was trained is something else than what was asked for:

| weights | "released", what the code does | "intended", what the configs ask for |
|---|---|---|
| head | full rate, decay | full rate, decay |
| backbone matrices, kernels and their biases | rate x 0.1, decay | rate x 0.1, decay |
| backbone norms | rate x 0.1, decay | rate x 0.1, no decay |
| position (PEG, bias tables) | full rate, no decay | rate x 0.1, no decay |

The longest keyword is "backbone" (8 letters) against "norm" (4), but "pos_block" (9) and
"relative_position_bias_table" against "backbone". "intended" is also what mmaction2's later constructor does with the
same keywords. A norm is what its upstream name calls one: the batch norm in a coarse pyramid level is `lr.1` there, so
both rules treat it as any other weight.

"plain" is the custom of training from nothing: one rate for all, and no decay of biases, norms and position or token
tables. "uniform" treats every weight alike, as the released TimeSformer does (facebookresearch/TimeSformer@a5ef29a,
timesformer/models/optimizer.py: only batch norms are exempt from decay, and it has none). "tables" does too, but for
the decay of tables of positions and tokens, as mmaction2's TimeSformer (open-mmlab/mmaction2@4d6c934).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, get_args

from dualformer.config import ConfigError, nearest
from dualformer.model_contract import head_name, need

if TYPE_CHECKING:
    from torch import nn

Rule = Literal["plain", "uniform", "tables", "released", "intended"]

POSITION_TABLE = r"bias_table$|absolute_position$|^(pos|time)_embed$"
TOKEN = r"^cls_token$"
PEG = r"\.peg\."
NORM = r"(^|\.)(\w*norm\d*|norms\.\d+)\.(weight|bias)$"


def parameter_groups(
    model: nn.Module, rule: Rule, learning_rate: float, weight_decay: float, backbone_factor: float = 0.1
) -> list[dict[str, Any]]:
    """Splits a model's parameters into an optimiser's groups; every parameter is in exactly one.

    Args:
        model: a model of `create_model`; everything but its `head` is its backbone. A model without a head has no
            backbone to train more slowly: it is refused where the rule asks for one.
        rule: a name of the module's docstring.
        learning_rate: of the head, and of everything where the rule knows no backbone.
        weight_decay: of what is decayed.
        backbone_factor: learning rate of the backbone over the head's, for "released" and "intended".

    Returns:
        One group for each learning rate and decay that occurs, as optimisers of torch take them: `params` (pairs of
        name and parameter), `lr`, `weight_decay`, and for schedules `lr_factor`, which is `lr` over `learning_rate`.

    Raises:
        ConfigError: an unknown rule, or one that tells head from backbone for a model without a head.
    """
    if rule not in get_args(Rule):
        raise ConfigError(f"unknown rule '{rule}' for parameter groups{nearest(rule, get_args(Rule))}")
    if rule in ("released", "intended"):
        need(model, "head", f"parameter groups by the rule '{rule}'")
    head = head_name(model)
    groups: dict[tuple[float, bool], list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in model.named_parameters():
        if rule == "plain":
            key = 1.0, _decayed_by_custom(name, parameter)
        elif rule == "uniform":
            key = 1.0, True
        elif rule == "tables":
            key = 1.0, not re.search(f"{POSITION_TABLE}|{TOKEN}", name)
        else:
            key = _fine_tuned(name, rule, backbone_factor, head)
        groups.setdefault(key, []).append((name, parameter))
    return [
        {
            "params": params,
            "lr": learning_rate * factor,
            "lr_factor": factor,
            "weight_decay": weight_decay if decayed else 0.0,
        }
        for (factor, decayed), params in groups.items()
    ]


def _decayed_by_custom(name: str, parameter: nn.Parameter) -> bool:
    """Matrices and kernels are; biases, norms and tables of positions and tokens aren't."""
    return parameter.ndim >= 2 and not re.search(f"{POSITION_TABLE}|{TOKEN}", name)


def _fine_tuned(name: str, rule: Rule, backbone_factor: float, head: str | None) -> tuple[float, bool]:
    """Learning-rate factor and whether there is decay, by "released" or "intended"."""
    if name.startswith(f"{head}."):
        return 1.0, True
    if re.search(f"{POSITION_TABLE}|{PEG}", name):
        return (1.0 if rule == "released" else backbone_factor), False
    return backbone_factor, rule == "released" or not re.search(NORM, name)
