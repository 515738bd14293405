"""Images larger than memory. In: anything that gives and takes parts of itself, a kernel. Out: the image, tile by tile.

A tile is read with a halo as wide as the kernel reaches; pixels outside the image are those that the border's rule puts
there. What is computed for a pixel does not depend on its tile, so neither do its bits.
"""

from __future__ import annotations

import itertools
import math
import mmap
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from separable.errors import DataError
from separable.filters.borders import Border, as_border
from separable.filters.masked import without_nan
from separable.filters.pixels import checked_type
from separable.filters.prepared import OPTIONS, Options, prepare
from separable.filters.terms import Terms

# A tile with its halo, its result, and what lies between passes together stay near a few times this.
TILE_BYTES = 64 * 1024 * 1024
Tile = tuple[slice, ...]


class Readable(Protocol):
    """np.memmap, a Zarr array, a dataset of HDF5: what has a shape and a type and gives parts of itself."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...

    def __getitem__(self, part: Any, /) -> Any: ...


class Writable(Protocol):
    """The same for what takes parts."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...

    def __setitem__(self, part: Any, values: Any, /) -> None: ...


def apply_tiled(
    source: Readable,
    target: Writable,
    kernel: Terms | ArrayLike | Tensor,
    border: Border | str = "reflect",
    *,
    axes: Sequence[int] | None = None,
    flip: bool = False,
    tile: Sequence[int] | None = None,
    options: Options = OPTIONS,
) -> None:
    """``apply`` from one store into another, tile by tile; the target's type is the result's.

    ``tile`` is the size of a tile without its halo, by default what keeps memory near 256 MB. Bit for bit the result is
    that of ``apply``. The two must not be the same memory. With ``nan="raise"`` the tiles before a NaN are written.
    """
    border, shape = as_border(border), tuple(source.shape)
    checked_type(np.dtype(source.dtype))
    if tuple(target.shape) != shape:
        raise DataError("apply_tiled", given=f"a target of shape {tuple(target.shape)}", expected=f"the shape {shape}")
    if isinstance(source, np.ndarray) and isinstance(target, np.ndarray) and np.may_share_memory(source, target):
        raise DataError("apply_tiled", given="a target that shares the source's memory", expected="another")
    dtype = np.dtype(target.dtype)
    filter_ = prepare(np.dtype(source.dtype), len(shape), kernel, border, axes, flip=flip, dtype=dtype, options=options)
    reach = filter_.reach
    sizes = _checked_tile(tile, shape) if tile is not None else tile_for(source, dtype, reach)
    if not math.prod(shape):
        return
    every = list(tiles_of(shape, sizes))
    for number, part in enumerate(every):
        pixels, halo = read_with_halo(source, part, reach, border)
        filled = without_nan(pixels, kernel, border, dtype, axes=axes, flip=flip, options=options)
        if filled is None:
            result = np.empty([s.stop - s.start for s in part], dtype)
            filter_.into(pixels, result, halo)
        else:
            result = filled[inner_of(part, halo)]
        target[part] = result
        release(source, target)
        if options.progress is not None:
            options.progress(number + 1, len(every))


def release(*stores: Any) -> None:
    """Gives the pages of files that are mapped into memory back to the system, which keeps what was written.

    They would else count as this process's memory until there is none left.
    """
    for store in stores:
        region = store
        while isinstance(region, np.ndarray):
            region = region.base
        # A private mapping (mode "c") would lose what was written into it.
        if isinstance(region, mmap.mmap) and getattr(store, "mode", "c") != "c" and hasattr(mmap, "MADV_DONTNEED"):
            region.madvise(mmap.MADV_DONTNEED)


