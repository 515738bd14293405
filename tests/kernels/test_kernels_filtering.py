"""The passes of a filter as machine code. In: odd sizes, every instruction level. Out: the sums, and nothing else."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from every_filter import job_for, weights
from guarded import POISON, guarded

from separable.filters.passes import FLOATS, Kernel, Plan, kernel_of
from separable.kernels.isa import Isa

TYPES = ("uint8", "uint16", "int16", "float16", "float32", "float64")


def fenced(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """An array that ends where memory ends, to a few bytes."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return guarded(-(-size // 4)).view(np.uint8)[:size].view(dtype).reshape(shape)


def framed(shape: tuple[int, ...], dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """The same, and the 1024 floats of poison before it."""
    whole = guarded(1024 + int(np.prod(shape)) * np.dtype(dtype).itemsize // 4)
    whole[:1024] = POISON
    return whole[1024:].view(dtype).reshape(shape), whole[:1024]


def run(
    source: np.ndarray,
    target: np.ndarray,
    pairs: list[tuple[Kernel, Kernel]],
    work: str,
    isa: Isa,
    *,
    streams: bool = False,
) -> None:
    Plan(job_for(source, target, pairs, work, streams=streams), isa).run(source.ctypes.data, target.ctypes.data)


def expected(image: np.ndarray, pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    total = np.zeros(image.shape)
    for column, row in pairs:
        part = image.astype(np.float64)
        for axis, kernel in enumerate((column, row)):
            size, centre = part.shape[axis], len(kernel) // 2
            shifts = [np.clip(np.arange(size) + k - centre, 0, size - 1) for k in range(len(kernel))]
            part = sum(w * np.take(part, at, axis) for w, at in zip(kernel, shifts, strict=True))
        total += part
    return total


SIZES = [(1, 1, 1), (3, 2, 3), (13, 17, 1), (5, 64, 1), (37, 41, 2), (66, 19, 4), (9, 300, 1)]
PAIRS = {
    "short": [(3, 5)],
    "even": [(2, 4)],
    "long": [(17, 21)],
    "long columns": [(31, 3)],
    "long rows": [(1, 40)],
    "several": [(3, 3), (20, 22), (1, 5)],
}


@pytest.mark.parametrize("work", ["float", "double"])
@pytest.mark.parametrize("which", PAIRS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_nothing_but_the_result_is_written(size: tuple[int, ...], which: str, work: str, isa: Isa) -> None:
    dtype = FLOATS[work]
    pairs = [(weights(a), weights(b)) for a, b in PAIRS[which]]
    image = np.random.default_rng(1).standard_normal(size).astype(dtype)
    kernels = [(kernel_of(a, len(a) // 2, work), kernel_of(b, len(b) // 2, work)) for a, b in pairs]
    source, (target, before) = fenced(size, dtype), framed(size, dtype)
    source[:] = image
    run(source, target, kernels, work, isa)
    np.testing.assert_allclose(target, expected(image, pairs), rtol=0, atol=2e-6 if work == "float" else 1e-14)
    assert (before == POISON).all()
    np.testing.assert_array_equal(source, image)


@pytest.mark.parametrize("lengths", [(3, 3), (3, 19), (21, 18)], ids=str)
@pytest.mark.parametrize(("source", "target"), list(itertools.product(TYPES, TYPES)))
def test_every_type_becomes_every_other(source: str, target: str, lengths: tuple[int, int], isa: Isa) -> None:
    work = "double" if "float64" in (source, target) else "float"
    rng = np.random.default_rng(2)
    image = (rng.standard_normal((11, 35, 1)) * 300).clip(0 if source.startswith("u") else -400, 255).astype(source)
    pairs = [(weights(lengths[0]) + 0.1, weights(lengths[1]) + 0.1)]
    from_, to = fenced(image.shape, source), fenced(image.shape, target)
    from_[:] = image
    column, row = (kernel_of(kernel, len(kernel) // 2, work) for kernel in pairs[0])
    run(from_, to, [(column, row)], work, isa)
    exact = expected(image, pairs)
    if target.startswith("float"):
        np.testing.assert_allclose(to, exact, rtol=2 * float(np.finfo(target).eps), atol=5e-4)
    else:
        limits = np.iinfo(target)
        assert np.abs(to - exact.clip(limits.min, limits.max)).max() < 0.5 + 1e-3


@pytest.mark.parametrize("every", [3, 7])
def test_weights_of_zero_read_nothing(every: int, isa: Isa) -> None:
    kernel = weights(43, every)
    pair = kernel_of(kernel, 21, "float")
    image = np.zeros((90, 80, 1), np.float32)
    image[45, 40] = np.nan
    source, target = fenced(image.shape, "float32"), fenced(image.shape, "float32")
    source[:] = image
    run(source, target, [(pair, pair)], "float", isa)
    reads = np.zeros(90, bool)
    reads[45 + 21 - np.flatnonzero(kernel)] = True
    columns = np.zeros(80, bool)
    columns[40 + 21 - np.flatnonzero(kernel)] = True
    np.testing.assert_array_equal(np.isnan(target[:, :, 0]), np.outer(reads, columns))


@pytest.mark.parametrize("which", ["short", "even", "several", "long rows"])
@pytest.mark.parametrize("width", [1, 15, 16, 17, 41, 64, 307])
@pytest.mark.parametrize(("source", "target"), [("uint8", "float32"), ("float32", "float32"), ("float32", "float64")])
def test_what_goes_past_the_caches_is_the_same(source: str, target: str, width: int, which: str, isa: Isa) -> None:
    work = "double" if target == "float64" else "float"
    kernels = [tuple(kernel_of(weights(n) + 0.1, n // 2, work) for n in pair) for pair in PAIRS[which]]
    image = (np.random.default_rng(4).random((21, width, 1)) * 99).astype(source)
    from_, usual = fenced(image.shape, source), fenced(image.shape, target)
    from_[:] = image
    run(from_, usual, kernels, work, isa)  # type: ignore[arg-type]
    # Rows some lines apart; where they begin within a line depends on the width, since the last one ends with memory.
    item = usual.itemsize
    stride = 64 * (width * item // 64 + 2)
    memory = guarded(-(-(20 * stride + width * item) // 4)).view(np.uint8)
    memory = memory[memory.size - 20 * stride - width * item :]
    memory[:] = 205
    past = np.lib.stride_tricks.as_strided(memory.view(target), usual.shape, (stride, item, item))
    run(from_, past, kernels, work, isa, streams=True)  # type: ignore[arg-type]
    np.testing.assert_array_equal(past, usual)
    past[:] = np.full(item, 205, np.uint8).view(target)
    assert (memory == 205).all(), "something beside the rows was written"
