"""Fewer channels in between. In: a weight k × k. Out: k × k to r channels, then 1 × 1 to c_out.

X. Zhang, J. Zou, K. He, J. Sun, "Accelerating very deep convolutional networks for classification and detection",
IEEE TPAMI 38 (2016), section 3.1. The truncated singular value decomposition of the weight as c_out × (c_in·k²), which
no other weights of the same form beat.
"""

from __future__ import annotations

import math

from torch import Tensor

from separable.factor.family import Family, Rank, Step, Truncate
from separable.factor.rank import spectrum
from separable.spec import ConvSpec


def _refuses(spec: ConvSpec) -> str | None:
    return "With one channel a group there is none to spare in between." if _full(spec) == (1,) else None


def _full(spec: ConvSpec) -> Rank:
    return (min(spec.c_out // spec.groups, spec.c_in // spec.groups * math.prod(spec.kernel)),)


def _steps(spec: ConvSpec, rank: Rank) -> list[Step]:
    return [Step(spec.groups * rank[0], spec.groups, range(spec.dims)), Step(spec.c_out, spec.groups, ())]


def _split(weight: Tensor) -> Truncate:
    whole = spectrum(weight.flatten(2))

    def truncate(rank: Rank) -> tuple[list[Tensor], float]:
        left, right, lost = whole.truncate(rank[0])
        ones = [1] * (weight.dim() - 3)
        return [right.reshape(-1, *weight.shape[2:]), left.reshape(-1, rank[0], *ones)], lost

    return truncate


CHANNEL = Family(name="channel", refuses=_refuses, full=_full, steps=_steps, split=_split)
