"""Alternating least squares. In: a chain of convolutions and second moments. Out: a chain with a lower loss.

The chain's weight is linear in each factor, so the loss is a convex quadratic in any one of them. From first to last: a
factor is improved by conjugate gradients with all later ones held, then the moments are taken through it, and what is
left is a shorter problem of the same form; the last factor is solved exactly. No step can raise the loss.

Letters of the axes: g groups of the problem; p and q the finer groups of the first factor and of the rest (one of them
is 1); m channels between the two; s inputs × taps of the first, t taps of the rest; o outputs; d = p·s·t inputs × taps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, reduce

import torch
from torch import Tensor, einsum

from separable.factor.factors import by_joint, join

Part = tuple[Tensor, int]  # a factor's weight (channels, inputs, taps) and its number of groups
STEPS = 4  # of conjugate gradients: with 30, eight sweeps ended within 1 % of the same loss (3×3, 32→64, four families)
FLOOR = 1e-10  # of the mean eigenvalue, under every matrix that is inverted: a factor may have lost a channel
CHUNK = 2**24  # numbers of an intermediate result: 128 MiB


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Minimise ‖y − W x‖² over W (g, o, d); ``inputs`` x xᵀ (g, d, d), ``cross`` y xᵀ (g, o, d), ``energy`` ‖y‖²."""

    inputs: Tensor
    cross: Tensor
    energy: float

    def loss(self, chain: list[Part]) -> float:
        """‖y − W x‖² for the chain's W."""
        if len(chain) > 1:
            return _Joint(chain, self).behind().loss(chain[1:])
        rows = chain[0][0].reshape(self.cross.shape)
        return self.energy + float(((rows @ self.inputs - 2 * self.cross) * rows).sum())

    def input_moment(self, p: int, s: int) -> Tensor:
        """x xᵀ within each finer group, the mean over the taps t: (g, p, s, s), never singular."""
        g, d, _ = self.inputs.shape
        t = d // (p * s)
        return _lifted(einsum("gpstput->gpsu", self.inputs.reshape(g, p, s, t, p, s, t)) / t)


def sweep(chain: list[Part], problem: Problem) -> tuple[list[Part], float]:
    """The chain with every factor improved once, and its loss."""
    if len(chain) == 1:
        last = [(_solve(chain[0][0], problem), chain[0][1])]
        return last, problem.loss(last)
    joint = _Joint(chain, problem)
    joint.improve_()
    rest, loss = sweep(chain[1:], joint.behind())
    return [(joint.first.reshape(chain[0][0].shape), chain[0][1]), *rest], loss


def _solve(weight: Tensor, problem: Problem) -> Tensor:
    """The exact optimum, reached from the weight given: directions that the data never show stay as they are."""
    rows = weight.reshape(problem.cross.shape)
    root = torch.linalg.cholesky(_lifted(problem.inputs))
    step = torch.cholesky_solve((problem.cross - rows @ problem.inputs).mT, root).mT
    return (rows + step).reshape(weight.shape)


class _Joint:
    """The place between the first factor, (g, p, q, m, s), and the rest multiplied out, (g, q, o, p, m, t)."""

    def __init__(self, chain: list[Part], problem: Problem) -> None:
        (first, count), *rest = chain
        behind, behind_count = reduce(lambda a, b: (join(*a, *b), min(a[1], b[1])), rest)
        by_group, self.rest = by_joint(first, count, behind, behind_count)
        self.first = by_group.flatten(4)
        self.problem = problem

    def improve_(self) -> None:
        """A few steps of preconditioned conjugate gradients on the first factor's normal equations."""
        residual = self._back(self.problem.cross) - self._normal(self.first)
        precondition = self._preconditioner()
        direction = preconditioned = precondition(residual)
        power = start = float((residual * preconditioned).sum())
        for _ in range(STEPS):
            if power <= FLOOR**2 * start or power <= 0:
                return
            image = self._normal(direction)
            step = power / float((direction * image).sum())
            self.first = self.first + step * direction
            residual = residual - step * image
            preconditioned = precondition(residual)
            power, before = float((residual * preconditioned).sum()), power
            direction = preconditioned + power / before * direction

    def behind(self) -> Problem:
        """The problem of the rest: the same outputs, and as inputs what comes out of the first factor."""
        g, p, q, m, s = self.first.shape
        o, t = self.rest.shape[2], self.rest.shape[5]
        d = p * s * t
        finer = []
        for part in torch.split(self.first, max(1, CHUNK // (g * p * m * t * d)), dim=2):
            half = self._seen(part).reshape(g, part.shape[2], p * m * t, p, s, t)
            finer.append(einsum("gqxpst,gpqms->gqxpmt", half, part).reshape(g, part.shape[2], p * m * t, p * m * t))
        cross = einsum("gqopst,gpqms->gqopmt", self.problem.cross.reshape(g, q, o, p, s, t), self.first)
        return Problem(
            inputs=torch.cat(finer, dim=1).flatten(0, 1),
            cross=cross.reshape(g * q, o, p * m * t),
            energy=self.problem.energy,
        )

    def _normal(self, first: Tensor) -> Tensor:
        """The normal equations' matrix times a first factor, by whichever order of the products is shorter."""
        g, p, q, m, s = first.shape
        o, t = self.rest.shape[2], self.rest.shape[5]
        if o < m:
            rows = einsum("gpqms,gqopmt->gqopst", first, self.rest).reshape(self.problem.cross.shape)
            return self._back(rows @ self.problem.inputs)
        seen = self._seen(first).reshape(g, q, p * m * t, p, s, t)
        return einsum("gqpmtx,gqxpst->gpqms", self._gram.reshape(g, q, p, m, t, -1), seen)

    @cached_property
    def _gram(self) -> Tensor:
        """The rest's taps with each other, summed over the outputs: (g, q, p·m·t, p·m·t)."""
        rest = self.rest.flatten(3)
        return rest.mT @ rest

    def _seen(self, first: Tensor) -> Tensor:
        """The moments of what comes out of the first factor with its inputs, (g, q, p, m, t, d)."""
        g, p, _, _, s = first.shape
        inputs = self.problem.inputs
        return einsum("gpqms,gpstd->gqpmtd", first, inputs.reshape(g, p, s, -1, inputs.shape[-1]))

    def _back(self, rows: Tensor) -> Tensor:
        """The adjoint of multiplying out: (g, q·o, d) to the shape of the first factor."""
        g, p, q, _, s = self.first.shape
        o, t = self.rest.shape[2], self.rest.shape[5]
        return einsum("gqopst,gqopmt->gpqms", rows.reshape(g, q, o, p, s, t), self.rest)

    def _preconditioner(self) -> Callable[[Tensor], Tensor]:
        """What the normal equations would be if no two taps t had anything in common: a Kronecker product."""
        g, p, q, m, s = self.first.shape
        before = torch.linalg.cholesky(self.problem.input_moment(p, s))
        behind = torch.linalg.cholesky(_lifted(einsum("gqopmt,gqopnt->gpqmn", self.rest, self.rest)))

        def precondition(residual: Tensor) -> Tensor:
            half = torch.cholesky_solve(residual, behind).reshape(g, p, q * m, s)
            return torch.cholesky_solve(half.mT, before).mT.reshape(residual.shape)

        return precondition


def _lifted(gram: Tensor) -> Tensor:
    floor = FLOOR * gram.diagonal(dim1=-2, dim2=-1).mean()
    return gram + (floor if floor > 0 else 1.0) * torch.eye(gram.shape[-1], dtype=gram.dtype)
