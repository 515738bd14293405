"""What the derivatives of an image say together. In: an image. Out: how steep it is, which way, and along what lines.

A derivative is any function of an axis and a number of axes that gives ``Terms``: ``sobel``, ``scharr``, ``prewitt``,
``farid``, or ``functools.partial(gaussian_derivative, sigma=2)``. The axes are the last ones of the image unless
``axes`` are given.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from separable.errors import SpecError
from separable.filters.apply import apply
from separable.filters.borders import Border
from separable.filters.edges import sobel
from separable.filters.smooth import Numbers, gaussian, per_axis
from separable.filters.terms import Terms

Derivative = Callable[[int, int], Terms]


def gradient(
    image: Any,
    derivative: Derivative = sobel,
    border: Border | str = "reflect",
    *,
    axes: Sequence[int] | None = None,
    spacing: Numbers = 1.0,
) -> list[Any]:
    """The derivative along each axis, by the unit of ``spacing``; arrays as the image is one, of float32 or float64.

    >>> rows, columns = gradient(np.array([[0.0, 0.0, 0.5], [0.0, 0.0, 0.5], [0.0, 0.0, 0.5]]))
    >>> columns
    array([[0. , 0.5, 0.5],
           [0. , 0.5, 0.5],
           [0. , 0.5, 0.5]])
    """
    along = tuple(range(-image.ndim, 0) if axes is None else axes)
    (spacings,) = per_axis(len(along), spacing=spacing)
    if not all(np.isfinite(each) and each > 0 for each in spacings):
        raise SpecError("spacing", given=spacing, expected="distances above 0")
    dims = len(along)
    slopes = [apply(image, derivative(axis, dims), border, axes=along) for axis in range(dims)]
    return [slope if each == 1 else slope / each for slope, each in zip(slopes, spacings, strict=True)]


def gradient_magnitude(
    image: Any,
    derivative: Derivative = sobel,
    border: Border | str = "reflect",
    *,
    axes: Sequence[int] | None = None,
    spacing: Numbers = 1.0,
    mean: bool = True,
) -> Any:
    """How steep the image is: the root of the mean of the squared derivatives, or with ``mean=False`` of their sum.

    The mean is what skimage.filters.sobel, scharr, prewitt and farid give; an image within [0, 1] gives values within
    [0, 1] with the first three. The sum is the length of the gradient, as scipy.ndimage.gaussian_gradient_magnitude.

    >>> gradient_magnitude(np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]), mean=False)
    array([[0., 1., 1.],
           [0., 1., 1.],
           [0., 1., 1.]])
    """
    slopes = gradient(image, derivative, border, axes=axes, spacing=spacing)
    total = sum(slope * slope for slope in slopes)
    return (total / len(slopes) if mean else total) ** 0.5


def gradient_orientation(
    image: Any,
    derivative: Derivative = sobel,
    border: Border | str = "reflect",
    *,
    axes: Sequence[int] | None = None,
    spacing: Numbers = 1.0,
) -> Any:
    """Which way two axes rise most: radians in [-π, π] from the second axis towards the first, 0 where it is flat.

    >>> gradient_orientation(np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [2.0, 2.0, 2.0]]))[1].round(3)
    array([1.571, 1.571, 1.571])
    """
    slopes = gradient(image, derivative, border, axes=axes, spacing=spacing)
    if len(slopes) != 2:
        raise SpecError("gradient_orientation", given=f"{len(slopes)} axes", expected="2", remedy="Give axes=.")
    down, right = slopes
    return down.arctan2(right) if hasattr(down, "arctan2") else np.arctan2(down, right)


def structure_tensor(
    image: Any,
    sigma: Numbers = 1.0,
    derivative: Derivative = lambda axis, dims: sobel(axis, dims, normalized=False),
    border: Border | str = "constant",
    *,
    axes: Sequence[int] | None = None,
    spacing: Numbers = 1.0,
) -> list[Any]:
    """The products of every two derivatives, smoothed by a Gaussian: in two axes those of rr, rc and cc.

    As skimage.feature.structure_tensor, whose border is constant too; ``sigma`` is in the unit of ``spacing``. The
    eigenvalues of the matrix that they fill say how much the image changes along its main lines and across them.

    >>> square = np.zeros((5, 5))
    >>> square[2, 2] = 1
    >>> structure_tensor(square, sigma=0.1)[2][1:4, 1:4]
    array([[1., 0., 1.],
           [4., 0., 4.],
           [1., 0., 1.]])
    """
    slopes = gradient(image, derivative, border, axes=axes, spacing=spacing)
    blur = gaussian(sigma, len(slopes), spacing=spacing)
    return [
        apply(one * other, blur, border, axes=axes) for one, other in itertools.combinations_with_replacement(slopes, 2)
    ]
