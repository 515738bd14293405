"""Tiles, files and chunks. In: one image cut in many ways. Out: always the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from separable.errors import DataError
from separable.filters.apply import apply
from separable.filters.borders import RULES, Border
from separable.filters.prepared import Options
from separable.filters.terms import Term, Terms
from separable.filters.tiles import TILE_BYTES, apply_tiled, tile_for


class Store:
    """An array that can only be had part by part, and remembers the largest part that was taken."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.shape, self.dtype, self.largest = values, values.shape, values.dtype, 0

    def __getitem__(self, part: tuple[slice, ...]) -> np.ndarray:
        assert all(isinstance(s, slice) and s.step is None and 0 <= s.start < s.stop for s in part)
        self.largest = max(self.largest, self.values[part].size)
        return self.values[part]

    def __setitem__(self, part: tuple[slice, ...], values: np.ndarray) -> None:
        self.values[part] = values


def numbers(*shape: int, dtype: str = "float32", seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).random(shape) * 200).astype(dtype)


def kernel(lengths: tuple[int, ...], terms: int, seed: int) -> Terms:
    rng = np.random.default_rng(seed)
    return Terms(terms=tuple(Term(kernels=tuple(rng.standard_normal(n) / n for n in lengths)) for _ in range(terms)))


def kernel_of_means(*lengths: int) -> tuple[Term, ...]:
    rng = np.random.default_rng(3)
    return (Term(kernels=tuple(rng.random(n) / n for n in lengths)),)


