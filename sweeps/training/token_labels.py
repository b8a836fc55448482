"""Token labelling: a frozen teacher says what every token of a student shows (DualFormer, arXiv 2112.04674, 4.3).

The recipe is that of sail-sg/dualformer@058c10c: beside the clip's loss there is one for every token of the student's
last map. A small MLP, which is thrown away after training, guesses the token's classes; the target is a softmax over
the teacher's logits for the same place, all but the greatest five set to zero. The teacher sees the student's very
clip, and is evaluated on the fly.

Deviation: where the two maps have different grids, the teacher's logits are averaged over the cells that share a token
of the student's, and interpolated where they are coarser; upstream averages frames that are far apart.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dualformer.checkpoint_files import WeightsError
from dualformer.config import ConfigError
from dualformer.layers import as_size
from dualformer.model_config import ModelConfig
from dualformer.model_contract import config_of, need
from dualformer.registry import create_model
from dualformer.weights import load_weights
from sweeps.run_config import TokenLabelConfig

DROPOUT = 0.5  # in the MLP, as published
_PURPOSE = "train.token_labels"


class TokenLabels(nn.Module):
    """The loss of a student with a teacher; a criterion, as `sweeps.training.learner` has them.

    The teacher is no submodule: it is neither trained nor saved nor put in training mode with the rest.

    Attributes:
        model: the student.
        token_head: the MLP from a token of the student's map to classes.
    """

    def __init__(
        self, model: nn.Module, teacher: nn.Module, config: TokenLabelConfig, label_smoothing: float = 0.0
    ) -> None:
        """Takes the student and a teacher of the same clips and classes, which it freezes.

        Args:
            model: the student.
            teacher: any model of the registry.
            config: what the tokens' loss is and counts.
            label_smoothing: of the clips' labels; those of tokens are soft already.

        Raises:
            ConfigError: clips or classes differ, or the student can't give logits and map at once.
        """
        super().__init__()
        check_pair(model, teacher)
        self.model = model
        # In a tuple torch sees no submodule.
        self._frozen = (teacher.requires_grad_(False).eval(),)
        self.config, self.label_smoothing = config, label_smoothing
        head = need(model, "head", _PURPOSE)
        self.token_head = token_head(config_of(model).num_classes, channels=head.in_features)

    @property
    def teacher(self) -> nn.Module:
        """The frozen network."""
        return self._frozen[0]

    def forward(self, clip: Tensor, target: Tensor) -> Tensor:
        """Mean loss per clip, a scalar in float32: shares of the clip's and of the mean over its tokens.

        Args:
            clip: [B, 3, T, H, W].
            target: labels, int64 [B], or the share of each class, float [B, classes].
        """
        logits, features = need(self.model, "logits_and_features", _PURPOSE)(clip)
        of_clip = functional.cross_entropy(logits.float(), target, label_smoothing=self.label_smoothing)
        guesses = self.token_head(features.permute(0, 2, 3, 4, 1)).float()
        labels = soft_labels(match_grid(self.teach(clip), guesses.shape[1:4]), self.config.top_k)
        of_tokens = functional.cross_entropy(guesses.flatten(0, 3), labels.flatten(0, 3))
        return (1 - self.config.weight) * of_clip + self.config.weight * of_tokens

    @torch.no_grad()
    def teach(self, clip: Tensor) -> Tensor:
        """The teacher's logits for every token of its map, float32 [B, t, h, w, classes]."""
        features = need(self.teacher, "forward_features", _PURPOSE)(clip)
        return need(self.teacher, "head", _PURPOSE)(features.permute(0, 2, 3, 4, 1)).float()


def make_token_labels(
    model: nn.Module, config: TokenLabelConfig, label_smoothing: float, device: torch.device
) -> TokenLabels:
    """The criterion for a student, its teacher built, loaded and on the device.

    Raises:
        ConfigError: there is no such teacher, it has no weights, or weights of other clips or classes.
    """
    return TokenLabels(model, load_teacher(config, config_of(model)).to(device), config, label_smoothing)


def load_teacher(config: TokenLabelConfig, student: ModelConfig) -> nn.Module:
    """The teacher, for the clips and classes of its student."""
    if config.teacher is None or config.weights is None:
        raise ConfigError(
            f"train.token_labels: a teacher that has learned nothing teaches nothing; name the weights of "
            f"{config.teacher} with --set train.token_labels.weights=FILE"
        )
    shape: dict[str, Any] = {
        "num_classes": student.num_classes,
        "num_frames": student.num_frames,
        "crop_size": student.crop_size,
    }
    if twice := set(shape) & set(config.overrides):
        raise ConfigError(f"train.token_labels.overrides: '{min(twice)}' is the student's, and not for overrides")
    try:
        with torch.random.fork_rng(devices=[]):  # what the student draws doesn't depend on its teacher
            teacher = create_model(config.teacher, **shape, **config.overrides)
        load_weights(teacher, config.weights, weight_set=config.weight_set)
    except (ConfigError, WeightsError, OSError) as error:
        frames, (height, width) = student.num_frames, student.crop_size
        raise ConfigError(
            f"train.token_labels: {config.teacher} can't teach {student.name} on clips of {frames}x{height}x{width} "
            f"in {student.num_classes} classes: {error}"
        ) from None
    return teacher


def check_pair(student: nn.Module, teacher: nn.Module) -> None:
    """Raises `ConfigError` unless one can teach the other."""
    learner, guide = config_of(student), config_of(teacher)
    for field in ("num_classes", "num_frames", "crop_size"):
        own, others = getattr(learner, field), getattr(guide, field)
        if own != others:
            raise ConfigError(
                f"train.token_labels: {field} of the teacher {guide.name} is {others}, that of {learner.name} {own}"
            )
    for model, parts in ((student, ("logits_and_features", "head")), (teacher, ("forward_features", "head"))):
        for part in parts:
            need(model, part, _PURPOSE)


def token_head(num_classes: int, channels: int) -> nn.Sequential:
    """The MLP C -> 2C -> 4C -> classes on the last axis."""
    return nn.Sequential(
        nn.Linear(channels, 2 * channels),
        nn.Dropout(DROPOUT),
        nn.ReLU(),
        nn.Linear(2 * channels, 4 * channels),
        nn.Dropout(DROPOUT),
        nn.ReLU(),
        nn.Linear(4 * channels, num_classes),
    )


def soft_labels(logits: Tensor, top_k: int) -> Tensor:
    """Softmax over the last axis of logits of which all but the greatest `top_k` are zero."""
    least = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values[..., -1:]
    return torch.where(logits >= least, logits, 0.0).softmax(-1)


def match_grid(logits: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Brings logits [B, t, h, w, classes] to another grid: means where theirs is finer, else linear interpolation."""
    maps = logits.permute(0, 4, 1, 2, 3)
    if maps.shape[2:] != grid:
        maps = functional.adaptive_avg_pool3d(maps, as_size(map(min, maps.shape[2:], grid)))
    if maps.shape[2:] != grid:
        maps = functional.interpolate(maps, grid, mode="trilinear", align_corners=False)
    return maps.permute(0, 2, 3, 4, 1)
