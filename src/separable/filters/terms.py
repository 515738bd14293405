"""A kernel as a sum of outer products. In: 1-D kernels, one an axis. Out: what they add up to, and what that costs."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from separable.errors import SpecError

KINDS = {"i": np.int64, "u": np.int64, "b": np.int64, "f": np.float64, "c": np.complex128}


@dataclass(frozen=True, kw_only=True, eq=False)
class Term:
    """The outer product of 1-D kernels, one an axis, first axis first; each int64, float64 or complex128.

    An axis that is left alone has a single 1 at the index ``length // 2``.
    """

    kernels: tuple[NDArray[Any], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "kernels", tuple(_checked(kernel) for kernel in self.kernels))
        if not self.kernels:
            raise SpecError("Term", given="no kernels", expected="one an axis")

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """The length of every kernel."""
        return tuple(len(kernel) for kernel in self.kernels)

    def dense(self) -> NDArray[Any]:
        """The kernel that the term multiplies out to."""
        return functools.reduce(np.multiply.outer, self.kernels)

    @property
    def macs(self) -> int:
        """Multiply-accumulates a pixel: the entries that are not 0, and none for an axis that is left alone."""
        return sum(int(np.count_nonzero(kernel)) for kernel in self.kernels if not leaves_alone(kernel))

    def __str__(self) -> str:
        return "·".join(_listed(kernel) + "ᵀ" * (at < len(self.kernels) - 1) for at, kernel in enumerate(self.kernels))


@dataclass(frozen=True, kw_only=True, eq=False)
class Terms:
    """A kernel as a sum of terms of one shape.

    The kernel is correlated with an image, its entry ``length // 2`` of every axis at the pixel (as scipy.ndimage).
    ``error`` is ‖K − dense()‖² / ‖K‖² for the kernel K that was asked for; K itself is ``asked`` where it is not
    ``dense()`` to the last bit.

    >>> sobel = Terms(terms=(Term(kernels=(np.array([1, 2, 1]), np.array([-1, 0, 1]))),))
    >>> print(sobel)
    3×3 in 1 term, 5 instead of 6 multiply-accumulates a pixel, error 0
      [1, 2, 1]ᵀ·[-1, 0, 1]
    """

    terms: tuple[Term, ...]
    error: float = 0.0
    asked: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        shapes = {term.shape for term in self.terms}
        if len(shapes) != 1:
            given = " and ".join(sorted(map(str, shapes))) or "no terms"
            raise SpecError("Terms", given=given, expected="one term or more, all of one shape")

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """The shape of the kernel."""
        return self.terms[0].shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """int64 when every entry is a whole number that stays one, otherwise float64 or complex128."""
        return np.result_type(*(kernel for term in self.terms for kernel in term.kernels))

    def dense(self) -> NDArray[Any]:
        """The kernel that the terms add up to."""
        return functools.reduce(np.add, (term.dense() for term in self.terms))

    @property
    def direct_macs(self) -> int:
        """Multiply-accumulates a pixel of the kernel in one piece: its entries that are not 0."""
        return int(np.count_nonzero(self.dense() if self.asked is None else self.asked))

    @property
    def separable_macs(self) -> int:
        """Multiply-accumulates a pixel of all terms, axis by axis."""
        return sum(term.macs for term in self.terms)

    def __str__(self) -> str:
        count = f"{len(self.terms)} term{'s' * (len(self.terms) > 1)}"
        head = (
            f"{'×'.join(map(str, self.shape))} in {count}, {self.separable_macs} instead of {self.direct_macs} "
            f"multiply-accumulates a pixel, error {self.error:.3g}"
        )
        return "\n".join([head, *(f"  {term}" for term in self.terms)])


def outer(*kernels: ArrayLike) -> Terms:
    """The kernel of a single term.

    >>> outer([1, 2, 1], [-1, 0, 1]).dense()
    array([[-1,  0,  1],
           [-2,  0,  2],
           [-1,  0,  1]])
    """
    return Terms(terms=(Term(kernels=tuple(np.asarray(kernel) for kernel in kernels)),))


def added(*parts: Terms) -> Terms:
    """The sum of exact kernels, the smaller ones padded with zeros around their centres.

    >>> added(outer([1, -2, 1], [1]), outer([1], [1, -2, 1])).dense()
    array([[ 0,  1,  0],
           [ 1, -4,  1],
           [ 0,  1,  0]])
    """
    terms = [term for part in parts for term in part.terms]
    shape = [max(lengths) for lengths in zip(*(term.shape for term in terms), strict=True)]
    return Terms(terms=tuple(Term(kernels=tuple(map(_padded, term.kernels, shape))) for term in terms))


def scaled(factor: float, kernel: Terms) -> Terms:
    """``factor`` times an exact kernel.

    >>> scaled(0.5, outer([1, 2, 1], [1])).dense().ravel()
    array([0.5, 1. , 0.5])
    """
    terms = (Term(kernels=(factor * term.kernels[0], *term.kernels[1:])) for term in kernel.terms)
    return Terms(terms=tuple(terms))


def leaves_alone(kernel: NDArray[Any]) -> bool:
    """Whether a 1-D kernel is a single 1 at its centre, so that nothing needs to be done.

    >>> leaves_alone(np.array([0, 1, 0])), leaves_alone(np.array([1, 0, 0]))
    (True, False)
    """
    return int(np.count_nonzero(kernel)) == 1 and bool(kernel[len(kernel) // 2] == 1)


def _checked(kernel: NDArray[Any]) -> NDArray[Any]:
    kernel = np.asarray(kernel)
    if kernel.ndim != 1 or not kernel.size or kernel.dtype.kind not in KINDS:
        given = f"{kernel.dtype} of shape {kernel.shape}"
        raise SpecError("Term", given=given, expected="kernels of one axis, of numbers")
    if not np.isfinite(kernel).all():
        raise SpecError("Term", given="entries that are NaN or infinite", expected="finite numbers")
    return np.ascontiguousarray(kernel, KINDS[kernel.dtype.kind])


def _padded(kernel: NDArray[Any], length: int) -> NDArray[Any]:
    before = length // 2 - len(kernel) // 2
    return np.pad(kernel, (before, length - len(kernel) - before))


def _listed(kernel: NDArray[Any]) -> str:
    """The numbers; of a long kernel the first and last three."""
    numbers = [f"{value:.4g}" for value in kernel]
    return f"[{', '.join(numbers if len(numbers) <= 9 else [*numbers[:3], '…', *numbers[-3:]])}]"
