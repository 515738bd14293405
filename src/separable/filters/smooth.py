"""Kernels that smooth, and derivatives of the Gaussian. In: sizes, in pixels or units. Out: ``Terms``, of one term."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.polynomial.hermite_e import hermeval
from numpy.typing import NDArray

from separable.errors import SpecError
from separable.filters.terms import Terms, outer

Numbers = float | Sequence[float]
Counts = int | Sequence[int]


def gaussian(
    sigma: Numbers, dims: int | None = None, *, order: Counts = 0, spacing: Numbers = 1.0, truncate: float = 4.0
) -> Terms:
    """The Gaussian with standard deviation ``sigma``, or its derivative of the ``order``: one number, or one an axis.

    As scipy.ndimage.gaussian_filter: sampled at the pixels up to round(truncate · sigma), its sum 1, then derived; a
    sigma of 0 leaves an axis alone. Without derivatives an image keeps its range. ``spacing`` is the distance of two
    pixels; sigma is in the same unit, and a derivative is by that unit. ``dims`` is 2 unless an argument has one
    number an axis.

    >>> gaussian(0.5, truncate=2).dense().round(3)
    array([[0.011, 0.084, 0.011],
           [0.084, 0.619, 0.084],
           [0.011, 0.084, 0.011]])
    """
    sigmas, orders, spacings = per_axis(dims, sigma=sigma, order=order, spacing=spacing)
    if not (math.isfinite(truncate) and truncate > 0):
        raise SpecError("truncate", given=truncate, expected="a number of standard deviations above 0")
    return outer(*(_bell(*axis, truncate) for axis in zip(sigmas, orders, spacings, strict=True)))


def gaussian_derivative(
    axis: int, dims: int = 2, *, sigma: Numbers = 1.0, spacing: Numbers = 1.0, truncate: float = 4.0
) -> Terms:
    """The first derivative of the Gaussian along one axis: the slope of the smoothed image there.

    >>> gaussian_derivative(1, sigma=0.5, truncate=2).dense().round(3)
    array([[-0.045,  0.   ,  0.045],
           [-0.335,  0.   ,  0.335],
           [-0.045,  0.   ,  0.045]])
    """
    order = [int(each == checked_axis(axis, dims)) for each in range(dims)]
    return gaussian(sigma, dims, order=order, spacing=spacing, truncate=truncate)


def box(size: Counts, dims: int | None = None, *, normalized: bool = True) -> Terms:
    """The mean of ``size`` pixels an axis, or with ``normalized=False`` their sum, in whole numbers.

    As scipy.ndimage.uniform_filter: of an even size the pixel's own place is ``size // 2``. The mean keeps the range.

    >>> box(3, normalized=False).dense()
    array([[1, 1, 1],
           [1, 1, 1],
           [1, 1, 1]])
    """
    (sizes,) = per_axis(dims, size=size)
    return outer(*(_over_its_sum(np.ones(_whole("size", each, 1), np.int64), normalized) for each in sizes))


def binomial(order: Counts, dims: int | None = None, *, normalized: bool = True) -> Terms:
    """A row of Pascal's triangle an axis: ``order + 1`` taps with the variance ``order / 4`` of a Gaussian.

    Its sum is 1 and an image keeps its range; with ``normalized=False`` it is in whole numbers.

    >>> binomial(2, normalized=False).dense()
    array([[1, 2, 1],
           [2, 4, 2],
           [1, 2, 1]])
    """
    (orders,) = per_axis(dims, order=order)
    rows = [[math.comb(_whole("order", n, 0, 62), k) for k in range(int(n) + 1)] for n in orders]
    return outer(*(_over_its_sum(np.array(row), normalized) for row in rows))


def per_axis(dims: int | None, **given: Numbers) -> list[tuple[float, ...]]:
    """Each argument as one number an axis; SpecError where their lengths contradict each other or ``dims``."""
    lengths = {name: len(value) for name, value in given.items() if isinstance(value, Sequence | np.ndarray)}
    expected = dims if dims is not None else next(iter(lengths.values()), 2)
    if expected < 1:
        raise SpecError("dims", given=expected, expected="1 axis or more")
    for name, length in lengths.items():
        if length != expected:
            raise SpecError(name, given=f"{length} numbers", expected=f"one, or one for each of {expected} axes")
    return [
        tuple(value) if isinstance(value, Sequence | np.ndarray) else (value,) * expected for value in given.values()
    ]


def checked_axis(axis: int, dims: int) -> int:
    """The axis counted from 0; SpecError when there is none."""
    if not -dims <= axis < dims:
        raise SpecError("axis", given=axis, expected=f"one of {dims} axes, from {-dims} to {dims - 1}")
    return axis % dims


def _bell(sigma: float, order: float, spacing: float, truncate: float) -> NDArray[np.float64]:
    """The n-th derivative is Heₙ(x/σ)/σⁿ times the bell: correlation runs against convolution, which takes up (−1)ⁿ."""
    degree = _whole("order", order, 0)
    if not (math.isfinite(spacing) and spacing > 0):
        raise SpecError("spacing", given=spacing, expected="a distance above 0")
    if not (math.isfinite(sigma) and sigma >= 0) or (degree and sigma == 0):
        expected = "a standard deviation above 0" if degree else "a standard deviation of at least 0"
        raise SpecError("sigma", given=sigma, expected=expected)
    width = sigma / spacing
    radius = int(truncate * width + 0.5)
    x = np.arange(-radius, radius + 1) / (width or 1.0)
    bell = np.exp(-0.5 * x * x)
    return np.asarray(hermeval(x, [0.0] * degree + [1.0]) / (sigma or 1.0) ** degree * bell / bell.sum())


def _whole(name: str, value: float, least: int, most: int | None = None) -> int:
    if value != int(value) or value < least or (most is not None and value > most):
        raise SpecError(name, given=value, expected=f"a whole number, from {least}" + (f" to {most}" if most else ""))
    return int(value)


def _over_its_sum(kernel: NDArray[np.int64], normalized: bool) -> NDArray[np.int64] | NDArray[np.float64]:
    return kernel / kernel.sum() if normalized else kernel
