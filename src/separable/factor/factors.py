"""The value every factorisation returns. In: small convolutions in order. Out: what they multiply out to, the error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

from torch import Tensor, einsum

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

    ``rank`` is the family's own measure of size, for each group: (r,) for spatial along two axes and channel,
    (r_1, r_2) for spatial along three, (t,) for depthwise, (r_in, r_out) for tucker. ``error`` is the relative squared
    error of the weight, ‖W − dense()‖² / ‖W‖² (0 when W is zero), as the family's maths predicts it.
    """

    family: str
    rank: tuple[int, ...]
    spec: ConvSpec
    factors: tuple[Factor, ...]
    error: float

    def __post_init__(self) -> None:
        _check_chain(self.specs, self.spec)

    @property
    def specs(self) -> tuple[ConvSpec, ...]:
        """The shapes of the chain, in order."""
        return tuple(factor.spec for factor in self.factors)

    def dense(self) -> Tensor:
        """The one weight (c_out, c_in/g, *kernel) that the chain multiplies out to."""
        return compose([factor.weight for factor in self.factors], [spec.groups for spec in self.specs])

    def __str__(self) -> str:
        chain = " then ".join(str(spec) for spec in self.specs)
        return f"{self.family} {'×'.join(map(str, self.rank))} of {self.spec}: {chain}; error {self.error:.3g}"


def compose(weights: Sequence[Tensor], groups: Sequence[int]) -> Tensor:
    """The weight (c_out, c_in/g, *kernel) of the one convolution that equals a chain of them. Differentiable.

    Each axis must be convolved along by one weight only, earlier axes by earlier weights, and of two neighbouring group
    counts one must divide the other. Then no two taps of the chain meet, so that stride and dilation do not matter and
    the product is one matrix product for each joint, without a convolution.
    """
    kernel = [math.prod(along) for along in zip(*(weight.shape[2:] for weight in weights), strict=True)]
    taps = [(weight.flatten(2), count) for weight, count in zip(weights, groups, strict=True)]
    dense, _ = reduce(lambda first, second: (join(*first, *second), min(first[1], second[1])), taps)
    return dense.reshape(*dense.shape[:2], *kernel)


def join(first: Tensor, first_groups: int, second: Tensor, second_groups: int) -> Tensor:
    """``second`` after ``first``: (m, c_in/g, a) and (c_out, m/g', b) give (c_out, c_in/min(g, g'), a·b)."""
    a, b = by_joint(first, first_groups, second, second_groups)
    dense = einsum("gpqmia,gqopmb->gqopiab", a, b)
    return dense.reshape(second.shape[0], -1, first.shape[2] * second.shape[2])


def by_joint(first: Tensor, first_groups: int, second: Tensor, second_groups: int) -> tuple[Tensor, Tensor]:
    """Both weights with the channels between them laid out as (group, finer group before, finer group behind, m).

    (g, p, q, m, i, a) and (g, q, o, p, m, b), where g·p and g·q are the two group counts and p or q is 1.
    """
    shared = min(first_groups, second_groups)
    p, q = first_groups // shared, second_groups // shared
    a = first.reshape(shared, p, q, -1, *first.shape[1:])
    return a, second.reshape(shared, q, -1, p, a.shape[3], second.shape[2])


def _check_chain(chain: tuple[ConvSpec, ...], spec: ConvSpec) -> None:
    last_axis, size, channels = -1, spec.size, spec.c_in
    for part in chain:
        axes = [axis for axis, k in enumerate(part.kernel) if k > 1]
        if part.size != size or part.c_in != channels or min(axes, default=spec.dims) <= last_axis:
            raise SpecError(
                "Factors.factors",
                given=" then ".join(map(str, chain)),
                expected=f"parts that follow on each other from {spec}, each axis convolved along once, in order",
            )
        last_axis, size, channels = max(axes, default=last_axis), part.size_out, part.c_out
    if size != spec.size_out or channels != spec.c_out:
        raise SpecError(
            "Factors.factors", given=" then ".join(map(str, chain)), expected=f"the output of {spec}, {spec.size_out}"
        )
