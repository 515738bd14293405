"""The separability of a kernel, found. In: any kernel. Out: ``Terms``, the fewest a tolerance allows, or row by row."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from separable.errors import SpecError
from separable.factor.kernel2d import TOLERANCE, separate
from separable.factor.kernelnd import separate_nd
from separable.filters.terms import Term, Terms


def split(kernel: ArrayLike | Tensor, tolerance: float = TOLERANCE, *, seed: int = 0) -> Terms:
    """The fewest separable terms that leave at most ``tolerance`` of the kernel's energy (a relative squared error).

    In two axes by singular values, which nothing beats; from three on the fewest that a fit from several starts finds,
    its random ones drawn with ``seed``. A kernel of whole numbers and rank 1 stays in whole numbers. ``error`` is
    measured on the terms. SpecError unless the kernel is an array of finite numbers.

    >>> print(split([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]))
    3×3 in 1 term, 5 instead of 6 multiply-accumulates a pixel, error 0
      [1, 2, 1]ᵀ·[-1, 0, 1]
    >>> disk = np.hypot(*np.mgrid[-7:8, -7:8]) < 7.5
    >>> [len(split(disk, tolerance).terms) for tolerance in (1e-1, 1e-2, 1e-12)]
    [2, 4, 5]
    """
    array = _checked(kernel, tolerance)
    if array.dtype.kind == "c" and array.ndim > 2:
        found = _terms(array.real, tolerance, seed)
        if array.imag.any():
            found += [(1j * first, *rest) for first, *rest in _terms(array.imag, tolerance, seed)]
    else:
        found = _terms(array, tolerance, seed)
    terms = Terms(terms=tuple(Term(kernels=kernels) for kernels in found))
    dense = terms.dense()
    if np.array_equal(array, dense):
        return terms
    return replace(terms, error=_error(array, dense), asked=array)


def row_by_row(kernel: ArrayLike | Tensor) -> Terms:
    """The kernel in one piece, as terms that are no more than its rows: exact, and whole numbers stay whole.

    >>> print(row_by_row([[0, 1, 0], [1, -4, 1], [0, 1, 0]]))
    3×3 in 3 terms, 5 instead of 5 multiply-accumulates a pixel, error 0
      [1, 0, 0]ᵀ·[0, 1, 0]
      [0, 1, 0]ᵀ·[1, -4, 1]
      [0, 0, 1]ᵀ·[0, 1, 0]
    """
    array = _checked(kernel, 0.0)
    places = [np.eye(length, dtype=np.int64) for length in array.shape[:-1]]
    corners = list(itertools.product(*map(range, array.shape[:-1])))
    used = [corner for corner in corners if array[corner].any()] or corners[:1]
    return Terms(
        terms=tuple(
            Term(kernels=(*(place[at] for place, at in zip(places, corner, strict=True)), array[corner]))
            for corner in used
        )
    )


def cheapest(kernel: ArrayLike | Tensor, tolerance: float = TOLERANCE, *, seed: int = 0) -> Terms:
    """The terms of ``split`` or the kernel row by row, whichever takes fewer multiply-accumulates a pixel.

    Noise of 3×3 is three terms of six taps, or three rows with four.

    >>> cheapest(np.random.default_rng(0).random((3, 3))).separable_macs
    11
    """
    return min(split(kernel, tolerance, seed=seed), row_by_row(kernel), key=lambda terms: terms.separable_macs)


def _terms(array: NDArray[Any], tolerance: float, seed: int) -> list[tuple[NDArray[Any], ...]]:
    if array.ndim == 1:
        return [(array,)]
    if array.ndim == 2:
        return [(pair.column, pair.row) for pair in separate(array, tolerance).terms]
    return list(separate_nd(array, tolerance, seed=seed).terms)


def _error(array: NDArray[Any], dense: NDArray[Any]) -> float:
    """Relative and squared; scaled first, so that nothing overflows."""
    scale = np.abs(array).max() or 1
    energy = np.square(np.abs(array / scale)).sum()
    return float(np.square(np.abs((array - dense) / scale)).sum() / energy) if energy else 0.0


def _checked(kernel: ArrayLike | Tensor, tolerance: float) -> NDArray[Any]:
    if isinstance(kernel, Tensor):
        kernel = kernel.detach().cpu()
        kernel = kernel.to(torch.float64) if kernel.dtype == torch.bfloat16 else kernel  # NumPy has no bfloat16
    try:
        array = np.asarray(kernel)
    except ValueError as error:
        raise SpecError("the kernel", given="rows of several lengths", expected="an array of numbers") from error
    if not array.ndim or not array.size or array.dtype.kind not in "biufc":
        given = f"{array.dtype} of shape {array.shape}"
        raise SpecError("the kernel", given=given, expected="an array of numbers with one axis or more")
    if not np.isfinite(array).all():
        raise SpecError("the kernel", given="entries that are NaN or infinite", expected="finite numbers")
    if not 0 <= tolerance < 1:
        raise SpecError("the tolerance", given=tolerance, expected="a relative squared error, from 0 to below 1")
    return array.astype(np.int64) if array.dtype.kind == "b" else array
