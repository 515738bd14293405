"""The kernels of the bank. In: images of noise. Out: the values that scipy.ndimage and scikit-image give for them."""

import functools

import numpy as np
import pytest
import skimage.feature
import skimage.filters
from numpy.typing import NDArray
from scipy import ndimage

from separable.errors import SpecError
from separable.filters import (
    Terms,
    binomial,
    box,
    difference_of_gaussians,
    farid,
    gabor,
    gaussian,
    gaussian_derivative,
    laplacian,
    laplacian_of_gaussian,
    prewitt,
    scharr,
    sobel,
    unsharp_mask,
)

RULES = ["reflect", "mirror", "nearest", "wrap", "constant"]
FLAT = np.random.default_rng(0).random((23, 31))
SOLID = np.random.default_rng(1).random((11, 9, 13))


def filtered(image: NDArray[np.float64], kernel: Terms, mode: str = "reflect") -> NDArray[np.float64]:
    """The slow way: the whole kernel at every pixel."""
    return np.asarray(ndimage.correlate(image, kernel.dense(), mode=mode))


@pytest.mark.parametrize("image", [FLAT, SOLID])
@pytest.mark.parametrize(
    ("ours", "theirs"), [(sobel, ndimage.sobel), (prewitt, ndimage.prewitt)], ids=["sobel", "prewitt"]
)
def test_whole_derivatives_give_the_values_of_scipy(image, ours, theirs) -> None:
    for axis in range(-1, image.ndim):
        kernel = ours(axis, image.ndim, normalized=False)
        assert kernel.dtype == np.int64
        np.testing.assert_allclose(filtered(image, kernel), theirs(image, axis), atol=1e-13)


@pytest.mark.parametrize("image", [FLAT, SOLID])
@pytest.mark.parametrize("name", ["sobel", "scharr", "prewitt", "farid"])
def test_normalized_derivatives_give_the_values_of_scikit_image(image, name) -> None:
    ours = {"sobel": sobel, "scharr": scharr, "prewitt": prewitt, "farid": farid}[name]
    if name == "farid":
        image = FLAT  # scikit-image has no other
    for axis in range(image.ndim):
        theirs = getattr(skimage.filters, name)(image, axis=axis)
        np.testing.assert_allclose(filtered(image, ours(axis, image.ndim)), theirs, atol=1e-13)


@pytest.mark.parametrize("name", ["sobel", "scharr", "prewitt", "farid"])
def test_the_documented_range_of_a_derivative_is_reached_and_not_passed(name) -> None:
    kernel = {"sobel": sobel, "scharr": scharr, "prewitt": prewitt, "farid": farid}[name](0).dense()
    largest = {"farid": 0.386}.get(name, 1.0)
    assert kernel[kernel > 0].sum() == pytest.approx(largest, abs=5e-4)
    assert kernel.sum() == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize("order", [0, 1, 2, 3, (0, 1), (2, 1)])
@pytest.mark.parametrize("sigma", [0.7, 2.0, (1.5, 3.0)])
@pytest.mark.parametrize("truncate", [3.0, 4.0])
def test_a_gaussian_and_its_derivatives_give_the_values_of_scipy(sigma, order, truncate) -> None:
    ours = filtered(FLAT, gaussian(sigma, order=order, truncate=truncate), "mirror")
    theirs = ndimage.gaussian_filter(FLAT, sigma, order=order, truncate=truncate, mode="mirror")
    np.testing.assert_allclose(ours, theirs, atol=1e-13)


def test_a_gaussian_derivative_is_the_gaussian_of_order_one_along_one_axis() -> None:
    ours = filtered(SOLID, gaussian_derivative(1, 3, sigma=(1.0, 0.8, 1.2)))
    theirs = ndimage.gaussian_filter(SOLID, (1.0, 0.8, 1.2), order=(0, 1, 0))
    np.testing.assert_allclose(ours, theirs, atol=1e-13)


def test_sigma_and_derivatives_are_in_the_unit_of_the_spacing() -> None:
    z, y, x = np.meshgrid(2.0 * np.arange(12), 0.5 * np.arange(40), 1.0 * np.arange(20), indexing="ij")
    ramp = 3 * z - 2 * y + 5 * x
    for axis, slope in enumerate([3, -2, 5]):
        kernel = gaussian_derivative(axis, 3, sigma=2.0, spacing=(2.0, 0.5, 1.0), truncate=2.5)
        assert kernel.shape == (2 * 3 + 1, 2 * 10 + 1, 2 * 5 + 1)
        # Cut off at 2.5 deviations a bell is narrower than it says, by which its derivative falls short.
        assert filtered(ramp, kernel)[6, 20, 10] == pytest.approx(slope, rel=0.2)
    bend = filtered(ramp**2, gaussian(1.5, 3, order=(2, 0, 0), spacing=(0.25, 0.5, 1.0)))
    assert bend.shape == ramp.shape


@pytest.mark.parametrize("size", [1, 2, 3, 4, (5, 2)])
@pytest.mark.parametrize("mode", RULES)
def test_a_box_gives_the_mean_of_scipy_for_even_sizes_too(size, mode) -> None:
    theirs = ndimage.uniform_filter(FLAT, size, mode=mode)
    np.testing.assert_allclose(filtered(FLAT, box(size), mode), theirs, atol=1e-13)


