"""Pooling. In: a window, layouts. Out: IR for maxima, averages and the average of a whole map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from separable.kernels.convolution import SIGNATURE, Floats
from separable.kernels.epilogue import NONE, Activation, activate
from separable.kernels.ir import Function, Index, Module, Value, constant, vector
from separable.kernels.isa import Isa
from separable.kernels.layout import ITEM, Layout
from separable.spec import ConvSpec

SOURCE, WEIGHTS, TARGET = 0, 1, 3
COLUMNS = 4


@dataclass(frozen=True, kw_only=True)
class Pool:
    """``kind`` is ``"max"`` or ``"average"``; the source's border holds −∞ for a maximum, 0 for an average.

    An average multiplies the sum of each window by the share of that output, from ``shares``.
    """

    kind: str
    spec: ConvSpec
    source: Layout
    target: Layout
    counts_padding: bool = True
    activation: Activation = NONE

    def shares(self) -> Floats:
        """1 / (elements counted), for each output pixel (h_out, w_out)."""
        spec = self.spec
        along = []
        for axis in (0, 1):
            before, after = spec.padding[axis]
            start = np.arange(spec.size_out[axis]) * spec.stride[axis] - before
            low, high = (-before, spec.size[axis] + after) if self.counts_padding else (0, spec.size[axis])
            taps = start[:, None] + np.arange(spec.kernel[axis]) * spec.dilation[axis]
            along.append(((taps >= low) & (taps < high)).sum(1))
        shares: Floats = (1.0 / np.outer(*along)).astype(np.float32).ravel()
        return shares


@dataclass(frozen=True, kw_only=True)
class GlobalAverage:
    """The mean over all pixels of each channel, into a map of one pixel."""

    source: Layout
    target: Layout
    activation: Activation = NONE


def write(module: Module, name: str, pool: Pool | GlobalAverage, isa: Isa) -> None:
    """The function ``name(arguments, thread, threads, image)``; the shares stand where a convolution's weights do."""
    if isinstance(pool, GlobalAverage):
        module.function(name, SIGNATURE, lambda f, p: _average_all(f, p, pool, isa))
    else:
        module.function(name, SIGNATURE, lambda f, p: _windows(f, p, pool, isa))


def _windows(f: Function, parameters: list[Value], pool: Pool, isa: Isa) -> None:
    arguments, thread, threads, _ = parameters
    spec, source, target = pool.spec, pool.source, pool.target
    pads, (h, w) = spec.padding, spec.size_out
    reads = f.at(f.load("ptr", arguments, 8 * SOURCE), source.offset(-pads[0][0], -pads[1][0]))
    shares = f.load("ptr", arguments, 8 * WEIGHTS)
    writes = f.at(f.load("ptr", arguments, 8 * TARGET), target.offset())
    count = source.panels * h
    first, last = (f.div(f.mul(f.add(thread, i), count), threads) for i in (0, 1))

    def line(i: Value, _: list[Value]) -> list[Value]:
        panel, y = f.div(i, h), f.rem(i, h)
        corner = f.at(reads, f.add(f.mul(panel, ITEM * source.panel), f.mul(y, ITEM * spec.stride[0] * source.row)))
        out = f.at(writes, f.add(f.mul(panel, ITEM * target.panel), f.mul(y, ITEM * target.row)))

        def tile(x: Index, columns: int) -> None:
            at = f.at(corner, f.mul(x, ITEM * spec.stride[1] * source.pixel))
            for c, value in enumerate(_reduce(f, pool, at, columns, isa.lanes)):
                if pool.kind == "average":
                    share = f.load("float", shares, f.mul(ITEM, f.add(f.add(f.mul(y, w), x), c)))
                    value = f.float("fmul", value, f.splat(share, isa.lanes))
                f.store(activate(f, pool.activation, value), out, f.mul(ITEM * target.pixel, f.add(x, c)))

        def full(i: Value, _: list[Value]) -> list[Value]:
            tile(f.mul(i, COLUMNS), COLUMNS)
            return []

        f.loop(0, w // COLUMNS, full)
        if w % COLUMNS:
            tile(w // COLUMNS * COLUMNS, w % COLUMNS)
        return []

    f.loop(first, last, line)


def _reduce(f: Function, pool: Pool, corner: Value, columns: int, lanes: int) -> list[Value]:
    """The windows of ``columns`` neighbours, all taps."""
    spec, source = pool.spec, pool.source
    start = constant(0.0 if pool.kind == "average" else float("-inf"), lanes)
    step = ITEM * spec.stride[1] * source.pixel

    def kernel_row(ky: Value, values: list[Value]) -> list[Value]:
        reads = f.at(corner, f.mul(ky, ITEM * spec.dilation[0] * source.row))

        def tap(kx: Value, values: list[Value]) -> list[Value]:
            at = f.at(reads, f.mul(kx, ITEM * spec.dilation[1] * source.pixel))
            loaded = [f.load(vector(lanes), at, c * step) for c in range(columns)]
            if pool.kind == "average":
                return [f.float("fadd", value, x) for value, x in zip(values, loaded, strict=True)]
            return [f.maximum(value, x) for value, x in zip(values, loaded, strict=True)]

        return f.loop(0, spec.kernel[1], tap, carried=values)

    return f.loop(0, spec.kernel[0], kernel_row, carried=[start] * columns)


def _average_all(f: Function, parameters: list[Value], pool: GlobalAverage, isa: Isa) -> None:
    arguments, thread, threads, _ = parameters
    source, target, lanes = pool.source, pool.target, isa.lanes
    reads = f.at(f.load("ptr", arguments, 8 * SOURCE), source.offset())
    writes = f.at(f.load("ptr", arguments, 8 * TARGET), target.offset())
    first, last = (f.div(f.mul(f.add(thread, i), source.panels), threads) for i in (0, 1))

    def panel(p: Value, _: list[Value]) -> list[Value]:
        total = sum_of_pixels(f, source, f.at(reads, f.mul(p, ITEM * source.panel)), lanes, lambda x: x)
        mean = f.float("fmul", total, constant(1 / source.pixels, lanes))
        f.store(activate(f, pool.activation, mean), writes, f.mul(p, ITEM * target.panel))
        return []

    f.loop(first, last, panel)


def sum_of_pixels(f: Function, layout: Layout, at: Value, lanes: int, of: Callable[[Value], Value]) -> Value:
    """The sum over all pixels of a panel that begins ``at``, of what is made of each."""
    height, width = (1, layout.pixels) if layout.is_flat else (layout.height, layout.width)

    def row(y: Value, sums: list[Value]) -> list[Value]:
        line = f.at(at, f.mul(y, ITEM * layout.row))

        def several(i: Value, sums: list[Value]) -> list[Value]:
            here = f.at(line, f.mul(i, ITEM * COLUMNS * layout.pixel))
            return [
                f.float("fadd", total, of(f.load(vector(lanes), here, ITEM * c * layout.pixel)))
                for c, total in enumerate(sums)
            ]

        def one(x: Value, sums: list[Value]) -> list[Value]:
            value = of(f.load(vector(lanes), line, f.mul(x, ITEM * layout.pixel)))
            return [f.float("fadd", sums[0], value), *sums[1:]]

        sums = f.loop(0, width // COLUMNS, several, carried=sums)
        return f.loop(width // COLUMNS * COLUMNS, width, one, carried=sums)

    a, b, c, d = f.loop(0, height, row, carried=[constant(0.0, lanes)] * COLUMNS)
    return f.float("fadd", f.float("fadd", a, b), f.float("fadd", c, d))
