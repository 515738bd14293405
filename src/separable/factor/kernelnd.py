"""One image filter of any number of axes as a sum of outer products. In: an n-D kernel. Out: few 1-D filters an axis.

From three axes on no algorithm is known that always finds the fewest terms (J. Håstad, J. Algorithms 11, 1990). Here
two bounds close it in: below, the ranks of the kernel's unfoldings; above, singular value decompositions one inside
the other, which always succeed. Between them a canonical polyadic fit is tried, by damped Gauss-Newton steps (A.-H.
Phan, P. Tichavský, A. Cichocki, SIAM J. Matrix Anal. Appl. 34, 2013) from several starts.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from separable.errors import SpecError
from separable.factor.kernel2d import TOLERANCE, separate

Array = NDArray[Any]
Vectors = tuple[Array, ...]

RANDOM_STARTS = 6
MAX_STEPS = 100
# A fit is given up when several steps in a row were so small that all that are left would not lead to the tolerance.
PATIENCE = 5
# Fits with fewer numbers than this take milliseconds and are tried even where the terms would not pay.
SMALL_FIT = 300
# Of the tolerance, what may go on leaving out directions in which the kernel hardly varies, before anything is fitted.
COMPRESSION = 0.01
# Of the mean curvature: below it the equations lose their digits, above it a step is shorter than rounding.
LEAST_DAMPING, MOST_DAMPING = 1e-13, 1e8
# Terms that cancel each other lose digits: together they may be this many times as long as the kernel.
CANCELLATION = 100.0


@dataclass(frozen=True, kw_only=True)
class SeparatedNd:
    """A kernel as a sum of outer products, strongest first: one vector an axis, first axis first, of every term.

    ``error`` is ‖K − dense()‖² / ‖K‖².
    """

    terms: tuple[Vectors, ...]
    error: float

    def dense(self) -> NDArray[Any]:
        """The kernel that the terms add up to."""
        return functools.reduce(np.add, map(_outer, self.terms))


def separate_nd(kernel: ArrayLike, tolerance: float = TOLERANCE, *, seed: int = 0) -> SeparatedNd:
    """The fewest terms found that leave at most ``tolerance`` of the kernel's energy (a relative squared error).

    A kernel of whole numbers that is one outer product stays in whole numbers. Otherwise the vectors of a term are
    equally strong, and all but the last have a positive largest entry. ``seed`` draws the random starts. SpecError
    unless the kernel is an array of finite real numbers.

    >>> corner = np.multiply.outer(np.outer([1, 2], [3, 4]), [5, 6])
    >>> [vector.tolist() for vector in separate_nd(corner).terms[0]]
    [[1, 2], [3, 4], [5, 6]]

    A sum of two outer products with nothing in common needs two terms, though every slice of it is separable.

    >>> diagonal = np.zeros((2, 2, 2))
    >>> diagonal[0, 0, 0] = diagonal[1, 1, 1] = 1.0
    >>> len(separate_nd(diagonal).terms)
    2
    """
    tensor = np.asarray(kernel)
    if tensor.ndim < 1 or not tensor.size or tensor.dtype.kind not in "biuf":
        given = f"{tensor.dtype} of shape {tensor.shape}"
        raise SpecError("the kernel", given=given, expected="an array of real numbers with one axis or more")
    if whole := _in_whole_numbers(tensor):
        return SeparatedNd(terms=(whole,), error=0.0)
    target = tensor.astype(np.float64)
    scale = float(np.abs(target).max())
    found = _compressed_and_fitted(target / scale, tolerance, np.random.default_rng(seed))
    terms = [_balanced(term, scale) for term in found]
    terms.sort(key=lambda term: -float(np.linalg.norm(term[0])))
    left = target / scale - functools.reduce(np.add, map(_outer, terms)) / scale
    return SeparatedNd(terms=tuple(terms), error=float(np.square(left).sum() / np.square(target / scale).sum()))


def _in_whole_numbers(tensor: NDArray[np.generic]) -> Vectors | None:
    """The exact factors, one axis split off after another; None when there are none."""
    vectors: list[Array] = []
    rest = tensor.reshape(len(tensor), -1)
    for length in (*tensor.shape[1:], 1):
        found = separate(rest)
        if found.error or len(found.terms) > 1 or np.any(found.terms[0].row % 1) or np.any(found.terms[0].column % 1):
            return None
        vectors.append(found.terms[0].column)
        rest = found.terms[0].row.reshape(length, -1)
    vectors[0] = vectors[0] * rest.item()
    return tuple(vectors)


def _compressed_and_fitted(tensor: Array, tolerance: float, random: np.random.Generator) -> list[Vectors]:
    """Fits the kernel's coordinates in the leading singular vectors of its axes: they are fewer, the error is the
    same."""
    core, bases = tensor, []
    for axis, length in enumerate(tensor.shape):
        left, values, _ = np.linalg.svd(_unfolded(tensor, axis), full_matrices=False)
        bases.append(left[:, : _needed(values, tolerance * COMPRESSION / length)])
        core = np.moveaxis(np.tensordot(bases[-1], core, (0, axis)), 0, axis)
    kept = float(np.square(core).sum() / np.square(tensor).sum())
    terms = _fewest(core, 1 - (1 - tolerance) / kept, random)
    return [tuple(basis @ vector for basis, vector in zip(bases, term, strict=True)) for term in terms]


def _fewest(tensor: Array, tolerance: float, random: np.random.Generator) -> list[Vectors]:
    nested = min((_nested(tensor, axis, tolerance) for axis in range(tensor.ndim)), key=len)
    fewest = max(_needed(np.linalg.svd(_unfolded(tensor, n), compute_uv=False), tolerance) for n in range(tensor.ndim))
    # Beyond the cap the terms would cost more than the kernel in one piece, and it matters little how many they are.
    cap = min(len(nested) - 1, max(math.prod(tensor.shape), SMALL_FIT) // sum(tensor.shape))
    best, failed = nested, fewest - 1
    for step in itertools.chain([1, 1], (2**n for n in itertools.count(1))):
        rank = min(failed + step, cap)
        if rank <= failed:
            return best
        if found := _fit(tensor, rank, tolerance, nested, random):
            best = found
            break
        failed = rank
    while len(best) - failed > 1:
        rank = (failed + len(best)) // 2
        if found := _fit(tensor, rank, tolerance, nested, random):
            best = found
        else:
            failed = rank
    return best


def _nested(tensor: Array, axis: int, tolerance: float) -> list[Vectors]:
    """Singular value decompositions one inside the other, ``axis`` split off first: terms orthogonal to each other."""
    terms = sorted(_branches(np.moveaxis(tensor, axis, 0)), key=lambda term: -_energy(term))
    kept = _needed(np.sqrt([_energy(term) for term in terms]), tolerance)
    return [(*term[1 : axis + 1], term[0], *term[axis + 1 :]) for term in terms[:kept]]


def _branches(tensor: Array) -> Iterator[Vectors]:
    if tensor.ndim == 1:
        yield (tensor,)
        return
    left, values, right = np.linalg.svd(tensor.reshape(len(tensor), -1), full_matrices=False)
    for t in range(len(values)):
        for rest in _branches(values[t] * right[t].reshape(tensor.shape[1:])):
            yield (left[:, t], *rest)


def _needed(values: Array, tolerance: float) -> int:
    """How many of descending singular values leave at most ``tolerance`` of the energy to the others."""
    energies = np.square(values)
    lost = np.append(np.cumsum(energies[::-1])[::-1], 0.0) / energies.sum()
    rounding = (len(values) * np.finfo(np.float64).eps) ** 2
    return max(1, int(np.argmax(lost <= max(tolerance, rounding))))


def _fit(
    tensor: Array, rank: int, tolerance: float, nested: list[Vectors], random: np.random.Generator
) -> list[Vectors] | None:
    """``rank`` terms within the tolerance; None when no start leads there."""
    for start in range(1 + RANDOM_STARTS):
        if start == 0:
            factors = [np.stack(vectors, axis=1) for vectors in zip(*nested[:rank], strict=True)]
        else:
            factors = [random.standard_normal((length, rank)) for length in tensor.shape]
        size = float(np.linalg.norm(_dense(factors)))
        factors = [factor * (np.linalg.norm(tensor) / size) ** (1 / tensor.ndim) for factor in factors]
        factors, error = _descend(tensor, factors, tolerance)
        terms: list[Vectors] = [tuple(factor[:, r] for factor in factors) for r in range(rank)]
        together = sum(math.sqrt(_energy(term)) for term in terms)
        if error <= tolerance and together <= CANCELLATION * np.linalg.norm(tensor):
            return terms
    return None


def _descend(tensor: Array, factors: list[Array], tolerance: float) -> tuple[list[Array], float]:
    """Damped Gauss-Newton steps until the fit stands still; the factors and their relative squared error."""
    energy = float(np.square(tensor).sum())
    error = float(np.square(_dense(factors) - tensor).sum()) / energy
    damping, growth, hopeless = 1e-2, 2.0, 0
    for steps_left in range(MAX_STEPS, 0, -1):
        gradient, curvature = _normal_equations(tensor, factors)
        curvature[np.diag_indices_from(curvature)] += damping * np.trace(curvature) / len(curvature)
        step = np.linalg.solve(curvature, -gradient)
        moved = [factor + part for factor, part in zip(factors, _parted(step, factors), strict=True)]
        now = float(np.square(_dense(moved) - tensor).sum()) / energy
        if not now < error:
            damping, growth = damping * growth, growth * 2
            if error <= tolerance or damping > MOST_DAMPING:
                break
            continue
        hopeless = hopeless + 1 if (error - now) * steps_left < now - tolerance else 0
        is_settled = now <= tolerance and now > error / 2
        factors, error, damping, growth = moved, now, max(damping / 4, LEAST_DAMPING), 2.0
        if is_settled or hopeless >= PATIENCE:
            break
    return factors, error


def _normal_equations(tensor: Array, factors: list[Array]) -> tuple[Array, Array]:
    """Gradient and Gauss-Newton matrix of half the squared residual, factor after factor, each (length, rank)."""
    grams = [factor.T @ factor for factor in factors]
    rank, dims = grams[0].shape[0], range(len(factors))
    residual = _dense(factors) - tensor
    gradient = []
    rows = []
    for n in dims:
        others = [factors[m] for m in dims if m != n]
        gradient.append((_unfolded(residual, n) @ functools.reduce(_khatri_rao, others)).ravel())
        row = []
        for m in dims:
            product = functools.reduce(np.multiply, (grams[k] for k in dims if k not in (n, m)), np.ones((rank, rank)))
            if m == n:
                block = np.einsum("rs,ij->irjs", product, np.eye(len(factors[n])))
            else:
                block = np.einsum("rs,is,jr->irjs", product, factors[n], factors[m])
            row.append(block.reshape(factors[n].size, factors[m].size))
        rows.append(row)
    return np.concatenate(gradient), np.block(rows)


def _parted(step: Array, factors: list[Array]) -> list[Array]:
    ends = np.cumsum([factor.size for factor in factors])[:-1]
    return [part.reshape(factor.shape) for part, factor in zip(np.split(step, ends), factors, strict=True)]


def _khatri_rao(left: Array, right: Array) -> Array:
    return np.asarray((left[:, None] * right[None]).reshape(-1, left.shape[1]))


def _dense(factors: list[Array]) -> Array:
    first, *rest = factors
    return np.asarray((first @ functools.reduce(_khatri_rao, rest).T).reshape([len(factor) for factor in factors]))


def _unfolded(tensor: Array, axis: int) -> Array:
    return np.moveaxis(tensor, axis, 0).reshape(tensor.shape[axis], -1)


def _outer(term: Vectors) -> Array:
    return functools.reduce(np.multiply.outer, term)


def _energy(term: Vectors) -> float:
    return math.prod(float(np.square(vector).sum()) for vector in term)


def _balanced(term: Vectors, scale: float) -> Vectors:
    """The same outer product times ``scale``, its vectors equally strong, the signs gathered in the last one."""
    strength = (scale * math.sqrt(_energy(term))) ** (1 / len(term))
    signs = [math.copysign(1.0, vector[np.argmax(np.abs(vector))]) for vector in term[:-1]]
    signs.append(math.prod(signs))
    return tuple(
        vector * (sign * strength / (float(np.linalg.norm(vector)) or 1.0))
        for vector, sign in zip(term, signs, strict=True)
    )
