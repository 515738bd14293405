"""Depthwise convolution. In: shapes, layouts, a tile. Out: IR and packed weights.

A tile of ``rows`` × ``columns`` outputs is held in registers for one panel of channels; each input vector of its
receptive field is loaded once and goes into every output that it touches. Kernels too large to unroll run over their
rows in a loop. A channel multiplier m gives m planes of panels after each other: output panel p reads panel p mod P.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from separable.errors import SpecError
from separable.kernels.convolution import BIAS, RESIDUAL, SIGNATURE, SOURCE, TARGET, WEIGHTS, Floats
from separable.kernels.epilogue import NONE, Activation, activate
from separable.kernels.ir import Function, Index, Module, Value, vector
from separable.kernels.isa import Isa
from separable.kernels.layout import ITEM, Layout
from separable.spec import ConvSpec

MAX_UNROLL = 420


@dataclass(frozen=True, kw_only=True)
class Depthwise:
    """One depthwise convolution as a kernel; the source brings a border as wide as the padding.

    Output channels are ordered by multiplier first: channel t·P·lanes + c is filter t of input channel c.
    ``split`` says what threads share out: ``"rows"`` or ``"channels"``.
    """

    spec: ConvSpec
    source: Layout
    target: Layout
    rows: int
    columns: int
    activation: Activation = NONE
    residual: Layout | None = None
    split: str = "rows"

    @property
    def multiplier(self) -> int:
        """Filters for each input channel."""
        return self.spec.c_out // self.spec.c_in

    @property
    def is_unrolled(self) -> bool:
        """Whether a tile's taps are written out; a loop runs over those of larger kernels, one row at a time."""
        k_h, k_w = self.spec.kernel
        return (
            min(self.rows, self.spec.size_out[0]) * min(self.columns, self.spec.size_out[1]) * k_h * k_w <= MAX_UNROLL
        )

    def padded_channels(self, isa: Isa) -> int:
        """Output channels with each filter's plane padded to whole panels."""
        return self.multiplier * self.source.panels * isa.lanes

    def pack(self, weight: Floats, isa: Isa, into: Floats | None = None) -> Floats:
        """The weights (c_out, 1, k_h, k_w) as [panel][k_h][k_w][lanes], filters of a channel apart; put ``into``."""
        k_h, k_w = self.spec.kernel
        by_filter = weight.reshape(self.spec.c_in, self.multiplier, k_h, k_w).transpose(1, 0, 2, 3)
        width = self.source.panels * isa.lanes
        padded = np.zeros((self.multiplier, width, k_h, k_w), np.float32)
        padded[:, : self.spec.c_in] = by_filter
        packed = padded.reshape(-1, isa.lanes, k_h, k_w).transpose(0, 2, 3, 1)
        into = np.empty(padded.size, np.float32) if into is None else into
        into.reshape(packed.shape)[:] = packed
        return into

    def pack_bias(self, bias: Floats, isa: Isa) -> Floats:
        """The bias in the order of the outputs, padded to whole panels."""
        padded = np.zeros((self.multiplier, self.source.panels * isa.lanes), np.float32)
        padded[:, : self.spec.c_in] = bias.reshape(self.spec.c_in, self.multiplier).T
        return padded.ravel()


def write(module: Module, name: str, kernel: Depthwise, isa: Isa) -> None:
    """The function ``name(arguments, thread, threads, image)``; ``arguments`` as for a convolution."""
    module.function(name, SIGNATURE, _Emitter(kernel, isa).write)


def write_rows(module: Module, name: str, kernel: Depthwise, isa: Isa) -> None:
    """The same for the calls of a chain: ``name(arguments, first, last)``, rows of the output in whole tiles."""
    emitter = _Emitter(kernel, isa)
    if not kernel.is_unrolled or emitter.out_h % emitter.rows or kernel.multiplier > 1:
        raise SpecError("Depthwise", given=str(kernel), expected="whole tiles of rows, unrolled, one filter a channel")
    module.function(name, SIGNATURE[:3], emitter.write_rows, is_internal=True)


