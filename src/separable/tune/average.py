"""The exponential moving average of a model. In: the model, after every step. Out: a model of averaged weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class Average:
    """``model``: a copy of the one given, whose weights and running statistics follow it at a distance.

    a ← d · a + (1 − d) · w, with d = min(decay, (1 + s) / (10 + s)) at step s, so that the random start is soon
    forgotten (the rule of TensorFlow's ExponentialMovingAverage). Counters are copied. The averaged statistics
    of a batch norm are those of the weights on the way, not of their average: to be taken anew at the end.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def follow_(self, model: nn.Module, step: int) -> None:
        """Move towards the model as it is after ``step`` steps."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        for own, new in zip(_values(self.model), _values(model), strict=True):
            if own.is_floating_point():
                own.lerp_(new, share)
            else:
                own.copy_(new)


def _values(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]
