"""Branches left out at random while training. In: a probability. Out: a layer for the branch of a residual block."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from separable.errors import SpecError


class StochasticDepth(nn.Module):
    """In training each image's tensor becomes zero with probability ``p`` and is divided by 1 − p otherwise.

    So its mean stays what it is. Does nothing in evaluation. Any shape (n, …). Huang et al. 2016.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise SpecError("StochasticDepth", given=f"p (={p!r})", expected="a probability from 0 to below 1")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        kept = torch.empty((x.shape[0], *[1] * (x.dim() - 1)), dtype=x.dtype, device=x.device).bernoulli_(1 - self.p)
        return x * kept / (1 - self.p)

    def extra_repr(self) -> str:
        """The probability."""
        return f"p={self.p:g}"
