"""Kernels that find edges. In: an axis. Out: ``Terms`` of one term, a difference along it and a smoothing elsewhere.

A brightness that rises along the axis gives a positive value.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from separable.filters.smooth import checked_axis
from separable.filters.terms import Terms, outer

# H. Farid, E. P. Simoncelli: Differentiation of discrete multidimensional signals. IEEE Trans. Image Processing 13,
# 2004, table 1, 5 taps; further digits from the authors' program.
FARID_SMOOTH = [0.0376593171958126, 0.249153396177344, 0.426374573253687, 0.249153396177344, 0.0376593171958126]
FARID_EDGE = [-0.109603762960254, -0.276690988455557, 0.0, 0.276690988455557, 0.109603762960254]


def sobel(axis: int, dims: int = 2, *, normalized: bool = True) -> Terms:
    """[-1, 0, 1] along the axis, [1, 2, 1]/4 along the others (I. Sobel, G. Feldman 1968).

    An image within [0, 1] gives values within [-1, 1]: twice the slope, as skimage.filters.sobel with an axis.
    With ``normalized=False`` in whole numbers, as scipy.ndimage.sobel.

    >>> sobel(1, normalized=False).dense()
    array([[-1,  0,  1],
           [-2,  0,  2],
           [-1,  0,  1]])
    """
    return _edge(axis, dims, [1, 2, 1], normalized)


def scharr(axis: int, dims: int = 2, *, normalized: bool = True) -> Terms:
    """[-1, 0, 1] along the axis, [3, 10, 3]/16 along the others: nearly the same in all directions (H. Scharr 2000).

    An image within [0, 1] gives values within [-1, 1]: twice the slope, as skimage.filters.scharr with an axis.
    With ``normalized=False`` in whole numbers.

    >>> scharr(0, normalized=False).dense()
    array([[ -3, -10,  -3],
           [  0,   0,   0],
           [  3,  10,   3]])
    """
    return _edge(axis, dims, [3, 10, 3], normalized)


def prewitt(axis: int, dims: int = 2, *, normalized: bool = True) -> Terms:
    """[-1, 0, 1] along the axis, [1, 1, 1]/3 along the others (J. M. S. Prewitt 1970).

    An image within [0, 1] gives values within [-1, 1]: twice the slope, as skimage.filters.prewitt with an axis.
    With ``normalized=False`` in whole numbers, as scipy.ndimage.prewitt.

    >>> prewitt(1, normalized=False).dense()
    array([[-1,  0,  1],
           [-1,  0,  1],
           [-1,  0,  1]])
    """
    return _edge(axis, dims, [1, 1, 1], normalized)


def farid(axis: int, dims: int = 2) -> Terms:
    """Five taps whose derivative and smoothing fit each other best (H. Farid, E. P. Simoncelli 2004).

    An image within [0, 1] gives values within [-0.386, 0.386]: the slope, to 1 %, as skimage.filters.farid with an
    axis.

    >>> farid(1).dense()[1:4, 1:4].round(3)
    array([[-0.069,  0.   ,  0.069],
           [-0.118,  0.   ,  0.118],
           [-0.069,  0.   ,  0.069]])
    """
    return _along(axis, dims, FARID_EDGE, FARID_SMOOTH)


def _edge(axis: int, dims: int, smooth: list[int], normalized: bool) -> Terms:
    return _along(axis, dims, [-1, 0, 1], np.array(smooth) / sum(smooth) if normalized else smooth)


def _along(axis: int, dims: int, edge: ArrayLike, smooth: ArrayLike) -> Terms:
    along = checked_axis(axis, dims)
    return outer(*(edge if each == along else smooth for each in range(dims)))
