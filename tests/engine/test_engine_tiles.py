"""Which tile a layer gets. In: shapes, processors, threads. Out: half vectors, and what threads wait for."""

from pathlib import Path

import pytest

from separable.kernels.convolution import Convolution, Tile
from separable.kernels.depthwise import Depthwise
from separable.kernels.epilogue import NONE
from separable.kernels.isa import Isa, host, target
from separable.kernels.layout import panels
from separable.runtime.tiles import convolutions, imbalance
from separable.runtime.tuning import Tuner
from separable.spec import ConvSpec


def avx512(cpu: str) -> Isa:
    return target("avx512", triple="x86_64-unknown-linux-gnu", cpu=cpu)


def pointwise(c_in: int, c_out: int, size: int, tile: Tile, lanes: int = 16) -> Convolution:
    spec = ConvSpec(c_in, c_out, 1, (size, size))
    source, result = (panels(c, spec.size, lanes) for c in (c_in, c_out))
    return Convolution(spec=spec, source=source, target=result, tile=tile)


@pytest.mark.parametrize(
    ("cpu", "c_out", "expected"),
    [("znver4", 24, True), ("znver4", 40, True), ("znver4", 25, False), ("znver4", 32, False), ("znver5", 24, False)],
)
def test_half_a_vector_is_computed_where_that_takes_half_the_time(cpu: str, c_out: int, expected: bool) -> None:
    spec, isa = ConvSpec(96, c_out, 1, (28, 28)), avx512(cpu)
    maps = (panels(96, spec.size, 16), panels(c_out, spec.size, 16), None)
    found = convolutions(spec, maps, NONE, isa, 2)
    assert {kernel.tile.ends_in_half for kernel in found} == {expected}


@pytest.mark.parametrize(
    ("tile", "threads", "expected"),
    [
        (Tile(pixels=7, vectors=2, block=7), 2, 8 / 7),  # seven tiles
        (Tile(pixels=7, vectors=2, block=7), 7, 1.0),
        (Tile(pixels=7, vectors=3, block=7, split="channels"), 2, 1.0),  # 2 and 3 panels for each
        (Tile(pixels=7, vectors=3, block=7, split="channels"), 3, 1.5),  # 2, 3, and twice: 2 and 3
    ],
)
def test_the_busiest_thread_of_a_pointwise_layer(tile: Tile, threads: int, expected: float) -> None:
    assert imbalance(pointwise(32, 160, 7, tile), threads) == pytest.approx(expected)


@pytest.mark.parametrize(("split", "expected"), [("rows", 8 / 7), ("channels", 1.0)])
def test_the_busiest_thread_of_a_depthwise_layer(split: str, expected: float) -> None:
    spec = ConvSpec(64, 64, 3, (14, 14), padding=1, groups=64)
    source, result = panels(64, spec.size, 16, spec.padding), panels(64, spec.size, 16)
    kernel = Depthwise(spec=spec, source=source, target=result, rows=2, columns=4, split=split)
    assert imbalance(kernel, 2) == pytest.approx(expected)


def test_of_kernels_as_fast_that_is_taken_which_gives_all_threads_as_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEPARABLE_CACHE", str(tmp_path))
    monkeypatch.setattr(Tuner, "measure", lambda _, kernels: [1e-3] * len(kernels))
    uneven, even = (pointwise(32, 160, 7, Tile(pixels=p, vectors=2, block=7), host().lanes) for p in (7, 5))
    for threads, expected in ((1, uneven), (2, even)):
        assert Tuner(host(), threads)([(uneven,), (even,)]) == (expected,)
