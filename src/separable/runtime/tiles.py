"""Which tile a layer gets. In: a layer's shapes and layouts. Out: kernels to choose from, best first by a cost model.

The model counts cycles of a core with two multiply-adds and two vector loads a cycle: Zen 2 and later, Intel since
Haswell. It need not be right, only put the best among the first few: measuring does the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import pairwise

from separable.kernels.catalogue import Kernel
from separable.kernels.chain import Chain
from separable.kernels.convolution import Convolution, Tile, channels_a_turn
from separable.kernels.depthwise import Depthwise
from separable.kernels.epilogue import Activation
from separable.kernels.isa import Isa
from separable.kernels.layout import ITEM, Layout
from separable.kernels.moving import Move
from separable.kernels.products import Products
from separable.spec import ConvSpec

TILE_OVERHEAD = 14.0  # cycles to begin and end a tile
STREAMED = 1.04  # more cycles where weights come from the second-level cache
FIRST_LEVEL, CHUNK_BYTES = 32 * 1024, 24 * 1024  # the cache, and what of it weights may take
BLOCK_BYTES = 128 * 1024  # of input that stays in the second-level cache while all channels are computed from it
SHARES, SHARE_MACS = 8, 100_000  # of a step for each thread, and the least worth claiming: some two microseconds
CHAIN_ROWS = 14  # of the last map, the least that a thread claims of a chain
MOVED_ROWS = 28  # of a map, the least that a thread claims of a copy: it runs through so many of each channel
# Registers → (pixels, vectors) and the share of the peak that the inner loop reaches, measured on Zen 3 and Zen 4.
SHAPES = {
    16: {
        (4, 3): 0.98,
        (6, 2): 0.98,
        (5, 2): 0.97,
        (4, 2): 0.97,
        (3, 3): 0.92,
        (2, 4): 0.90,
        (8, 1): 0.80,
        (1, 8): 0.60,
        (1, 10): 0.60,
    },
    32: {
        (14, 2): 0.93,
        (12, 2): 0.94,
        (10, 2): 0.94,
        (8, 2): 0.95,
        (7, 2): 0.95,
        (14, 1): 0.98,
        (12, 1): 0.98,
        (8, 3): 0.98,
        (7, 3): 0.99,
        (7, 4): 0.96,
        (6, 4): 0.98,
        (5, 4): 0.99,
        (4, 4): 0.99,
        (4, 5): 0.99,
        (5, 5): 0.96,
        (4, 6): 0.91,
        (2, 8): 0.89,
        (1, 8): 0.60,
        (1, 12): 0.60,
    },
}


def convolutions(
    spec: ConvSpec,
    maps: tuple[Layout, Layout, Layout | None],
    activation: Activation,
    isa: Isa,
    threads: int,
) -> list[Convolution]:
    """The kernels for a dense, grouped, pointwise or linear layer; ``maps`` are source, target and residual."""
    source, target, residual = maps
    found: list[tuple[float, Convolution]] = []
    for tile in _tiles(spec, isa, threads):
        for is_rowwise in (True, False):
            kernel = Convolution(
                spec=spec,
                source=source,
                target=target,
                tile=tile,
                activation=activation,
                residual=residual,
                is_rowwise=is_rowwise,
            )
            if tile.pixels > kernel.columns or (kernel.is_flat and not is_rowwise):
                continue
            found.append((cycles(kernel, isa, threads), kernel))
    return [kernel for _, kernel in sorted(found, key=lambda pair: pair[0])]


def cycles(kernel: Convolution, isa: Isa, threads: int) -> float:
    """Predicted cycles of the busiest thread, times the threads."""
    spec, tile = kernel.spec, kernel.tile
    depth = spec.c_in // spec.groups * spec.kernel[0] * spec.kernel[1]
    addressing = 0.0 if kernel.is_flat or kernel.is_rowwise else 2.0 * tile.pixels
    is_streamed = not tile.turns and depth * tile.vectors * isa.lanes * ITEM > FIRST_LEVEL
    total = sum(
        strip_cycles(tile.pixels, width - is_halved / 2, depth, isa) + addressing
        for width, is_halved in kernel.strips.kinds
    )
    total *= STREAMED if is_streamed else 1.0
    return spec.groups * _pixel_tiles(kernel) * total * imbalance(kernel, threads)


def imbalance(kernel: Kernel | Products, threads: int) -> float:
    """How many times as long the busiest thread takes as if all had as much."""
    match kernel:
        case Convolution() | Products() if kernel.tile.split == "channels":
            widths = [width for width, _ in kernel.strips.kinds] * kernel.spec.groups
            bounds = [t * len(widths) // threads for t in range(threads + 1)]
            most = max(sum(widths[first:last]) for first, last in pairwise(bounds))
            return most * threads / sum(widths)
        case Products():  # the last block may be smaller
            return threads * min(1.0, -(-kernel.blocks // threads) * kernel.capacity / kernel.units)
        case Convolution():
            units = _pixel_tiles(kernel)
        case Depthwise() if kernel.split == "channels":
            units = kernel.source.panels * kernel.multiplier
        case Depthwise():
            units = -(-kernel.spec.size_out[0] // kernel.rows)
        case Chain():
            units = kernel.row_tiles
        case _:
            return 1.0
    return -(-units // threads) * threads / units


def strip_cycles(pixels: int, vectors: float, depth: int, isa: Isa) -> float:
    """Cycles of one tile: multiply-adds, or the latency of four where too few are independent; its beginning and end.

    A strip that is narrower than others need not be in the list of shapes.
    """
    share = SHAPES[isa.registers].get((pixels, math.ceil(vectors)), 0.85)
    passes = pixels * vectors * isa.passes
    return depth * max(passes / 2 / share, 4.0, (pixels + vectors * isa.passes) / 2) + 1.5 * passes + TILE_OVERHEAD


def shares(kernel: Kernel, threads: int) -> int:
    """Into how many parts a step is cut that threads claim; more than threads, so that a slow one does fewer."""
    if threads == 1:
        return 1
    match kernel:
        case Convolution() if kernel.tile.split == "channels":
            units, macs = kernel.strips.count * kernel.spec.groups, kernel.spec.macs
        case Convolution():
            # Each share reads all weights: once for some tiles, and once a block where the cache does not hold them.
            worth = kernel.tile.block if kernel.spec.weights * ITEM > BLOCK_BYTES else 8
            units, macs = max(2 * threads, _pixel_tiles(kernel) // worth), kernel.spec.macs
        case Products():  # each share of the channels gathers the whole input
            return threads if kernel.tile.split == "channels" else min(kernel.blocks, SHARES * threads)
        case Depthwise() if kernel.split == "channels":
            units, macs = kernel.source.panels * kernel.multiplier, kernel.spec.macs
        case Depthwise():
            units, macs = -(-kernel.spec.size_out[0] // kernel.rows), kernel.spec.macs
        case Chain():  # two shares compute some rows of the maps between twice
            rows = max(kernel.rows, CHAIN_ROWS)
            return threads * max(1, min(SHARES, kernel.spec.size_out[0] // threads // rows))
        case Move():
            units = kernel.source.height // MOVED_ROWS if kernel.is_by_rows else kernel.source.panels
            macs = SHARE_MACS * units
        case _:
            return threads
    return threads * max(1, min(SHARES, units // threads, macs // SHARE_MACS // threads))


def is_by_rows(kernel: Kernel) -> bool:
    """Whether shares are parts of the map, and not of the channels."""
    match kernel:
        case Convolution() | Products():
            return kernel.tile.split == "pixels"
        case Depthwise():
            return kernel.split == "rows"
        case Move():
            return kernel.is_by_rows
        case Chain():
            return True
        case _:
            return False


def depthwise(
    spec: ConvSpec,
    maps: tuple[Layout, Layout, Layout | None],
    activation: Activation,
    isa: Isa,
    threads: int,
    before: Kernel | None = None,
) -> list[Depthwise]:
    """The kernels for a depthwise layer, in the order in which they were best on most layers.

    Threads share it out as ``before``, what wrote its input: each reads what it has in its own cache.
    """
    source, target, residual = maps
    by_rows = spec.size_out[0] >= 8 * threads if before is None else is_by_rows(before)
    shapes = (
        ((2, 4), (1, 7), (2, 3), (2, 5), (3, 3)) if max(spec.stride) == 1 else ((2, 2), (1, 7), (2, 3), (1, 4), (2, 4))
    )
    if isa.registers == 32:
        shapes = (
            ((2, 4), (2, 5), (1, 7), (2, 7), (2, 3))
            if max(spec.stride) == 1
            else ((2, 4), (1, 7), (4, 4), (2, 2), (2, 7))
        )
    out_h, out_w = spec.size_out
    found = []
    for rows, columns in dict.fromkeys((min(r, out_h), min(c, out_w)) for r, c in shapes):
        split = "rows" if by_rows and -(-out_h // rows) >= 2 * threads else "channels"
        found.append(
            Depthwise(
                spec=spec,
                source=source,
                target=target,
                rows=rows,
                columns=columns,
                activation=activation,
                residual=residual,
                split=split,
            )
        )
    return found


def _tiles(spec: ConvSpec, isa: Isa, threads: int) -> Iterator[Tile]:
    """Threads share out channels where the weights are more than the input: each reads all of the other one."""
    panels_out = -(-spec.c_out // spec.groups // isa.lanes)
    inputs = spec.c_in * spec.size[0] * spec.size[1]
    of_a_pixel = ITEM * spec.c_in // spec.groups * spec.stride[0] * spec.stride[1]
    count = spec.size_out[0] * spec.size_out[1]
    ends_in_half = isa.passes > 1 and 0 < spec.c_out // spec.groups % isa.lanes <= isa.lanes // 2
    for pixels, vectors in shapes(panels_out, isa):
        strips = -(-panels_out // vectors) * spec.groups
        if spec.groups > 1 and panels_out % vectors:
            continue
        split = "channels" if threads > 1 and spec.weights > inputs and strips >= 2 * threads else "pixels"
        if spec.size_out == (1, 1) and strips >= threads:
            split = "channels"
        tiles = -(-count // pixels)
        block = -(-tiles // -(-tiles * pixels * of_a_pixel // BLOCK_BYTES))  # even ones
        for turns in _chunks(spec, vectors, isa) if block > 1 else (0,):
            yield Tile(pixels=pixels, vectors=vectors, block=block, split=split, turns=turns, ends_in_half=ends_in_half)


def shapes(panels_out: int, isa: Isa) -> Iterable[tuple[int, int]]:
    """(pixels, vectors) of the tiles for so many panels, each with the vectors of its widest strip."""
    return dict.fromkeys((p, -(-panels_out // -(-panels_out // v))) for p, v in SHAPES[isa.registers])


def _chunks(spec: ConvSpec, vectors: int, isa: Isa) -> tuple[int, ...]:
    """The walk in one go, and where its weights are more than the first-level cache holds also in even parts."""
    channels, taps = spec.c_in // spec.groups, spec.kernel[0] * spec.kernel[1]
    size = channels * taps * vectors * isa.lanes * ITEM
    if size <= FIRST_LEVEL or channels % isa.lanes:
        return (0,)
    turns = taps * channels // channels_a_turn(isa.lanes)
    return (0, -(-turns // -(-size // CHUNK_BYTES)))


def _pixel_tiles(kernel: Convolution) -> int:
    return kernel.target.pixels // kernel.columns * -(-kernel.columns // kernel.tile.pixels)