def read_with_halo(
    source: Readable, part: Tile, reach: dict[int, tuple[int, int]], border: Border
) -> tuple[NDArray[Any], dict[int, tuple[int, int]]]:
    """The pixels of a tile and as many around it as the kernel reaches; how many there are before and behind each axis.

    The border of an axis that is read as a whole is left to the filter, which knows kernels wider than it. So is a
    constant one: its value need not be one that a pixel can have.
    """
    halo, runs = {}, []
    for axis, own in enumerate(part):
        size = source.shape[axis]
        before, after = reach.get(axis, (0, 0)) if own.stop - own.start < size else (0, 0)
        if border.rule == "constant":
            before, after = min(before, own.start), min(after, size - own.stop)
        halo[axis] = (before, after)
        runs.append(_runs(border.pixels(own.start - before, own.stop + after, size)))
    if all(len(axis) == 1 and axis[0][1] for axis in runs):
        return np.asarray(source[tuple(_slice(axis[0]) for axis in runs)])[_turns([a[0] for a in runs])], halo
    pixels = np.empty([sum(count for *_, count in axis) for axis in runs], np.dtype(source.dtype))
    ends = [list(itertools.accumulate(count for *_, count in axis)) for axis in runs]
    for at in itertools.product(*(range(len(axis)) for axis in runs)):
        chosen = [axis[i] for axis, i in zip(runs, at, strict=True)]
        to = tuple(slice(end[i] - run[2], end[i]) for end, i, run in zip(ends, at, chosen, strict=True))
        pixels[to] = np.asarray(source[tuple(map(_slice, chosen))])[_turns(chosen)]
    return pixels, halo


def inner_of(part: Tile, halo: dict[int, tuple[int, int]]) -> Tile:
    """The tile within what was read with its halo."""
    return tuple(slice(halo[at][0], halo[at][0] + own.stop - own.start) for at, own in enumerate(part))


Run = tuple[int, int, int]  # the first pixel, the step from one to the next (−1, 0 or 1), how many


def _runs(pixels: NDArray[np.int64]) -> list[Run]:
    """Consecutive places in the source, cut wherever the step changes."""
    runs: list[Run] = []
    for pixel in pixels.tolist():
        if runs:
            first, step, count = runs[-1]
            if count == 1 and abs(pixel - first) <= 1:
                runs[-1] = (first, pixel - first, 2)
                continue
            if count > 1 and pixel == first + step * count:
                runs[-1] = (first, step, count + 1)
                continue
        runs.append((pixel, 1, 1))
    return runs


def _slice(run: Run) -> slice:
    """What to read: a run forwards, one pixel of a run that stands still."""
    first, step, count = run
    last = first + step * (count - 1)
    return slice(min(first, last), max(first, last) + 1)


def _turns(runs: Sequence[Run]) -> tuple[slice, ...]:
    """How to look at what was read; one pixel stretches by itself."""
    return tuple(slice(None, None, -1) if step < 0 else slice(None) for _, step, _ in runs)


def tiles_of(shape: tuple[int, ...], sizes: Sequence[int]) -> Iterator[Tile]:
    starts = [range(0, length, size) for length, size in zip(shape, sizes, strict=True)]
    for at in itertools.product(*starts):
        yield tuple(slice(a, min(a + size, length)) for a, size, length in zip(at, sizes, shape, strict=True))


def tile_for(source: Readable, dtype: np.dtype[Any], reach: dict[int, tuple[int, int]]) -> list[int]:
    """Whole rows while that leaves little halo, else squarer tiles; whole chunks of a store that has some."""
    sizes, shape = list(source.shape), source.shape
    item = max(np.dtype(source.dtype).itemsize, dtype.itemsize, 4)
    halo = [sum(reach.get(axis, (0, 0))) for axis in range(len(shape))]
    read = list(shape)  # an axis as a whole has no halo
    while math.prod(read) * item > TILE_BYTES:
        shorter = [axis for axis, size in enumerate(sizes) if size > 1 and -(-size // 2) + halo[axis] < read[axis]]
        if not shorter:
            break
        wide = [axis for axis in shorter if sizes[axis] > 4 * halo[axis]]
        axis = wide[0] if wide else max(shorter, key=sizes.__getitem__)
        sizes[axis] = -(-sizes[axis] // 2)
        read[axis] = sizes[axis] + halo[axis]
    chunks = getattr(source, "chunks", None) or sizes
    return [
        size // chunk * chunk if isinstance(chunk, int) and length > size > chunk > 0 else size
        for size, chunk, length in zip(sizes, chunks, shape, strict=True)
    ]


def _checked_tile(tile: Sequence[int], shape: tuple[int, ...]) -> list[int]:
    if len(tile) != len(shape) or any(size < 1 for size in tile):
        raise DataError("apply_tiled", given=f"tile={tuple(tile)}", expected=f"{len(shape)} sizes of at least 1")
    return list(tile)
