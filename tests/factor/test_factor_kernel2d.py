"""2-D kernels as columns times rows. In: known filters. Out: pairs that anybody can check, whole where they can be."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from separable.errors import SpecError
from separable.factor import is_separable, separate

whole = st.lists(st.integers(-50, 50), min_size=1, max_size=6)


def test_sobel_is_a_smoothing_column_and_a_difference_row_in_whole_numbers() -> None:
    found = separate(np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]))
    (pair,) = found.terms
    assert (pair.column.tolist(), pair.row.tolist(), found.error) == ([1, 2, 1], [-1, 0, 1], 0.0)
    assert pair.column.dtype == pair.row.dtype == np.int64


def test_the_3_4_5_example_comes_apart_as_in_the_textbook() -> None:
    (pair,) = separate([[3, 6, 9], [4, 8, 12], [5, 10, 15]]).terms
    assert (pair.column.tolist(), pair.row.tolist()) == ([3, 4, 5], [1, 2, 3])


def test_whole_numbers_in_floats_stay_whole_and_floats() -> None:
    for kernel in (np.array([[2.0, 4.0], [3.0, 6.0]]), torch.tensor([[2.0, 4.0], [3.0, 6.0]], dtype=torch.bfloat16)):
        (pair,) = separate(kernel).terms
        assert (pair.column.tolist(), pair.row.tolist()) == ([2.0, 3.0], [1.0, 2.0])
        assert pair.row.dtype == np.float64


@settings(max_examples=200, deadline=None)
@given(column=whole, row=whole)
def test_any_outer_product_of_whole_numbers_comes_back_exactly(column: list[int], row: list[int]) -> None:
    kernel = np.outer(column, row)
    found = separate(kernel, tolerance=0.0)
    assert (len(found.terms), found.error) == (1, 0.0)
    assert np.array_equal(found.dense(), kernel)
    assert found.dense().dtype == np.int64


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_gaussian_is_separable_into_two_equal_bells(dtype: type) -> None:
    bell = np.exp(-(np.arange(-4, 5) ** 2) / 4.5)
    found = separate(np.outer(bell, bell).astype(dtype))
    (pair,) = found.terms
    np.testing.assert_allclose(pair.column, bell, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(pair.row, bell, rtol=1e-6, atol=1e-7)
    assert found.error < 1e-14


def test_the_laplacian_needs_two_terms_and_a_random_kernel_all() -> None:
    laplacian = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]])
    assert not is_separable(laplacian)
    found = separate(laplacian)
    assert len(found.terms) == 2
    np.testing.assert_allclose(found.dense(), laplacian, atol=1e-14)
    kernel = np.random.default_rng(0).standard_normal((5, 7))
    assert len(separate(kernel, tolerance=0.0).terms) == 5
    np.testing.assert_allclose(separate(kernel, tolerance=0.0).dense(), kernel, atol=1e-13)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**16), tolerance=st.floats(0.0, 0.9))
def test_the_fewest_terms_within_the_tolerance_are_given_with_their_true_error(seed: int, tolerance: float) -> None:
    kernel = np.random.default_rng(seed).standard_normal((4, 6))
    found = separate(kernel, tolerance)
    measured = np.square(kernel - found.dense()).sum() / np.square(kernel).sum()
    assert found.error == pytest.approx(measured, abs=1e-14)
    assert found.error <= tolerance + 1e-14
    energies = np.square(np.linalg.svd(kernel, compute_uv=False))
    one_fewer = energies[len(found.terms) - 1 :].sum() / energies.sum()
    assert len(found.terms) == 1 or one_fewer > tolerance


def test_the_columns_largest_entry_is_positive_so_that_the_answer_is_one() -> None:
    kernel = np.random.default_rng(1).standard_normal((5, 5))
    for pair in separate(kernel).terms:
        assert pair.column[np.argmax(np.abs(pair.column))] > 0
        assert np.linalg.norm(pair.column) == pytest.approx(np.linalg.norm(pair.row))


def test_a_complex_wave_is_one_complex_pair_and_its_parts_are_two_real_ones_each() -> None:
    y, x = np.mgrid[-3:4, -4:5]
    wave = np.exp(1j * (0.7 * y + 0.3 * x) - 0.05 * (y**2 + x**2))
    (pair,) = separate(wave).terms
    np.testing.assert_allclose(np.outer(pair.column, pair.row), wave, atol=1e-14)
    largest = pair.column[np.argmax(np.abs(pair.column))]
    assert largest.real > 0
    assert abs(largest.imag) < 1e-15
    assert [len(separate(part).terms) for part in (wave.real, wave.imag)] == [2, 2]


def test_zeros_single_numbers_and_extreme_ones_are_kernels_too() -> None:
    assert separate(np.zeros((3, 2))).error == 0.0
    assert separate(np.zeros((3, 2))).dense().shape == (3, 2)
    assert separate([[-7]]).dense().tolist() == [[-7]]
    assert len(separate([[0.5, 1.5, 2.5]]).terms) == 1
    for scale in (1e-200, 1e200):
        kernel = np.array([[1.0, 2.5], [3.0, 7.5]]) * scale
        assert is_separable(kernel)
        np.testing.assert_allclose(separate(kernel).dense(), kernel)


@pytest.mark.parametrize(
    "kernel",
    [
        [1, 2, 3],
        np.zeros((2, 2, 2)),
        np.zeros((0, 3)),
        [["a", "b"]],
        [[1.0, float("nan")]],
        [[complex(0, float("inf")), 1.0]],
        [[float("inf"), 1.0]],
    ],
)
def test_what_is_no_matrix_of_finite_numbers_is_refused(kernel: object) -> None:
    with pytest.raises(SpecError, match="the kernel"):
        separate(kernel)


@pytest.mark.parametrize("tolerance", [-0.1, 1.0, float("nan")])
def test_a_tolerance_that_is_no_share_is_refused(tolerance: float) -> None:
    with pytest.raises(SpecError, match="the tolerance"):
        is_separable([[1, 2], [3, 4]], tolerance)


def test_it_reads_as_a_formula() -> None:
    assert str(separate([[3, 6, 9], [4, 8, 12], [5, 10, 15]])) == "[3, 4, 5]ᵀ·[1, 2, 3], error 0"
