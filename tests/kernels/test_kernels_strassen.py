"""Strassen kernels against float64. In: odd maps, channels, tiles. Out: agreement to a known rounding, and no more."""

import numpy as np
import pytest
from guarded import beside_float64, given, run

from separable.errors import SpecError
from separable.kernels.catalogue import source_of
from separable.kernels.convolution import Tile
from separable.kernels.epilogue import Activation
from separable.kernels.isa import Isa
from separable.kernels.layout import Layout, panels
from separable.kernels.strassen import Strassen
from separable.spec import ConvSpec

CLOSE = 3e-6  # of the largest output
TILE = Tile(pixels=4, vectors=2, block=2)


def kernel_for(spec: ConvSpec, isa: Isa, tile: Tile = TILE, **options: object) -> Strassen:
    maps = {"source": layout(spec.c_in, spec.size, isa), "target": layout(spec.c_out, spec.size_out, isa)}
    return Strassen(**{"spec": spec, "tile": tile, **maps, **options})


def layout(channels: int, size: tuple[int, ...], isa: Isa) -> Layout:
    return panels(channels, (size[0], size[1]), isa.lanes, ((1, 2), (3, 1)))


def pointwise(c_in: int, c_out: int, size: tuple[int, int], isa: Isa, **options: object) -> ConvSpec:
    """With so many panels of channels."""
    return ConvSpec(c_in * isa.lanes, c_out * isa.lanes, 1, size, **options)


def error_of(kernel: Strassen, isa: Isa, *, shares: int = 1) -> float:
    """The largest distance from float64, relative to the largest output, on random numbers."""
    got, expected, largest = beside_float64(kernel, isa, shares=shares)
    return float(np.abs(got - expected).max() / largest)


SIZES = {"even": (6, 8), "odd": (7, 5), "two pixels": (1, 2), "three pixels": (3, 1), "one block over": (17, 1)}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("panels_of", [(2, 2), (4, 6), (6, 10)], ids=str)
def test_a_strassen_kernel_agrees_with_float64(size: str, panels_of: tuple[int, int], isa: Isa) -> None:
    assert error_of(kernel_for(pointwise(*panels_of, SIZES[size], isa), isa), isa) < CLOSE


@pytest.mark.parametrize("pixels", [1, 3, 6])
@pytest.mark.parametrize("vectors", [1, 3])
@pytest.mark.parametrize("block", [1, 4])
def test_every_tile_computes_the_same_layer(pixels: int, vectors: int, block: int, isa: Isa) -> None:
    tile = Tile(pixels=pixels, vectors=vectors, block=block)
    assert error_of(kernel_for(pointwise(4, 8, (5, 7), isa), isa, tile), isa) < CLOSE


def test_channels_may_end_within_the_last_panel(isa: Isa) -> None:
    spec = ConvSpec(4 * isa.lanes, 4 * isa.lanes - 3, 1, (6, 7))
    assert error_of(kernel_for(spec, isa), isa) < CLOSE


def test_a_stride_is_a_matter_of_addresses(isa: Isa) -> None:
    assert error_of(kernel_for(pointwise(4, 4, (9, 7), isa, stride=2), isa), isa) < CLOSE


@pytest.mark.parametrize("split", ["pixels", "channels"])
@pytest.mark.parametrize("size", ["even", "odd"])
def test_shares_give_the_bits_of_one_in_any_order(split: str, size: str, isa: Isa) -> None:
    tile = Tile(pixels=3, vectors=1, block=1, split=split)
    kernel = kernel_for(pointwise(4, 6, SIZES[size], isa), isa, tile)
    inputs, constants, _ = given(kernel, isa)
    whole = run(kernel, isa, inputs, constants)
    for shares in (2, 3, 7):
        for order in (1, -1):
            got = run(kernel, isa, inputs, constants, threads=shares, order=order)
            np.testing.assert_array_equal(got, whole)


@pytest.mark.parametrize("kind", ["none", "relu", "clamp", "silu"])
def test_an_activation_is_applied_behind_the_residual(kind: str, isa: Isa) -> None:
    spec = pointwise(4, 6, (5, 7), isa)
    activation = Activation(kind=kind, low=-0.5 if kind == "clamp" else 0.1, high=0.7)
    beside = panels(spec.c_out, (5, 7), isa.lanes, ((2, 0), (0, 1)))
    assert error_of(kernel_for(spec, isa, activation=activation, residual=beside), isa) < CLOSE


def test_many_channels_lose_no_more_than_few(isa: Isa) -> None:
    assert error_of(kernel_for(ConvSpec(1024, 4 * isa.lanes, 1, (7, 7)), isa), isa) < CLOSE


def test_small_whole_numbers_come_out_exactly(isa: Isa) -> None:
    """All sums are whole numbers that float32 holds."""
    spec = pointwise(4, 4, (5, 5), isa)
    rng, kernel = np.random.default_rng(0), kernel_for(spec, isa)
    x = rng.integers(-9, 10, (spec.c_in, 5, 5)).astype(np.float64)
    weight = rng.integers(-9, 10, spec.weight_shape).astype(np.float32)
    constants = {**given(kernel, isa)[1], 1: kernel.pack(weight, isa), 2: np.zeros(spec.c_out, np.float32)}
    got = run(kernel, isa, {0: (kernel.source, x, 0.0)}, constants)
    np.testing.assert_array_equal(got, np.einsum("oc,chw->ohw", weight[:, :, 0, 0], x))


PARTNERS = {7: {15}, 12: {4}, 17: {21}, 20: {16, 24}, 24: {20}}  # of 25 pixels: 16 in the first block, 9 in the second


@pytest.mark.parametrize("pixel", PARTNERS)
def test_a_missing_number_stays_missing_and_spreads_to_its_partner_only(pixel: int, isa: Isa) -> None:
    spec = pointwise(4, 4, (5, 5), isa)
    kernel = kernel_for(spec, isa)
    _, constants, _ = given(kernel, isa)
    x = np.ones((spec.c_in, 5, 5))
    x[3].flat[pixel] = np.nan
    is_missing = np.isnan(run(kernel, isa, {0: (kernel.source, x, 0.0)}, constants)).reshape(spec.c_out, -1)
    assert is_missing[:, pixel].all()
    assert set(np.flatnonzero(is_missing.any(axis=0))) <= {pixel, *PARTNERS[pixel]}


REFUSED = {
    "a larger filter": ConvSpec(32, 32, 3, (9, 9)),
    "padding": ConvSpec(32, 32, 1, (9, 9), padding=1),
    "groups": ConvSpec(32, 32, 1, (9, 9), groups=2),
    "an odd number of input panels": ConvSpec(24, 32, 1, (9, 9)),
    "input channels over": ConvSpec(31, 32, 1, (9, 9)),
    "an odd number of output panels": ConvSpec(32, 24, 1, (9, 9)),
}


@pytest.mark.parametrize("isa", ["avx2"], indirect=True)
@pytest.mark.parametrize("name", REFUSED)
def test_other_layers_are_refused(name: str, isa: Isa) -> None:
    with pytest.raises(SpecError, match="expected"):
        source_of(kernel_for(REFUSED[name], isa), isa)
