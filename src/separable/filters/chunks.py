"""Dask arrays. In: a Dask array, a kernel. Out: a Dask array of the same chunks, filtered when it is computed."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray
from torch import Tensor

from separable.errors import MissingExtraError
from separable.filters.borders import Border
from separable.filters.masked import without_nan
from separable.filters.passes import FLOATS
from separable.filters.pixels import checked_type
from separable.filters.prepared import Options, Prepared, as_terms, prepare
from separable.filters.terms import Terms


def apply_dask(
    image: Any,
    kernel: Terms | ArrayLike | Tensor,
    border: Border,
    *,
    axes: Sequence[int] | None,
    flip: bool,
    dtype: DTypeLike | None,
    options: Options,
) -> Any:
    """``apply`` for a Dask array: its chunks, with a halo from their neighbours, one task each.

    Chunks smaller than the halo are joined. Bit for bit the result is that of ``apply``, on any number of machines.
    ``options.progress`` is not called.
    """
    try:
        da: Any = importlib.import_module("dask.array")
    except ImportError as error:
        raise MissingExtraError("apply", package="dask", extra="filters") from error
    checked_type(image.dtype)
    terms = as_terms(kernel, options.tolerance)
    filter_ = prepare(image.dtype, image.ndim, terms, border, axes, flip=flip, dtype=dtype, options=options)
    reach = {axis: span for axis, span in filter_.reach.items() if any(span)}
    if 0 in image.shape:
        return da.zeros(image.shape, filter_.types.result, chunks=image.chunks)
    parts = [image]
    if border.rule == "constant":  # the value need not be one that a pixel can have
        parts = [image.astype(FLOATS[filter_.types.work])]
        if options.nan != "propagate" and image.dtype.kind == "f":
            # It stands in the chunks like a pixel: what is one is said beside it.
            parts.append(da.ones(image.shape, dtype=bool, chunks=image.chunks))
    rules = border, Border("constant")
    image, *inside = (_with_halo(da, part, reach, rule) for part, rule in zip(parts, rules, strict=False))
    chunks = tuple(
        tuple(size - sum(reach.get(axis, (0, 0))) for size in sizes) for axis, sizes in enumerate(image.chunks)
    )
    meta = np.empty((0,) * image.ndim, filter_.types.result)
    options = replace(options, progress=None)  # which need not travel to other processes
    rule = partial(without_nan, kernel=terms, border=border, dtype=meta.dtype, axes=axes, flip=flip, options=options)
    how = {"filter_": filter_, "reach": reach, "rule": rule}
    return da.map_blocks(_block, image, *inside, **how, dtype=meta.dtype, chunks=chunks, meta=meta)


def _with_halo(da: Any, image: Any, reach: dict[int, tuple[int, int]], border: Border) -> Any:
    """The array with what lies beside it, in chunks that overlap as far as the kernel reaches."""
    for axis, (before, after) in reach.items():
        image = _extended(da, image, axis, before, after, border)
    return da.overlap.overlap(image, dict(reach), dict.fromkeys(range(image.ndim), "none"), allow_rechunk=True)


def _extended(da: Any, image: Any, axis: int, before: int, after: int, border: Border) -> Any:
    """The array with what lies beside it on one axis, in chunks that hold it together with what it lies beside."""
    size, chunks = image.shape[axis], image.chunks
    pixels = border.pixels(-before, size + after, size)
    if border.rule == "constant":
        shapes = [(*image.shape[:axis], width, *image.shape[axis + 1 :]) for width in (before, after)]
        sides = [da.full(shape, border.value, dtype=image.dtype) for shape in shapes]
    else:
        sides = [da.take(image, pixels[:before], axis=axis), da.take(image, pixels[size + before :], axis=axis)]
    joined = da.concatenate([sides[0], image, sides[1]], axis=axis)
    own = list(chunks[axis])
    own[0] += before
    own[-1] += after
    return joined.rechunk({axis: tuple(own)})


def _block(
    pixels: NDArray[Any],
    inside: NDArray[np.bool_] | None = None,
    *,
    filter_: Prepared,
    reach: dict[int, tuple[int, int]],
    rule: Callable[..., NDArray[Any] | None],
) -> NDArray[Any]:
    shape = [size - sum(reach.get(axis, (0, 0))) for axis, size in enumerate(pixels.shape)]
    filled = rule(pixels, inside=inside)
    if filled is not None:
        starts = [reach.get(axis, (0, 0))[0] for axis in range(pixels.ndim)]
        return filled[tuple(slice(start, start + size) for start, size in zip(starts, shape, strict=True))]
    result = np.empty(shape, filter_.types.result)
    filter_.into(pixels, result, reach)
    return result