class _Emitter:
    def __init__(self, kernel: Depthwise, isa: Isa) -> None:
        self.kernel, self.isa = kernel, isa
        self.out_h, self.out_w = kernel.spec.size_out
        self.rows, self.columns = min(kernel.rows, self.out_h), min(kernel.columns, self.out_w)
        if not kernel.is_unrolled:
            self.rows = 1

    def write(self, f: Function, parameters: list[Value]) -> None:
        arguments, thread, threads, _ = parameters
        self.f = f
        self.pointers = [f.load("ptr", arguments, 8 * i) for i in range(5)]
        panels = self.kernel.source.panels * self.kernel.multiplier
        row_tiles = -(-self.out_h // self.rows)
        count = panels if self.kernel.split == "channels" else row_tiles
        first, last = (f.div(f.mul(f.add(thread, i), count), threads) for i in (0, 1))
        share: tuple[Index, Index] = (first, last)
        if self.kernel.split == "rows":
            self._tiles((0, panels), share)
        else:
            self._tiles(share, (0, row_tiles))

    def write_rows(self, f: Function, parameters: list[Value]) -> None:
        arguments, first, last = parameters
        self.f = f
        self.pointers = [f.load("ptr", arguments, 8 * i) for i in range(5)]
        self._tiles((0, self.kernel.source.panels), (f.div(first, self.rows), f.div(last, self.rows)))

    def _tiles(self, over_panels: tuple[Index, Index], over_rows: tuple[Index, Index]) -> None:
        f = self.f

        def panel(p: Value, _: list[Value]) -> list[Value]:
            k_h, k_w = self.kernel.spec.kernel
            lanes = self.isa.lanes
            at = f.at(
                self.pointers[SOURCE], f.mul(f.rem(p, self.kernel.source.panels), ITEM * self.kernel.source.panel)
            )
            pads = self.kernel.spec.padding
            source = f.at(at, self.kernel.source.origin - ITEM * pads[1][0] * self.kernel.source.pixel)
            target = f.at(
                self.pointers[TARGET], f.add(f.mul(p, ITEM * self.kernel.target.panel), self.kernel.target.origin)
            )
            weights = f.at(self.pointers[WEIGHTS], f.mul(p, ITEM * k_h * k_w * lanes))
            bias = f.load(vector(lanes), self.pointers[BIAS], f.mul(p, ITEM * lanes))

            def row(t: Value, _: list[Value]) -> list[Value]:
                y = f.mul(t, self.rows)
                if self.out_h % self.rows:
                    y = f.least(y, self.out_h - self.rows)
                self._row(y, p, source, target, weights, bias)
                return []

            f.loop(*over_rows, row)
            return []

        f.loop(*over_panels, panel)

    def _row(self, y: Index, p: Value, source: Value, target: Value, weights: Value, bias: Value) -> None:
        """All tiles of one row of tiles: full ones in a loop, then a narrower one."""
        f, kernel = self.f, self.kernel
        (s_h, s_w) = kernel.spec.stride
        reads = self._rows_read(f.sub(f.mul(y, s_h), kernel.spec.padding[0][0]), source)
        full, rest = divmod(self.out_w, self.columns)

        def tile(x: Index, columns: int) -> None:
            along = f.mul(x, ITEM * s_w * kernel.source.pixel)
            corners = {iy: f.at(row, along) for iy, row in reads.items()}
            sums = (self._unrolled if kernel.is_unrolled else self._looped)(corners, columns, weights, bias)
            self._finish(sums, columns, (y, x), p, target)

        def one(i: Value, _: list[Value]) -> list[Value]:
            tile(f.mul(i, self.columns), self.columns)
            return []

        if full == 1:
            tile(0, self.columns)
        else:
            f.loop(0, full, one)
        if rest:
            tile(full * self.columns, rest)

    def _rows_read(self, y: Index, source: Value) -> dict[int, Value]:
        """Where the rows begin that a tile reads, by their distance from row y; the first where all lie in order."""
        f, spec, layout = self.f, self.kernel.spec, self.kernel.source
        if not layout.ring:
            return {0: f.at(source, layout.row_offset(f, y))}
        k_h, s_h, d_h = spec.kernel[0], spec.stride[0], spec.dilation[0]
        read = sorted({r * s_h + ky * d_h for r in range(self.rows) for ky in range(k_h)})
        return {iy: f.at(source, layout.row_offset(f, f.add(y, iy))) for iy in read}

    def _unrolled(self, corners: dict[int, Value], columns: int, weights: Value, bias: Value) -> list[Value]:
        f, spec = self.f, self.kernel.spec
        (k_h, k_w), (s_h, s_w), (d_h, d_w) = spec.kernel, spec.stride, spec.dilation
        kind = vector(self.isa.lanes)
        sums = [bias] * (self.rows * columns)
        for iy in sorted({r * s_h + ky * d_h for r in range(self.rows) for ky in range(k_h)}):
            if self.rows == self.out_h and not self._is_inside(0, iy):
                continue
            touched = [(r, ky) for r in range(self.rows) for ky in range(k_h) if r * s_h + ky * d_h == iy]
            w = {
                (ky, kx): f.load(kind, weights, ITEM * self.isa.lanes * (ky * k_w + kx))
                for _, ky in touched
                for kx in range(k_w)
            }
            down = 0 if iy in corners else iy * self.kernel.source.row
            for ix in sorted({c * s_w + kx * d_w for c in range(columns) for kx in range(k_w)}):
                if columns == self.out_w and not self._is_inside(1, ix):
                    continue
                value = f.load(kind, corners.get(iy, corners[0]), ITEM * (down + ix * self.kernel.source.pixel))
                for r, ky in touched:
                    for c in range(columns):
                        kx, is_between = divmod(ix - c * s_w, d_w)
                        if not is_between and 0 <= kx < k_w:
                            i = r * columns + c
                            sums[i] = f.fma(value, w[ky, kx], sums[i])
        return sums

    def _is_inside(self, axis: int, i: int) -> bool:
        """Whether a tile as long as the map reads pixels of it at ``i``, and not the zeros around them."""
        return 0 <= i - self.kernel.spec.padding[axis][0] < self.kernel.spec.size[axis]

    def _looped(self, corners: dict[int, Value], columns: int, weights: Value, bias: Value) -> list[Value]:
        f, spec, source = self.f, self.kernel.spec, self.kernel.source
        (k_h, k_w), s_w, (d_h, d_w) = spec.kernel, spec.stride[1], spec.dilation
        kind = vector(self.isa.lanes)

        def kernel_row(ky: Value, sums: list[Value]) -> list[Value]:
            reads = f.at(corners[0], f.mul(ky, ITEM * d_h * source.row))
            run = f.at(weights, f.mul(ky, ITEM * self.isa.lanes * k_w))

            def tap(kx: Value, sums: list[Value]) -> list[Value]:
                w = f.load(kind, run, f.mul(kx, ITEM * self.isa.lanes))
                at = f.at(reads, f.mul(kx, ITEM * d_w * source.pixel))
                values = [f.load(kind, at, ITEM * c * s_w * source.pixel) for c in range(columns)]
                return [f.fma(value, w, total) for value, total in zip(values, sums, strict=True)]

            return f.loop(0, k_w, tap, carried=sums)

        return f.loop(0, k_h, kernel_row, carried=[bias] * columns)

    def _finish(self, sums: list[Value], columns: int, corner: tuple[Index, Index], p: Value, target: Value) -> None:
        f, kernel = self.f, self.kernel

        def offset(layout: Layout, i: int) -> Index:
            r, c = divmod(i, columns)
            return f.add(
                layout.row_offset(f, f.add(corner[0], r)),
                f.add(f.mul(corner[1], ITEM * layout.pixel), ITEM * c * layout.pixel),
            )

        side = kernel.residual
        for i, x in enumerate(sums):
            if side is not None:
                beside = f.at(self.pointers[RESIDUAL], f.add(f.mul(p, ITEM * side.panel), side.offset()))
                x = f.float("fadd", x, f.load(x.type, beside, offset(side, i)))
            f.store(activate(f, kernel.activation, x), target, offset(kernel.target, i))
