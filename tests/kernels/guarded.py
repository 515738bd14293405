"""Kernels run between guard pages. In: a kernel, maps as arrays (c, h, w). Out: what it wrote, and proof of where.

Every buffer ends where a page begins that may not be touched; what lies before it, and every float of a target that
is not a pixel, is poison that must still be there afterwards.
"""

import ctypes
import mmap
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from separable.kernels import reference
from separable.kernels.catalogue import Kernel, name_of, source_of
from separable.kernels.chain import ARGUMENTS, Weighted, pixel_tables
from separable.kernels.convolution import TARGET
from separable.kernels.isa import Isa
from separable.kernels.jit import Library, object_code
from separable.kernels.layout import Layout

POISON = np.float32(-7.25e30)
PAGE = mmap.PAGESIZE
_libc = ctypes.CDLL(None)
_held: list[mmap.mmap] = []


def guarded(floats: int, fill: float = float(POISON)) -> NDArray[np.float32]:
    """Floats that end where a forbidden page begins, behind a page of poison."""
    size = -(-floats * 4 // PAGE) * PAGE + 2 * PAGE
    region = mmap.mmap(-1, size)
    _held.append(region)
    whole = np.frombuffer(region, np.uint8)
    start = whole.ctypes.data
    assert _libc.mprotect(ctypes.c_void_p(start + size - PAGE), ctypes.c_size_t(PAGE), 0) == 0
    usable = whole[: size - PAGE].view(np.float32)
    usable[:] = POISON
    usable[usable.size - floats :] = fill
    return usable[usable.size - floats :]


def view(buffer: NDArray[np.float32], layout: Layout) -> NDArray[np.float32]:
    """(panels, h, w, lanes) of the pixels in a buffer."""
    shape = (layout.panels, layout.height, layout.width, layout.lanes)
    strides = tuple(4 * n for n in (layout.panel, layout.row, layout.pixel, 1))
    return np.lib.stride_tricks.as_strided(buffer[layout.offset() // 4 :], shape, strides)


def fill(buffer: NDArray[np.float32], layout: Layout, x: NDArray[np.float64]) -> None:
    """Writes (c, h, w) into the pixels; the channels that pad the last panel become poison."""
    c = np.arange(layout.channels)
    pixels = view(buffer, layout)
    pixels[...] = POISON
    pixels[c // layout.lanes, :, :, c % layout.lanes] = x


def read(buffer: NDArray[np.float32], layout: Layout) -> NDArray[np.float32]:
    """(c, h, w) from the pixels."""
    c = np.arange(layout.channels)
    return view(buffer, layout)[c // layout.lanes, :, :, c % layout.lanes]


@cache
def entry(kernel: Kernel, isa: Isa) -> Callable[[int, int, int, int], None]:
    """The kernel as a function; its library lives as long as the process."""
    library = Library([object_code(source_of(kernel, isa), isa)], isa)
    _libraries.append(library)
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p, *[ctypes.c_int64] * 3)(library.address(name_of(kernel)))


_libraries: list[Library] = []


Inputs = dict[int, tuple[Layout, NDArray[np.float64], float]]  # layout, map, what its border holds
Constants = dict[int, NDArray[np.generic]]


def run(
    kernel: Kernel, isa: Isa, inputs: Inputs, constants: Constants, *, threads: int = 1, order: int = 1
) -> NDArray[np.float32]:
    """Calls the kernel as each of ``threads`` in turn, the last one first where ``order`` is -1.

    Inputs and constants by their position in the arguments.
    """
    addresses, places = placed(kernel, inputs, constants)
    for thread in range(threads)[::order]:
        entry(kernel, isa)(addresses.ctypes.data, thread, threads, 0)
    result = taken(places[TARGET], kernel.target)
    _held.clear()
    return result


def placed(
    kernel: Kernel, inputs: Inputs, constants: Constants
) -> tuple[NDArray[np.uint64], dict[int, NDArray[np.generic]]]:
    """The arguments of a call, and the guarded buffers that they point to."""
    places: dict[int, NDArray[np.generic]] = {TARGET: guarded(kernel.target.floats)}
    for position, (where, x, border) in inputs.items():
        places[position] = guarded(where.floats, border)
        fill(places[position], where, x)  # type: ignore[arg-type]
    for position, array in constants.items():
        buffer = guarded(array.nbytes // 4)
        buffer[:] = array.view(np.float32)
        places[position] = buffer
    addresses = np.zeros(ARGUMENTS, np.uint64)
    for position, buffer in places.items():
        addresses[position] = buffer.ctypes.data
    return addresses, places


def taken(target: NDArray[np.float32], layout: Layout) -> NDArray[np.float32]:
    """The map (c, h, w) that a kernel has written, and nothing else."""
    result = read(target, layout).copy()
    view(target, layout)[...] = POISON
    assert (target == POISON).all(), "the kernel wrote outside the pixels of its target"
    return result


def given(kernel: Weighted, isa: Isa) -> tuple[Inputs, Constants, NDArray[np.float64]]:
    """Random numbers for a convolution, and what float64 makes of them before the activation."""
    spec = kernel.spec
    rng = np.random.default_rng(spec.macs)
    x = rng.standard_normal((spec.c_in, *spec.size)).astype(np.float32).astype(np.float64)
    weight = rng.standard_normal(spec.weight_shape).astype(np.float32)
    bias = rng.standard_normal(spec.c_out).astype(np.float32)
    inputs: Inputs = {0: (kernel.source, x, 0.0)}
    expected = reference.convolve(x, weight.astype(np.float64), bias.astype(np.float64), spec)
    if kernel.residual is not None:
        beside = rng.standard_normal(expected.shape).astype(np.float32).astype(np.float64)
        inputs[4] = (kernel.residual, beside, float("nan"))
        expected = expected + beside
    constants: Constants = {1: kernel.pack(weight, isa), 2: kernel.pack_bias(bias, isa)}
    return inputs, constants | pixel_tables(kernel), expected


def beside_float64(
    kernel: Weighted, isa: Isa, *, shares: int = 1
) -> tuple[NDArray[np.float32], NDArray[np.float64], float]:
    """What the kernel gives for random numbers, what float64 gives, and the largest sum before the activation."""
    inputs, constants, expected = given(kernel, isa)
    got = run(kernel, isa, inputs, constants, threads=shares)
    return got, reference.activate(expected, kernel.activation), float(np.abs(expected).max())
