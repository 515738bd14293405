"""Which dense 3×3 layers take fewer multiplications. In: a layer's shapes and layouts. Out: kernels, best first.

Winograd kernels have two to four times the weights in memory, and are offered only where the cost model sees a clear
gain. Measuring then has the last word.
"""

from __future__ import annotations

from collections.abc import Iterator

from separable.kernels.convolution import Convolution, Tile
from separable.kernels.epilogue import Activation
from separable.kernels.isa import Isa
from separable.kernels.layout import ITEM, Layout
from separable.kernels.winograd import Winograd
from separable.runtime.tiles import SHAPES, convolutions, cycles, strip_cycles
from separable.spec import ConvSpec

GAIN = 1.25  # times as fast: the least that a Winograd kernel must promise
OFFERED = 3  # Winograd kernels, so that the best other one is measured with them
SCRATCH_BYTES = (640 * 1024, 256 * 1024)  # on a thread's stack: the smaller unless more is faster
TRANSFORMED = 4.5  # cycles for a vector at each pair of points, from the input or to the output
FROM_MEMORY = 6.0  # bytes of weights a cycle


def dense(
    spec: ConvSpec,
    maps: tuple[Layout, Layout, Layout | None],
    activation: Activation,
    isa: Isa,
    threads: int,
) -> list[Convolution | Winograd]:
    """The kernels for a layer that is no link of a chain; ``maps`` are source, target and residual."""
    plain = convolutions(spec, maps, activation, isa, threads)
    fewer = winograds(spec, maps, activation, isa, threads)
    if not fewer or GAIN * winograd_cycles(fewer[0], isa, threads) > cycles(plain[0], isa, threads):
        return [*plain]
    return [*fewer[:OFFERED], *plain]


def winograds(
    spec: ConvSpec,
    maps: tuple[Layout, Layout, Layout | None],
    activation: Activation,
    isa: Isa,
    threads: int,
) -> list[Winograd]:
    """The best kernel of each shape with fewer multiplications, best first; none for other layers."""
    source, target, residual = maps
    is_dense = (spec.kernel, spec.stride, spec.dilation, spec.groups) == ((3, 3), (1, 1), (1, 1), 1)
    if not is_dense or source.lanes != isa.lanes:
        return []
    kernels = [
        Winograd(
            spec=spec,
            source=source,
            target=target,
            width=width,
            tile=tile,
            activation=activation,
            residual=residual,
        )
        for width in (4, 2)
        if min(spec.size_out) >= width
        for tile in _tiles(spec, width, isa, threads)
    ]
    kernels.sort(key=lambda kernel: winograd_cycles(kernel, isa, threads), reverse=True)
    best = {(kernel.width, kernel.tile.pixels, kernel.tile.vectors): kernel for kernel in kernels}
    return sorted(best.values(), key=lambda kernel: winograd_cycles(kernel, isa, threads))


def winograd_cycles(kernel: Winograd, isa: Isa, threads: int) -> float:
    """Predicted cycles of the busiest thread, times the threads."""
    spec, tile, squared = kernel.spec, kernel.tile, kernel.points**2
    tiles = kernel.tiles[0] * kernel.tiles[1]
    full, rest = divmod(kernel.target.panels, tile.vectors)
    strips = full * strip_cycles(tile.pixels, tile.vectors, spec.c_in, isa)
    strips += strip_cycles(tile.pixels, rest, spec.c_in, isa) if rest else 0.0
    products = squared * strips * kernel.blocks * -(-tiles // kernel.blocks // tile.pixels)
    weights = ITEM * squared * spec.c_in * kernel.padded_channels(isa) * kernel.blocks
    gathers = threads if tile.split == "channels" else 1
    vectors = tiles * squared * (kernel.source.panels * gathers + kernel.target.panels)
    units = kernel.strips if tile.split == "channels" else kernel.blocks
    even = -(-units // threads) * threads / units
    return max(products, weights / FROM_MEMORY) * even + TRANSFORMED * vectors


def _tiles(spec: ConvSpec, width: int, isa: Isa, threads: int) -> Iterator[Tile]:
    """Blocks of even size, as many for each thread, that the scratch memory holds."""
    panels_in, panels_out = (-(-c // isa.lanes) for c in (spec.c_in, spec.c_out))
    tiles = -(-spec.size_out[0] // width) * -(-spec.size_out[1] // width)
    squared = (width + 2) ** 2
    inputs = spec.c_in * spec.size[0] * spec.size[1]
    for pixels, vectors in dict.fromkeys((p, min(v, panels_out)) for p, v in SHAPES[isa.registers]):
        is_by_channels = threads > 1 and spec.weights > inputs and -(-panels_out // vectors) >= 2 * threads
        together = 1 if is_by_channels else threads
        a_tile = squared * isa.lanes * ITEM * (panels_in + vectors)
        for room in SCRATCH_BYTES:
            held = room // (a_tile * pixels) * pixels
            if not held:
                continue
            blocks = -(-tiles // (held * together)) * together
            groups = -(-tiles // (blocks * pixels))
            split = "channels" if is_by_channels else "pixels"
            yield Tile(pixels=pixels, vectors=vectors, block=groups, split=split)
