"""Calls that take pixels from elsewhere. In: a call of ATen. Out: which rows and columns each output is made of.

Positions are computed as PyTorch's kernels do, in float32, so that the same pixel is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from separable.engine.reading import Map, Reading, Request, UnsupportedError, map_shape
from separable.kernels.resampling import Axis
from separable.runtime.network import Reorder, Take

CUBIC = np.float32(-0.75)
Order = NDArray[np.int64]
Line = Callable[[int, int, int], Axis]  # (axis among the spatial ones, size in, size out)


def copied(index: Sequence[int] | NDArray[np.integer[Any]]) -> Axis:
    """Each output is the pixel with this index."""
    column = np.asarray(index, np.int32).reshape(-1, 1)
    return Axis(index=column, weight=np.ones(column.shape, np.float32))


def pieces(request: Request) -> Reading:
    """A slice along an axis in space, or padding that only cuts off."""
    a = request.arguments

    def line(axis: int, size: int, size_out: int) -> Axis:
        if "pad" in a:
            from_behind = [0] * 4 if len(request.shape) > 3 else [0] * 2
            pad = [*a["pad"], *from_behind][: len(from_behind)]
            first, step = -pad[len(pad) - 2 * axis - 2], 1
        elif a["dim"] % len(request.shape) - 2 == axis:
            start = a["start"] or 0
            first, step = min(max(start + size if start < 0 else start, 0), size), a["step"]
        else:
            first, step = 0, 1
        return copied(first + step * np.arange(size_out))

    if "pad" in a and any(a["pad"][2 * (len(request.shape) - 2) :]):
        raise UnsupportedError("cutting off channels has no native operator")
    return _taken(request, line)


def average(request: Request) -> Reading:
    """The mean of a window whose size changes from place to place."""
    a = request.arguments

    def line(axis: int, size: int, size_out: int) -> Axis:
        i = np.arange(size_out)
        if "output_size" in a:
            first, last = i * size // size_out, -(-(i + 1) * size // size_out)
            counts = last - first
        else:
            pad, kernel = _nth(a["padding"], axis), _nth(a["kernel_size"], axis)
            start = i * _nth(a["stride"] or a["kernel_size"], axis) - pad
            end = np.minimum(start + kernel, size + pad)
            first, last = np.maximum(start, 0), np.minimum(end, size)
            counts = end - start if a["count_include_pad"] else last - first
        taps = first[:, None] + np.arange((last - first).max())
        inside = taps < last[:, None]
        index = np.where(inside, taps, first[:, None]).astype(np.int32)
        return Axis(index=index, weight=np.where(inside, 1 / counts[:, None], 0).astype(np.float32))

    return _taken(request, line)


def _nearest(request: Request) -> Reading:
    def line(axis: int, size: int, size_out: int) -> Axis:
        i = np.arange(size_out)
        if size == size_out:
            return copied(i)
        if size_out == 2 * size:
            return copied(i >> 1)
        at = np.floor(i.astype(np.float32) * _scale(request, axis, size, size_out)).astype(np.int64)
        return copied(np.minimum(at, size - 1))

    return _taken(request, line)


def _nearest_exact(request: Request) -> Reading:
    def line(axis: int, size: int, size_out: int) -> Axis:
        i = np.arange(size_out).astype(np.float32) + np.float32(0.5)
        at = np.floor(i * _scale(request, axis, size, size_out)).astype(np.int64)
        return copied(np.minimum(at, size - 1))

    return _taken(request, line)


def _linear(request: Request) -> Reading:
    def line(axis: int, size: int, size_out: int) -> Axis:
        at = np.maximum(_positions(request, axis, size, size_out), np.float32(0))
        low = np.minimum(at.astype(np.int64), size - 1)
        share = np.clip(at - low.astype(np.float32), 0, 1)
        index = np.stack([low, np.minimum(low + 1, size - 1)], 1).astype(np.int32)
        return Axis(index=index, weight=np.stack([1 - share, share], 1).astype(np.float32))

    return _taken(request, line)


def _cubic(request: Request) -> Reading:
    def line(axis: int, size: int, size_out: int) -> Axis:
        at = _positions(request, axis, size, size_out)
        low = np.floor(at)
        t, index = at - low, low.astype(np.int64)[:, None] + np.arange(-1, 3)
        near = [((CUBIC + 2) * d - (CUBIC + 3)) * d * d + 1 for d in (t, 1 - t)]
        far = [((CUBIC * d - 5 * CUBIC) * d + 8 * CUBIC) * d - 4 * CUBIC for d in (t + 1, 2 - t)]
        weight = np.stack([far[0], near[0], near[1], far[1]], 1).astype(np.float32)
        return Axis(index=np.clip(index, 0, size - 1).astype(np.int32), weight=weight)

    return _taken(request, line)


def _padded(mode: str) -> Callable[[Request], Reading]:
    def reader(request: Request) -> Reading:
        pad = list(request.arguments["padding"])

        def line(axis: int, size: int, size_out: int) -> Axis:
            at = np.arange(size_out) - pad[len(pad) - 2 - 2 * axis]  # the last axis is padded first
            if mode == "reflect":
                at = np.abs(at)
                return copied(size - 1 - np.abs(size - 1 - at))
            return copied(np.clip(at, 0, size - 1))

        return _taken(request, line)

    return reader


def _flipped(request: Request) -> Reading:
    return _moved(request, {dim: lambda i: i[::-1] for dim in request.arguments["dims"]})


def _rolled(request: Request) -> Reading:
    a = request.arguments
    return _moved(request, {dim: partial(np.roll, shift=by) for dim, by in zip(a["dims"], a["shifts"], strict=False)})


def _moved(request: Request, moves: Mapping[int, Callable[[Order], Order]]) -> Reading:
    """Some axes in another order: those in space, or the channels alone."""
    x, rank = request.map("self"), len(request.shape)
    by_axis = {dim % rank: move for dim, move in moves.items()}
    if by_axis.keys() == {1}:
        return Reading(inputs=(x.name,), operator=Reorder(order=by_axis[1](np.arange(x.shape[0]))), shape=x.shape)
    if min(by_axis, default=0) < 2 or len(by_axis) < len(request.arguments["dims"]):
        raise UnsupportedError("moving images, or channels and pixels at once, has no native operator")
    return _taken(request, lambda axis, size, _: copied(by_axis.get(axis + 2, np.asarray)(np.arange(size))))


def _expanded(request: Request) -> Reading:
    x, shape = request.map("self"), map_shape(request.shape)
    if x.shape[0] == 1 < shape[0] and x.shape[1:] == shape[1:] and x.rank == len(request.shape):
        return Reading(inputs=(x.name,), operator=Reorder(order=np.zeros(shape[0], np.int64)), shape=shape)
    return _taken(request, lambda _, size, size_out: copied(np.arange(size_out) if size > 1 else [0] * size_out))


def _taken(request: Request, line: Line) -> Reading:
    """Rows and columns by ``line``; a signal has one row."""
    x: Map = request.map("self" if "self" in request.arguments else "input")
    shape = map_shape(request.shape)
    if shape[0] != x.shape[0] or x.rank != len(request.shape):
        raise UnsupportedError("spreading over channels has no native operator")
    missing = 4 - len(request.shape)
    axes = [
        copied([0]) if axis < missing else line(axis - missing, x.shape[1 + axis], shape[1 + axis]) for axis in (0, 1)
    ]
    for axis, size in zip(axes, x.shape[1:], strict=True):
        if axis.index.min(initial=0) < 0 or axis.index.max(initial=0) >= size:
            raise UnsupportedError("pixels outside of the map have no native operator")
    return Reading(inputs=(x.name,), operator=Take(rows=axes[0], columns=axes[1]), shape=shape)


def _scale(request: Request, axis: int, size: int, size_out: int) -> np.float32:
    a = request.arguments
    given = a.get("scales") if len(request.shape) == 3 else a.get(("scales_h", "scales_w")[axis])
    return np.float32(1.0 / given if given else size / size_out)


def _positions(request: Request, axis: int, size: int, size_out: int) -> NDArray[np.float32]:
    i = np.arange(size_out).astype(np.float32)
    if request.arguments["align_corners"]:
        return i * np.float32((size - 1) / (size_out - 1) if size_out > 1 else 0)
    half = np.float32(0.5)
    return _scale(request, axis, size, size_out) * (i + half) - half


def _nth(value: int | Sequence[int], axis: int) -> int:
    return value if isinstance(value, int) else value[axis if len(value) > 1 else 0]


SAMPLERS: dict[str, Callable[[Request], Reading]] = {
    "upsample_nearest1d": _nearest,
    "upsample_nearest2d": _nearest,
    "_upsample_nearest_exact1d": _nearest_exact,
    "_upsample_nearest_exact2d": _nearest_exact,
    "upsample_linear1d": _linear,
    "upsample_bilinear2d": _linear,
    "upsample_bicubic2d": _cubic,
    "reflection_pad1d": _padded("reflect"),
    "reflection_pad2d": _padded("reflect"),
    "replication_pad1d": _padded("edge"),
    "replication_pad2d": _padded("edge"),
    "flip": _flipped,
    "roll": _rolled,
    "expand": _expanded,
}
