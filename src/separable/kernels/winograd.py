"""Dense 3×3 layers with fewer multiplications (Winograd 1980). In: shapes, layouts, tile. Out: IR, packed weights.

An output tile of m × m pixels takes (m + 2)² multiplications for each pair of channels instead of 9·m². The values of
the input at pairs of points, and the pixels of the output, are formed by vector code along the channels; between them
stands a matrix product for each pair of points, over the channels.

Tiles at the lower and right edge go back until they lie inside, and store only what no other tile does. A number that
is not finite spreads over its tiles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from separable.errors import SpecError
from separable.kernels.convolution import (
    BIAS,
    LINE_BYTES,
    MAX_AHEAD,
    RESIDUAL,
    SIGNATURE,
    SOURCE,
    TARGET,
    WEIGHTS,
    Floats,
    Tile,
)
from separable.kernels.epilogue import NONE, Activation, activate
from separable.kernels.ir import Function, Index, Module, Value, constant, vector
from separable.kernels.isa import Isa
from separable.kernels.layout import ITEM, Layout
from separable.kernels.winograd_points import filter_values, input_values, output_pixels
from separable.spec import ConvSpec


@dataclass(frozen=True, kw_only=True)
class Winograd:
    """One dense 3×3 convolution of stride 1 as a kernel; the source brings a border as wide as the padding.

    ``width`` of an output tile is 2 or 4. ``tile.pixels`` counts output tiles that are summed side by side,
    ``tile.block`` such groups whose inputs are kept at once.
    """

    spec: ConvSpec
    source: Layout
    target: Layout
    width: int
    tile: Tile
    activation: Activation = NONE
    residual: Layout | None = None

    @property
    def points(self) -> int:
        """Along one axis."""
        return self.width + 2

    @property
    def tiles(self) -> tuple[int, int]:
        """Output tiles down and across."""
        h, w = self.spec.size_out
        return -(-h // self.width), -(-w // self.width)

    @property
    def capacity(self) -> int:
        """Tiles of a block."""
        return self.tile.pixels * self.tile.block

    @property
    def blocks(self) -> int:
        """Of tiles, the last one with what is left."""
        return -(-self.tiles[0] * self.tiles[1] // self.capacity)

    @property
    def strips(self) -> int:
        """Of output channels, ``tile.vectors`` vectors each, the last one with what is left."""
        return -(-self.target.panels // self.tile.vectors)

    @property
    def kept_bytes(self) -> int:
        """Of a block's values at one pair of points: [panel][tile][lanes]."""
        return _odd_lines(self.source.panels * self.capacity * self.source.lanes * ITEM)

    @property
    def product_bytes(self) -> int:
        """Of a block's products with one strip at one pair of points: [tile][vector][lanes]."""
        return _odd_lines(self.capacity * self.tile.vectors * self.target.lanes * ITEM)

    @property
    def scratch_bytes(self) -> int:
        """What a thread keeps on its stack."""
        return self.points**2 * (self.kept_bytes + self.product_bytes + self.source.lanes * ITEM)

    def padded_channels(self, isa: Isa) -> int:
        """Output channels padded to whole panels."""
        return self.target.panels * isa.lanes

    def pack(self, weight: Floats, isa: Isa, into: Floats | None = None) -> Floats:
        """The values of the weights (c_out, c_in, 3, 3): [strip][point][point][c_in][channel of the strip].

        They are formed in float64 and rounded once. ``into``: zeros, a place for them.
        """
        along, c_in, wide = filter_values(self.width), self.spec.c_in, self.tile.vectors * isa.lanes
        to_values, size = np.kron(along, along), self.points**2 * c_in
        packed = np.zeros(size * self.padded_channels(isa), np.float32) if into is None else into
        for first in range(0, self.spec.c_out, wide):
            filters = weight[first : first + wide].reshape(-1, 9).astype(np.float64)
            values = (to_values @ filters.T).reshape(len(to_values), -1, c_in).transpose(0, 2, 1)
            room = packed[size * first : size * (first + wide)].reshape(len(to_values), c_in, -1)
            room[..., : values.shape[2]] = values
        return packed

    def pack_bias(self, bias: Floats, isa: Isa) -> Floats:
        """The bias padded to whole panels."""
        return np.pad(bias, (0, self.padded_channels(isa) - len(bias))).astype(np.float32)


