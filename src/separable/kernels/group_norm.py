"""Normalisation over all pixels of a group of channels. In: layouts, groups, epsilon. Out: IR.

Groups and panels end together only here and there: a bundle is the least number of channels that is whole ones of both,
and what threads share out. Each bundle is read three times: for the means, for the variances about them, to be written.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from separable.kernels.across import trimmed
from separable.kernels.convolution import BIAS, SIGNATURE, SOURCE, TARGET, WEIGHTS
from separable.kernels.epilogue import NONE, Activation, activate
from separable.kernels.ir import Function, Index, Module, Value, constant, vector
from separable.kernels.isa import Isa
from separable.kernels.layout import ITEM, Layout
from separable.kernels.pooling import sum_of_pixels


@dataclass(frozen=True, kw_only=True)
class GroupNorm:
    """(x − mean) / √(variance + ``eps``) · scale + shift, means and variances of each of ``groups`` of channels.

    Scale and shift of each channel have zeros up to the end of the last panel. With as many groups as channels each is
    normalised by itself (Ulyanov et al. 2016), with one group all are together.
    """

    source: Layout
    target: Layout
    groups: int
    eps: float
    activation: Activation = NONE


def write(module: Module, name: str, kernel: GroupNorm, isa: Isa) -> None:
    """The function ``name(arguments, thread, threads, image)``; scale and shift stand where weights and bias do."""
    module.function(name, SIGNATURE, _Emitter(kernel, isa.lanes).write)


class _Emitter:
    def __init__(self, kernel: GroupNorm, lanes: int) -> None:
        self.kernel, self.lanes = kernel, lanes
        self.source, self.target = kernel.source, kernel.target
        self.a_group = kernel.source.channels // kernel.groups
        self.bundle = min(math.lcm(self.a_group, lanes), kernel.source.channels)

    def write(self, f: Function, parameters: list[Value]) -> None:
        arguments, thread, threads, _ = parameters
        self.f = f
        self.reads = f.at(f.load("ptr", arguments, 8 * SOURCE), self.source.offset())
        self.writes = f.at(f.load("ptr", arguments, 8 * TARGET), self.target.offset())
        self.scale, self.shift = (f.load("ptr", arguments, 8 * i) for i in (WEIGHTS, BIAS))
        size = -(-self.bundle // self.lanes) * self.lanes * ITEM
        # for each channel of a bundle: what is summed, its mean, one over its deviation
        self.sums, self.means, self.factors = (f.raw(f"alloca [{size} x i8], align 64", "ptr") for _ in range(3))
        whole, rest = divmod(self.source.channels, self.bundle)
        first, last = (f.div(f.mul(f.add(thread, i), whole + bool(rest)), threads) for i in (0, 1))

        def one(b: Value, _: list[Value]) -> list[Value]:
            panel = f.mul(b, self.bundle // self.lanes)
            if not rest:
                self._bundle(panel, self.bundle)
                return []
            f.when(f.compare("slt", b, whole), lambda: self._bundle(panel, self.bundle))
            f.when(f.compare("eq", b, whole), lambda: self._bundle(panel, rest))
            return []

        f.loop(first, last, one)

    def _bundle(self, start: Index, channels: int) -> None:
        f, lanes = self.f, self.lanes

        def total(panel: Index, of: Callable[[Value], Value]) -> None:
            at = f.at(self.reads, f.mul(f.add(start, panel), ITEM * self.source.panel))
            f.store(sum_of_pixels(f, self.source, at, lanes, of), self.sums, f.mul(panel, ITEM * lanes))

        def squares(panel: Index, _: int) -> None:
            mean = self._of_panel(self.means, panel)

            def square(x: Value) -> Value:
                x = f.float("fsub", x, mean)
                return f.float("fmul", x, x)

            total(panel, square)

        def root(variance: Value) -> Value:
            deviation = f.call("llvm.sqrt.f32", "float", [f.float("fadd", variance, constant(self.kernel.eps))])
            return f.float("fdiv", constant(1.0), deviation)

        self._panels(channels, lambda panel, _: total(panel, lambda x: x))
        self._by_group(channels, self.means, lambda mean: mean)
        self._panels(channels, squares)
        self._by_group(channels, self.factors, root)
        self._panels(channels, lambda panel, some: self._finish(start, panel, some))

    def _panels(self, channels: int, body: Callable[[Index, int], None]) -> None:
        """``body`` of each panel of a bundle, and of how many channels it has."""
        whole, rest = divmod(channels, self.lanes)

        def one(panel: Value, _: list[Value]) -> list[Value]:
            body(panel, self.lanes)
            return []

        self.f.loop(0, whole, one)
        if rest:
            body(whole, rest)

    def _by_group(self, channels: int, target: Value, of: Callable[[Value], Value]) -> None:
        """What is made of the mean of the sums of each group, to all its channels."""
        f, share = self.f, constant(1 / (self.a_group * self.source.pixels))

        def group(g: Value, _: list[Value]) -> list[Value]:
            start = f.mul(g, ITEM * self.a_group)

            def add(c: Value, total: list[Value]) -> list[Value]:
                return [f.float("fadd", total[0], f.load("float", f.at(self.sums, start), f.mul(c, ITEM)))]

            (total,) = f.loop(0, self.a_group, add, carried=[constant(0.0)])
            value = of(f.float("fmul", total, share))

            def put(c: Value, _: list[Value]) -> list[Value]:
                f.store(value, f.at(target, start), f.mul(c, ITEM))
                return []

            f.loop(0, self.a_group, put)
            return []

        f.loop(0, channels // self.a_group, group)

    def _finish(self, start: Index, panel: Index, channels: int) -> None:
        f, source, target = self.f, self.source, self.target
        mean, factor = (self._of_panel(array, panel) for array in (self.means, self.factors))
        scale, shift = (self._of_panel(array, f.add(start, panel)) for array in (self.scale, self.shift))
        scale = f.float("fmul", factor, scale)
        at = f.at(self.reads, f.mul(f.add(start, panel), ITEM * source.panel))
        out = f.at(self.writes, f.mul(f.add(start, panel), ITEM * target.panel))
        is_flat = source.is_flat and target.is_flat
        height, width = (1, source.pixels) if is_flat else (source.height, source.width)

        def row(y: Value, _: list[Value]) -> list[Value]:
            line, there = f.at(at, f.mul(y, ITEM * source.row)), f.at(out, f.mul(y, ITEM * target.row))

            def pixel(x: Value, _: list[Value]) -> list[Value]:
                value = f.load(vector(self.lanes), line, f.mul(x, ITEM * source.pixel))
                value = activate(f, self.kernel.activation, f.fma(f.float("fsub", value, mean), scale, shift))
                f.store(trimmed(f, value, channels), there, f.mul(x, ITEM * target.pixel))
                return []

            f.loop(0, width, pixel)
            return []

        f.loop(0, height, row)

    def _of_panel(self, array: Value, panel: Index) -> Value:
        return self.f.load(vector(self.lanes), array, self.f.mul(panel, ITEM * self.lanes))