def test_a_binomial_is_pascals_triangle_and_tends_to_a_gaussian() -> None:
    assert binomial(4, 1, normalized=False).dense().tolist() == [1, 4, 6, 4, 1]
    wide = binomial(60, 1).dense()
    bell = gaussian(np.sqrt(60) / 2, 1).dense()
    np.testing.assert_allclose(wide[30 - 8 : 30 + 9], bell[len(bell) // 2 - 8 : len(bell) // 2 + 9], rtol=0.02)


@pytest.mark.parametrize("image", [FLAT, SOLID])
@pytest.mark.parametrize("mode", RULES)
def test_laplacians_give_the_values_of_scipy(image, mode) -> None:
    assert laplacian(image.ndim).dtype == np.int64
    np.testing.assert_allclose(
        filtered(image, laplacian(image.ndim), mode), ndimage.laplace(image, mode=mode), atol=1e-12
    )
    ours = filtered(image, laplacian_of_gaussian(1.3, image.ndim), mode)
    np.testing.assert_allclose(ours, ndimage.gaussian_laplace(image, 1.3, mode=mode), atol=1e-12)


def test_the_laplacian_of_scikit_image_has_the_opposite_sign() -> None:
    np.testing.assert_allclose(filtered(FLAT, laplacian()), -skimage.filters.laplace(FLAT), atol=1e-12)


def test_a_laplacian_with_spacing_measures_the_bend_in_units() -> None:
    y, x = np.meshgrid(0.5 * np.arange(9), 2.0 * np.arange(9), indexing="ij")
    bent = filtered(3 * y**2 - x**2, laplacian(spacing=(0.5, 2.0)))
    np.testing.assert_allclose(bent[1:-1, 1:-1], 2 * 3 - 2)


@pytest.mark.parametrize("sigmas", [(1.0, None), (1.0, 3.0), ((0.8, 1.2), (1.0, 2.0))])
def test_a_difference_of_gaussians_gives_the_values_of_scikit_image(sigmas) -> None:
    theirs = skimage.filters.difference_of_gaussians(FLAT, *sigmas)
    np.testing.assert_allclose(filtered(FLAT, difference_of_gaussians(*sigmas), "nearest"), theirs, atol=1e-13)


@pytest.mark.parametrize("amount", [0.0, 1.0, 2.5])
def test_an_unsharp_mask_gives_the_values_of_scikit_image(amount) -> None:
    theirs = skimage.filters.unsharp_mask(FLAT, radius=1.7, amount=amount, preserve_range=True)
    np.testing.assert_allclose(filtered(FLAT, unsharp_mask(1.7, amount)), theirs, atol=1e-12)


@pytest.mark.parametrize("theta", [0.0, 0.3, np.pi / 2, 2.5])
@pytest.mark.parametrize("sigma", [None, (4.0, 2.0), (1.5, 5.0)])
def test_a_gabor_kernel_is_that_of_scikit_image(theta, sigma) -> None:
    widths = {} if sigma is None else {"sigma_x": sigma[0], "sigma_y": sigma[1]}
    theirs = skimage.filters.gabor_kernel(0.15, theta=theta, offset=0.4, **widths)
    ours = gabor(0.15, theta, sigma=sigma, offset=0.4)
    assert ours.dense().shape == theirs.shape
    lost = np.square(np.abs(ours.dense() - theirs)).sum() / np.square(np.abs(theirs)).sum()
    assert lost == pytest.approx(ours.error, abs=1e-13)
    assert lost <= 1e-8
    is_along_the_axes = sigma is None or theta in (0.0, np.pi / 2)
    assert (len(ours.terms) == 1) == is_along_the_axes
    assert len(ours.terms) < min(theirs.shape)


WRONG = {
    "a negative sigma": lambda: gaussian(-1),
    "a sigma that is no number": lambda: gaussian(float("nan")),
    "a derivative without a width": lambda: gaussian(0, order=1),
    "half an order": lambda: gaussian(1, order=0.5),
    "two sigmas for three axes": lambda: gaussian((1, 2), 3),
    "sigmas and orders that contradict": lambda: gaussian((1, 2), order=(0, 1, 0)),
    "no spacing": lambda: gaussian(1, spacing=0),
    "an axis that is not there": lambda: sobel(2),
    "a box of nothing": lambda: box(0),
    "a box of half a pixel": lambda: box(1.5),
    "a binomial beyond 64 bits": lambda: binomial(63),
    "no axes": lambda: gaussian(1, 0),
    "a high sigma below the low": lambda: difference_of_gaussians(2, 1),
    "an infinite amount": lambda: unsharp_mask(1, float("inf")),
    "no frequency": lambda: gabor(0.0),
    "a laplacian without spacing": lambda: laplacian(spacing=-1),
    "a truncation at nothing": lambda: gaussian(1, truncate=0),
}


@pytest.mark.parametrize("case", WRONG)
def test_sizes_that_make_no_kernel_are_refused_in_one_line(case) -> None:
    with pytest.raises(SpecError, match="expected"):
        WRONG[case]()


def test_a_sigma_of_zero_leaves_an_axis_alone_as_in_scipy() -> None:
    kernel = gaussian((0, 2))
    assert kernel.shape == (1, 17)
    np.testing.assert_allclose(filtered(FLAT, kernel), ndimage.gaussian_filter(FLAT, (0, 2)), atol=1e-14)


def test_derivatives_can_be_bound_for_use_elsewhere() -> None:
    kernels = [functools.partial(gaussian_derivative, sigma=2.0)(axis, 2) for axis in (0, 1)]
    np.testing.assert_allclose(kernels[0].dense(), kernels[1].dense().T)
