"""Batch norms of several processes. In: a model. Out: the same one; its batch norms use the joint batch in training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm

from separable.tune.batch_norm import batch_norms
from separable.tune.processes import place


def join_norms_(model: nn.Module) -> nn.Module:
    """Exchange the batch norms that keep statistics; gives the model, or what takes its place if it is one itself.

    With a single process nothing is changed. Names and values of weights stay. ``SyncBatchNorm`` would do the same, but
    on GPUs only.
    """
    if place()[1] == 1:
        return model
    joint: dict[nn.Module | None, nn.Module] = {norm: _JointBatchNorm(norm) for norm in batch_norms(model)}
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child in joint:
                parent._modules[name] = joint[child]
    return joint.get(model, model)


class _JointBatchNorm(_BatchNorm):
    """Takes mean and variance of each channel over the batches of all processes, and passes gradients back to all."""

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, affine=False)
        self.weight, self.bias, self.training = norm.weight, norm.bias, norm.training
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked

    def _check_input_dim(self, input: Tensor) -> None:
        """Whatever the exchanged norm took."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        x = input if input.dtype == torch.float64 else input.float()
        axes = [axis for axis in range(x.dim()) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(x.dim())]
        count = x.numel() // x.shape[1] * place()[1]  # every process has as many samples
        mean = _total(x.sum(axes)) / count
        centred = x - mean.reshape(shape)
        # From the centred values: the mean square less the squared mean would lose digits.
        variance = _total(centred.square().sum(axes)) / count
        self._follow_(mean.detach(), variance.detach() * count / (count - 1))
        y = centred * torch.rsqrt(variance + self.eps).reshape(shape)
        if self.weight is not None:
            y = y * self.weight.reshape(shape) + self.bias.reshape(shape)
        return y.to(input.dtype)

    @torch.no_grad()
    def _follow_(self, mean: Tensor, variance: Tensor) -> None:
        tracked = self.num_batches_tracked
        if tracked is not None:
            tracked += 1
        share = self.momentum if self.momentum is not None else 1 / float(tracked or 1)
        for own, new in ((self.running_mean, mean), (self.running_var, variance)):
            if own is not None:
                own.lerp_(new, share)


class _Total(torch.autograd.Function):
    """The sum over the processes. Each has given a part of every sum, so the gradients of all sums are its own."""

    @staticmethod
    def forward(context: Any, tensor: Tensor) -> Tensor:  # noqa: ARG004
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return _Total.forward(context, gradient)


def _total(tensor: Tensor) -> Tensor:
    total: Tensor = _Total.apply(tensor)  # type: ignore[no-untyped-call]
    return total
