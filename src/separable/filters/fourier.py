"""Correlation by fast Fourier transforms. In: an image and a kernel in one piece. Out: the image, filtered to
rounding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray
from torch import Tensor

from separable.errors import DataError
from separable.filters.borders import Border, as_border
from separable.filters.pixels import checked_image, choose_types, rounded
from separable.filters.prepared import checked_axes
from separable.filters.split import row_by_row
from separable.filters.terms import Terms


def apply_fft(
    image: ArrayLike,
    kernel: Terms | ArrayLike | Tensor,
    border: Border | str = "reflect",
    *,
    axes: Sequence[int] | None = None,
    flip: bool = False,
    dtype: DTypeLike | None = None,
) -> NDArray[Any]:
    """What ``apply`` gives, in blocks that overlap: its cost hardly grows with the kernel.

    The types are those of ``apply``. A result differs from it by rounding relative to the image's *largest* pixels,
    not to those under the kernel, and by the size of the image; integers may so come out one apart. DataError for an
    image with NaN or infinity, which would spread to every pixel.

    >>> kernel = np.outer([1, 2, 1], [1, 2, 1]) / 16
    >>> apply_fft(np.array([[0, 0, 0], [0, 16, 0], [0, 0, 0]], np.uint8), kernel, "constant")
    array([[1, 2, 1],
           [2, 4, 2],
           [1, 2, 1]], dtype=uint8)
    """
    from scipy.signal import oaconvolve  # takes longer to import than most images take to filter

    pixels, border = checked_image(image), as_border(border)
    terms = kernel if isinstance(kernel, Terms) else row_by_row(kernel)
    where = checked_axes(axes, len(terms.shape), pixels.ndim)
    types = choose_types(pixels.dtype, terms, dtype)
    if not np.isfinite(pixels).all():
        raise DataError(
            "apply_fft", given="pixels that are NaN or infinite", expected="finite ones", remedy="Use apply."
        )
    if not pixels.size:
        return np.empty(pixels.shape, types.result)
    # A correlation is a convolution with the kernel turned round.
    dense = terms.dense() if flip else np.flip(terms.dense())
    work = np.float64 if types.work == "double" else np.float32
    wide: Any = pixels.astype(work)
    for axis, length in zip(where, terms.shape, strict=True):
        before = length - 1 - length // 2 if flip else length // 2
        wide = _extended(wide, axis, before, length - 1 - before, border)
    weights: Any = dense.astype(np.result_type(work, np.complex64) if dense.dtype.kind == "c" else work)
    weights = weights[(..., *[np.newaxis] * (pixels.ndim - dense.ndim))]
    weights = np.moveaxis(weights, range(dense.ndim), where)
    return rounded(oaconvolve(wide, weights, mode="valid", axes=sorted(where)), types.result)


def _extended(pixels: NDArray[Any], axis: int, before: int, after: int, border: Border) -> NDArray[Any]:
    """The image with what lies beside it on one axis."""
    size = pixels.shape[axis]
    wide = np.take(pixels, border.pixels(-before, size + after, size), axis=axis)
    if border.rule == "constant":
        outside = [slice(None)] * pixels.ndim
        for part in (slice(0, before), slice(before + size, None)):
            outside[axis] = part
            wide[tuple(outside)] = border.value
    return wide
