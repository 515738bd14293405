"""Filtering in memory. In: images of every type, kernels, borders. Out: what scipy.ndimage gives in float64."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from separable.errors import DataError, SpecError
from separable.filters.apply import apply
from separable.filters.bank import gaussian
from separable.filters.borders import RULES, Border
from separable.filters.masked import apply_masked
from separable.filters.prepared import Options
from separable.filters.terms import Term, Terms

TYPES = ("uint8", "uint16", "int16", "float16", "float32", "float64")
SOBEL = np.outer([1, 2, 1], [-1, 0, 1])


def numbers(*shape: int, dtype: str = "float64", seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal(shape) * 50
    return values.clip(0 if dtype.startswith("u") else -120, 120).astype(dtype)


def slowly(image: np.ndarray, kernel: np.ndarray, border: Border, axes: tuple[int, ...]) -> np.ndarray:
    """Every tap of the whole kernel, in float64; the border from its definition."""
    image = image.astype(np.float64)
    total = np.zeros(image.shape)
    for tap in np.ndindex(kernel.shape):
        shifted, outside = image, np.zeros(image.shape, bool)
        for axis, k, length in zip(axes, tap, kernel.shape, strict=True):
            size = image.shape[axis]
            at = border.pixels(k - length // 2, k - length // 2 + size, size)
            shifted = np.take(shifted, np.maximum(at, 0), axis)
            outside = outside | (at < 0).reshape([-1 if a == axis else 1 for a in range(image.ndim)])
        total += kernel[tap] * np.where(outside, border.value, shifted)
    return total


def close(got: np.ndarray, expected: np.ndarray, kernel: np.ndarray, image: np.ndarray) -> None:
    """Within the rounding of sums of so many products of such numbers."""
    precision = np.finfo(got.dtype).eps if got.dtype.kind in "fc" else 0
    work = np.finfo(np.float64 if np.float64 in (image.dtype, got.dtype) else np.float32).eps
    size = np.abs(kernel).sum() * max(1.0, np.abs(image.astype(np.float64)).max())
    tolerance = size * (precision + work * (sum(kernel.shape) + 2)) + (0.5 if got.dtype.kind in "iu" else 0)
    assert np.abs(got - expected).max() <= tolerance


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("rows", "columns"), [(3, 3), (1, 4), (8, 9), (15, 2), (33, 35)])
def test_every_border_and_type_agrees_with_scipy(rule: Any, dtype: str, rows: int, columns: int) -> None:
    image, kernel = numbers(45, 61, dtype=dtype), np.outer(*(numbers(n, seed=n) for n in (rows, columns))) / 99
    for flip, reference in ((False, scipy.ndimage.correlate), (True, scipy.ndimage.convolve)):
        expected = reference(image.astype(np.float64), kernel, mode=rule, cval=1.5)
        result = "float64" if dtype == "float64" else "float32"
        close(apply(image, kernel, Border(rule, 1.5), flip=flip, dtype=result), expected, kernel, image)


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, Border, tuple[int, ...]]:
    """Arrays of one to four axes, some kernels far larger than the image."""
    ndim = draw(st.integers(1, 4))
    shape = [draw(st.integers(1, (0, 40, 20, 9, 6)[ndim])) for _ in range(ndim)]
    axes = tuple(draw(st.permutations(range(ndim)))[: draw(st.integers(1, ndim))])
    lengths = [draw(st.integers(1, (0, 30, 12, 5, 3)[len(axes)])) for _ in axes]
    seed = draw(st.integers(0, 99))
    kernel = functools.reduce(np.multiply.outer, [numbers(n, seed=seed + n) for n in lengths]) / 50
    image = numbers(*shape, dtype=draw(st.sampled_from(TYPES)), seed=seed)
    view = draw(st.sampled_from(["plain", "backwards", "columns first", "every second", "other bytes", "read-only"]))
    if view == "backwards":
        image = image[..., ::-1]
    elif view == "columns first":
        image = np.asfortranarray(image)
    elif view == "every second":
        image = np.repeat(image, 2, -1)[..., ::2]
    elif view == "other bytes":
        image = image.astype(image.dtype.newbyteorder("S"))
    elif view == "read-only":
        image.flags.writeable = False
    return image, kernel, Border(draw(st.sampled_from(RULES)), -3.25), axes


@settings(deadline=None)  # machine code is compiled on the way
@given(problems())
def test_any_axes_of_any_array_are_filtered(problem: tuple[np.ndarray, np.ndarray, Border, tuple[int, ...]]) -> None:
    image, kernel, border, axes = problem
    dtype = "float64" if image.dtype.newbyteorder("=") == np.float64 else "float32"
    got = apply(image, kernel, border, axes=axes, dtype=dtype)
    close(got, slowly(image, kernel, border, axes), kernel, image)


@pytest.mark.parametrize("shape", [(5, 5), (3, 4, 5)])
def test_kernels_of_full_rank_are_sums_of_terms(shape: tuple[int, ...]) -> None:
    kernel, image = numbers(*shape) / 50, numbers(*(12 + n for n in shape), dtype="float32")
    border = Border("mirror")
    axes = tuple(range(len(shape)))
    got = apply(image, kernel, border, options=Options(tolerance=1e-13))
    expected = slowly(image, kernel, border, axes)
    assert np.abs(got - expected).max() < 1e-5 * np.abs(expected).max() + 1e-3


def test_terms_of_different_kinds_add_up() -> None:
    rng = np.random.default_rng(3)
    pairs = [(rng.random(40), rng.random(31)), (np.eye(40)[20], rng.random(31)), (rng.random(40), np.eye(31)[3])]
    sparse = rng.random(40) * (np.arange(40) % 7 == 0)
    pairs += [(sparse, rng.random(31) * (np.arange(31) % 6 == 1)), (np.eye(40)[39], np.eye(31)[30])]
    terms = Terms(terms=tuple(Term(kernels=pair) for pair in pairs))
    image = numbers(70, 50, dtype="float32")
    for rule in RULES:
        expected = scipy.ndimage.correlate(image.astype(np.float64), terms.dense(), mode=rule, cval=2.0)
        close(apply(image, terms, Border(rule, 2.0)), expected, terms.dense(), image)


def test_channels_may_be_first_or_last() -> None:
    image, kernel = numbers(3, 20, 30, dtype="float32"), np.outer([1, 2, 1], [1, 4, 6, 4, 1]) / 64
    first = apply(image, kernel)
    last = apply(np.ascontiguousarray(np.moveaxis(image, 0, -1)), kernel, axes=(-3, -2))
    np.testing.assert_array_equal(np.moveaxis(last, -1, 0), first)
    np.testing.assert_array_equal(apply(image[1], kernel), first[1])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16"])
def test_integers_are_rounded_to_even_and_end_at_their_limits(dtype: str) -> None:
    limits = np.iinfo(dtype)
    image = np.array([[limits.max, limits.min, 1, 3, 5]], dtype)
    np.testing.assert_array_equal(apply(image, np.array([0.5]))[0, 2:], [0, 2, 2])
    np.testing.assert_array_equal(
        apply(image, np.array([3.0]))[0, :2], [limits.max, 3 * max(limits.min, 0) or limits.min]
    )
    below = apply(image, np.array([-3.0]), dtype=dtype)
    assert below[0, 0] == limits.min
    assert below.dtype == dtype


def test_results_of_signed_kernels_on_integers_are_floats_unless_asked_otherwise() -> None:
    image = numbers(9, 9, dtype="uint8")
    exact = scipy.ndimage.correlate(image.astype(int), SOBEL, mode="reflect")
    assert apply(image, np.abs(SOBEL) / 8).dtype == np.uint8
    for dtype in (None, "int16", "float64"):
        got = apply(image, SOBEL, dtype=dtype)
        assert got.dtype == (dtype or np.float32)
        np.testing.assert_array_equal(got, exact)
    np.testing.assert_array_equal(apply(image, SOBEL, dtype="uint8"), exact.clip(0, 255))


def test_results_go_where_they_are_asked_to() -> None:
    image, kernel = numbers(20, 24, dtype="float32"), np.ones((3, 3)) / 9
    expected = apply(image, kernel)
    for out in (
        np.zeros((20, 24), np.float32),
        np.zeros((20, 48), np.float32)[:, ::2],
        np.zeros((24, 20), np.float32).T,
        np.zeros((20, 24), ">f4"),
        np.zeros((40, 24), np.float32)[::-2],
    ):
        assert apply(image, kernel, out=out) is out
        np.testing.assert_array_equal(out, expected)
    apply(image, kernel, out=image)
    np.testing.assert_array_equal(image, expected)


def test_many_small_images_are_filtered_as_one_by_one() -> None:
    stack, kernel = numbers(50, 7, 6, dtype="float32"), np.outer([1, 2, 1], [1, 0, -1])
    np.testing.assert_array_equal(apply(stack, kernel), [apply(image, kernel) for image in stack])


def test_any_number_of_threads_gives_the_same_bits() -> None:
    image, kernel = numbers(601, 403, dtype="float32"), np.outer(numbers(19), numbers(17))
    one, three = (apply(image, kernel, options=Options(threads=n)) for n in (1, 3))
    np.testing.assert_array_equal(one, three)


def test_tensors_give_tensors() -> None:
    image = torch.from_numpy(numbers(2, 9, 8, dtype="float32"))
    kernel = torch.tensor([[1.0, 2.0, 1.0]])
    got = apply(image, kernel, "wrap")
    assert isinstance(got, torch.Tensor)
    np.testing.assert_array_equal(got.numpy(), apply(image.numpy(), kernel.numpy(), "wrap"))
    out = torch.zeros(2, 9, 8, dtype=torch.float64)
    assert apply(image, kernel, out=out) is out
    assert apply(image, kernel, dtype=torch.int16).dtype == torch.int16
    with pytest.raises(DataError, match="gradient"):
        apply(image.requires_grad_(), kernel)


def test_complex_kernels_give_complex_results() -> None:
    rng = np.random.default_rng(1)
    pairs = [[rng.standard_normal(n) + 1j * rng.standard_normal(n) for n in (5, 7)] for _ in range(2)]
    terms = Terms(terms=tuple(Term(kernels=tuple(pair)) for pair in pairs))
    for dtype, result in (("float32", np.complex64), ("float64", np.complex128), ("uint8", np.complex64)):
        image = numbers(14, 15, dtype=dtype)
        got = apply(image, terms, "nearest")
        expected = scipy.ndimage.correlate(image.astype(complex), terms.dense(), mode="nearest")
        # scipy conjugates the weights of complex kernels.
        expected = scipy.ndimage.correlate(image.astype(float), terms.dense().real, mode="nearest") + 1j * (
            scipy.ndimage.correlate(image.astype(float), terms.dense().imag, mode="nearest")
        )
        assert got.dtype == result
        close(got, expected, terms.dense(), image)


def test_what_is_not_a_number_spreads_as_far_as_the_kernel() -> None:
    for value in (np.nan, np.inf):
        image = np.zeros((40, 40), np.float32)
        image[20, 10] = value
        for length in (3, 25):
            got = apply(image, np.ones((length, length)))
            touched = np.zeros((40, 40), bool)
            reach = length // 2
            touched[max(0, 20 - reach) : 21 + reach, max(0, 10 - reach) : 11 + reach] = True
            np.testing.assert_array_equal(~np.isfinite(got), touched)
    assert np.isnan(apply(np.array([[np.nan]]), np.ones((1, 1)))).all()
    image[20, 10] = np.nan
    got = apply(image, SOBEL)
    assert np.isfinite(got[:, 10]).all(), "a weight of 0 reads nothing"
    assert apply(image, np.ones((3, 3)), dtype="uint8").sum() == 0


def test_what_is_not_a_number_can_be_left_out_or_refused() -> None:
    image, kernel = numbers(12, 13), np.outer([1, 2, 1], [1, 2, 1]) / 16.0
    image[5, 5] = np.nan
    known = ~np.isnan(image)
    got = apply(image, kernel, options=Options(nan="omit"))
    sums = scipy.ndimage.correlate(np.where(known, image, 0), kernel)
    np.testing.assert_allclose(got, sums / scipy.ndimage.correlate(known.astype(float), kernel), rtol=1e-12, atol=1e-12)
    far = scipy.ndimage.binary_dilation(~known, np.ones((3, 3)), border_value=0) == 0
    exact = apply(np.where(known, image, 0), kernel)
    np.testing.assert_array_equal(got[far], exact[far])  # what touches no NaN is as ever
    with pytest.raises(DataError, match="1 pixels that are NaN"):
        apply(image, kernel, options=Options(nan="raise"))


def test_masks_leave_pixels_out() -> None:
    image, kernel = numbers(12, 13), np.outer([1, 3, 1], [2, 2, 1])
    mask = np.random.default_rng(5).random((12, 13))
    everything = apply_masked(image, np.ones((12, 13), bool), kernel)
    np.testing.assert_allclose(everything, apply(image, kernel), rtol=1e-12, atol=1e-9)
    sums, weights = (scipy.ndimage.correlate(x, kernel, mode="constant") for x in (image * mask, mask))
    got = apply_masked(image, mask, kernel, "constant")
    np.testing.assert_allclose(got, kernel.sum() * sums / weights, rtol=1e-9)
    mask[:] = 0
    mask[0, 0] = 1
    image[5, 5] = np.nan
    got = apply_masked(image, mask, kernel)
    assert got[0, 0] == pytest.approx(image[0, 0] * kernel.sum())
    assert np.isnan(got[5:, 5:]).all()
    with pytest.raises(DataError, match="add up to 0"):
        apply_masked(image, mask, SOBEL)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0), (3, 0, 4)])
def test_empty_images_stay_empty(shape: tuple[int, ...]) -> None:
    for dtype in TYPES:
        got = apply(np.zeros(shape, dtype), np.ones((3, 3)))
        assert got.shape == shape
        assert got.dtype == dtype


def test_a_kernel_of_zeros_gives_zeros() -> None:
    np.testing.assert_array_equal(apply(np.full((4, 4), np.inf, np.float32), np.zeros((3, 3))), np.zeros((4, 4)))


@pytest.mark.parametrize(
    ("image", "how", "message"),
    [
        (np.array([[object()]]), {}, "type object"),
        (np.zeros((3, 3), bool), {}, "astype"),
        (np.zeros((3, 3), np.int64), {}, "astype"),
        (np.zeros((3, 3), complex), {}, "complex128"),
        (np.ma.masked_array(np.zeros((3, 3))), {}, "apply_masked"),
        (np.zeros(3), {}, "at most the image's 1"),
        (np.zeros((3, 3)), {"axes": (0, 0)}, "different axes"),
        (np.zeros((3, 3)), {"axes": (0, 5)}, "different axes"),
        (np.zeros((3, 3)), {"border": "symmetric"}, "symmetric"),
        (np.zeros((3, 3)), {"dtype": "int32"}, "int32"),
        (np.zeros((3, 3)), {"out": np.zeros((3, 4))}, r"\(3, 4\)"),
        (np.zeros((3, 3)), {"out": np.broadcast_to(np.zeros(3), (3, 3))}, "read-only"),
        (np.zeros((3, 3)), {"out": np.zeros((3, 3)), "dtype": "float32"}, "one of them"),
    ],
)
def test_what_cannot_be_filtered_is_said(image: Any, how: dict[str, Any], message: str) -> None:
    with pytest.raises((DataError, SpecError), match=message):
        apply(image, SOBEL, **how)


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint16"])
def test_pixels_may_begin_at_any_byte(dtype: str) -> None:
    """As those of an array do that came over a network."""
    image = (np.random.default_rng(0).random((9, 11)) * 200).astype(dtype)
    moved = np.frombuffer(b"x" + image.tobytes(), dtype, offset=1).reshape(image.shape)
    assert not moved.flags.aligned
    for kernel in (gaussian(1.5), gaussian(2.0, dims=1)):
        np.testing.assert_array_equal(apply(moved, kernel), apply(image, kernel))
