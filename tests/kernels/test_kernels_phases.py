"""Kernels that write every second row, every third column. In: a phase of a map. Out: its pixels, and no others."""

import numpy as np
import pytest
from guarded import beside_float64, run

from separable.kernels.convolution import Convolution, Tile
from separable.kernels.depthwise import Depthwise
from separable.kernels.elementwise import Elementwise
from separable.kernels.epilogue import Activation
from separable.kernels.isa import Isa
from separable.kernels.layout import Layout, panels, planar
from separable.kernels.winograd import Winograd
from separable.spec import ConvSpec

STEP = (2, 3)
PHASES = [(0, 0), (1, 0), (1, 2)]
RELU = Activation(kind="relu")


def phase_of(channels: int, size: tuple[int, int], first: tuple[int, int], isa: Isa) -> Layout:
    """A phase of this size, of a map with a border that ends just there."""
    whole = [(n - 1) * step + f + 1 for n, step, f in zip(size, STEP, first, strict=True)]
    return panels(channels, (whole[0], whole[1]), isa.lanes, ((1, 2), (0, 3))).phase(STEP, first)


def test_a_phase_has_its_rows_and_columns() -> None:
    whole = planar(3, (7, 8), ((1, 0), (2, 1)))
    pixels = np.arange(whole.floats).reshape(3, 8, 11)[:, 1:, 2:10]
    for first in np.ndindex(STEP):
        phase, start = whole.phase(STEP, first), whole.offset(*first)
        size = (phase.panels, phase.height, phase.width)
        places = np.reshape([(start + phase.offset(y, x, panel)) // 4 for panel, y, x in np.ndindex(size)], size)
        np.testing.assert_array_equal(places, pixels[:, first[0] :: STEP[0], first[1] :: STEP[1]])


@pytest.mark.parametrize("first", PHASES, ids=str)
@pytest.mark.parametrize("name", ["by rows", "by tables", "depthwise", "winograd"])
def test_a_convolution_writes_a_phase(name: str, first: tuple[int, int], isa: Isa) -> None:
    groups = 21 if name == "depthwise" else 1
    spec = ConvSpec(21, 21, 3, (6, 7), padding=((1, 0), (0, 1)), groups=groups)
    maps = {
        "spec": spec,
        "source": panels(21, (6, 7), isa.lanes, spec.padding),  # type: ignore[arg-type]
        "target": phase_of(21, (5, 6), first, isa),
        "activation": RELU,
    }
    tile = Tile(pixels=4, vectors=2, block=2)
    kernel = {
        "by rows": lambda: Convolution(**maps, tile=tile),
        "by tables": lambda: Convolution(**maps, tile=tile, is_rowwise=False),
        "depthwise": lambda: Depthwise(**maps, rows=2, columns=3),
        "winograd": lambda: Winograd(**maps, width=4, tile=tile),
    }[name]()
    got, expected, largest = beside_float64(kernel, isa, shares=2)
    assert np.abs(got - expected).max() < 2e-5 * largest


@pytest.mark.parametrize("first", PHASES, ids=str)
def test_an_activation_writes_a_phase(first: tuple[int, int], isa: Isa) -> None:
    x = np.random.default_rng(0).standard_normal((21, 4, 5)).astype(np.float32).astype(np.float64)
    source, target = panels(21, (4, 5), isa.lanes), phase_of(21, (4, 5), first, isa)
    kernel = Elementwise(operation="keep", source=source, target=target, activation=RELU)
    np.testing.assert_array_equal(run(kernel, isa, {0: (source, x, np.nan)}, {}, threads=2), np.maximum(x, 0))
