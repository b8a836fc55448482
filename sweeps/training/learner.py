"""What training changes, and one optimiser step of it: weights, optimiser, loss scaler, moving average.

A step is `backward` (the gradient of the whole batch, in as many parts as the config says) and then `update`, so that
a loss that is not finite can be noticed before it has reached any weight.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dualformer.model_contract import config_of
from dualformer.optim import parameter_groups
from sweeps.run_config import TrainConfig
from sweeps.run_context import RunContext
from sweeps.training.token_labels import make_token_labels

_Tensors = tuple[Tensor, ...] | list[Tensor]


class ClipLoss(nn.Module):
    """Cross-entropy of a model's logits.

    Attributes:
        model: the network that is trained. Every criterion has one; other submodules with weights that need a gradient
            are the criterion's own, and are trained and saved with the model.
    """

    def __init__(self, model: nn.Module, label_smoothing: float) -> None:
        super().__init__()
        self.model = model
        self.label_smoothing = label_smoothing

    def forward(self, clip: Tensor, target: Tensor) -> Tensor:
        """Mean loss per clip, a scalar in float32.

        Args:
            clip: [B, 3, T, H, W].
            target: labels, int64 [B], or the share of each class, float [B, classes].
        """
        return functional.cross_entropy(self.model(clip).float(), target, label_smoothing=self.label_smoothing)


def make_criterion(model: nn.Module, context: RunContext) -> nn.Module:
    """The module that maps (clip, target) to the mean loss per clip, as `ClipLoss` does; the model is its part."""
    train = context.config.train
    if train.token_labels.teacher is None:
        return ClipLoss(model, train.label_smoothing)
    torch.manual_seed(context.config.seed)  # of the criterion's own weights
    return make_token_labels(model, train.token_labels, train.label_smoothing, context.device)


class Learner:
    """A model in training.

    Attributes:
        model: the network, in place.
        criterion: maps (clip, target) to a loss.
        optimizer: of the weights of both.
    """

    def __init__(self, model: nn.Module, context: RunContext) -> None:
        self.model, self.device, self.team = model, context.device, context.team
        self.config = context.config.train
        self.criterion = make_criterion(model, context).to(self.device).train()
        self._own = _own_parts(self.criterion)
        self.optimizer = make_optimizer(model, self._own, self.config)
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=self.config.precision == "float16")
        self._average = None if self.config.ema is None else average(model, self.config.ema)
        self._network = self.team.parallel(self.criterion)

    @property
    def evaluated(self) -> nn.Module:
        """What is to be evaluated: the moving average where there is one, else the model."""
        return self.model if self._average is None else self._average.module

    def backward(self, batch: dict[str, Any], seed: int, share: float) -> float:
        """Computes the gradient of a batch; returns the loss, the mean over its clips times `share`.

        Args:
            batch: as `collate` makes it, `target` in place of `label` where targets are soft.
            seed: of the random numbers drawn on the way.
            share: the clips of this batch over those that a process has on average, by which losses and gradients are
                weighted: their means over the team are then those of all clips.
        """
        torch.manual_seed(seed)
        self.optimizer.zero_grad(set_to_none=True)
        losses = []
        for part, (clip, target, weight) in enumerate(parts := self._parts(batch), 1):
            with self._synchronised(part == len(parts)):
                with self._autocast():
                    loss = self._network(clip, target)
                loss = loss * (weight * share)
                self._scaler.scale(loss).backward()
            losses.append(loss.detach())
        return torch.stack(losses).sum().item()

    def update(self, rate: float) -> None:
        """Takes the step along the gradient at the learning rate of the head.

        A float16 gradient that overflowed is no step: the scaler leaves it out and scales the next loss by less.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_factor"]
        if self.config.clip_grad_norm is not None:
            self._scaler.unscale_(self.optimizer)
            weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
            nn.utils.clip_grad_norm_(weights, self.config.clip_grad_norm)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        if self._average is not None:
            self._average.update_parameters(self.model)

    def finish(self) -> None:
        """Leaves in `model` what is to be evaluated."""
        if self._average is not None:
            self.model.load_state_dict(self._average.module.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """All that the steps to come depend on; `model` and `average` under the model's own names."""
        return {
            "model": self.model.state_dict(),
            "criterion": self._own.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "average": None if self._average is None else self._average.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from `state_dict`."""
        self.model.load_state_dict(state["model"])
        self._own.load_state_dict(state["criterion"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])

    def _parts(self, batch: dict[str, Any]) -> Sequence[tuple[Tensor, Tensor, float]]:
        """Clips, targets and weight of each micro-step; the weights are shares of the batch and sum up to 1.

        A team does the same number of micro-steps everywhere, as its processes wait for each other in each: where one
        has too few clips, the rest of its micro-steps are on a blank clip without weight.
        """
        count = len(batch["label"])
        target = batch["target" if "target" in batch else "label"]
        parts = []
        if count:
            pieces = (
                x.to(self.device, non_blocking=True).tensor_split(self.config.micro_steps)
                for x in (batch["clip"], target)
            )
            parts = [(clip, target, len(clip) / count) for clip, target in zip(*pieces) if len(clip)]
        while self.team.size > 1 and len(parts) < self.config.micro_steps:
            clip = torch.zeros(1, *config_of(self.model).clip_shape, device=self.device)
            parts.append((clip, torch.zeros(1, dtype=torch.int64, device=self.device), 0.0))
        return parts

    def _synchronised(self, last: bool) -> contextlib.AbstractContextManager[object]:
        """Where gradients are summed over several parts, the team averages them once, at the last."""
        if last or not isinstance(self._network, nn.parallel.DistributedDataParallel):
            return contextlib.nullcontext()
        return self._network.no_sync()

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        if self.config.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, getattr(torch, self.config.precision))


def make_optimizer(model: nn.Module, own: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser of a model's weights and of a criterion's own, which train as the model's head does."""
    groups = [
        group
        for module in (model, nn.ModuleDict({"head": own}))
        for group in parameter_groups(
            module, config.groups, config.learning_rate, config.weight_decay, config.backbone_factor
        )
    ]
    if config.optimizer == "sgd":
        # Without momentum there is nothing for Nesterov to look ahead along, and torch refuses to.
        return torch.optim.SGD(groups, momentum=config.momentum, nesterov=config.momentum > 0)
    return torch.optim.AdamW(groups)


def average(model: nn.Module, decay: float) -> AveragedModel:
    """A moving average of a model's weights and of the statistics of its norms; the first update copies them."""
    averaged = get_ema_multi_avg_fn(decay)

    def update(averages: _Tensors, values: _Tensors, count: Tensor | int) -> None:
        if averages[0].is_floating_point():
            averaged(averages, values, count)
        else:  # counters and tables of indices, of which there is no mean
            torch._foreach_copy_(averages, values)

    return AveragedModel(model, multi_avg_fn=update, use_buffers=True)


def _own_parts(criterion: nn.Module) -> nn.ModuleDict:
    """What a criterion trains beside the model; a frozen teacher is no part of it."""

    def trained(module: nn.Module) -> Iterator[bool]:
        return (weight.requires_grad for weight in module.parameters())

    children = criterion.named_children()
    return nn.ModuleDict({name: child for name, child in children if name != "model" and any(trained(child))})
