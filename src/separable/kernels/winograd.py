"""Dense 3×3 layers with fewer multiplications (Winograd 1980). In: shapes, layouts, tile. Out: IR, packed weights.

An output tile of m × m pixels needs (m + 2)² multiplications a pair of channels instead of 9·m²: input and filter are
taken as polynomials and multiplied by their values at the points 0, ±p and infinity. Values of the input and pixels of
the output are formed by vector code along the channels; between them stands a matrix product for each pair of points.
With the points ±√2 and ±√½ the error is a quarter of that with the usual ±1 and ±2, and there is less to multiply by.

Tiles at the lower and right edge go back until they lie inside, and store only what no other tile does. A number that
is not finite spreads over its tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
from separable.spec import ConvSpec

SQUARES = {2: (1.0,), 4: (2.0, 0.5)}  # of the points, by the width of an output tile; their product is 1


@dataclass(frozen=True, kw_only=True)
class Winograd:
    """One dense 3×3 convolution of stride 1 as a kernel; the source brings a border as wide as the padding.

    ``width`` of an output tile is 2 or 4. ``tile.pixels`` counts output tiles whose products are summed side by side,
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
        """Along one axis; a tile has their square."""
        return self.width + 2

    @property
    def tiles(self) -> tuple[int, int]:
        """Output tiles down and across."""
        h, w = self.spec.size_out
        return -(-h // self.width), -(-w // self.width)

    @property
    def blocks(self) -> int:
        """How often inputs are gathered."""
        return -(-self.tiles[0] * self.tiles[1] // (self.tile.pixels * self.tile.block))

    @property
    def strips(self) -> int:
        """Runs of ``tile.vectors`` vectors of output channels."""
        return -(-self.target.panels // self.tile.vectors)

    @property
    def scratch_bytes(self) -> int:
        """What a thread keeps: values of a block's inputs, and of its products for one strip."""
        return self.points**2 * (self.kept_bytes + self.product_bytes)

    @property
    def kept_bytes(self) -> int:
        """Of one pair of points: [panel][tile][lanes], an odd number of cache lines, so that no two share a set."""
        return _odd_lines(self.source.panels * self.tile.pixels * self.tile.block * self.source.lanes * ITEM)

    @property
    def product_bytes(self) -> int:
        """Of one pair of points: [tile][vector][lanes]."""
        return _odd_lines(self.tile.pixels * self.tile.block * self.tile.vectors * self.target.lanes * ITEM)

    def padded_channels(self, isa: Isa) -> int:
        """Output channels padded to whole panels."""
        return self.target.panels * isa.lanes

    def pack(self, weight: Floats, isa: Isa) -> Floats:
        """The values of the weights (c_out, c_in, 3, 3) at all points: [strip][point][point][c_in][vectors·lanes]."""
        at, c_in, wide = filter_values(self.width), self.spec.c_in, self.tile.vectors * isa.lanes
        runs = []
        for first in range(0, self.padded_channels(isa), wide):
            channels = min(wide, self.padded_channels(isa) - first)
            values = at @ weight[first : first + channels].astype(np.float64) @ at.T
            run = np.zeros((self.points, self.points, c_in, channels), np.float32)
            run[..., : len(values)] = values.transpose(2, 3, 1, 0)
            runs.append(run.ravel())
        return np.concatenate(runs)

    def pack_bias(self, bias: Floats, isa: Isa) -> Floats:
        """The bias padded to whole panels."""
        return np.pad(bias, (0, self.padded_channels(isa) - len(bias))).astype(np.float32)


def filter_values(width: int) -> NDArray[np.float64]:
    """(points, 3): a row of the filter to its values at the points, over the divisor that interpolation asks for.

    >>> filter_values(2)
    array([[-1. ,  0. ,  0. ],
           [ 0.5,  0.5,  0.5],
           [ 0.5, -0.5,  0.5],
           [ 0. ,  0. ,  1. ]])
    """
    squares = SQUARES[width]
    rows = [[1 / _without(squares, None)[0], 0.0, 0.0]]
    for square in squares:
        point = square**0.5
        divisor = 2 * square * float(np.prod([square - other for other in squares if other != square]))
        rows += [[1 / divisor, sign * point / divisor, square / divisor] for sign in (1, -1)]
    return np.array([*rows, [0.0, 0.0, 1.0]])


def _without(squares: Sequence[float], left_out: float | None) -> list[float]:
    """Coefficients of Π (z − square) over all others, from z⁰ up; the last is 1."""
    return [float(c) for c in np.atleast_1d(np.poly([s for s in squares if s != left_out]))[::-1]]


def _odd_lines(size: int) -> int:
    return (-(-size // LINE_BYTES) | 1) * LINE_BYTES


def write(module: Module, name: str, kernel: Winograd, isa: Isa) -> None:
    """The function ``name(arguments, share, shares, image)``; ``arguments`` as for a convolution."""
    spec = kernel.spec
    if (spec.kernel, spec.stride, spec.dilation, spec.groups) != ((3, 3), (1, 1), (1, 1), 1):
        raise SpecError("Winograd", given=str(spec), expected="a dense 3×3 layer, stride 1")
    if min(spec.size_out) < kernel.width or kernel.source.lanes != isa.lanes or kernel.source.ring:
        raise SpecError(
            "Winograd", given=str(kernel), expected=f"a map in panels, at least {kernel.width} wide and high"
        )
    module.function(name, SIGNATURE, _Emitter(kernel, isa).write)


class _Emitter:
    def __init__(self, kernel: Winograd, isa: Isa) -> None:
        self.kernel, self.isa, self.tile = kernel, isa, kernel.tile
        self.kind, self.vector_bytes = vector(isa.lanes), isa.lanes * ITEM
        self.capacity = self.tile.pixels * self.tile.block
        self.groups = -(-min(self.capacity, kernel.tiles[0] * kernel.tiles[1]) // self.tile.pixels)
        self.full, self.rest = divmod(kernel.target.panels, self.tile.vectors)

    def write(self, f: Function, parameters: list[Value]) -> None:
        arguments, share, shares, _ = parameters
        self.f, kernel = f, self.kernel
        self.pointers = [f.load("ptr", arguments, 8 * i) for i in range(5)]
        squared = kernel.points**2
        self.kept, self.products, self.between = (
            f.raw(f"alloca [{size} x i8], align 64", "ptr")
            for size in (squared * kernel.kept_bytes, squared * kernel.product_bytes, squared * self.vector_bytes)
        )
        count = kernel.strips if self.tile.split == "channels" else kernel.blocks
        is_by_channels = self.tile.split == "channels"
        count = kernel.strips if is_by_channels else kernel.blocks
        span = (f.div(f.mul(share, count), shares), f.div(f.mul(f.add(share, 1), count), shares))
        blocks, strips = ((0, kernel.blocks), span) if is_by_channels else (span, (0, kernel.strips))
        self._loop(*blocks, lambda block: self._block(block, strips))

    def _block(self, block: Value, strips: tuple[Index, Index]) -> None:
        f, (down, across) = self.f, self.kernel.tiles
        first = f.mul(block, self.capacity)
        count = f.least(f.sub(down * across, first), self.capacity)
        self._gather(first, count)

        def strip(n: Value) -> None:
            if self.full:
                f.when(f.compare("slt", n, self.full), lambda: self._strip(first, count, n, self.tile.vectors))
            if self.rest:
                f.when(f.compare("sge", n, self.full), lambda: self._strip(first, count, n, self.rest))

        self._loop(*strips, strip)

    def _strip(self, first: Index, count: Index, n: Index, vectors: int) -> None:
        """All products of a block with one strip of weights, and its outputs."""
        f, kernel = self.f, self.kernel
        point_size = kernel.spec.c_in * vectors * self.vector_bytes
        run = kernel.points**2 * kernel.spec.c_in * self.tile.vectors * self.vector_bytes
        weights = f.at(self.pointers[WEIGHTS], f.mul(n, run))
        lines = self._lines_ahead(point_size)

        def point(k: Value) -> None:
            of_point = f.at(weights, f.mul(k, point_size))
            kept, products = (
                f.at(self.kept, f.mul(k, kernel.kept_bytes)),
                f.at(self.products, f.mul(k, kernel.product_bytes)),
            )

            def group(t: Value) -> None:
                before = f.mul(f.div(t, self.tile.pixels), lines * LINE_BYTES * (kernel.spec.c_in // self.isa.lanes))
                ahead = f.at(of_point, f.add(before, point_size))
                sums = self._product(f.at(kept, f.mul(t, self.vector_bytes)), (of_point, ahead, lines), vectors)
                out = f.at(products, f.mul(t, vectors * self.vector_bytes))
                for i, value in enumerate(sums):
                    f.store(value, out, i * self.vector_bytes)

            self._loop(0, count, group, step=self.tile.pixels)

        self._loop(0, kernel.points**2, point)
        panel = f.mul(n, self.tile.vectors)
        self._loop(0, vectors, lambda v: self._outputs(first, count, f.add(panel, v), (v, vectors)))

    def _lines_ahead(self, size: int) -> int:
        """Lines of the next point's weights that each turn asks for, where the turns are few enough to need it."""
        turns = self.groups * max(1, self.kernel.spec.c_in // self.isa.lanes)
        lines = -(-size // LINE_BYTES)
        return min(MAX_AHEAD, -(-lines // turns)) if 2 * lines >= turns else 0

    def _product(self, kept: Value, strip: tuple[Value, Value, int], vectors: int) -> list[Value]:
        """A group of tiles summed over the input channels; ``strip``: weights, the next ones, lines of them a turn."""
        f, tiles, (weights, ahead, lines) = self.f, self.tile.pixels, strip
        whole, rest = divmod(self.kernel.spec.c_in, self.isa.lanes)
        step = vectors * self.vector_bytes

        def panel(p: Index, channels: int, sums: list[Value]) -> list[Value]:
            values = f.at(kept, f.mul(p, self.capacity * self.vector_bytes))
            run = f.at(weights, f.mul(p, self.isa.lanes * step))
            for line in range(lines):
                f.prefetch(ahead, f.add(f.mul(p, lines * LINE_BYTES), line * LINE_BYTES))
            for c in range(channels):
                b = [f.load(self.kind, run, c * step + v * self.vector_bytes) for v in range(vectors)]
                for t in range(tiles):
                    a = f.splat(f.load("float", values, t * self.vector_bytes + c * ITEM), self.isa.lanes)
                    for v in range(vectors):
                        sums[t * vectors + v] = f.fma(a, b[v], sums[t * vectors + v])
            return sums

        sums = [constant(0.0, self.isa.lanes)] * (tiles * vectors)
        if whole:
            sums = f.loop(0, whole, lambda p, sums: panel(p, self.isa.lanes, sums), carried=sums)
        return panel(whole, rest, sums)

    # -- inputs -----------------------------------------------------------------------------------------

    def _gather(self, first: Index, count: Index) -> None:
        """The values of a block's input tiles at all points."""
        f, kernel, n = self.f, self.kernel, self.kernel.points
        (top, _), (left, _) = kernel.spec.padding
        corner = f.at(self.pointers[SOURCE], kernel.source.offset(-top, -left))

        def tile(p: Value, t: Value) -> None:
            y, x, _, _ = self._place(f.add(first, t))
            place = f.add(f.mul(y, kernel.source.row), f.mul(x, kernel.source.pixel))
            source = f.at(corner, f.mul(f.add(f.mul(p, kernel.source.panel), place), ITEM))
            kept = f.at(self.kept, f.mul(f.add(f.mul(p, self.capacity), t), self.vector_bytes))

            def row(i: Index) -> None:
                start = f.at(source, f.mul(i, ITEM * kernel.source.row))
                pixels = [f.load(self.kind, start, ITEM * kernel.source.pixel * j) for j in range(n)]
                self._put(self.between, i, self._input_values(pixels))

            def column(j: Index) -> None:
                values = self._input_values(self._got(j))
                out = f.at(kept, f.mul(j, kernel.kept_bytes))
                for i, value in enumerate(values):
                    f.store(value, out, n * i * kernel.kept_bytes)

            self._loop(0, n, row)
            self._loop(0, n, column)

        self._loop(0, kernel.source.panels, lambda p: self._loop(0, count, lambda t: tile(p, t)))

    def _input_values(self, x: list[Value]) -> list[Value]:
        """A row of a tile to its values: remainders by the polynomial that is zero at all points but one."""
        squares = SQUARES[self.kernel.width]
        all_of_them = _without(squares, None)
        values = [self._sum(all_of_them, x[::2])]
        for square in squares:
            others = _without(squares, square)
            even, odd = self._sum(others, x[2::2]), self._sum(others, x[1:-1:2])
            values += [self._sum((sign * square**0.5, 1.0), (odd, even)) for sign in (1, -1)]
        return [*values, self._sum(all_of_them, x[1::2])]

    # -- outputs ----------------------------------------------------------------------------------------

    def _outputs(self, first: Index, count: Index, panel: Index, at: tuple[Value, int]) -> None:
        """Output tiles of one panel from their products; ``at``: which vector of how many of the strip."""
        f, kernel, n, (v, vectors) = self.f, self.kernel, self.kernel.points, at
        bias = f.load(self.kind, self.pointers[BIAS], f.mul(panel, self.vector_bytes))

        def tile(t: Value) -> None:
            products = f.at(self.products, f.mul(f.add(f.mul(t, vectors), v), self.vector_bytes))
            place = self._place(f.add(first, t))

            def column(j: Index) -> None:
                of_column = f.at(products, f.mul(j, kernel.product_bytes))
                values = [f.load(self.kind, of_column, n * i * kernel.product_bytes) for i in range(n)]
                for i, value in enumerate(self._output_pixels(values)):
                    f.store(value, self.between, f.mul(f.add(i * n, j), self.vector_bytes))

            self._loop(0, n, column)
            self._store(panel, bias, place)

        self._loop(0, count, tile)

    def _store(self, panel: Index, bias: Value, place: tuple[Index, Index, Index, Value | None]) -> None:
        """The rows and columns of a tile that are its own."""
        f, kernel, n = self.f, self.kernel, self.kernel.points
        y, x, begin, is_whole = place
        skipped = kernel.tiles[1] * kernel.width - kernel.spec.size_out[1]

        def row(i: Value) -> None:
            pixels = self._output_pixels(
                [f.load(self.kind, self.between, f.mul(f.add(f.mul(i, n), j), self.vector_bytes)) for j in range(n)]
            )
            line = f.add(y, i)

            def store(columns: range) -> None:
                for j in columns:
                    value = f.float("fadd", pixels[j], bias)
                    if kernel.residual is not None:
                        beside = self._pixel(RESIDUAL, kernel.residual, (panel, line, x), j)
                        value = f.float("fadd", value, f.load(self.kind, beside))
                    f.store(
                        activate(f, kernel.activation, value), self._pixel(TARGET, kernel.target, (panel, line, x), j)
                    )

            store(range(skipped, kernel.width))
            if is_whole is not None:
                f.when(is_whole, lambda: store(range(skipped)))

        self._loop(begin, kernel.width, row)

    def _pixel(self, argument: int, layout: Layout, at: tuple[Index, Index, Index], right: int) -> Value:
        f, (panel, y, x) = self.f, at
        floats = f.add(f.add(f.mul(panel, layout.panel), f.mul(y, layout.row)), f.mul(x, layout.pixel))
        return f.at(
            f.at(self.pointers[argument], layout.offset()), f.add(f.mul(floats, ITEM), ITEM * right * layout.pixel)
        )

    def _output_pixels(self, values: list[Value]) -> list[Value]:
        """A row of products to pixels: pixel i is the sum over the points of value · pointⁱ."""
        f, squares, last = self.f, SQUARES[self.kernel.width], self.kernel.width - 1
        pairs = list(zip(values[1:-1:2], values[2:-1:2], strict=True))
        folded = [[f.float(how, a, b) for a, b in pairs] for how in ("fadd", "fsub")]
        ends = {0: values[:1], last: values[-1:]}
        return [
            self._sum(
                [*(square ** (i / 2) for square in squares), *(1.0 for _ in ends.get(i, []))],
                [*folded[i % 2], *ends.get(i, [])],
            )
            for i in range(last + 1)
        ]

    # -- both -------------------------------------------------------------------------------------------

    def _place(self, tile: Index) -> tuple[Index, Index, Index, Value | None]:
        """Of a tile: its first row and column, the first of its rows that is its own, whether all columns are."""
        f, kernel, m = self.f, self.kernel, self.kernel.width
        across, (h, w) = kernel.tiles[1], kernel.spec.size_out
        y, x = f.mul(f.div(tile, across), m), f.mul(f.rem(tile, across), m)
        begin: Index = 0
        is_whole = None
        if h % m:
            begin = f.most(f.sub(y, h - m), 0)
            y = f.least(y, h - m)
        if w % m:
            is_whole = f.compare("sle", x, w - m)
            x = f.least(x, w - m)
        return y, x, begin, is_whole

    def _sum(self, factors: Sequence[float], values: Sequence[Value]) -> Value:
        """Σ factor · value."""
        f, lanes = self.f, self.isa.lanes
        total = values[-1] if factors[-1] == 1 else f.float("fmul", values[-1], constant(factors[-1], lanes))
        for factor, value in zip(factors[-2::-1], values[-2::-1], strict=True):
            if abs(factor) == 1:
                total = f.float("fadd" if factor > 0 else "fsub", total, value)
            else:
                total = f.fma(value, constant(factor, lanes), total)
        return total

    def _put(self, where: Value, i: Index, row: list[Value]) -> None:
        for j, value in enumerate(row):
            self.f.store(value, where, self.f.mul(self.f.add(self.f.mul(i, len(row)), j), self.vector_bytes))

    def _got(self, j: Index) -> list[Value]:
        f, n = self.f, self.kernel.points
        start = f.at(self.between, f.mul(j, self.vector_bytes))
        return [f.load(self.kind, start, i * n * self.vector_bytes) for i in range(n)]

    def _loop(self, start: Index, stop: Index, body: Callable[[Value], None], *, step: Index = 1) -> None:
        def turn(i: Value, _: list[Value]) -> list[Value]:
            body(i)
            return []

        self.f.loop(start, stop, turn, step=step)
