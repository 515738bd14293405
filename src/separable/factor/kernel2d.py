"""One image filter as column times row. In: a 2-D kernel. Out: the fewest pairs of 1-D filters that give it back.

A kernel needs as many pairs as its rank as a matrix, and the truncated singular value decomposition is the best for
any smaller number (C. Eckart, G. Young, Psychometrika 1, 1936). At rank 1, k × k taps cost 2·k multiplications a pixel
instead of k².
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from separable.errors import SpecError

# Relative squared error. A separable kernel rounded to float32 has less than 2⁻⁴⁸ = 3.6e-15 of its energy elsewhere.
TOLERANCE = 1e-12
WHOLE = 2**53  # whole numbers up to here are exact in float64


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One column (k_h) times one row (k_w), both int64, both float64 or both complex128."""

    column: NDArray[Any]
    row: NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Separated:
    """A kernel as a sum of columns times rows, strongest first.

    ``error`` is ‖K − dense()‖² / ‖K‖²; a kernel of zeros is one pair of zeros, error 0.
    """

    terms: tuple[Pair, ...]
    error: float

    def dense(self) -> NDArray[Any]:
        """The kernel (k_h, k_w) that the terms add up to."""
        total: NDArray[Any] = np.array([np.outer(pair.column, pair.row) for pair in self.terms]).sum(axis=0)
        return total

    def __str__(self) -> str:
        pairs = [f"{_listed(pair.column)}ᵀ·{_listed(pair.row)}" for pair in self.terms]
        return f"{' + '.join(pairs)}, error {self.error:.3g}"


def separate(kernel: ArrayLike | Tensor, tolerance: float = TOLERANCE) -> Separated:
    """The fewest terms that leave at most ``tolerance`` of the kernel's energy (a relative squared error).

    A kernel (k_h, k_w) of whole numbers and rank 1 stays in whole numbers, the row without a common divisor. Otherwise
    column and row of a term are equally strong, and the column's largest entry is positive. SpecError unless the kernel
    is a matrix of finite numbers, real or complex.

    >>> print(separate([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]))  # Sobel
    [1, 2, 1]ᵀ·[-1, 0, 1], error 0
    >>> print(separate([[3, 6, 9], [4, 8, 12], [5, 10, 15]]))
    [3, 4, 5]ᵀ·[1, 2, 3], error 0

    The identity has two equal singular values: one term takes half of the energy and leaves the other half.

    >>> one, both = separate([[1, 0], [0, 1]], tolerance=0.5), separate([[1, 0], [0, 1]])
    >>> (len(one.terms), one.error), (len(both.terms), both.error)
    ((1, 0.5), (2, 0.0))
    """
    matrix = _checked(kernel, tolerance)
    return _in_whole_numbers(matrix) or _by_singular_values(matrix, tolerance)


def is_separable(kernel: ArrayLike | Tensor, tolerance: float = TOLERANCE) -> bool:
    """Whether one column times one row leaves at most ``tolerance`` of the kernel's energy (a relative squared error).

    >>> is_separable([[1, 2, 1], [2, 4, 2], [1, 2, 1]]), is_separable([[0, 1, 0], [1, -4, 1], [0, 1, 0]])
    (True, False)
    """
    return len(separate(kernel, tolerance).terms) == 1


def _in_whole_numbers(matrix: NDArray[Any]) -> Separated | None:
    """The exact factors, in the integers of Python, which do not overflow; None when there are none."""
    if matrix.dtype.kind == "c" or not np.all((np.abs(matrix) <= WHOLE) & (matrix % 1 == 0)):
        return None
    rows = [[int(value) for value in row] for row in matrix]
    first = next((row for row in rows if any(row)), rows[0])
    divisor = math.gcd(*first) or 1
    row = [value // divisor for value in first]
    at = next((index for index, value in enumerate(row) if value), 0)
    column = [other[at] // (row[at] or 1) for other in rows]
    if rows != [[scale * value for value in row] for scale in column]:
        return None
    kind = np.int64 if matrix.dtype.kind == "i" else np.float64
    return Separated(terms=(Pair(column=np.array(column, kind), row=np.array(row, kind)),), error=0.0)


def _by_singular_values(matrix: NDArray[Any], tolerance: float) -> Separated:
    left, values, right = np.linalg.svd(matrix.astype(np.result_type(matrix, np.float64)), full_matrices=False)
    energies = (values / values[0]) ** 2
    lost = np.append(np.cumsum(energies[::-1])[::-1], 0.0) / energies.sum()  # by the number of terms, from none to all
    rounding = (max(matrix.shape) * np.finfo(np.float64).eps) ** 2  # a singular value below it is no term
    count = max(1, int(np.argmax(lost <= max(tolerance, rounding))))
    terms = [_pair(left[:, t], float(values[t]), right[t]) for t in range(count)]
    return Separated(terms=tuple(terms), error=float(lost[count]))


def _pair(column: NDArray[Any], value: float, row: NDArray[Any]) -> Pair:
    largest = column[np.argmax(np.abs(column))]
    turn = np.conj(largest) / np.abs(largest)  # a sign, or the angle of a complex number
    return Pair(column=column * turn * math.sqrt(value), row=row * np.conj(turn) * math.sqrt(value))


def _checked(kernel: ArrayLike | Tensor, tolerance: float) -> NDArray[Any]:
    if isinstance(kernel, Tensor):
        kernel = kernel.detach().cpu()
        kernel = kernel.to(torch.float64) if kernel.dtype == torch.bfloat16 else kernel  # NumPy has no bfloat16
    matrix = np.asarray(kernel)
    if matrix.ndim != 2 or not matrix.size or matrix.dtype.kind not in "biufc":
        given = f"{matrix.dtype} of shape {matrix.shape}"
        raise SpecError("the kernel", given=given, expected="a matrix (k_h, k_w) of numbers")
    if not np.isfinite(matrix).all():
        raise SpecError("the kernel", given="entries that are NaN or infinite", expected="finite numbers")
    if not 0 <= tolerance < 1:
        raise SpecError("the tolerance", given=tolerance, expected="a relative squared error, from 0 to below 1")
    if matrix.dtype.kind == "c":
        return matrix.astype(np.complex128) if matrix.imag.any() else matrix.real.astype(np.float64)
    return matrix.astype(np.int64 if np.can_cast(matrix.dtype, np.int64) else np.float64)


def _listed(numbers: NDArray[Any]) -> str:
    return f"[{', '.join(f'{value:g}' for value in numbers)}]"
