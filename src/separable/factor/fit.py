"""The heart: factors fitted to data. In: factors, moments of inputs and wanted outputs. Out: better factors, a bias.

The loss is E‖y − b − W x̂‖², where y is what the original computes and x̂ what the rewritten layers before this one feed
in (X. Zhang, J. Zou, K. He, J. Sun, IEEE TPAMI 38, 2016, sections 3.2 and 3.3), plus a little of ‖W − W₀‖²: where the
data say little, the weights W₀ that came in still hold. The start is the better of two, W₀ and the family's own
truncation of the least-squares weight in coordinates in which the first factor's inputs are white. For ``channel``
that is reduced-rank regression, the exact optimum (A. Izenman, J. Multivariate Analysis 5, 1975). Then come sweeps of
alternating least squares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, einsum

from separable.errors import DataError, ModelError, SpecError
from separable.factor.factors import Factor, Factors, compose
from separable.factor.families import FAMILIES
from separable.factor.family import balance
from separable.factor.least_squares import Part, Problem, sweep
from separable.factor.moments import Moments, response_error, rows_of

__all__ = ["Fitted", "Moments", "fit", "fit_each", "response_error"]

# Held-out error on a trained network, 5 to 200 images, 4 to 256 places each: 0.01 was best or level where there were
# many more patches than unknowns, and 0.02 to 0.2 where there were as many or fewer.
RIDGE, FEW = 0.01, 3.0
ENOUGH = 1e-3  # a sweep that gains less than this share of the loss is the last


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """Fitted factors, the bias (c_out) that goes with them, and the relative squared error of the output on the data.

    ``factors.error`` is still that of the weight that came in: a fitted weight has another aim.
    """

    factors: Factors
    bias: Tensor
    error: float


def fit(factors: Factors, moments: Moments, *, sweeps: int = 8, ridge: float = RIDGE) -> Fitted:
    """The factors and the bias that best give the wanted outputs; never worse on the data than the factors given.

    ``sweeps`` is the most that are made. ``ridge`` says how much the weights given count: as much as data in which
    every direction has this share of the mean energy, and more when there are few patches. Worked in float64, returned
    in the dtype of the factors. SpecError when the moments are of another convolution, DataError when they are of no
    data, ModelError when a weight is not finite.
    """
    return fit_each([factors], moments, sweeps=sweeps, ridge=ridge)[0]


def fit_each(
    several: Sequence[Factors], moments: Moments, *, sweeps: int = 8, ridge: float = RIDGE
) -> tuple[Fitted, ...]:
    """``fit`` for several factorisations of one convolution, with one preparation for all of them."""
    for factors in several:
        if (factors.spec.weight_shape, factors.spec.groups) != (moments.spec.weight_shape, moments.spec.groups):
            raise SpecError("fit", given=f"factors of {factors.spec}", expected=f"factors of {moments.spec}")
        if not all(bool(part.weight.isfinite().all()) for part in factors.factors):
            raise ModelError("fit", given="factors that are NaN or infinite", expected="finite numbers")
    if not moments.count:
        raise DataError("fit", given="moments of no data", expected="moments that have been updated")
    added = _ridge(moments, ridge)
    inputs = moments.inputs + torch.diag_embed(added.expand(moments.input_mean.shape))
    root = torch.linalg.cholesky(inputs)
    return tuple(_fit(factors, moments, (inputs, root, added), sweeps) for factors in several)


def _ridge(moments: Moments, ridge: float) -> Tensor:
    """What is added to each eigenvalue of the inputs' moments, (g, 1): a share of their mean, more for few patches."""
    share = ridge * (1 + FEW * moments.input_mean.shape[1] / moments.count)
    mean = moments.inputs.diagonal(dim1=1, dim2=2).mean(dim=1, keepdim=True)
    overall = float(mean.mean())
    return share * mean.clamp(min=1e-6 * overall) if overall > 0 else torch.ones_like(mean)


def _fit(factors: Factors, moments: Moments, prepared: tuple[Tensor, Tensor, Tensor], sweeps: int) -> Fitted:
    inputs, root, ridge = prepared
    incoming = rows_of(_multiplied(factors), factors.spec)
    pull = ridge[..., None] * incoming
    energy = float(moments.energy.sum() + (pull * incoming).sum())
    problem = Problem(inputs=inputs, cross=moments.cross + pull, energy=energy)
    chain = _alternate(factors, problem, root, sweeps)
    found = min(factors, _with(factors, chain), key=lambda each: response_error(_multiplied(each), moments))
    weight = _multiplied(found)
    bias = moments.output_mean - einsum("god,gd->go", rows_of(weight, factors.spec), moments.input_mean)
    return Fitted(
        factors=found, bias=bias.flatten().to(factors.factors[-1].weight), error=response_error(weight, moments)
    )


def _alternate(factors: Factors, problem: Problem, root: Tensor, sweeps: int) -> list[Part]:
    given = [(weight.flatten(2), spec.groups) for weight, spec in zip(_exact(factors), factors.specs, strict=True)]
    (before, _, chain) = min(
        (problem.loss(start), at, start) for at, start in enumerate((given, _whitened(factors, problem, root)))
    )
    for _ in range(sweeps):
        chain, loss = sweep(chain, problem)
        if before - loss <= ENOUGH * loss:
            break
        before = loss
    return chain


def _whitened(factors: Factors, problem: Problem, root: Tensor) -> list[Part]:
    """The family's truncation of the least-squares weight, with the first factor's inputs made white before it."""
    spec, first = factors.spec, factors.specs[0]
    best = torch.cholesky_solve(problem.cross.mT, root).mT
    p, s = first.groups // spec.groups, first.weights // first.c_out
    white = torch.linalg.cholesky(problem.input_moment(p, s))
    rows = einsum("gopst,gpsu->goput", best.reshape(*best.shape[:2], p, s, -1), white)
    weights, _ = FAMILIES[factors.family].split(rows.reshape(spec.groups, -1, *spec.weight_shape[1:]))(factors.rank)
    colour = torch.linalg.solve_triangular(white, weights[0].reshape(spec.groups, p, -1, s), upper=False, left=False)
    weights[0] = colour.reshape(weights[0].shape)
    return [(weight.flatten(2), part.groups) for weight, part in zip(weights, factors.specs, strict=True)]


def _with(factors: Factors, chain: list[Part]) -> Factors:
    weights = balance([weight for weight, _ in chain], [groups for _, groups in chain])
    parts = zip(weights, factors.factors, strict=True)
    return replace(
        factors,
        factors=tuple(
            Factor(weight=weight.reshape(old.weight.shape).to(old.weight), spec=old.spec) for weight, old in parts
        ),
    )


def _multiplied(factors: Factors) -> Tensor:
    return compose(_exact(factors), [spec.groups for spec in factors.specs])


def _exact(factors: Factors) -> list[Tensor]:
    return [factor.weight.detach().to("cpu", torch.float64) for factor in factors.factors]
