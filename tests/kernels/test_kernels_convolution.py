"""Dense, grouped, pointwise and depthwise kernels against float64. In: odd shapes. Out: agreement to rounding."""

import numpy as np
import pytest
from guarded import beside_float64

from separable.errors import SpecError
from separable.kernels.convolution import Convolution, Tile
from separable.kernels.depthwise import Depthwise
from separable.kernels.epilogue import KINDS, NONE, Activation
from separable.kernels.ir import Module
from separable.kernels.isa import Isa
from separable.kernels.layout import NO_BORDER, Border, Layout, channels_last, panels, planar
from separable.spec import ConvSpec

BORDER: Border = ((1, 2), (3, 1))


def agrees(kernel: Convolution | Depthwise, isa: Isa, *, threads: int = 1, order: np.ndarray | None = None) -> None:
    """The kernel, on random numbers, is as far from float64 as its sums are long, and writes only its pixels."""
    got, expected, _ = beside_float64(kernel, isa, shares=threads)
    if order is not None:
        got = got[order]
    length = np.prod(kernel.spec.weight_shape[1:]) + 2
    bound = np.finfo(np.float32).eps * length * (1 + np.abs(expected).max())
    assert np.abs(got - expected).max() < bound


def layout(channels: int, size: tuple[int, ...], isa: Isa, border: Border = NO_BORDER) -> Layout:
    return panels(channels, (size[0], size[1]), isa.lanes, border)


def kernel_for(spec: ConvSpec, isa: Isa, tile: Tile, border: Border = NO_BORDER, **options: object) -> Convolution:
    source = layout(spec.c_in, spec.size, isa, spec.padding)
    target = layout(spec.c_out, spec.size_out, isa, border)
    return Convolution(spec=spec, source=source, target=target, tile=tile, **options)


SPECS = {
    "a pointwise layer": ConvSpec(19, 21, 1, (7, 5)),
    "a pointwise layer of whole panels": ConvSpec(32, 48, 1, (4, 6)),
    "one channel in, one out": ConvSpec(1, 1, 3, (5, 5), padding=1),
    "a strided pointwise layer": ConvSpec(16, 9, 1, (9, 7), stride=2),
    "a dense 3×3": ConvSpec(11, 18, 3, (9, 8), padding=1),
    "a strided 5×5": ConvSpec(9, 17, 5, (13, 11), stride=2, padding=2),
    "a dilated 3×3": ConvSpec(8, 16, 3, (11, 9), dilation=(2, 3), padding=(2, 3)),
    "a spatial 3×1": ConvSpec(17, 8, (3, 1), (9, 7), padding=(1, 0), stride=(2, 1)),
    "a spatial 1×7": ConvSpec(8, 13, (1, 7), (5, 12), padding=(0, 3)),
    "an uneven border": ConvSpec(8, 8, 3, (6, 6), padding=((0, 1), (2, 1)), stride=2),
    "a linear layer": ConvSpec(70, 33, 1, 1),
    "a linear layer over a map": ConvSpec(20, 30, (3, 4), (3, 4)),
}


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("is_rowwise", [True, False], ids=["by rows", "by tables"])
def test_a_dense_kernel_agrees_with_float64(name: str, is_rowwise: bool, isa: Isa) -> None:
    spec = SPECS[name]
    tile = Tile(pixels=min(4, spec.size_out[1]), vectors=2, block=2)
    agrees(kernel_for(spec, isa, tile, BORDER, is_rowwise=is_rowwise), isa)


@pytest.mark.parametrize("pixels", [1, 3, 6])
@pytest.mark.parametrize("vectors", [1, 2, 3, 5])
def test_every_tile_computes_the_same_layer(pixels: int, vectors: int, isa: Isa) -> None:
    spec = ConvSpec(13, isa.lanes * 7 - 3, 1, (5, 6))
    agrees(kernel_for(spec, isa, Tile(pixels=pixels, vectors=vectors, block=3)), isa)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("turns", [1, 2, 4, 100])
