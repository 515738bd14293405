"""A separable kernel over any axes of an array. In: arrays, a kernel an axis. Out: the array, in few passes.

Two neighbouring axes whose pixels lie close together are one fused pair of passes; any other axis is a pass of its own,
its result kept in the type that is computed in.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from separable.filters.borders import Border
from separable.filters.passes import FLOATS, Job, Kernel, Place, Plan, Reach, plan
from separable.kernels.caches import last_cache_bytes
from separable.kernels.isa import host

# More neighbouring floats than this are a row of their own, and the axis before them a column.
MOST_CHANNELS = 16
# Below so many multiply-adds, some 30 µs, one thread alone is done before another has woken up.
ALONE = 500_000
Span = tuple[int, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class Separable:
    """Terms in the type that is computed in, ``"float"`` or ``"double"``: for each the kernels of ``axes``, ascending.

    ``border`` is what lies outside the pixels that are there.
    """

    work: str
    axes: tuple[int, ...]
    terms: tuple[tuple[Kernel, ...], ...]
    border: Border
    threads: int

    def reach(self, at: int) -> tuple[int, int]:
        """How far the kernels of axis number ``at`` go before and behind a pixel."""
        kernels = [term[at] for term in self.terms]
        return max(0, *(kernel.before for kernel in kernels)), max(0, *(kernel.after for kernel in kernels))


def filter_array(
    source: NDArray[Any], target: NDArray[Any], filter_: Separable, halo: Mapping[int, Span] | None = None
) -> None:
    """Writes the filtered ``source`` into ``target``, which must not share its memory.

    ``halo``: how many pixels of an axis the source has before and behind those of the target. The border's rule begins
    where they end.
    """
    if not target.size:
        return
    if not _is_native(target):
        result = np.empty(target.shape, target.dtype.newbyteorder("="))
        filter_array(source, result, filter_, halo)
        target[...] = result
        return
    source, halo = reachable(source, halo or {}, filter_)
    last = _last_axes(filter_, source.shape)
    first = [at for at in range(len(filter_.axes)) if at not in last]
    if not first:
        _pass(source, target, filter_, last, halo)
    elif len(filter_.terms) == 1:
        _chain(source, target, filter_, (first, last), halo)
    else:
        total = np.zeros(target.shape, FLOATS[filter_.work])
        for term in filter_.terms:
            part = np.empty_like(total)
            filter_array(source, part, replace(filter_, terms=(term,)), halo)
            total += part
        alone = (kernel_alone(filter_.work),) * len(filter_.axes)
        filter_array(total, target, replace(filter_, terms=(alone,)))


def reachable(
    source: NDArray[Any], halo: Mapping[int, Span], filter_: Separable
) -> tuple[NDArray[Any], dict[int, Span]]:
    """The part of a source with a halo that the kernels reach, and its halo."""
    cut, found = [slice(None)] * source.ndim, {}
    for axis, (before, after) in halo.items():
        own = filter_.reach(filter_.axes.index(axis)) if axis in filter_.axes else (0, 0)
        found[axis] = min(before, own[0]), min(after, own[1])
        cut[axis] = slice(before - found[axis][0], source.shape[axis] - after + found[axis][1])
    return source[tuple(cut)], found


@functools.cache
def kernel_alone(work: str) -> Kernel:
    """The kernel that changes nothing."""
    return Kernel(weights=np.ones(1, FLOATS[work]).tobytes(), offsets=(0,), before=0)


def _last_axes(filter_: Separable, shape: Sequence[int]) -> list[int]:
    """Which axes, by number, are done in the last pass: two neighbours or one."""
    busy = [at for at in range(len(filter_.axes)) if any(t[at] != kernel_alone(filter_.work) for t in filter_.terms)]
    if not busy:
        return [len(filter_.axes) - 1]
    channels = math.prod(shape[filter_.axes[busy[-1]] + 1 :])
    return busy[-2:] if channels <= MOST_CHANNELS else busy[-1:]


def _chain(
    source: NDArray[Any],
    target: NDArray[Any],
    filter_: Separable,
    order: tuple[list[int], list[int]],
    halo: Mapping[int, Span],
) -> None:
    """One term, axis after axis."""
    first, last = order
    border = filter_.border
    for at in first:
        kernel = filter_.terms[0][at]
        if kernel == kernel_alone(filter_.work):
            continue
        shape = list(source.shape)
        shape[filter_.axes[at]] = target.shape[filter_.axes[at]]
        between = np.empty(shape, FLOATS[filter_.work])
        _pass(source, between, replace(filter_, border=border), [at], halo)
        if border.rule == "constant":
            border = replace(border, value=_of_constant(border.value, kernel, filter_))
        source = between
    _pass(source, target, replace(filter_, border=border), last, halo)


def _of_constant(value: float, kernel: Kernel, filter_: Separable) -> float:
    """What the kernel makes of ``value`` everywhere, to the last bit."""
    dtype = FLOATS[filter_.work]
    source = np.full((kernel.before + kernel.after + 1,), value, dtype)
    target = np.empty((1,), dtype)
    one = replace(filter_, axes=(0,), terms=((kernel,),), border=Border())
    filter_array(source, target, one, {0: (kernel.before, kernel.after)})
    return float(target[0])


def _pass(
    source: NDArray[Any], target: NDArray[Any], filter_: Separable, which: list[int], halo: Mapping[int, Span]
) -> None:
    """One native call: a fused pair of axes, or a single one. Arrays that it cannot walk through are copied."""
    found = _planned(source, target, filter_, which, halo)
    if found is None:
        source = np.require(source, source.dtype.newbyteorder("="), ["C_CONTIGUOUS", "ALIGNED"])
        found = _planned(source, target, filter_, which, halo)
    if found is None:
        result = np.empty(target.shape, target.dtype)
        _pass(source, result, filter_, which, halo)
        target[...] = result
    else:
        found[0].run(address(source) + found[1], address(target))


def direct(source: NDArray[Any], target: NDArray[Any], filter_: Separable) -> Plan | None:
    """The plan of a filter that is a single native call on arrays of this layout; None where it is more than that.

    Nothing is read or written.
    """
    last = _last_axes(filter_, source.shape)
    if not _is_native(target) or any(
        kernel != kernel_alone(filter_.work)
        for term in filter_.terms
        for at, kernel in enumerate(term)
        if at not in last
    ):
        return None
    found = _planned(source, target, filter_, last, {})
    return found and found[0]


def _planned(
    source: NDArray[Any],
    target: NDArray[Any],
    filter_: Separable,
    which: list[int],
    halo: Mapping[int, Span],
) -> tuple[Plan, int] | None:
    """The plan of one pass, and how far from the source's first pixel the one under the first result lies."""
    axes = [filter_.axes[at] for at in which]
    rows, columns = (axes[0], axes[1]) if len(axes) == 2 else _single(axes[0], source.shape)
    a, b = (which[0], which[1]) if len(which) == 2 else (which[0], None) if columns is None else (None, which[0])
    pixels, results = (_planes(array, rows, columns) for array in (source, target))
    if not (_is_close(pixels, source) and _is_close(results, target)):
        return None
    reaches = []
    for at, axis in ((a, -3), (b, -2)):
        before, after = (0, 0) if at is None else halo.get(filter_.axes[at], (0, 0))
        size = results.shape[axis]
        reaches.append(Reach(size=size, first=-before, last=size + after))
    alone = kernel_alone(filter_.work)
    macs = results.size * sum(len(kernel.offsets) for term in filter_.terms for kernel in term)
    job = Job(
        work=filter_.work,
        source=_place(pixels),
        target=_place(results),
        terms=tuple((alone if a is None else term[a], alone if b is None else term[b]) for term in filter_.terms),
        rows=reaches[0],
        columns=reaches[1],
        channels=results.shape[-1],
        border=filter_.border,
        threads=filter_.threads if macs > ALONE else 1,
        streams=results.nbytes > last_cache_bytes(),
    )
    return plan(job, host()), -reaches[0].first * pixels.strides[-3] - reaches[1].first * pixels.strides[-2]


