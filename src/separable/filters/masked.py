"""Pixels that are not known. In: an image with a mask, or with what is not a number. Out: what the known ones give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray
from torch import Tensor

from separable.errors import DataError
from separable.filters.borders import Border, as_border
from separable.filters.pixels import checked_image, rounded
from separable.filters.prepared import OPTIONS, Options, as_terms, prepare
from separable.filters.terms import Term, Terms


def apply_masked(
    image: ArrayLike,
    mask: ArrayLike,
    kernel: Terms | ArrayLike | Tensor,
    border: Border | str = "reflect",
    *,
    axes: Sequence[int] | None = None,
    flip: bool = False,
    options: Options = OPTIONS,
) -> NDArray[Any]:
    """``apply`` to the pixels that ``mask`` knows: normalised convolution (Knutsson and Westin 1993).

    The result is Σk · Σ(k·m·x) / Σ(k·m), in float32, or float64 for such an image: with a mask of ones what ``apply``
    gives. ``mask`` has the image's shape and says how sure each pixel is, from 0 to 1 or False and True; what lies
    below a 0 may be NaN. With a constant border nothing is known outside. Where no known pixel is in reach the result
    is NaN. DataError for a kernel whose weights add up to 0: it measures differences, which a mean cannot replace.
    """
    border = as_border(border)
    pixels: NDArray[Any] = checked_image(image)
    known: NDArray[Any] = np.asarray(mask)
    if known.shape != pixels.shape or known.dtype.kind not in "biuf":
        given = f"a mask of shape {known.shape} and type {known.dtype}"
        raise DataError("apply_masked", given=given, expected=f"numbers of shape {pixels.shape}")
    terms = as_terms(kernel, options.tolerance)
    dense = terms.dense()
    total, size = dense.sum(), np.abs(dense).sum()
    if terms.dtype.kind == "c" or abs(total) <= 1e-6 * size:
        given = "a complex kernel" if terms.dtype.kind == "c" else f"a kernel whose weights add up to {total:.3g}"
        raise DataError("apply_masked", given=given, expected="a kernel that takes a mean")
    work = np.float64 if pixels.dtype.newbyteorder("=") == np.float64 else np.float32
    weight: NDArray[Any] = known.astype(work)
    if not (np.isfinite(weight).all() and (weight >= 0).all()):
        raise DataError("apply_masked", given="a mask below 0 or not finite", expected="numbers from 0 on")
    outside = replace(border, value=0.0)
    seen = np.where(weight > 0, pixels, 0).astype(work) * weight
    sums, weights = (_correlated(values, terms, outside, work, axes, flip, options) for values in (seen, weight))
    # Of weights that are not negative a sum of 0 says that there is nothing; others may cancel out.
    least = 0.0 if dense.min() >= 0 else 1e-6 * size
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.abs(weights) > least, work(total) * sums / weights, work(np.nan))


def without_nan(
    pixels: NDArray[Any],
    kernel: Terms | ArrayLike | Tensor,
    border: Border,
    dtype: np.dtype[Any],
    *,
    axes: Sequence[int] | None,
    flip: bool,
    options: Options,
    inside: NDArray[np.bool_] | None = None,
) -> NDArray[Any] | None:
    """The result, in ``dtype``, where pixels are not numbers and the options make that matter; else None.

    Results whose kernel touches no NaN are those of ``apply``, the others those of ``apply_masked``: each depends on
    the pixels under the kernel alone, so it is the same in any tile. Pixels that are not ``inside`` are the value of a
    constant border: nothing is known there, and nothing is missing.
    """
    if options.nan == "propagate" or pixels.dtype.kind != "f":
        return None
    missing = np.isnan(pixels) if inside is None else np.isnan(pixels) & inside
    if not missing.any():
        return None
    if options.nan == "raise":
        raise DataError("apply", given=f"{int(missing.sum())} pixels that are NaN", expected="numbers")
    terms = as_terms(kernel, options.tolerance)
    if dtype == np.float64:
        pixels = pixels.astype(dtype)  # that is what the results beside are computed in
    known = ~missing if inside is None else inside & ~missing
    mean = apply_masked(pixels, known, terms, border, axes=axes, flip=flip, options=options)
    reads = Terms(terms=tuple(Term(kernels=tuple(part != 0 for part in term.kernels)) for term in terms.terms))
    outside = replace(border, value=0.0)
    touched = _correlated(missing.astype(np.float32), reads, outside, np.float32, axes, flip, options) > 0
    whole = _correlated(np.where(missing, 0, pixels), terms, border, dtype, axes, flip, options)
    return np.where(touched, rounded(mean, dtype), whole)


def _correlated(
    pixels: NDArray[Any],
    terms: Terms,
    border: Border,
    dtype: DTypeLike,
    axes: Sequence[int] | None,
    flip: bool,
    options: Options,
) -> NDArray[Any]:
    filter_ = prepare(pixels.dtype, pixels.ndim, terms, border, axes, flip=flip, dtype=dtype, options=options)
    result = np.empty(pixels.shape, filter_.types.result)
    if result.size:
        filter_.into(pixels, result)
    return result