def test_sums_are_kept_between_chunks_of_the_walk(turns: int, kernel: int, isa: Isa) -> None:
    spec = ConvSpec(5 * isa.lanes, 3 * isa.lanes, kernel, (7, 7), padding=kernel // 2)
    beside = layout(spec.c_out, (7, 7), isa, BORDER)
    tile = Tile(pixels=4, vectors=2, block=3, turns=turns)
    for is_rowwise in (True, False):
        options = {"residual": beside, "activation": Activation(kind="relu"), "is_rowwise": is_rowwise}
        agrees(kernel_for(spec, isa, tile, BORDER, **options), isa, threads=2)


@pytest.mark.parametrize("whole", [0, 1, 4])
@pytest.mark.parametrize("vectors", [1, 2, 3])
@pytest.mark.parametrize("turns", [0, 2])
def test_the_last_vector_may_be_half_a_one(whole: int, vectors: int, turns: int, isa: Isa) -> None:
    half = isa.lanes // 2
    for pixels, rest, split in ((2, 1, "pixels"), (6, half, "channels")):
        spec = ConvSpec(5 * isa.lanes, whole * isa.lanes + rest, 1, (7, 7))
        tile = Tile(pixels=pixels, vectors=vectors, block=3, split=split, turns=turns, ends_in_half=True)
        beside = layout(spec.c_out, (7, 7), isa, BORDER)
        for is_rowwise in (True, False):
            options = {"residual": beside, "activation": Activation(kind="relu"), "is_rowwise": is_rowwise}
            agrees(kernel_for(spec, isa, tile, BORDER, **options), isa, threads=2)


@pytest.mark.parametrize("split", ["pixels", "channels"])
@pytest.mark.parametrize("threads", [2, 3, 7])
def test_threads_share_all_of_the_work(split: str, threads: int, isa: Isa) -> None:
    spec = ConvSpec(10, 40, 3, (6, 7), padding=1)
    agrees(kernel_for(spec, isa, Tile(pixels=3, vectors=2, block=2, split=split)), isa, threads=threads)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_an_activation_is_applied_behind_the_residual(kind: str, isa: Isa) -> None:
    spec = ConvSpec(9, 20, 1, (5, 7))
    activation = Activation(kind=kind, low=-0.5 if kind == "clamp" else 0.1, high=0.7)
    beside = layout(20, (5, 7), isa, ((2, 0), (0, 1)))
    options = {"activation": activation, "residual": beside, "is_rowwise": kind != "relu"}
    agrees(kernel_for(spec, isa, Tile(pixels=4, vectors=2, block=9), BORDER, **options), isa)


def test_groups_of_whole_panels_are_computed_apart(isa: Isa) -> None:
    n = isa.lanes
    spec = ConvSpec(3 * n, 6 * n, 3, (6, 5), padding=1, groups=3)
    agrees(kernel_for(spec, isa, Tile(pixels=3, vectors=2, block=4)), isa, threads=2)


def test_groups_that_break_a_panel_are_refused(isa: Isa) -> None:
    from separable.kernels.convolution import write

    kernel = kernel_for(ConvSpec(6, 6, 3, (6, 5), padding=1, groups=3), isa, Tile(pixels=3, vectors=1, block=4))
    with pytest.raises(SpecError, match="groups of whole panels"):
        write(Module(), "refused", kernel, isa)


@pytest.mark.parametrize("kernel", [3, 7])
def test_a_stem_reads_planes_and_channels_last_as_they_are(kernel: int, isa: Isa) -> None:
    spec = ConvSpec(3, 20, kernel, (15, 14), stride=2, padding=kernel // 2)
    target = layout(20, spec.size_out, isa)
    tile = Tile(pixels=4, vectors=2, block=5)
    agrees(Convolution(spec=spec, source=planar(3, (15, 14), spec.padding), target=target, tile=tile), isa)
    bare = ConvSpec(12, 20, 3, (15, 14))
    target = layout(20, bare.size_out, isa)
    agrees(Convolution(spec=bare, source=channels_last(12, (15, 14)), target=target, tile=tile), isa)
    agrees(Convolution(spec=bare, source=planar(12, (15, 14)), target=target, tile=tile), isa)


DEPTHWISE = {
    "3×3": ConvSpec(19, 19, 3, (9, 10), padding=1, groups=19),
    "3×3 at stride 2": ConvSpec(16, 16, 3, (9, 12), padding=1, stride=2, groups=16),
    "5×5 with dilation": ConvSpec(9, 9, 5, (13, 11), padding=4, dilation=2, groups=9),
    "7×7 at stride 3": ConvSpec(8, 8, 7, (17, 19), padding=3, stride=3, groups=8),
    "1×5": ConvSpec(8, 8, (1, 5), (3, 11), padding=(0, 2), groups=8),
    "5×1 without padding": ConvSpec(8, 8, (5, 1), (9, 4), groups=8),
    "an uneven border": ConvSpec(10, 10, 3, (7, 7), padding=((0, 1), (1, 0)), stride=2, groups=10),
    "too large to unroll": ConvSpec(9, 9, 15, (18, 17), padding=7, groups=9),
    "one output": ConvSpec(20, 20, (4, 3), (4, 3), groups=20),
}


@pytest.mark.parametrize("name", DEPTHWISE)
@pytest.mark.parametrize("tile", [(2, 4), (1, 7), (3, 2)], ids=str)
def test_a_depthwise_kernel_agrees_with_float64(name: str, tile: tuple[int, int], isa: Isa) -> None:
    spec = DEPTHWISE[name]
    for split in ("rows", "channels"):
        kernel = Depthwise(
            spec=spec,
            source=layout(spec.c_in, spec.size, isa, spec.padding),
            target=layout(spec.c_out, spec.size_out, isa, BORDER),
            rows=tile[0],
            columns=tile[1],
            split=split,
            activation=Activation(kind="clamp", high=1.5),
        )
        agrees(kernel, isa, threads=2)


@pytest.mark.parametrize("multiplier", [2, 3])
def test_a_multiplier_writes_one_plane_a_filter(multiplier: int, isa: Isa) -> None:
    spec = ConvSpec(11, 11 * multiplier, 3, (6, 7), padding=1, groups=11)
    width = -(-11 // isa.lanes) * isa.lanes
    kernel = Depthwise(
        spec=spec,
        source=layout(11, (6, 7), isa, spec.padding),
        target=layout(width * multiplier, (6, 7), isa),
        rows=2,
        columns=3,
        activation=NONE,
    )
    order = np.array([t * width + c for c in range(11) for t in range(multiplier)])
    agrees(kernel, isa, order=order)


def test_a_depthwise_layer_adds_a_residual(isa: Isa) -> None:
    spec = ConvSpec(9, 9, 3, (5, 6), padding=1, groups=9)
    beside = layout(9, (5, 6), isa, BORDER)
    kernel = Depthwise(
        spec=spec,
        source=layout(9, (5, 6), isa, spec.padding),
        target=layout(9, (5, 6), isa),
        rows=2,
        columns=4,
        residual=beside,
        activation=Activation(kind="relu"),
    )
    agrees(kernel, isa)