def address(array: NDArray[Any]) -> int:
    """Where the first pixel lies. A third of what NumPy itself takes to say so, where the array can be written."""
    if array.flags.c_contiguous and array.flags.writeable:
        return ctypes.addressof(ctypes.c_char.from_buffer(array))  # type: ignore[arg-type]
    return int(array.__array_interface__["data"][0])


def _single(axis: int, shape: Sequence[int]) -> tuple[int | None, int | None]:
    """Which axis runs down the columns and which along the rows, for a pass over one of them."""
    if math.prod(shape[axis + 1 :]) > MOST_CHANNELS:
        return axis, None
    return (axis - 1 if axis else None), axis


def _planes(array: NDArray[Any], rows: int | None, columns: int | None) -> NDArray[Any]:
    """The array as (..., rows, columns, channels); without ``columns`` all behind the rows is one row."""
    after = (rows if columns is None else columns) or 0
    if columns is None:
        shape = (*array.shape[: after + 1], math.prod(array.shape[after + 1 :]), 1)
        return array.reshape(shape)
    if rows is None:
        array, columns = array[None], columns + 1
        return array.reshape(*array.shape[: columns + 1], -1)
    array = np.moveaxis(array, rows, columns - 1)
    return array.reshape(*array.shape[: columns + 1], math.prod(array.shape[columns + 1 :]))


def _is_close(planes: NDArray[Any], array: NDArray[Any]) -> bool:
    """Whether the planes are the array itself, its rows contiguous, in the processor's byte order."""
    pixel = planes.shape[-1] * planes.itemsize
    is_row = planes.strides[-2] == pixel or planes.shape[-2] == 1
    is_pixel = planes.strides[-1] == planes.itemsize or planes.shape[-1] == 1
    return _is_native(planes) and is_row and is_pixel and np.may_share_memory(planes, array)


def _is_native(array: NDArray[Any]) -> bool:
    return array.dtype.isnative and bool(array.flags.aligned)


def _place(array: NDArray[Any]) -> Place:
    return Place(
        dtype=array.dtype.name,
        planes=array.shape[:-3],
        plane_strides=array.strides[:-3],
        row=array.strides[-3],
        pixel=array.strides[-2],
    )
