"""A kernel applied to an image. In: an array of NumPy, PyTorch or Dask, a kernel or its terms. Out: one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, DTypeLike, NDArray
from torch import Tensor

from separable.errors import DataError
from separable.filters.borders import Border, as_border
from separable.filters.pixels import PIXELS, checked_image, checked_out, rounded
from separable.filters.prepared import OPTIONS, Options, as_terms, prepare
from separable.filters.terms import Terms

__all__ = ["Options", "apply", "apply_masked"]


def apply(
    image: Any,
    kernel: Terms | ArrayLike | Tensor,
    border: Border | str = "reflect",
    *,
    axes: Sequence[int] | None = None,
    flip: bool = False,
    dtype: DTypeLike | None = None,
    out: Any = None,
    options: Options = OPTIONS,
) -> Any:
    """``image`` correlated with ``kernel``, as ``scipy.ndimage.correlate`` does; with ``flip`` convolved.

    ``axes`` are those that the kernel's axes run over, by default the last ones: an image with its channels last takes
    ``axes=(-3, -2)``. The centre of an even kernel is its entry ``length // 2``.

    Types: uint8, uint16, int16, float16, float32 and float64. The result has the image's type; but where the image is
    of integers and the kernel has negative weights it is float32. ``dtype``, or an ``out`` to write into, asks for any
    other. All is computed in float32, and in float64 where the image or the result is. An integer result is rounded to
    the nearest, ties to even, and ends at the limits of its type; NaN becomes 0 there. A complex kernel gives
    complex64, or complex128 where float64 is computed in.

    Each pixel is one chain of fused multiply-adds in the order of the taps: the same kernel gives the same bits for any
    tile, any number of threads and any place in memory. A weight of 0 reads nothing.

    >>> image = np.array([[0, 0, 0], [0, 16, 0], [0, 0, 0]], np.uint8)
    >>> apply(image, np.outer([1, 2, 1], [1, 2, 1]) / 16, "constant")
    array([[1, 2, 1],
           [2, 4, 2],
           [1, 2, 1]], dtype=uint8)
    """
    border = as_border(border)
    if isinstance(image, Tensor):
        return _on_tensors(image, kernel, border, axes=axes, flip=flip, dtype=dtype, out=out, options=options)
    if type(image).__module__.split(".")[0] == "dask":
        from separable.filters.chunks import apply_dask

        if out is not None:
            raise DataError("apply", given="out for a Dask array", expected="none", remedy="Store the result instead.")
        return apply_dask(image, kernel, border, axes=axes, flip=flip, dtype=dtype, options=options)
    pixels = checked_image(image)
    wanted = dtype if out is None else getattr(out, "dtype", None)
    filter_ = prepare(pixels.dtype, pixels.ndim, kernel, border, axes, flip=flip, dtype=wanted, options=options)
    target = checked_out(out, pixels.shape, filter_.types.result, dtype)
    missing = _missing(pixels, options)
    if missing is not None:
        how = replace(options, nan="propagate")
        filled = apply_masked(pixels, ~missing, kernel, border, axes=axes, flip=flip, options=how)
        target[...] = rounded(filled, target.dtype)
        return target
    if target.size:
        filter_.into(pixels.copy() if np.may_share_memory(pixels, target) else pixels, target)
    return target


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
    sums, weights = (apply(values, terms, outside, axes=axes, flip=flip, options=options) for values in (seen, weight))
    # Of weights that are not negative a sum of 0 says that there is nothing; others may cancel out.
    least = 0.0 if dense.min() >= 0 else 1e-6 * size
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.abs(weights) > least, work(total) * sums / weights, work(np.nan))


def _missing(pixels: NDArray[Any], options: Options) -> NDArray[np.bool_] | None:
    """Where pixels are not numbers, if anywhere and if the options make that matter."""
    if options.nan == "propagate" or pixels.dtype.kind != "f":
        return None
    missing = np.isnan(pixels)
    if missing.any() and options.nan == "raise":
        raise DataError("apply", given=f"{int(missing.sum())} pixels that are NaN", expected="numbers")
    return missing if missing.any() else None


def _on_tensors(
    image: Tensor, kernel: Terms | ArrayLike | Tensor, border: Border, *, dtype: Any, out: Any, **how: Any
) -> Tensor:
    """The same on the memory of tensors, without a copy."""
    if image.device.type != "cpu" or (image.requires_grad and torch.is_grad_enabled()):
        given = f"a tensor on {image.device}" if image.device.type != "cpu" else "a tensor that requires a gradient"
        raise DataError(
            "apply", given=given, expected="a tensor on the CPU without one", remedy="Use image.detach().cpu()."
        )
    if isinstance(dtype, torch.dtype):
        dtype = str(dtype).removeprefix("torch.")
    if str(image.dtype).removeprefix("torch.") not in PIXELS:
        raise DataError("apply", given=f"an image of type {image.dtype}", expected=f"one of {', '.join(PIXELS)}")
    target = None if out is None else out.detach().numpy()
    result = apply(image.detach().numpy(), kernel, border, dtype=dtype, out=target, **how)
    return torch.from_numpy(result) if out is None else out
