"""What every family is and what all of them check. In: a family's own maths. Out: chains of convolutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from separable.errors import ModelError, SpecError
from separable.factor.factors import Factor, Factors, by_joint
from separable.spec import ConvSpec

Rank = tuple[int, ...]
T = TypeVar("T")
Truncate = Callable[[Rank], tuple[list[Tensor], float]]


class Step(NamedTuple):
    """One convolution of a chain: channels out, groups, and the axes along which it takes over the geometry."""

    channels: int
    groups: int
    axes: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class Family:
    """One way to write a convolution as a chain of smaller ones, for each group on its own.

    ``refuses`` gives the reason why a convolution cannot be written so, or None. ``full`` is the rank at which the
    chain is exact, ``steps`` the shape of the chain. ``split`` prepares a weight (g, c_out/g, c_in/g, *kernel) in
    float64 once and answers for any rank with the weights (channels, inputs, *kernel) of the chain and the squared
    error.
    """

    name: str
    refuses: Callable[[ConvSpec], str | None]
    full: Callable[[ConvSpec], Rank]
    steps: Callable[[ConvSpec, Rank], Sequence[Step]]
    split: Callable[[Tensor], Truncate]

    def ranks(self, spec: ConvSpec) -> Rank:
        """The full rank, entry by entry: the largest that is of use, and exact. SpecError where the family refuses."""
        reason = self.refuses(spec)
        if reason is not None:
            raise SpecError(f"the family {self.name!r}", given=str(spec), expected="another convolution", remedy=reason)
        return self.full(spec)

    def specs(self, spec: ConvSpec, rank: Rank) -> tuple[ConvSpec, ...]:
        """The shapes of the chain, first applied first."""
        self._check_rank(spec, rank)
        chain: list[ConvSpec] = []
        channels, size = spec.c_in, spec.size
        for step in self.steps(spec, rank):
            chain.append(_take(spec, step, channels, size))
            channels, size = step.channels, chain[-1].size_out
        return tuple(chain)

    def factorize(self, weight: Tensor, spec: ConvSpec, rank: Rank) -> Factors:
        """The chain nearest to the weight (c_out, c_in/g, *kernel), worked in float64, in the weight's dtype."""
        return self.factorize_each(weight, spec, [rank])[0]

    def factorize_each(self, weight: Tensor, spec: ConvSpec, ranks: Sequence[Rank]) -> tuple[Factors, ...]:
        """``factorize`` for several ranks, with one decomposition for all of them."""
        chains = [self.specs(spec, rank) for rank in ranks]
        _check_weight(weight, spec)
        grouped = weight.detach().to("cpu", torch.float64).reshape(spec.groups, -1, *weight.shape[1:])
        truncate = self.split(grouped)
        energy = float(grouped.square().sum())
        return tuple(
            self._factors(truncate(rank), rank, spec, chain, weight, energy)
            for rank, chain in zip(ranks, chains, strict=True)
        )

    def _factors(
        self,
        split: tuple[list[Tensor], float],
        rank: Rank,
        spec: ConvSpec,
        chain: tuple[ConvSpec, ...],
        weight: Tensor,
        energy: float,
    ) -> Factors:
        parts, lost = split
        parts = balance(parts, [part.groups for part in chain])
        factors = (Factor(weight=part.to(weight), spec=of) for part, of in zip(parts, chain, strict=True))
        error = lost / energy if energy > 0 else 0.0
        return Factors(family=self.name, rank=tuple(rank), spec=spec, factors=tuple(factors), error=error)

    def _check_rank(self, spec: ConvSpec, rank: Rank) -> None:
        full = self.ranks(spec)
        whole = all(isinstance(r, int) and not isinstance(r, bool) for r in rank)
        if not whole or len(rank) != len(full) or any(not 1 <= r <= most for r, most in zip(rank, full, strict=True)):
            raise SpecError(
                f"the rank of {self.name!r} for {spec}",
                given=tuple(rank),
                expected=f"{len(full)} whole number{'s' * (len(full) > 1)}, from {(1,) * len(full)} to {full}",
            )


def balance(weights: Sequence[Tensor], groups: Sequence[int]) -> list[Tensor]:
    """The same chain with each inner channel about as strong before as behind; by powers of two, so nothing is rounded.

    Truncation leaves all strength in one factor, which costs half precision its range and training its pace.
    """
    balanced = list(weights)
    for at in range(len(balanced) - 1):
        a, b = by_joint(balanced[at].flatten(2), groups[at], balanced[at + 1].flatten(2), groups[at + 1])
        before, behind = a.square().sum(dim=(-2, -1)), b.square().sum(dim=(2, 5)).transpose(1, 2)
        usable = (before > 0) & (behind > 0)
        scale = torch.exp2((torch.log2(behind.where(usable, 1) / before.where(usable, 1)) / 4).round())
        balanced[at] = (a * scale[..., None, None]).reshape(balanced[at].shape)
        balanced[at + 1] = (b / scale.transpose(1, 2)[:, :, None, :, :, None]).reshape(balanced[at + 1].shape)
    return balanced


def _take(spec: ConvSpec, step: Step, c_in: int, size: tuple[int, ...]) -> ConvSpec:
    """The convolution that takes over ``spec``'s geometry along the step's axes and leaves the others alone."""

    def along(values: Sequence[T], rest: T) -> list[T]:
        return [value if axis in step.axes else rest for axis, value in enumerate(values)]

    return ConvSpec(
        c_in,
        step.channels,
        kernel=along(spec.kernel, 1),
        size=size,
        stride=along(spec.stride, 1),
        padding=along(spec.padding, (0, 0)),
        dilation=along(spec.dilation, 1),
        groups=step.groups,
    )


def _check_weight(weight: Tensor, spec: ConvSpec) -> None:
    if tuple(weight.shape) != spec.weight_shape:
        raise SpecError(f"the weight of {spec}", given=tuple(weight.shape), expected=f"{spec.weight_shape}")
    if weight.is_meta or not weight.is_floating_point():
        kind = "a meta tensor, which has no numbers" if weight.is_meta else weight.dtype
        raise ModelError(f"the weight of {spec}", given=kind, expected="floating-point numbers")
    broken = int((~weight.isfinite()).sum())
    if broken:
        raise ModelError(
            f"the weight of {spec}",
            given=f"{broken} of {weight.numel()} entries NaN or infinite",
            expected="finite numbers",
            remedy="Load a checkpoint of before the training diverged.",
        )
