"""Which tile a layer gets. In: a layer's shapes and layouts. Out: kernels to choose from, best first by a cost model.

The model counts cycles of a core with two multiply-adds and two vector loads a cycle and a latency of four: Zen 3 and
4, Intel since Haswell. It need not be right, only put the best among the first few: measuring does the rest.
"""

from __future__ import annotations

from collections.abc import Iterator

from separable.kernels.convolution import Convolution, Tile
from separable.kernels.depthwise import Depthwise
from separable.kernels.epilogue import Activation
from separable.kernels.isa import Isa
from separable.kernels.layout import ITEM, Layout
from separable.spec import ConvSpec

LATENCY, TILE_OVERHEAD = 4.0, 14.0
BLOCK_BYTES = 128 * 1024  # of input that stays in the second-level cache while all channels are computed from it
SHAPES = {
    16: ((4, 2), (5, 2), (6, 2), (4, 3), (3, 3), (2, 4), (2, 5), (1, 8), (1, 10), (8, 1), (12, 1), (10, 1)),
    32: (
        (14, 1),
        (14, 2),
        (7, 3),
        (7, 4),
        (6, 4),
        (5, 5),
        (8, 2),
        (8, 3),
        (4, 4),
        (4, 6),
        (2, 8),
        (1, 8),
        (1, 12),
        (12, 2),
    ),
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
            found.append((cycles(kernel, threads), kernel))
    return [kernel for _, kernel in sorted(found, key=lambda pair: pair[0])]


def cycles(kernel: Convolution, threads: int) -> float:
    """Predicted cycles of the slowest thread."""
    spec, tile = kernel.spec, kernel.tile
    depth = spec.c_in // spec.groups * spec.kernel[0] * spec.kernel[1]
    rows = kernel.target.pixels // kernel.columns
    pixel_tiles = rows * -(-kernel.columns // tile.pixels)
    full, rest = divmod(kernel.per_group[1], tile.vectors)
    shares = {"pixels": pixel_tiles, "channels": (full + bool(rest)) * spec.groups}
    imbalance = -(-shares[tile.split] // threads) * threads / shares[tile.split]
    addressing = 0.0 if kernel.is_flat or kernel.is_rowwise else 2.0 * tile.pixels
    a_strip = _strip(tile.pixels, tile.vectors, depth) + addressing
    total = full * a_strip + (rest and _strip(tile.pixels, rest, depth) + addressing)
    return spec.groups * pixel_tiles * total * imbalance / threads


def depthwise(
    spec: ConvSpec,
    maps: tuple[Layout, Layout, Layout | None],
    activation: Activation,
    isa: Isa,
    threads: int,
) -> list[Depthwise]:
    """The kernels for a depthwise layer, in the order in which they were best on most layers."""
    source, target, residual = maps
    shapes = (
        ((2, 4), (1, 7), (2, 3), (2, 5), (3, 3)) if max(spec.stride) == 1 else ((2, 2), (1, 7), (2, 3), (1, 4), (2, 4))
    )
    if isa.registers == 32:
        shapes = (
            ((2, 4), (2, 7), (1, 7), (3, 4), (2, 5))
            if max(spec.stride) == 1
            else ((2, 2), (2, 4), (1, 7), (2, 3), (2, 7))
        )
    out_h, out_w = spec.size_out
    panels = source.panels * (spec.c_out // spec.c_in)
    found = []
    for rows, columns in dict.fromkeys((min(r, out_h), min(c, out_w)) for r, c in shapes):
        row_tiles = -(-out_h // rows)
        waste = {s: -(-n // threads) * threads / n for s, n in (("rows", row_tiles), ("channels", panels))}
        split = "rows" if waste["rows"] <= 1.05 or waste["rows"] <= waste["channels"] else "channels"
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
    panels_out = -(-spec.c_out // spec.groups // isa.lanes)
    depth = spec.c_in // spec.groups * spec.kernel[0] * spec.kernel[1]
    for pixels, vectors in dict.fromkeys((p, min(v, panels_out)) for p, v in SHAPES[isa.registers]):
        if spec.groups > 1 and panels_out % vectors:
            continue
        block = max(1, BLOCK_BYTES // (ITEM * depth * pixels))
        for split in ("pixels", "channels") if threads > 1 else ("pixels",):
            yield Tile(pixels=pixels, vectors=vectors, block=block, split=split)


def _strip(pixels: int, vectors: int, depth: int) -> float:
    """Cycles of one tile: multiply-adds, loads or latency, whichever is most; then its beginning and end."""
    accumulators = pixels * vectors
    a_step = max(accumulators / 2, (pixels + vectors) / 2, LATENCY * accumulators / max(accumulators, 2 * LATENCY))
    a_step = max(a_step, LATENCY) if accumulators < 2 * LATENCY else a_step
    return depth * a_step + 1.5 * accumulators + TILE_OVERHEAD