def _odd_lines(size: int) -> int:
    """An odd number of cache lines: what lies so far apart does not meet in one set of the cache."""
    return (-(-size // LINE_BYTES) | 1) * LINE_BYTES


def write(module: Module, name: str, kernel: Winograd, isa: Isa) -> None:
    """The function ``name(arguments, share, shares, image)``; ``arguments`` as for a convolution."""
    spec = kernel.spec
    if (spec.kernel, spec.stride, spec.dilation, spec.groups) != ((3, 3), (1, 1), (1, 1), 1):
        raise SpecError("Winograd", given=str(spec), expected="a dense 3×3 layer, stride 1")
    if min(spec.size_out) < kernel.width or kernel.source.lanes != isa.lanes or kernel.source.ring:
        raise SpecError("Winograd", given=str(spec), expected=f"a map in panels, at least {kernel.width} wide and high")
    module.function(name, SIGNATURE, _Emitter(kernel, isa).write)


class _Emitter:
    def __init__(self, kernel: Winograd, isa: Isa) -> None:
        self.kernel, self.isa, self.tile = kernel, isa, kernel.tile
        self.kind, self.vector_bytes = vector(isa.lanes), isa.lanes * ITEM
        self.full, self.rest = divmod(kernel.target.panels, self.tile.vectors)

    def write(self, f: Function, parameters: list[Value]) -> None:
        arguments, share, shares, _ = parameters
        self.f, kernel = f, self.kernel
        self.pointers = [f.load("ptr", arguments, 8 * i) for i in range(5)]
        self.kept, self.products, self.between = (
            f.raw(f"alloca [{kernel.points**2 * size} x i8], align 64", "ptr")
            for size in (kernel.kept_bytes, kernel.product_bytes, self.vector_bytes)
        )
        is_by_channels = self.tile.split == "channels"
        count = kernel.strips if is_by_channels else kernel.blocks
        span = (f.div(f.mul(share, count), shares), f.div(f.mul(f.add(share, 1), count), shares))
        blocks, strips = ((0, kernel.blocks), span) if is_by_channels else (span, (0, kernel.strips))
        self._loop(*blocks, lambda block: self._block(block, strips))

    def _block(self, block: Value, strips: tuple[Index, Index]) -> None:
        f, (down, across) = self.f, self.kernel.tiles
        first = f.mul(block, self.kernel.capacity)
        count = f.least(f.sub(down * across, first), self.kernel.capacity)
        self._gather(first, count)

        def strip(n: Value) -> None:
            if self.full:
                f.when(f.compare("slt", n, self.full), lambda: self._strip(first, count, n, self.tile.vectors))
            if self.rest:
                f.when(f.compare("sge", n, self.full), lambda: self._strip(first, count, n, self.rest))

        self._loop(*strips, strip)

    # -- values of the input ------------------------------------------------------------------------------

    def _gather(self, first: Index, count: Index) -> None:
        """The values of a block's input tiles: along rows first, then along columns."""
        f, kernel, n = self.f, self.kernel, self.kernel.points
        (top, _), (left, _) = kernel.spec.padding
        corner = f.at(self.pointers[SOURCE], kernel.source.offset(-top, -left))

        def tile(p: Value, t: Value) -> None:
            y, x, _, _ = self._place(f.add(first, t))
            source = self._pixel(corner, kernel.source, (p, y, x))
            kept = f.at(self.kept, f.mul(f.add(f.mul(p, kernel.capacity), t), self.vector_bytes))

            def row(i: Value) -> None:
                start = f.at(source, f.mul(i, ITEM * kernel.source.row))
                out = f.at(self.between, f.mul(i, n * self.vector_bytes))
                self._store(input_values(f, self._load(start, ITEM * kernel.source.pixel)), out, self.vector_bytes)

            def column(j: Value) -> None:
                start = f.at(self.between, f.mul(j, self.vector_bytes))
                out = f.at(kept, f.mul(j, kernel.kept_bytes))
                self._store(input_values(f, self._load(start, n * self.vector_bytes)), out, n * kernel.kept_bytes)

            self._loop(0, n, row)
            self._loop(0, n, column)

        self._loop(0, kernel.source.panels, lambda p: self._loop(0, count, lambda t: tile(p, t)))

    # -- products -----------------------------------------------------------------------------------------

    def _strip(self, first: Index, count: Index, n: Index, vectors: int) -> None:
        """All products of a block with one strip of weights, and the pixels from them."""
        f, kernel, R = self.f, self.kernel, self.tile.pixels
        whole, of_a_turn = kernel.spec.c_in // self.isa.lanes, vectors * self.vector_bytes
        size = kernel.spec.c_in * of_a_turn
        of_a_strip = kernel.points**2 * kernel.spec.c_in * self.tile.vectors * self.vector_bytes
        weights, lines = f.at(self.pointers[WEIGHTS], f.mul(n, of_a_strip)), self._lines_ahead(size)

        def point(k: Value) -> None:
            run = f.at(weights, f.mul(k, size))
            kept, products = (
                f.at(self.kept, f.mul(k, kernel.kept_bytes)),
                f.at(self.products, f.mul(k, kernel.product_bytes)),
            )

            def group(t: Value) -> None:
                ahead = f.at(run, f.add(f.mul(f.div(t, R), whole * lines * LINE_BYTES), size))
                sums = self._product(f.at(kept, f.mul(t, self.vector_bytes)), (run, ahead, lines), vectors)
                self._store(sums, f.at(products, f.mul(t, of_a_turn)), self.vector_bytes)

            self._loop(0, count, group, step=R)

        self._loop(0, kernel.points**2, point)
        panel = f.mul(n, self.tile.vectors)
        self._loop(
            0, vectors, lambda v: self._outputs(first, count, f.add(panel, v), f.mul(v, self.vector_bytes), of_a_turn)
        )

    def _lines_ahead(self, size: int) -> int:
        """Lines of the next point's weights that each turn asks for.

        Few tiles use each weight few times. Asking early took 512 channels on 7×7 from 1.3 to 1.9 times the speed of
        the implicit GEMM.
        """
        groups = -(-min(self.kernel.capacity, self.kernel.tiles[0] * self.kernel.tiles[1]) // self.tile.pixels)
        room = LINE_BYTES * groups * max(1, self.kernel.spec.c_in // self.isa.lanes)
        return min(MAX_AHEAD, -(-size // room)) if 2 * size >= room else 0

    def _product(self, kept: Value, strip: tuple[Value, Value, int], vectors: int) -> list[Value]:
        """A group of tiles summed over the input channels.

        ``strip``: its weights, where to fetch ahead, and how many lines a turn.
        """
        f, R, (weights, ahead, lines) = self.f, self.tile.pixels, strip
        whole, rest = divmod(self.kernel.spec.c_in, self.isa.lanes)
        of_a_turn = vectors * self.vector_bytes

        def panel(p: Index, channels: int, sums: list[Value]) -> list[Value]:
            values = f.at(kept, f.mul(p, self.kernel.capacity * self.vector_bytes))
            run = f.at(weights, f.mul(p, self.isa.lanes * of_a_turn))
            for line in range(lines):
                f.prefetch(ahead, f.add(f.mul(p, lines * LINE_BYTES), line * LINE_BYTES))
            for c in range(channels):
                b = [f.load(self.kind, run, c * of_a_turn + v * self.vector_bytes) for v in range(vectors)]
                for t in range(R):
                    a = f.splat(f.load("float", values, t * self.vector_bytes + c * ITEM), self.isa.lanes)
                    for v in range(vectors):
                        sums[t * vectors + v] = f.fma(a, b[v], sums[t * vectors + v])
            return sums

        sums = [constant(0.0, self.isa.lanes)] * (R * vectors)
        if whole:
            sums = f.loop(0, whole, lambda p, sums: panel(p, self.isa.lanes, sums), carried=sums)
        return panel(whole, rest, sums) if rest else sums

    # -- pixels of the output -----------------------------------------------------------------------------

    def _outputs(self, first: Index, count: Index, panel: Index, offset: Index, of_a_tile: int) -> None:
        """The tiles of one panel, from the products that begin at ``offset`` and lie ``of_a_tile`` bytes apart."""
        f, kernel, n = self.f, self.kernel, self.kernel.points
        bias = f.load(self.kind, self.pointers[BIAS], f.mul(panel, self.vector_bytes))

        def tile(t: Value) -> None:
            products = f.at(self.products, f.add(f.mul(t, of_a_tile), offset))

            def column(j: Value) -> None:
                start = f.at(products, f.mul(j, kernel.product_bytes))
                out = f.at(self.between, f.mul(j, self.vector_bytes))
                self._store(output_pixels(f, self._load(start, n * kernel.product_bytes)), out, n * self.vector_bytes)

            self._loop(0, n, column)
            self._rows(panel, bias, self._place(f.add(first, t)))

        self._loop(0, count, tile)

    def _rows(self, panel: Index, bias: Value, place: tuple[Index, Index, Index, Value | None]) -> None:
        """The rows and columns of a tile that are its own, finished and stored."""
        f, kernel, (y, x, begin, is_whole) = self.f, self.kernel, place
        beside = kernel.residual
        others = kernel.tiles[1] * kernel.width - kernel.spec.size_out[1]  # columns of the tile before the last one's

        def row(i: Value) -> None:
            pixels = output_pixels(
                f, self._load(f.at(self.between, f.mul(i, kernel.points * self.vector_bytes)), self.vector_bytes)
            )
            where = (panel, f.add(y, i), x)
            out = self._pixel(f.at(self.pointers[TARGET], kernel.target.offset()), kernel.target, where)
            if beside is not None:
                added = self._pixel(f.at(self.pointers[RESIDUAL], beside.offset()), beside, where)

            def store(columns: range) -> None:
                for j in columns:
                    value = f.float("fadd", pixels[j], bias)
                    if beside is not None:
                        value = f.float("fadd", value, f.load(self.kind, added, ITEM * j * beside.pixel))
                    f.store(activate(f, kernel.activation, value), out, ITEM * j * kernel.target.pixel)

            store(range(others, kernel.width))
            if is_whole is not None:
                f.when(is_whole, lambda: store(range(others)))

        self._loop(begin, kernel.width, row)

    # -- addresses ----------------------------------------------------------------------------------------

    def _place(self, tile: Index) -> tuple[Index, Index, Index, Value | None]:
        """Of a tile: its first row and column, the first row that is its own, and whether all columns are."""
        f, m, across, (h, w) = self.f, self.kernel.width, self.kernel.tiles[1], self.kernel.spec.size_out
        y, x = f.mul(f.div(tile, across), m), f.mul(f.rem(tile, across), m)
        begin = f.most(f.sub(y, h - m), 0) if h % m else 0
        is_whole = f.compare("sle", x, w - m) if w % m else None
        return f.least(y, h - m) if h % m else y, f.least(x, w - m) if w % m else x, begin, is_whole

    def _pixel(self, start: Value, layout: Layout, at: tuple[Index, Index, Index]) -> Value:
        """The address of pixel (panel, y, x) of the map whose first begins at ``start``."""
        f, (panel, y, x) = self.f, at
        floats = f.add(f.add(f.mul(panel, layout.panel), f.mul(y, layout.row)), f.mul(x, layout.pixel))
        return f.at(start, f.mul(floats, ITEM))

    def _load(self, start: Value, stride: int) -> list[Value]:
        return [self.f.load(self.kind, start, i * stride) for i in range(self.kernel.points)]

    def _store(self, values: list[Value], start: Value, stride: int) -> None:
        for i, value in enumerate(values):
            self.f.store(value, start, i * stride)

    def _loop(self, start: Index, stop: Index, body: Callable[[Value], None], *, step: Index = 1) -> None:
        def turn(i: Value, _: list[Value]) -> list[Value]:
            body(i)
            return []

        self.f.loop(start, stop, turn, step=step)
