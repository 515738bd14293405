"""Steepness, direction and structure. In: noise and ramps. Out: what scikit-image and scipy.ndimage give for them."""

import functools

import numpy as np
import pytest
import skimage.feature
import skimage.filters
import torch
from scipy import ndimage

from separable import filters
from separable.errors import SpecError

FLAT = np.random.default_rng(0).random((23, 31))
SOLID = np.random.default_rng(1).random((11, 9, 13))
RULES = ["reflect", "mirror", "nearest", "wrap", "constant"]


@pytest.mark.parametrize("mode", RULES)
@pytest.mark.parametrize("name", ["sobel", "scharr", "prewitt"])
@pytest.mark.parametrize("image", [FLAT, SOLID])
def test_the_mean_magnitude_is_that_of_scikit_image(image, name, mode) -> None:
    ours = filters.gradient_magnitude(image, getattr(filters, name), mode)
    np.testing.assert_allclose(ours, getattr(skimage.filters, name)(image, mode=mode), atol=1e-13)


def test_the_mean_magnitude_of_farid_is_that_of_scikit_image() -> None:
    np.testing.assert_allclose(filters.gradient_magnitude(FLAT, filters.farid), skimage.filters.farid(FLAT), atol=1e-13)


@pytest.mark.parametrize("image", [FLAT, SOLID])
def test_the_whole_magnitude_of_gaussian_derivatives_is_that_of_scipy(image) -> None:
    derivative = functools.partial(filters.gaussian_derivative, sigma=1.3)
    ours = filters.gradient_magnitude(image, derivative, "nearest", mean=False)
    theirs = ndimage.gaussian_gradient_magnitude(image, 1.3, mode="nearest")
    np.testing.assert_allclose(ours, theirs, atol=1e-13)


def test_the_mean_magnitude_of_an_image_from_zero_to_one_stays_there() -> None:
    checks = np.indices((16, 16)).sum(axis=0) // 3 % 2 * 1.0
    for derivative in (filters.sobel, filters.scharr, filters.prewitt):
        assert 0.5 < filters.gradient_magnitude(checks, derivative).max() <= 1


def test_eight_bit_pictures_keep_their_range_instead_of_wrapping_around() -> None:
    image = (FLAT * 255).astype(np.uint8)
    ours = filters.gradient_magnitude(image)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, 255 * skimage.filters.sobel(image), rtol=1e-5, atol=1e-4)


def test_derivatives_are_by_the_unit_of_the_spacing() -> None:
    rows, columns = np.meshgrid(0.5 * np.arange(12), 2.0 * np.arange(10), indexing="ij")
    slopes = filters.gradient(3 * rows - 2 * columns, spacing=(0.5, 2.0))
    assert [slope[5, 5] for slope in slopes] == pytest.approx([2 * 3, 2 * -2])
    ours = filters.gradient_magnitude(3 * rows - 2 * columns, spacing=(0.5, 2.0), mean=False)
    assert ours[5, 5] == pytest.approx(2 * np.hypot(3, 2))


@pytest.mark.parametrize("angle", [-2.5, -0.5, 0.0, 1.0, 3.0])
def test_the_orientation_is_the_way_up(angle) -> None:
    rows, columns = np.indices((9, 9))
    ramp = np.sin(angle) * rows + np.cos(angle) * columns
    assert filters.gradient_orientation(ramp)[4, 4] == pytest.approx(angle)


def test_channels_and_planes_are_filtered_apart() -> None:
    colours = np.random.default_rng(2).random((12, 14, 3))
    together = filters.gradient_magnitude(colours, axes=(0, 1))
    alone = [filters.gradient_magnitude(colours[..., at]) for at in range(3)]
    np.testing.assert_allclose(together, np.stack(alone, axis=-1), atol=1e-14)
    assert filters.gradient_orientation(colours, axes=(0, 1)).shape == colours.shape


@pytest.mark.parametrize("image", [FLAT, SOLID])
@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_the_structure_tensor_is_that_of_scikit_image(image, mode) -> None:
    ours = filters.structure_tensor(image, 1.5, border=mode)
    theirs = skimage.feature.structure_tensor(image, 1.5, mode=mode)
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-10)


def test_tensors_give_tensors() -> None:
    image = torch.from_numpy(FLAT)
    for ours, theirs in (
        (filters.gradient_magnitude(image), filters.gradient_magnitude(FLAT)),
        (filters.gradient_orientation(image), filters.gradient_orientation(FLAT)),
        (filters.structure_tensor(image)[1], filters.structure_tensor(FLAT)[1]),
    ):
        assert isinstance(ours, torch.Tensor)
        np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-14)


def test_an_orientation_in_three_axes_and_a_spacing_of_nothing_are_refused() -> None:
    with pytest.raises(SpecError, match="3 axes"):
        filters.gradient_orientation(SOLID)
    with pytest.raises(SpecError, match="spacing"):
        filters.gradient(FLAT, spacing=0.0)
