"""Kernels taken apart. In: kernels of known rank, and noise. Out: few terms, with the error that they really have."""

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from separable.errors import SpecError
from separable.factor.kernelnd import separate_nd
from separable.filters import Term, Terms, row_by_row, split
from separable.filters.split import cheapest

whole = st.lists(st.integers(-9, 9), min_size=1, max_size=4)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def planted(shape: tuple[int, ...], rank: int, seed: int = 0) -> np.ndarray:
    """A sum of ``rank`` outer products of noise."""
    random = np.random.default_rng(seed)
    return sum(
        functools.reduce(np.multiply.outer, [random.standard_normal(length) for length in shape]) for _ in range(rank)
    )


def measured(kernel: np.ndarray, terms: Terms) -> float:
    return float(np.square(np.abs(kernel - terms.dense())).sum() / np.square(np.abs(kernel)).sum())


def test_sobel_comes_apart_into_the_whole_numbers_of_the_textbook() -> None:
    terms = split([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    (term,) = terms.terms
    assert [kernel.tolist() for kernel in term.kernels] == [[1, 2, 1], [-1, 0, 1]]
    assert (terms.dtype, terms.error) == (np.int64, 0.0)
    assert (terms.separable_macs, terms.direct_macs) == (5, 6)


@settings(max_examples=60, deadline=None)
@given(vectors=st.lists(whole, min_size=3, max_size=4))
def test_any_outer_product_of_whole_numbers_stays_whole_in_every_number_of_axes(vectors: list[list[int]]) -> None:
    kernel = functools.reduce(np.multiply.outer, [np.array(vector) for vector in vectors])
    terms = split(kernel, tolerance=0.0)
    assert terms.dtype == np.int64
    assert np.array_equal(terms.dense(), kernel)
    assert (len(terms.terms), terms.error) == (1, 0.0)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**16), tolerance=st.floats(0.0, 0.9))
def test_in_two_axes_the_fewest_terms_are_given_with_their_true_error(seed: int, tolerance: float) -> None:
    kernel = noise(5, 7, seed=seed)
    terms = split(kernel, tolerance)
    energies = np.square(np.linalg.svd(kernel, compute_uv=False))
    lost = [energies[count:].sum() / energies.sum() for count in range(6)]
    assert len(terms.terms) == next(count for count in range(1, 6) if lost[count] <= max(tolerance, 1e-30))
    assert terms.error == pytest.approx(measured(kernel, terms), abs=1e-14)
    assert terms.error <= tolerance + 1e-28


@pytest.mark.parametrize(
    ("shape", "rank"), [((3, 3, 3), 2), ((5, 5, 5), 5), ((7, 5, 3), 4), ((3, 4, 3, 3), 3), ((21, 21, 21), 3)]
)
def test_planted_terms_are_found_again_in_three_axes_and_four(shape: tuple[int, ...], rank: int) -> None:
    for seed in range(3):
        kernel = planted(shape, rank, seed)
        terms = split(kernel)
        assert len(terms.terms) == rank
        assert measured(kernel, terms) <= 1e-12


@pytest.mark.parametrize("tolerance", [0.3, 1e-2, 1e-6])
def test_a_ball_takes_more_terms_the_closer_it_has_to_be_and_the_error_is_the_true_one(tolerance: float) -> None:
    z, y, x = np.mgrid[-4:5, -4:5, -4:5]
    ball = (x**2 + y**2 + z**2 <= 16).astype(np.int64)
    terms = split(ball, tolerance)
    assert terms.error <= tolerance
    assert terms.error == pytest.approx(measured(ball, terms), rel=1e-9)
    unfoldings = [np.linalg.svd(np.moveaxis(ball, axis, 0).reshape(9, -1), compute_uv=False) for axis in range(3)]
    energies = np.square(unfoldings[0])
    at_least = next(count for count in range(1, 10) if energies[count:].sum() <= tolerance * energies.sum())
    assert at_least <= len(terms.terms) <= 8


def test_terms_in_three_axes_do_not_cancel_each_other_away() -> None:
    # The border of rank 2: closer and closer sums of two terms that grow without end. Three terms are exact.
    a, b = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    kernel = sum(functools.reduce(np.multiply.outer, [b if at == one else a for at in range(3)]) for one in range(3))
    terms = split(kernel)
    assert measured(kernel, terms) <= 1e-12
    sizes = [np.linalg.norm(term.dense()) for term in terms.terms]
    assert sum(sizes) <= 100 * np.linalg.norm(kernel)


def test_the_same_seed_gives_the_same_terms() -> None:
    one, two = (split(noise(4, 4, 4), 1e-2, seed=3) for _ in range(2))
    for ours, theirs in zip(one.terms, two.terms, strict=True):
        for left, right in zip(ours.kernels, theirs.kernels, strict=True):
            assert np.array_equal(left, right)


def test_noise_in_three_axes_is_exact_where_exactness_is_asked_for() -> None:
    kernel = noise(4, 3, 3)
    assert measured(kernel, split(kernel, 0.0)) <= 1e-25


