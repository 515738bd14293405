"""A separable kernel over any axes of an array. In: arrays, a kernel an axis. Out: the array, in few passes.

Two neighbouring axes whose pixels lie close together are one fused pair of passes; any other axis is a pass of its own,
its result kept in the type that is computed in.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from separable.filters.borders import Border
from separable.filters.passes import FLOATS, Job, Kernel, Place, Reach, plan
from separable.kernels.isa import host

# More neighbouring floats than this are a row of their own, and the axis before them a column.
MOST_CHANNELS = 16
Span = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
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
    reach = Reach(size=1, first=-kernel.before, last=1 + kernel.after)
    _run(source[None, :, None], target[None, :, None], one, (Reach(size=1, first=0, last=1), reach), (None, 0))
    return float(target[0])


def _pass(
    source: NDArray[Any], target: NDArray[Any], filter_: Separable, which: list[int], halo: Mapping[int, Span]
) -> None:
    """One native call: a fused pair of axes, or a single one."""
    axes = [filter_.axes[at] for at in which]
    rows, columns = (axes[0], axes[1]) if len(axes) == 2 else _single(axes[0], source.shape)
    a, b = (which[0], which[1]) if len(which) == 2 else (which[0], None) if columns is None else (None, which[0])
    source, planes = (_planes(array, rows, columns) for array in (source, target))
    if not np.may_share_memory(planes, target):  # the axes of this target cannot be joined in place
        result = np.empty(target.shape, target.dtype)
        planes = _planes(result, rows, columns)
    reaches = []
    for at, axis in ((a, -3), (b, -2)):
        before, after = (0, 0) if at is None else halo.get(filter_.axes[at], (0, 0))
        size = planes.shape[axis]
        reaches.append(Reach(size=size, first=-before, last=size + after))
    _run(source, planes, filter_, (reaches[0], reaches[1]), (a, b))
    if not np.may_share_memory(planes, target):
        target[...] = result


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


def _run(
    source: NDArray[Any],
    target: NDArray[Any],
    filter_: Separable,
    reaches: tuple[Reach, Reach],
    which: tuple[int | None, int | None],
) -> None:
    if not _is_close(source):
        source = np.ascontiguousarray(source, source.dtype.newbyteorder("="))
    if not _is_close(target):
        result = np.empty(target.shape, target.dtype)
        _run(source, result, filter_, reaches, which)
        target[...] = result
        return
    alone = kernel_alone(filter_.work)
    terms = tuple(
        (alone if which[0] is None else term[which[0]], alone if which[1] is None else term[which[1]])
        for term in filter_.terms
    )
    rows, columns = reaches
    job = Job(
        work=filter_.work,
        source=_place(source),
        target=_place(target),
        terms=terms,
        rows=rows,
        columns=columns,
        channels=target.shape[-1],
        border=filter_.border,
        phase=target.ctypes.data % 64,
        threads=filter_.threads,
    )
    start = source.ctypes.data - rows.first * source.strides[-3] - columns.first * source.strides[-2]
    plan(job, host()).run(start, target.ctypes.data)


def _is_close(array: NDArray[Any]) -> bool:
    """Whether rows are contiguous, in the processor's byte order."""
    pixel = array.shape[-1] * array.itemsize
    along = array.strides[-2] == pixel or array.shape[-2] == 1
    return _is_native(array) and along and (array.strides[-1] == array.itemsize or array.shape[-1] == 1)


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
