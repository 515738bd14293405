"""Layer normalisation over the channels of each pixel. In: layouts, epsilon. Out: IR.

A few pixels at a time are read three times over all panels: for their mean, for the variance about it, and to be
written. In that order no digits cancel, and what is read again lies in the first-level cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from separable.kernels.convolution import BIAS, SIGNATURE, SOURCE, TARGET, WEIGHTS
from separable.kernels.ir import Function, Index, Module, Value, constant, vector
from separable.kernels.isa import Isa
from separable.kernels.layout import ITEM, Layout

COLUMNS = 4


@dataclass(frozen=True, kw_only=True)
class Normalise:
    """(x − mean) / √(variance + ``eps``) · scale + shift; these two have zeros up to the end of the last panel."""

    source: Layout
    target: Layout
    eps: float


def write(module: Module, name: str, kernel: Normalise, isa: Isa) -> None:
    """The function ``name(arguments, thread, threads, image)``; scale and shift stand where weights and bias do."""
    module.function(name, SIGNATURE, _Emitter(kernel, isa.lanes).write)


class _Emitter:
    def __init__(self, kernel: Normalise, lanes: int) -> None:
        self.kernel, self.lanes = kernel, lanes
        self.whole, self.rest = divmod(kernel.source.channels, lanes)

    def write(self, f: Function, parameters: list[Value]) -> None:
        arguments, thread, threads, _ = parameters
        self.f = f
        source, target = self.kernel.source, self.kernel.target
        self.reads = f.at(f.load("ptr", arguments, 8 * SOURCE), source.offset())
        self.writes = f.at(f.load("ptr", arguments, 8 * TARGET), target.offset())
        self.scale, self.shift = (f.load("ptr", arguments, 8 * i) for i in (WEIGHTS, BIAS))
        tiles = -(-source.width // COLUMNS)
        count = source.height * tiles
        first, last = (f.div(f.mul(f.add(thread, i), count), threads) for i in (0, 1))

        def tile(i: Value, _: list[Value]) -> list[Value]:
            y, x = f.div(i, tiles), f.mul(f.rem(i, tiles), COLUMNS)
            columns = min(COLUMNS, source.width)
            if source.width % COLUMNS:
                x = f.least(x, source.width - columns)  # the last one goes back and does some pixels again
            self._tile(y, x, columns)
            return []

        f.loop(first, last, tile)

    def _tile(self, y: Index, x: Index, columns: int) -> None:
        f, lanes = self.f, self.lanes
        source, target = self.kernel.source, self.kernel.target
        at, out = (
            f.at(start, f.add(f.mul(y, ITEM * m.row), f.mul(x, ITEM * m.pixel)))
            for start, m in ((self.reads, source), (self.writes, target))
        )
        zeros = [constant(0.0, lanes)] * columns
        count = constant(1 / source.channels)

        def pixels(panel: Index) -> list[Value]:
            here = f.at(at, f.mul(panel, ITEM * source.panel))
            return [f.load(vector(lanes), here, ITEM * c * source.pixel) for c in range(columns)]

        def sums(value: Callable[[Value, int], Value]) -> list[Value]:
            """The sum over all channels of each pixel, in every lane."""

            def one(panel: Index, totals: list[Value], channels: int) -> list[Value]:
                found = [trimmed(f, value(v, c), channels) for c, v in enumerate(pixels(panel))]
                return [f.float("fadd", total, v) for total, v in zip(totals, found, strict=True)]

            totals = f.loop(0, self.whole, lambda p, t: one(p, t, lanes), carried=zeros)
            totals = one(self.whole, totals, self.rest) if self.rest else totals
            return [f.float("fmul", self._across(total), count) for total in totals]

        means = [f.splat(mean, lanes) for mean in sums(lambda v, _: v)]

        def squared(v: Value, c: int) -> Value:
            v = f.float("fsub", v, means[c])
            return f.float("fmul", v, v)

        factors = []
        for variance in sums(squared):
            root = f.call("llvm.sqrt.f32", "float", [f.float("fadd", variance, constant(self.kernel.eps))])
            factors.append(f.splat(f.float("fdiv", constant(1.0), root), lanes))

        def finish(panel: Index, channels: int) -> None:
            scale, shift = (
                f.load(vector(lanes), start, f.mul(panel, ITEM * lanes)) for start in (self.scale, self.shift)
            )
            there = f.at(out, f.mul(panel, ITEM * target.panel))
            for c, v in enumerate(pixels(panel)):
                v = f.float("fmul", f.float("fsub", v, means[c]), factors[c])
                f.store(trimmed(f, f.fma(v, scale, shift), channels), there, ITEM * c * target.pixel)

        def whole(panel: Value, _: list[Value]) -> list[Value]:
            finish(panel, lanes)
            return []

        f.loop(0, self.whole, whole)
        if self.rest:
            finish(self.whole, self.rest)

    def _across(self, value: Value) -> Value:
        """The sum of all lanes, in halves."""
        f, n = self.f, self.lanes
        while n > 2:
            n //= 2
            low, high = (f.shuffle(value, value, range(start, start + n)) for start in (0, n))
            value = f.float("fadd", low, high)
        return f.float("fadd", f.element(value, 0), f.element(value, 1))


def trimmed(f: Function, value: Value, channels: int) -> Value:
    """Zeros behind so many channels."""
    lanes = value.lanes
    if channels == lanes:
        return value
    return f.shuffle(value, constant(0.0, lanes), [n if n < channels else lanes + n for n in range(lanes)])