@st.composite
def cuts(draw: st.DrawFn) -> tuple[np.ndarray, Terms, Border, list[int], str]:
    ndim = draw(st.sampled_from([1, 2, 2, 2, 3]))
    shape = [draw(st.integers(1, (0, 90, 50, 12)[ndim])) for _ in range(ndim)]
    lengths = tuple(draw(st.integers(1, (0, 40, 30, 7)[ndim])) for _ in range(ndim))
    tile = [draw(st.integers(max(1, n // 5), n + 3)) for n in shape]
    image = numbers(*shape, dtype=draw(st.sampled_from(["uint8", "int16", "float32", "float64"])))
    result = draw(st.sampled_from(["uint8", "float16", "float32", "float64"]))
    terms = kernel(lengths, draw(st.integers(1, 2)), draw(st.integers(0, 99)))
    return image, terms, Border(draw(st.sampled_from(RULES)), 0.3), tile, result


@settings(deadline=None)  # machine code is compiled on the way
@given(cuts())
def test_every_tile_size_gives_the_same_bits(cut: tuple[np.ndarray, Terms, Border, list[int], str]) -> None:
    image, terms, border, tile, result = cut
    target = Store(np.zeros(image.shape, result))
    apply_tiled(Store(image), target, terms, border, tile=tile)
    np.testing.assert_array_equal(target.values, apply(image, terms, border, dtype=result))


@pytest.mark.parametrize("rule", RULES)
def test_a_large_kernel_is_cut_as_well(rule: Any) -> None:
    image, terms, border = numbers(300, 260), kernel((131, 131), 1, 1), Border(rule, 7.5)
    whole = apply(image, terms, border)
    for tile in ((300, 260), (64, 260), (300, 100), (77, 91)):
        target = np.zeros_like(image)
        apply_tiled(image, target, terms, border, tile=tile)
        np.testing.assert_array_equal(target, whole)


def test_a_complex_kernel_and_a_convolution_are_cut_as_well() -> None:
    image, real = numbers(40, 30), kernel((4, 7), 1, 1).terms[0].kernels
    terms = Terms(terms=(Term(kernels=(real[0], real[1] * np.exp(1j * np.arange(7)))),))
    target = np.zeros((40, 30), np.complex64)
    apply_tiled(image, target, terms, "wrap", flip=True, tile=(7, 30))
    np.testing.assert_array_equal(target, apply(image, terms, "wrap", flip=True))


@pytest.mark.parametrize("rule", RULES)
def test_of_an_axis_that_is_read_as_a_whole_no_pixel_is_read_twice(rule: Any) -> None:
    source, target = Store(numbers(12, 9)), np.zeros((12, 9), np.float32)
    apply_tiled(source, target, kernel((601, 401), 1, 2), Border(rule, 7.5))
    assert source.largest == 12 * 9
    np.testing.assert_array_equal(target, apply(source.values, kernel((601, 401), 1, 2), Border(rule, 7.5)))


def test_an_axis_is_cut_only_where_less_is_read_then() -> None:
    image = np.broadcast_to(np.float32(0), (10_000, 10_000))
    assert tile_for(image, np.dtype(np.float32), {0: (8000, 8000), 1: (8000, 8000)}) == [10_000, 10_000]
    rows, columns = tile_for(image, np.dtype(np.float32), {0: (8, 8), 1: (8000, 8000)})
    assert columns == 10_000
    assert (rows + 16) * 40_000 < TILE_BYTES


def test_only_a_tile_and_its_halo_are_read_at_a_time() -> None:
    source, target = Store(numbers(200, 200)), Store(np.zeros((200, 200), np.float32))
    apply_tiled(source, target, kernel((9, 5), 1, 0), "wrap", tile=(20, 25))
    assert source.largest <= (20 + 8) * (25 + 4)


def test_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    image = numbers(10, 10)
    options = Options(progress=lambda done, total: told.append((done, total)))
    apply_tiled(image, np.zeros_like(image), np.ones((3, 3)), tile=(4, 10), options=options)
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_files_mapped_into_memory_are_filtered_into_files(tmp_path: Path) -> None:
    image = numbers(90, 70, dtype="uint16")
    np.save(tmp_path / "in.npy", image)
    source = np.load(tmp_path / "in.npy", mmap_mode="r")
    target = np.lib.format.open_memmap(tmp_path / "out.npy", "w+", np.uint16, (90, 70))
    apply_tiled(source, target, np.ones((5, 5)) / 25, tile=(32, 70))
    target.flush()
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), apply(image, np.ones((5, 5)) / 25))


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux")
def test_no_page_of_a_mapped_file_stays_in_memory(tmp_path: Path) -> None:
    image = numbers(700, 500)
    np.save(tmp_path / "in.npy", image)
    source = np.load(tmp_path / "in.npy", mmap_mode="r")
    target = np.lib.format.open_memmap(tmp_path / "out.npy", "w+", np.float32, image.shape)
    apply_tiled(source, target, np.ones((3, 3)), tile=(100, 500))
    resident, name = {"in.npy": 0, "out.npy": 0}, ""
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ")[0]:
            name = line.rsplit("/", 1)[-1]
        elif line.startswith("Rss:") and name in resident:
            resident[name] += int(line.split()[1])
    assert resident == {"in.npy": 0, "out.npy": 0}
    np.testing.assert_array_equal(target, apply(image, np.ones((3, 3))))


def test_a_private_mapping_keeps_what_was_written_into_it(tmp_path: Path) -> None:
    np.save(tmp_path / "out.npy", np.zeros((40, 30), np.float32))
    target = np.load(tmp_path / "out.npy", mmap_mode="c")
    apply_tiled(numbers(40, 30), target, np.ones((3, 3)), tile=(10, 30))
    np.testing.assert_array_equal(target, apply(numbers(40, 30), np.ones((3, 3))))


def test_a_zarr_array_is_filtered_into_another(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    image = numbers(50, 61)
    source = zarr.create_array(str(tmp_path / "in.zarr"), shape=image.shape, chunks=(16, 20), dtype="f4")
    source[:] = image
    target = zarr.create_array(str(tmp_path / "out.zarr"), shape=image.shape, chunks=(16, 20), dtype="f4")
    apply_tiled(source, target, np.outer([1, 2, 1], [1, 0, -1]), "wrap", tile=(32, 40))
    np.testing.assert_array_equal(target[:], apply(image, np.outer([1, 2, 1], [1, 0, -1]), "wrap"))


@pytest.mark.parametrize("rule", RULES)
def test_dask_arrays_give_the_same_bits(rule: Any) -> None:
    da = pytest.importorskip("dask.array")
    border = Border(rule, 0.3)
    for image, lengths in (
        (numbers(57, 43, dtype="uint8"), (7, 4)),
        (numbers(12, 20), (31, 5)),
        (numbers(9, 8, 7), (3, 2, 3)),
    ):
        terms = kernel(lengths, 1, 2)
        for chunks in (5, 16, -1):
            got = apply(da.from_array(image, chunks=chunks), terms, border, dtype="float32")
            assert isinstance(got, da.Array)
            assert got.dtype == np.float32
            np.testing.assert_array_equal(got.compute(scheduler="sync"), apply(image, terms, border, dtype="float32"))


def holed(*shape: int) -> np.ndarray:
    """An image with a few pixels that are not numbers, all in its first half."""
    image = numbers(*shape)
    image[np.random.default_rng(7).random(shape) < 0.02] = np.nan
    image[shape[0] // 2 :] = numbers(*shape)[shape[0] // 2 :]
    return image


@pytest.mark.parametrize("rule", RULES)
def test_pixels_that_are_left_out_are_left_out_in_any_tile(rule: Any) -> None:
    image, terms, options = holed(50, 40), Terms(terms=kernel_of_means(7, 4)), Options(nan="omit")
    border = Border(rule, 0.3)
    whole = apply(image, terms, border, options=options)
    assert np.isfinite(whole).all()
    for tile in ((50, 40), (9, 40), (17, 11)):
        target = np.zeros_like(image)
        apply_tiled(image, target, terms, border, tile=tile, options=options)
        np.testing.assert_array_equal(target, whole)
    da = pytest.importorskip("dask.array")
    got = apply(da.from_array(image, chunks=13), terms, border, options=options)
    np.testing.assert_array_equal(got.compute(scheduler="sync"), whole)


@pytest.mark.parametrize("value", [0.0, 1e9, np.nan, np.inf])
def test_a_constant_border_is_neither_known_nor_missing_in_any_chunk(value: float) -> None:
    da = pytest.importorskip("dask.array")
    for image in (holed(31, 40).astype(np.float16), np.ones((31, 40), np.float32)):
        for nan in ("omit", "raise") if np.isfinite(image).all() else ("omit",):
            terms, options = Terms(terms=kernel_of_means(7, 4)), Options(nan=nan)  # type: ignore[arg-type]
            border = Border("constant", value)
            for dtype in (None, np.float64):
                whole = apply(image, terms, border, dtype=dtype, options=options)
                got = apply(da.from_array(image, chunks=13), terms, border, dtype=dtype, options=options)
                np.testing.assert_array_equal(got.compute(scheduler="sync"), whole)


def test_a_tile_with_what_is_not_a_number_can_be_refused() -> None:
    da, image, options = pytest.importorskip("dask.array"), holed(50, 40), Options(nan="raise")
    with pytest.raises(DataError, match="NaN"):
        apply_tiled(image, np.zeros_like(image), np.ones((3, 3)), tile=(9, 9), options=options)
    with pytest.raises(DataError, match="NaN"):
        apply(da.from_array(image, chunks=13), np.ones((3, 3)), options=options).compute(scheduler="sync")


def test_a_filter_travels_between_processes() -> None:
    import pickle

    da = pytest.importorskip("dask.array")
    image = numbers(30, 30)
    lazy = apply(da.from_array(image, chunks=15), np.ones((3, 3)))
    again = pickle.loads(pickle.dumps(lazy))
    np.testing.assert_array_equal(again.compute(scheduler="sync"), apply(image, np.ones((3, 3))))


def test_what_cannot_be_tiled_is_said() -> None:
    image = numbers(10, 10)
    with pytest.raises(DataError, match="shape"):
        apply_tiled(image, np.zeros((10, 11), np.float32), np.ones((3, 3)))
    with pytest.raises(DataError, match="memory"):
        apply_tiled(image, image, np.ones((3, 3)))
    with pytest.raises(DataError, match="tile"):
        apply_tiled(image, np.zeros_like(image), np.ones((3, 3)), tile=(0, 4))
