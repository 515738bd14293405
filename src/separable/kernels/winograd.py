"""Dense 3×3 layers with fewer multiplications (Winograd 1980). In: shapes, layouts, tile. Out: IR, packed weights.

An output tile of m × m pixels takes (m + 2)² multiplications for each pair of channels instead of 9·m². The values of
the input at pairs of points, and the pixels of the output, are formed by vector code along the channels; between them
stands a matrix product for each pair of points, over the channels.

Tiles at the lower and right edge go back until they lie inside, and store only what no other tile does. A number that
is not finite spreads over its tiles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from separable.errors import SpecError
from separable.kernels.convolution import BIAS, RESIDUAL, SIGNATURE, SOURCE, TARGET, Floats
from separable.kernels.epilogue import activate
from separable.kernels.ir import Function, Index, Module, Value
from separable.kernels.isa import Isa
from separable.kernels.layout import ITEM, Layout
from separable.kernels.products import Emitter, Products, scratch
from separable.kernels.winograd_points import filter_values, input_values, output_pixels


@dataclass(frozen=True, kw_only=True)
class Winograd(Products):
    """One dense 3×3 convolution of stride 1 as a kernel; the source brings a border as wide as the padding.

    ``width`` of an output tile is 2 or 4; tiles are the units of the products, one for each pair of points.
    """

    width: int

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
    def products(self) -> int:
        """One for each pair of points."""
        return self.points**2

    @property
    def units(self) -> int:
        """Output tiles."""
        return self.tiles[0] * self.tiles[1]

    @property
    def depth(self) -> int:
        """All input channels."""
        return self.spec.c_in

    @property
    def panels_out(self) -> int:
        """All panels of the output."""
        return self.target.panels

    @property
    def scratch_bytes(self) -> int:
        """With the rows of a tile between the two steps of its forming."""
        return super().scratch_bytes + self.products * self.source.lanes * ITEM

    def weight_values(self, weight: Floats, first: int, last: int) -> NDArray[np.float64]:
        """(points², c_in, last - first): the filters of some output channels at each pair of points."""
        along = filter_values(self.width)
        filters = weight[first:last].reshape(-1, 9)
        values = (np.kron(along, along) @ filters.T).reshape(self.products, -1, self.depth).transpose(0, 2, 1)
        return np.pad(values, ((0, 0), (0, 0), (0, last - first - values.shape[2])))


def write(module: Module, name: str, kernel: Winograd, isa: Isa) -> None:
    """The function ``name(arguments, share, shares, image)``; ``arguments`` as for a convolution."""
    spec = kernel.spec
    if (spec.kernel, spec.stride, spec.dilation, spec.groups) != ((3, 3), (1, 1), (1, 1), 1):
        raise SpecError("Winograd", given=str(spec), expected="a dense 3×3 layer, stride 1")
    if min(spec.size_out) < kernel.width or kernel.source.lanes != isa.lanes or kernel.source.ring:
        raise SpecError("Winograd", given=str(spec), expected=f"a map in panels, at least {kernel.width} wide and high")
    module.function(name, SIGNATURE, _Emitter(kernel, isa).write)


class _Emitter(Emitter[Winograd]):
    def write(self, f: Function, parameters: list[Value]) -> None:
        """The whole function."""
        self.between = scratch(f, self.kernel.products * self.vector_bytes)
        super().write(f, parameters)

    # -- values of the input ------------------------------------------------------------------------------

    def gather(self, first: Index, count: Index) -> None:
        """The values of a block's input tiles: along rows first, then along columns."""
        f, kernel, n = self.f, self.kernel, self.kernel.points
        (top, _), (left, _) = kernel.spec.padding
        corner = f.at(self.pointers[SOURCE], kernel.source.offset(-top, -left))

        def tile(p: Value, t: Value) -> None:
            y, x, _, _ = self._place(f.add(first, t))
            source = self._pixel(corner, kernel.source, (p, y, x))
            kept = self.kept_at(t, p)

            def row(i: Value) -> None:
                start = f.at(source, f.mul(i, ITEM * kernel.source.row))
                out = f.at(self.between, f.mul(i, n * self.vector_bytes))
                self.store(input_values(f, self._load(start, ITEM * kernel.source.pixel)), out, self.vector_bytes)

            def column(j: Value) -> None:
                start = f.at(self.between, f.mul(j, self.vector_bytes))
                out = f.at(kept, f.mul(j, kernel.kept_bytes))
                self.store(input_values(f, self._load(start, n * self.vector_bytes)), out, n * kernel.kept_bytes)

            self.loop(0, n, row)
            self.loop(0, n, column)

        self.loop(0, kernel.source.panels, lambda p: self.loop(0, count, lambda t: tile(p, t)))

    # -- pixels of the output -----------------------------------------------------------------------------

    def outputs(self, first: Index, count: Index, strip: tuple[Index, int], v: Value) -> None:
        """The tiles of one panel."""
        f, kernel, n, panel = self.f, self.kernel, self.kernel.points, self.f.add(strip[0], v)
        bias = f.load(self.kind, self.pointers[BIAS], f.mul(panel, self.vector_bytes))

        def tile(t: Value) -> None:
            products = self.product_at(t, v, strip[1])

            def column(j: Value) -> None:
                start = f.at(products, f.mul(j, kernel.product_bytes))
                out = f.at(self.between, f.mul(j, self.vector_bytes))
                self.store(output_pixels(f, self._load(start, n * kernel.product_bytes)), out, n * self.vector_bytes)

            self.loop(0, n, column)
            self._rows(panel, bias, self._place(f.add(first, t)))

        self.loop(0, count, tile)

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

        self.loop(begin, kernel.width, row)

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
        return self.load(start, stride, self.kernel.points)
