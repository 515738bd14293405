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

    Channels beyond the target's last become zeros. The target may be planes.
    """

    source: Layout
    target: Layout
    activation: Activation = NONE

    def offsets(self, order: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """The table: bytes from the first channel of the source to each channel of the target."""
        panel, lane = np.divmod(np.asarray(order, np.int64), self.source.lanes)
        return ITEM * (panel * self.source.panel + lane)


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
        f, source, target = self.f, self.kernel.source, self.kernel.target
        first, last = (f.div(f.mul(f.add(self.thread, i), panels * target.height), self.threads) for i in (0, 1))

        def line(i: Value, _: list[Value]) -> list[Value]:
            panel, y = f.add(f.div(i, target.height), start), f.rem(i, target.height)
            entries = f.at(self.table, f.mul(panel, 8 * self.lanes))
            row = f.at(self.reads, f.mul(y, ITEM * source.row))
            lanes = [f.at(row, f.load("i64", entries, 8 * c)) for c in range(channels)]
            step = ITEM * target.panel * (self.lanes // target.lanes)
            out = f.at(self.writes, f.add(f.mul(panel, step), f.mul(y, ITEM * target.row)))

            def pixel(x: Value, _: list[Value]) -> list[Value]:
                value, here = constant(0.0, self.lanes), f.mul(x, ITEM * source.pixel)
                there, act = f.mul(x, ITEM * target.pixel), self.kernel.activation
                for c, lane in enumerate(lanes):
                    one = f.load("float", f.at(lane, here))
                    if target.lanes == 1:
                        f.store(activate(f, act, one), out, f.add(there, ITEM * c * target.panel))
                        continue
                    value = f.raw(f"insertelement {value.type} {value.name}, float {one.name}, i64 {c}", value.type)
                if target.lanes > 1:
                    f.store(activate(f, act, value), out, there)
                return []

            f.loop(0, target.width, pixel)
            return []

        f.loop(first, last, line)
