"""Kernels that are sums of separable terms. In: sizes. Out: ``Terms``: Laplacians, differences and sharpening."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from separable.errors import SpecError
from separable.filters.smooth import Numbers, gaussian, per_axis
from separable.filters.terms import Terms, added, outer, scaled

SECOND = np.array([1, -2, 1])


def laplacian(dims: int | None = None, *, spacing: Numbers = 1.0) -> Terms:
    """The sum of the second differences along the axes, one term an axis; in whole numbers at a spacing of 1.

    An image within [0, 1] gives values within [-2·dims, 2·dims], as scipy.ndimage.laplace; skimage.filters.laplace
    has the opposite sign.

    >>> laplacian().dense()
    array([[ 0,  1,  0],
           [ 1, -4,  1],
           [ 0,  1,  0]])
    """
    (spacings,) = per_axis(dims, spacing=spacing)
    if not all(math.isfinite(each) and each > 0 for each in spacings):
        raise SpecError("spacing", given=spacing, expected="distances above 0")
    seconds = [SECOND if each == 1 else SECOND / each**2 for each in spacings]
    return added(*(_alone(at, len(spacings), second) for at, second in enumerate(seconds)))


def laplacian_of_gaussian(
    sigma: Numbers, dims: int | None = None, *, spacing: Numbers = 1.0, truncate: float = 4.0
) -> Terms:
    """The Laplacian of the smoothed image, one term an axis, as scipy.ndimage.gaussian_laplace.

    It is 0 where nothing bends.

    >>> laplacian_of_gaussian(0.5, truncate=2).dense().round(2)
    array([[ 0.27,  0.67,  0.27],
           [ 0.67, -4.95,  0.67],
           [ 0.27,  0.67,  0.27]])
    """
    sigmas, spacings = per_axis(dims, sigma=sigma, spacing=spacing)
    orders = 2 * np.eye(len(sigmas), dtype=int)
    return added(*(gaussian(sigmas, order=tuple(o), spacing=spacings, truncate=truncate) for o in orders.tolist()))


def difference_of_gaussians(
    low_sigma: Numbers, high_sigma: Numbers | None = None, dims: int | None = None, *, truncate: float = 4.0
) -> Terms:
    """A band of scales: a Gaussian minus a wider one, 1.6 times as wide unless given.

    As skimage.filters.difference_of_gaussians. An image within [0, 1] gives values within (-1, 1), a constant one 0.

    >>> difference_of_gaussians(0.3, 0.5, truncate=2).dense().round(3)
    array([[-0.011, -0.08 , -0.011],
           [-0.08 ,  0.365, -0.08 ],
           [-0.011, -0.08 , -0.011]])
    """
    (low,) = per_axis(dims, low_sigma=low_sigma)
    high = tuple(1.6 * each for each in low) if high_sigma is None else per_axis(len(low), high_sigma=high_sigma)[0]
    if any(wide < narrow for wide, narrow in zip(high, low, strict=True)):
        raise SpecError("high_sigma", given=high_sigma, expected=f"at least low_sigma, {low_sigma}")
    return added(gaussian(low, truncate=truncate), scaled(-1.0, gaussian(high, truncate=truncate)))


def unsharp_mask(
    radius: Numbers = 1.0, amount: float = 1.0, dims: int | None = None, *, truncate: float = 4.0
) -> Terms:
    """The image plus ``amount`` times what a Gaussian with the sigma ``radius`` takes from it.

    As skimage.filters.unsharp_mask with preserve_range. Near edges the result goes beyond the image's range.

    >>> unsharp_mask(0.5, truncate=2).dense().round(3)
    array([[-0.011, -0.084, -0.011],
           [-0.084,  1.381, -0.084],
           [-0.011, -0.084, -0.011]])
    """
    if not math.isfinite(amount):
        raise SpecError("amount", given=amount, expected="a finite number")
    blur = gaussian(radius, dims, truncate=truncate)
    return added(scaled(1.0 + amount, outer(*([1.0],) * len(blur.shape))), scaled(-amount, blur))


def _alone(axis: int, dims: int, kernel: Sequence[float] | np.ndarray) -> Terms:
    return outer(*(kernel if each == axis else [1] for each in range(dims)))
