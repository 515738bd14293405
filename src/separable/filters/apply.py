"""A kernel applied to an image. In: an array of NumPy, PyTorch or Dask, a kernel or its terms. Out: one of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, DTypeLike
from torch import Tensor

from separable.errors import DataError
from separable.filters.borders import Border, as_border
from separable.filters.masked import without_nan
from separable.filters.pixels import PIXELS, checked_image, checked_out
from separable.filters.prepared import OPTIONS, Options, prepare
from separable.filters.terms import Terms

__all__ = ["Options", "apply"]


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
    if not isinstance(image, np.ndarray) and type(image).__module__.split(".")[0] == "dask":
        from separable.filters.chunks import apply_dask

        if out is not None:
            raise DataError("apply", given="out for a Dask array", expected="none", remedy="Store the result instead.")
        return apply_dask(image, kernel, border, axes=axes, flip=flip, dtype=dtype, options=options)
    pixels = checked_image(image)
    wanted = dtype if out is None else getattr(out, "dtype", None)
    filter_ = prepare(pixels.dtype, pixels.ndim, kernel, border, axes, flip=flip, dtype=wanted, options=options)
    target = checked_out(out, pixels.shape, filter_.types.result, dtype)
    filled = without_nan(pixels, kernel, border, target.dtype, axes=axes, flip=flip, options=options)
    if filled is not None:
        target[...] = filled
        return target
    if target.size:
        is_shared = out is not None and np.may_share_memory(pixels, target)
        filter_.into(pixels.copy() if is_shared else pixels, target)
    return target


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
