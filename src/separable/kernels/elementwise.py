"""Maps combined pixel by pixel. In: an operation, layouts. Out: IR.

A map of one pixel is spread over the other (a channel gate) by a layout whose strides are zero.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from separable.errors import SpecError
from separable.kernels.convolution import SIGNATURE
from separable.kernels.epilogue import NONE, Activation, activate
from separable.kernels.ir import Function, Module, Value, vector
from separable.kernels.isa import Isa
from separable.kernels.layout import ITEM, Layout

OPCODES = {"add": "fadd", "subtract": "fsub", "multiply": "fmul", "maximum": "", "keep": ""}
SOURCE, TARGET, OTHER = 0, 3, 4
UNROLL = 4


@dataclass(frozen=True, kw_only=True)
class Elementwise:
    """``operation`` of the source and ``other``, then the activation; ``"keep"`` is the activation alone."""

    operation: str
    source: Layout
    target: Layout
    other: Layout | None = None
    activation: Activation = NONE

    def __post_init__(self) -> None:
        if self.operation not in OPCODES or (self.operation == "keep") != (self.other is None):
            raise SpecError(
                "Elementwise", given=f"{self.operation!r} with {self.other}", expected=f"one of {sorted(OPCODES)}"
            )


def spread(layout: Layout, over: Layout) -> Layout:
    """A map of one pixel, read as if it had the size of ``over``."""
    return replace(layout, height=over.height, width=over.width, pixel=0, row=0)


def write(module: Module, name: str, kernel: Elementwise, isa: Isa) -> None:
    """The function ``name(arguments, thread, threads, image)``; ``other`` stands where a residual does."""
    module.function(name, SIGNATURE, lambda f, p: _write(f, p, kernel, isa))


def _write(f: Function, parameters: list[Value], kernel: Elementwise, isa: Isa) -> None:
    arguments, thread, threads, _ = parameters
    maps = [kernel.source, kernel.target, *([kernel.other] if kernel.other else [])]
    places = (SOURCE, TARGET, OTHER)
    height, width = kernel.target.height, kernel.target.width
    if all(m.row == m.pixel * m.width for m in maps):
        height, width = 1, height * width
    starts = [f.at(f.load("ptr", arguments, 8 * place), m.offset()) for place, m in zip(places, maps, strict=False)]
    chunk = max(1, min(width, CHUNK))
    chunks = -(-width // chunk)
    count = kernel.target.panels * height * chunks
    first, last = (f.div(f.mul(f.add(thread, i), count), threads) for i in (0, 1))

    def line(i: Value, _: list[Value]) -> list[Value]:
        unit, part = f.div(i, chunks), f.rem(i, chunks)
        panel, y = f.div(unit, height), f.rem(unit, height)
        rows = [
            f.at(start, f.add(f.mul(panel, ITEM * m.panel), f.mul(y, ITEM * m.row)))
            for start, m in zip(starts, maps, strict=True)
        ]
        begin = f.mul(part, chunk)
        end = f.least(f.add(begin, chunk), width)
        whole = f.add(begin, f.mul(f.div(f.sub(end, begin), UNROLL), UNROLL))

        def several(x: Value, _: list[Value]) -> list[Value]:
            for u in range(UNROLL):
                _one(f, kernel, isa, rows, [f.mul(f.add(x, u), ITEM * m.pixel) for m in maps])
            return []

        def one(x: Value, _: list[Value]) -> list[Value]:
            _one(f, kernel, isa, rows, [f.mul(x, ITEM * m.pixel) for m in maps])
            return []

        f.loop(begin, whole, several, step=UNROLL)
        f.loop(whole, end, one)
        return []

    f.loop(first, last, line)


def _one(f: Function, kernel: Elementwise, isa: Isa, rows: list[Value], offsets: list[Value | int]) -> None:
    x = f.load(vector(isa.lanes), rows[0], offsets[0])
    if kernel.other is not None:
        y = f.load(vector(isa.lanes), rows[2], offsets[2])
        x = f.greater(x, y) if kernel.operation == "maximum" else f.float(OPCODES[kernel.operation], x, y)
    f.store(activate(f, kernel.activation, x), rows[1], offsets[1])


CHUNK = 256
