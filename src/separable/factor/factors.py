"""The value every factorisation returns. In: small convolutions in order. Out: what they multiply out to, the error."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from separable.errors import SpecError
from separable.spec import ConvSpec


@dataclass(frozen=True, kw_only=True)
class Factor:
    """One small convolution of a chain: its weight (c_out, c_in/g, *kernel) and its shape."""

    weight: Tensor
    spec: ConvSpec

    def __post_init__(self) -> None:
        if tuple(self.weight.shape) != self.spec.weight_shape:
            raise SpecError("Factor.weight", given=tuple(self.weight.shape), expected=str(self.spec.weight_shape))


@dataclass(frozen=True, kw_only=True)
class Factors:
    """The convolutions, first applied first, that stand in for one; no bias, no non-linearity between them.

    ``rank`` is the family's own measure of size: (r,) for spatial in 2-D and channel, (r_1, r_2) for spatial in 3-D,
    (t,) for depthwise, (r_in, r_out) for tucker. ``error`` is the relative squared error of the weight,
    ‖W − dense()‖² / ‖W‖² (0 when W is zero), as the family's maths predicts it.
    """

    family: str
    rank: tuple[int, ...]
    spec: ConvSpec
    factors: tuple[Factor, ...]
    error: float

    @property
    def specs(self) -> tuple[ConvSpec, ...]:
        """The shapes of the chain, in order."""
        return tuple(factor.spec for factor in self.factors)

    def dense(self) -> Tensor:
        """The one weight (c_out, c_in/g, *kernel) that the chain multiplies out to."""
        return compose([factor.weight for factor in self.factors], [f.spec.groups for f in self.factors], self.spec)


def compose(weights: list[Tensor], groups: list[int], spec: ConvSpec) -> Tensor:
    """The weight of the one convolution ``spec`` that equals the chain of convolutions with these weights and groups.

    The chain, at stride 1 and without padding, is applied to one impulse for each input channel of a group (all groups
    share an impulse: their outputs do not mix); the flipped response is the composed weight. Differentiable.
    """
    per_group = spec.c_in // spec.groups
    reach = [k - 1 for k in spec.kernel]
    eye = torch.eye(per_group, dtype=weights[0].dtype, device=weights[0].device)
    x = eye.reshape(per_group, per_group, *(1 for _ in reach)).repeat(1, spec.groups, *(1 for _ in reach))
    x = F.pad(x, [r for reach_along in reversed(reach) for r in (reach_along, reach_along)])
    convolve = (F.conv1d, F.conv2d, F.conv3d)[spec.dims - 1]
    for weight, group_count in zip(weights, groups, strict=True):
        x = convolve(x, weight, groups=group_count)
    return x.flip(list(range(2, 2 + spec.dims))).transpose(0, 1).contiguous()
