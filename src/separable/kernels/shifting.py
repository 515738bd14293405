"""Channels brought to where they do not begin a panel. In: layouts, first channels. Out: IR that shifts lanes.

This joins maps, and takes parts of them, whose channels are no multiple of a panel's.
"""

from __future__ import annotations

from dataclasses import dataclass

from separable.kernels.convolution import SIGNATURE, SOURCE, TARGET
from separable.kernels.ir import Function, Module, Value, constant, vector
from separable.kernels.isa import Isa
from separable.kernels.layout import ITEM, Layout


@dataclass(frozen=True, kw_only=True)
class Shift:
    """Target channels from ``first_out`` on are the source's from ``first_in`` on, ``channels`` of them.

    The target's channels in front stay as they are; those behind, up to the end of a panel, become zeros.
    """

    source: Layout
    target: Layout
    first_in: int
    first_out: int
    channels: int


def write(module: Module, name: str, kernel: Shift, isa: Isa) -> None:
    """The function ``name(arguments, thread, threads, image)``; source and target stand where a convolution's do."""
    module.function(name, SIGNATURE, _Emitter(kernel, isa.lanes).write)


class _Emitter:
    def __init__(self, kernel: Shift, lanes: int) -> None:
        self.kernel, self.lanes = kernel, lanes
        self.begin, self.end = kernel.first_out, kernel.first_out + kernel.channels
        self.panels, self.turn = divmod(kernel.first_in - kernel.first_out, lanes)

    def write(self, f: Function, parameters: list[Value]) -> None:
        arguments, self.thread, self.threads, _ = parameters
        self.f = f
        self.reads = f.at(f.load("ptr", arguments, 8 * SOURCE), self.kernel.source.offset())
        self.writes = f.at(f.load("ptr", arguments, 8 * TARGET), self.kernel.target.offset())
        first, last = self.begin // self.lanes, (self.end - 1) // self.lanes
        inside = range(first + bool(self.begin % self.lanes), last + (self.end % self.lanes == 0))
        for panel in dict.fromkeys((first, last)):
            if panel not in inside:
                self._share(panel, panel + 1, is_edge=True)
        if inside:
            self._share(inside.start, inside.stop, is_edge=False)

    def _share(self, start: int, stop: int, *, is_edge: bool) -> None:
        """Panels from ``start`` on, shared out by rows."""
        f, source, target = self.f, self.kernel.source, self.kernel.target
        count = (stop - start) * target.height
        first, last = (f.div(f.mul(f.add(self.thread, i), count), self.threads) for i in (0, 1))
        # At an edge one of the two panels may lie outside of the source; nothing is taken from it then.
        low = min(max(start + self.panels, 0), source.panels - 1)
        high = min(max(start + self.panels + 1, 0), source.panels - 1)
        near = 0 if self.turn == 0 else (high - low) * source.panel

        def line(i: Value, _: list[Value]) -> list[Value]:
            panel, y = f.div(i, target.height), f.rem(i, target.height)
            row = f.mul(y, ITEM * source.row)
            at = f.at(self.reads, f.add(f.mul(f.add(panel, low), ITEM * source.panel), row))
            row = f.mul(y, ITEM * target.row)
            out = f.at(self.writes, f.add(f.mul(f.add(panel, start), ITEM * target.panel), row))

            def pixel(x: Value, _: list[Value]) -> list[Value]:
                here = f.at(at, f.mul(x, ITEM * source.pixel))
                there = f.at(out, f.mul(x, ITEM * target.pixel))
                a = f.load(vector(self.lanes), here)
                if self.turn:
                    b = f.load(vector(self.lanes), here, ITEM * near)
                    a = f.shuffle(a, b, [self.turn + lane for lane in range(self.lanes)])
                f.store(self._trimmed(a, start, there) if is_edge else a, there)
                return []

            f.loop(0, target.width, pixel)
            return []

        f.loop(first, last, line)

    def _trimmed(self, value: Value, panel: int, there: Value) -> Value:
        """With the target's own lanes in front, and zeros behind."""
        f, lanes = self.f, range(self.lanes)
        first = panel * self.lanes
        if first < self.begin:
            old = f.load(vector(self.lanes), there)
            value = f.shuffle(value, old, [n if first + n >= self.begin else self.lanes + n for n in lanes])
        zeros = constant(0.0, self.lanes)
        return f.shuffle(value, zeros, [n if first + n < self.end else self.lanes + n for n in lanes])
