"""Winograd kernels against float64. In: odd maps, channels, tiles. Out: agreement to a known rounding, and no more."""

import numpy as np
import pytest
from guarded import beside_float64, run

from separable.errors import SpecError
from separable.kernels.catalogue import source_of
from separable.kernels.convolution import Tile
from separable.kernels.epilogue import Activation
from separable.kernels.isa import Isa
from separable.kernels.layout import NO_BORDER, Border, Layout, panels
from separable.kernels.winograd import Winograd
from separable.spec import ConvSpec

BORDER: Border = ((1, 2), (3, 1))
CLOSE = {2: 5e-6, 4: 2e-5}  # of the largest output, by the width of a tile
TILE = Tile(pixels=4, vectors=2, block=2)


def kernel_for(
    spec: ConvSpec, isa: Isa, width: int, tile: Tile = TILE, border: Border | None = None, **options: object
) -> Winograd:
    source = layout(spec.c_in, spec.size, isa, border or spec.padding)
    return Winograd(
        spec=spec,
        source=source,
        target=layout(spec.c_out, spec.size_out, isa, BORDER),
        width=width,
        tile=tile,
        **options,
    )


def layout(channels: int, size: tuple[int, ...], isa: Isa, border: Border = NO_BORDER) -> Layout:
    return panels(channels, (size[0], size[1]), isa.lanes, border)


def error_of(kernel: Winograd, isa: Isa, *, shares: int = 1) -> float:
    """The largest distance from float64, relative to the largest output, on random numbers."""
    got, expected, largest = beside_float64(kernel, isa, shares=shares)
    return float(np.abs(got - expected).max() / largest)


SPECS = {
    "whole tiles": ConvSpec(16, 32, 3, (8, 12), padding=1),
    "rows and columns over": ConvSpec(16, 32, 3, (9, 11), padding=1),
    "channels over": ConvSpec(19, 21, 3, (8, 10), padding=1),
    "less than a vector of channels": ConvSpec(3, 2, 3, (7, 7), padding=1),
    "the smallest map": ConvSpec(9, 17, 3, (4, 4), padding=1),
    "no padding": ConvSpec(8, 24, 3, (13, 8)),
    "an uneven border": ConvSpec(8, 8, 3, (7, 6), padding=((0, 1), (2, 0))),
    "much padding": ConvSpec(8, 16, 3, (5, 6), padding=3),
}


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("width", [2, 4])
def test_a_winograd_kernel_agrees_with_float64(name: str, width: int, isa: Isa) -> None:
    assert error_of(kernel_for(SPECS[name], isa, width), isa) < CLOSE[width]


@pytest.mark.parametrize("pixels", [1, 3, 6])
@pytest.mark.parametrize("vectors", [1, 3])
def test_every_tile_computes_the_same_layer(pixels: int, vectors: int, isa: Isa) -> None:
    spec = ConvSpec(isa.lanes + 5, isa.lanes * 4 - 3, 3, (9, 10), padding=1)
    assert error_of(kernel_for(spec, isa, 4, Tile(pixels=pixels, vectors=vectors, block=2)), isa) < CLOSE[4]


@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("split", ["pixels", "channels"])
@pytest.mark.parametrize("shares", [2, 3, 7])
def test_shares_are_all_of_the_work(width: int, split: str, shares: int, isa: Isa) -> None:
    spec = ConvSpec(10, 40, 3, (14, 11), padding=1)
    kernel = kernel_for(spec, isa, width, Tile(pixels=3, vectors=1, block=1, split=split))
    assert error_of(kernel, isa, shares=shares) < CLOSE[width]


@pytest.mark.parametrize("width", [2, 4])
def test_a_border_wider_than_the_padding_is_not_read_as_padding(width: int, isa: Isa) -> None:
    kernel = kernel_for(ConvSpec(9, 8, 3, (6, 7), padding=1), isa, width, border=((2, 3), (4, 1)))
    assert error_of(kernel, isa) < CLOSE[width]


@pytest.mark.parametrize("kind", ["none", "relu", "clamp", "silu"])
def test_an_activation_is_applied_behind_the_residual(kind: str, isa: Isa) -> None:
    spec = ConvSpec(9, 20, 3, (5, 7), padding=1)
    activation = Activation(kind=kind, low=-0.5 if kind == "clamp" else 0.1, high=0.7)
    beside = layout(20, (5, 7), isa, ((2, 0), (0, 1)))
    assert error_of(kernel_for(spec, isa, 4, activation=activation, residual=beside), isa) < CLOSE[4]


@pytest.mark.parametrize("width", [2, 4])
def test_many_channels_lose_no_more_than_few(width: int, isa: Isa) -> None:
    assert error_of(kernel_for(ConvSpec(512, 16, 3, (14, 14), padding=1), isa, width), isa) < CLOSE[width]


@pytest.mark.parametrize("width", [2, 4])
def test_small_whole_numbers_come_out_almost_exactly(width: int, isa: Isa) -> None:
    """A filter that only moves the map: every pixel is one product, and all others must cancel."""
    spec = ConvSpec(8, 8, 3, (9, 10), padding=1)
    x = np.random.default_rng(0).integers(-9, 10, (8, 9, 10)).astype(np.float64)
    weight = np.zeros(spec.weight_shape, np.float32)
    weight[np.arange(8), np.arange(8), 0, 2] = 1
    kernel = kernel_for(spec, isa, width)
    constants = {1: kernel.pack(weight, isa), 2: kernel.pack_bias(np.zeros(8, np.float32), isa)}
    got = run(kernel, isa, {0: (kernel.source, x, 0.0)}, constants)
    moved = np.zeros_like(x)
    moved[:, 1:, :-1] = x[:, :-1, 1:]
    np.testing.assert_allclose(got, moved, atol=1e-4)


@pytest.mark.parametrize("width", [2, 4])
def test_a_missing_number_stays_missing_and_within_its_tiles(width: int, isa: Isa) -> None:
    spec = ConvSpec(8, 8, 3, (16, 16), padding=1)
    x = np.ones((8, 16, 16))
    x[3, 5, 6] = np.nan
    kernel = kernel_for(spec, isa, width)
    constants = {
        1: kernel.pack(np.ones(spec.weight_shape, np.float32), isa),
        2: kernel.pack_bias(np.zeros(8, np.float32), isa),
    }
    is_missing = np.isnan(run(kernel, isa, {0: (kernel.source, x, 0.0)}, constants))
    assert is_missing[:, 4:7, 5:8].all()
    assert not is_missing[:, :, 8 + width :].any()
    assert not is_missing[:, 8 + width :].any()


REFUSED = {
    "a stride": ConvSpec(8, 8, 3, (9, 9), stride=2),
    "a dilation": ConvSpec(8, 8, 3, (9, 9), dilation=2),
    "a larger filter": ConvSpec(8, 8, 5, (9, 9)),
    "groups": ConvSpec(8, 8, 3, (9, 9), groups=2),
    "a map smaller than a tile": ConvSpec(8, 8, 3, (9, 3), padding=((0, 0), (1, 1))),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_layers_are_refused(name: str, isa: Isa) -> None:
    with pytest.raises(SpecError, match="expected"):
        source_of(kernel_for(REFUSED[name], isa, 4), isa)
