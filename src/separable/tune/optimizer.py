"""What changes weights, and which of them it shrinks. In: a model and options. Out: groups of weights, an optimiser."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import compress
from operator import not_
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from separable.errors import ModelError, SeparableError

Optimizer = Literal["adamw", "sgd", "rmsprop"]
NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups for any optimiser of torch: without weight decay what must not shrink, with it all the rest.

    Spared are the weights of depthwise convolutions (few taps a channel and nothing redundant in them: Howard et al.
    2017, section 3.1), norms, biases, and whatever else has one axis only. A weight that several modules share is in
    one group, and spared when one of them spares it. Weights that require no gradient are in neither.

    >>> model = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1))
    >>> [[tuple(weight.shape) for weight in group["params"]] for group in parameter_groups(model, 0.1)]
    [[(8, 1, 3, 3), (8,), (8,), (8,), (4,)], [(4, 8, 1, 1)]]
    """
    if not 0 <= weight_decay < math.inf:
        raise SeparableError("parameter_groups", given=f"weight_decay={weight_decay}", expected="a number from 0 up")
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    spared = {id(weight) for weight in _spared(model)}
    is_spared = [id(weight) in spared for weight in trained]
    return [
        {"params": list(compress(trained, is_spared)), "weight_decay": 0.0},
        {"params": list(compress(trained, map(not_, is_spared))), "weight_decay": weight_decay},
    ]


def make_optimizer(
    model: nn.Module, family: Optimizer, *, learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """AdamW, SGD with Nesterov's momentum, or RMSprop as MobileNets are trained; ``ModelError`` for no weight."""
    groups = parameter_groups(model, weight_decay)
    if not any(group["params"] for group in groups):
        raise ModelError("model", given="no weight that requires a gradient", expected="something to train")
    if family == "sgd":
        return torch.optim.SGD(groups, lr=learning_rate, momentum=0.9, nesterov=True)
    if family == "rmsprop":  # Tan, Le 2019, section 5.2: decay 0.9, momentum 0.9; epsilon from their code
        return torch.optim.RMSprop(groups, lr=learning_rate, alpha=0.9, momentum=0.9, eps=1e-3)
    return torch.optim.AdamW(groups, lr=learning_rate)


def _spared(model: nn.Module) -> Iterator[Tensor]:
    for module in model.modules():
        is_depthwise = isinstance(module, _ConvNd) and module.groups == module.in_channels > 1
        if is_depthwise or isinstance(module, NORMS):
            yield from module.parameters()  # also those that a parametrization keeps below it
        for name, weight in module.named_parameters(recurse=False):
            if name.startswith("bias") or weight.dim() < 2:
                yield weight
