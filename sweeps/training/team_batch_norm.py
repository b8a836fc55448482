"""Batch norms that see the batches of all processes of a run as one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn


def share_batch_norms(model: nn.Module) -> None:
    """Makes every 3D batch norm of a model one over all processes, in place."""
    for module in model.modules():
        if type(module) is nn.BatchNorm3d:
            module.__class__ = TeamBatchNorm3d


class TeamBatchNorm3d(nn.BatchNorm3d):
    """A batch norm over the batches of all processes together, in training; the same statistics result everywhere.

    torch's own, `nn.SyncBatchNorm`, runs on CUDA alone, and can't be recomputed by checkpointing without counting a
    batch twice (see `dualformer.model`). This one has nothing of its own, so a `BatchNorm3d` becomes one by its class.
    """

    running_mean: Tensor
    running_var: Tensor
    momentum: float

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        self._check_input_dim(x)
        with torch.autocast(x.device.type, enabled=False):
            values = x.float()
            dims, shape = (0, 2, 3, 4), (1, -1, 1, 1, 1)
            count = _Sum.apply(torch.full_like(values[0, :, 0, 0, 0], values[:, 0].numel()))
            mean = _Sum.apply(values.sum(dims)) / count
            centred = values - mean.view(shape)
            variance = _Sum.apply(centred.square().sum(dims)) / count
            self._count(mean.detach(), (variance * count / (count - 1)).detach())
            scale = self.weight * (variance + self.eps).rsqrt()
            return (centred * scale.view(shape) + self.bias.view(shape)).to(x.dtype)

    @torch.no_grad()
    def _count(self, mean: Tensor, variance: Tensor) -> None:
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all processes; what each of them comes to depends on it, and so does its gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Sum.apply(gradient)
