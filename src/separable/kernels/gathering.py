"""Channels in another order. In: layouts, and for each channel which one it was. Out: IR that gathers lanes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from separable.kernels.convolution import SIGNATURE, SOURCE, SOURCE_TABLE, TARGET
from separable.kernels.epilogue import NONE, Activation, activate
from separable.kernels.ir import Function, Module, Value, constant
from separable.kernels.isa import Isa
from separable.kernels.layout import ITEM, Layout


@dataclass(frozen=True, kw_only=True)
class Gather:
    """Any channels of the source in any order; the order is a table, and the same code serves all.

    ``parts``: so many (rows, columns) of the source become one pixel. ``step``: so many of the target come from one.
    Channels beyond the target's last become zeros in panels. The target may be planes.
    """

    source: Layout
    target: Layout
    parts: tuple[int, int] = (1, 1)
    step: tuple[int, int] = (1, 1)
    activation: Activation = NONE

    def offsets(self, order: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """The table: bytes from the first channel of the source to each channel of the target.

        ``order`` has all channels of the first of ``step`` pixels, then those of the next; they are counted in the
        source as a pixel unshuffle counts them, (c · rows + y) · columns + x for the pixel (y, x) among ``parts``.
        """
        source = self.source
        channel, y, x = np.unravel_index(np.asarray(order, np.int64), (source.channels, *self.parts))
        panel, lane = np.divmod(channel, source.lanes)
        return ITEM * (panel * source.panel + lane + y * source.row + x * source.pixel)


def write(module: Module, name: str, kernel: Gather, isa: Isa) -> None:
    """The function ``name(arguments, thread, threads, image)``; the table stands where a convolution's first does."""
    module.function(name, SIGNATURE, _Emitter(kernel, isa.lanes).write)


class _Emitter:
    def __init__(self, kernel: Gather, lanes: int) -> None:
        self.kernel, self.lanes = kernel, lanes

    def write(self, f: Function, parameters: list[Value]) -> None:
        arguments, self.thread, self.threads, _ = parameters
        self.f = f
        self.reads = f.at(f.load("ptr", arguments, 8 * SOURCE), self.kernel.source.offset())
        self.writes = f.at(f.load("ptr", arguments, 8 * TARGET), self.kernel.target.offset())
        self.table = f.load("ptr", arguments, 8 * SOURCE_TABLE)
        whole, rest = divmod(self.kernel.target.channels, self.lanes)
        if whole:
            self._share(0, whole, self.lanes)
        if rest:
            self._share(whole, 1, rest)

    def _share(self, start: int, panels: int, channels: int) -> None:
        """So many channels of each of some panels, shared out by rows."""
        f, target, (rows, columns) = self.f, self.kernel.target, self.kernel.step
        first, last = (f.div(f.mul(f.add(self.thread, i), panels * target.height), self.threads) for i in (0, 1))

        def line(i: Value, _: list[Value]) -> list[Value]:
            panel, y = f.add(f.div(i, target.height), start), f.rem(i, target.height)
            above = f.mul(f.div(y, rows), ITEM * self.kernel.parts[0] * self.kernel.source.row)
            below = f.add(f.mul(panel, ITEM * target.panel * (self.lanes // target.lanes)), f.mul(y, ITEM * target.row))
            row, out = f.at(self.reads, above), f.at(self.writes, below)

            def phase(x: Value, _: list[Value]) -> list[Value]:
                skipped = f.mul(f.add(f.mul(f.rem(y, rows), columns), x), target.channels)
                entries = f.at(self.table, f.mul(f.add(skipped, f.mul(panel, self.lanes)), 8))
                lanes = [f.at(row, f.load("i64", entries, 8 * c)) for c in range(channels)]
                self._pixels(lanes, f.at(out, f.mul(x, ITEM * target.pixel)))
                return []

            f.loop(0, columns, phase)
            return []

        f.loop(first, last, line)

    def _pixels(self, lanes: list[Value], out: Value) -> None:
        """One of ``step`` columns of a row, from the addresses of its channels in the first pixel."""
        f, kernel, target = self.f, self.kernel, self.kernel.target

        def pixel(x: Value, _: list[Value]) -> list[Value]:
            here = f.mul(x, ITEM * kernel.parts[1] * kernel.source.pixel)
            there = f.mul(x, ITEM * kernel.step[1] * target.pixel)
            loaded = [f.load("float", f.at(lane, here)) for lane in lanes]
            if target.lanes == 1:
                for c, one in enumerate(loaded):
                    f.store(activate(f, kernel.activation, one), out, f.add(there, ITEM * c * target.panel))
                return []
            value = constant(0.0, self.lanes)
            for c, one in enumerate(loaded):
                value = f.raw(f"insertelement {value.type} {value.name}, float {one.name}, i64 {c}", value.type)
            f.store(activate(f, kernel.activation, value), out, there)
            return []

        f.loop(0, target.width // kernel.step[1], pixel)