@pytest.mark.parametrize("kernel", [[1, 2, 3], [[5]], np.zeros((3, 2)), np.zeros((2, 3, 2)), [[[7]]]])
def test_lines_single_numbers_and_zeros_are_kernels_too(kernel: object) -> None:
    terms = split(kernel)
    assert np.array_equal(terms.dense(), np.asarray(kernel))
    assert (len(terms.terms), terms.error) == (1, 0.0)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_extreme_numbers_neither_overflow_nor_vanish(scale: float) -> None:
    for kernel in (noise(4, 5) * scale, planted((3, 3, 3), 2) * scale):
        np.testing.assert_allclose(split(kernel).dense() / scale, kernel / scale, atol=1e-5)


def test_complex_kernels_come_apart_in_any_number_of_axes() -> None:
    z, y, x = np.mgrid[-2:3, -3:4, -1:2]
    wave = np.exp(1j * (0.4 * z + 0.7 * y - 0.3 * x) - 0.1 * (z**2 + y**2 + x**2))
    assert len(split(wave[2]).terms) == 1
    terms = split(wave)
    assert measured(wave, terms) <= 1e-12
    np.testing.assert_allclose(terms.dense(), wave, atol=1e-6)


def test_kernels_are_read_from_tensors_other_byte_orders_and_negative_strides() -> None:
    kernel = np.outer([1.0, 2.0, 3.0], [4.0, 5.0])
    for given_kernel in (
        torch.tensor(kernel, requires_grad=True),
        torch.tensor(kernel, dtype=torch.bfloat16),
        kernel.astype(">f8"),
        kernel[::-1, ::-1][::-1, ::-1],
        np.asfortranarray(kernel),
    ):
        np.testing.assert_allclose(split(given_kernel).dense(), kernel)


@pytest.mark.parametrize(
    "kernel",
    [[], 3.0, [["a"]], [[float("nan")]], [[float("inf"), 1.0]], np.array([[1, None]]), [[1], [2, 3]], np.zeros((3, 0))],
)
def test_what_is_no_kernel_is_refused(kernel: object) -> None:
    for take_apart in (split, row_by_row):
        with pytest.raises(SpecError, match="the kernel"):
            take_apart(kernel)


@pytest.mark.parametrize("tolerance", [-1e-3, 1.0, float("nan")])
def test_a_tolerance_that_is_no_share_is_refused(tolerance: float) -> None:
    with pytest.raises(SpecError, match="the tolerance"):
        split(noise(3, 3, 3), tolerance)


@pytest.mark.parametrize("kernel", [noise(3, 4), noise(2, 3, 4), np.arange(5), np.zeros((2, 2)), np.eye(3, dtype=int)])
def test_row_by_row_is_the_kernel_itself(kernel: np.ndarray) -> None:
    terms = row_by_row(kernel)
    assert np.array_equal(terms.dense(), kernel)
    assert terms.dtype == (np.int64 if kernel.dtype.kind == "i" else np.float64)


@pytest.mark.parametrize(
    ("kernel", "macs"), [(noise(3, 3), 11), (np.outer([1, 2, 1], [1, 2, 1]), 6), (noise(2, 3, 4), 31)]
)
def test_the_cheapest_terms_are_the_rows_where_there_is_nothing_to_gain(kernel: np.ndarray, macs: int) -> None:
    terms = cheapest(kernel)
    assert terms.separable_macs == macs
    np.testing.assert_allclose(terms.dense(), kernel, atol=1e-12)


@pytest.mark.parametrize("tolerance", [1e-12, 1e-2])
def test_one_piece_is_counted_by_the_kernel_that_was_asked_for_and_not_by_its_approximation(tolerance: float) -> None:
    disk = np.hypot(*np.mgrid[-7:8, -7:8]) < 7.5
    assert split(disk, tolerance).direct_macs == disk.sum() == 177


def test_rows_of_zeros_cost_no_term() -> None:
    assert len(row_by_row([[0, 0, 0], [1, 2, 3], [0, 0, 0]]).terms) == 1


@pytest.mark.parametrize(
    "terms", [(), (Term(kernels=(np.ones(3),)), Term(kernels=(np.ones(2),)))], ids=["none", "of two shapes"]
)
def test_terms_have_one_shape(terms: tuple[Term, ...]) -> None:
    with pytest.raises(SpecError, match="Terms"):
        Terms(terms=terms)


@pytest.mark.parametrize(
    "kernels", [(), (np.ones((2, 2)),), (np.array([]),), (np.array(["a"]),), (np.array([np.nan]),)]
)
def test_a_term_is_made_of_lines_of_finite_numbers(kernels: tuple[np.ndarray, ...]) -> None:
    with pytest.raises(SpecError, match="Term"):
        Term(kernels=kernels)


@pytest.mark.parametrize("kernel", [np.zeros((0, 2)), np.array(1.0), np.array([[1j]]), np.array([["a"]])])
def test_the_fit_refuses_what_is_no_array_of_real_numbers(kernel: np.ndarray) -> None:
    with pytest.raises(SpecError, match="the kernel"):
        separate_nd(kernel)
