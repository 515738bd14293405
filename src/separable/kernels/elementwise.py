"""Maps combined pixel by pixel. In: an operation, layouts. Out: IR.

A map of one pixel is spread over the other (a channel gate) by a layout whose strides are zero; so is a map of one
channel (a spatial gate), read lane by lane.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from separable.errors import SpecError
from separable.kernels.across import trimmed
from separable.kernels.convolution import SIGNATURE
from separable.kernels.epilogue import NONE, Activation, activate, logarithm
from separable.kernels.ir import Function, Index, Module, Value, constant, vector
from separable.kernels.isa import Isa
from separable.kernels.layout import ITEM, NO_BORDER, Layout

OPERATIONS: dict[str, Callable[[Function, Value, Value], Value]] = {
    "add": lambda f, x, y: f.float("fadd", x, y),
    "subtract": lambda f, x, y: f.float("fsub", x, y),
    "multiply": lambda f, x, y: f.float("fmul", x, y),
    "divide": lambda f, x, y: f.float("fdiv", x, y),
    "maximum": lambda f, x, y: f.maximum(x, y),
    "minimum": lambda f, x, y: f.minimum(x, y),
    "slope": lambda f, x, y: f.where_negative(x, f.float("fmul", x, y), x),
}


def _divided(f: Function, x: Value) -> Value:
    return f.float("fdiv", constant(1.0, x.lanes), x)


def _power(f: Function, x: Value, exponent: float) -> Value:
    product = x
    for _ in range(int(exponent) - 1):
        product = f.float("fmul", product, x)
    return product


def _soft_shrink(f: Function, x: Value, size: float) -> Value:
    low, high = constant(-size, x.lanes), constant(size, x.lanes)
    return f.float("fsub", x, f.smaller(high, f.greater(low, x)))


def _hard_shrink(f: Function, x: Value, size: float) -> Value:
    far = f.where("oge", x, constant(-size, x.lanes), constant(0.0, x.lanes), x)
    return f.where("ole", x, constant(size, x.lanes), far, x)


def _threshold(f: Function, x: Value, least: float, other: float) -> Value:
    return f.where("ole", x, constant(least, x.lanes), constant(other, x.lanes), x)


# Of one map and constants. An activation that a convolution finishes with must be a number at 0; these need not.
UNARY: dict[str, Callable[..., Value]] = {
    "sqrt": lambda f, x: f.sqrt(x),
    "reciprocal": _divided,
    "reciprocal sqrt": lambda f, x: _divided(f, f.sqrt(x)),
    "log": logarithm,
    "power": _power,
    "soft shrink": _soft_shrink,
    "hard shrink": _hard_shrink,
    "threshold": _threshold,
}
SOURCE, TARGET, OTHER = 0, 3, 4
UNROLL = 4


@dataclass(frozen=True, kw_only=True)
class Elementwise:
    """``operation`` of the source and ``other``, then the activation; ``"keep"`` is the activation alone.

    ``"slope"`` multiplies what is below zero, each channel by its own slope. ``constants`` are for those of one map.
    """

    operation: str
    source: Layout
    target: Layout
    other: Layout | None = None
    activation: Activation = NONE
    constants: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.operation not in (OPERATIONS if self.other else ("keep", *UNARY)):
            expected = f"one of {sorted(OPERATIONS)} with another map, or one of {sorted(UNARY)} or 'keep'"
            raise SpecError("Elementwise", given=f"{self.operation!r} with {self.other}", expected=expected)


def spread(layout: Layout, over: Layout) -> Layout:
    """A map of one pixel, from that pixel on, read as if it had the size of ``over``."""
    return replace(layout, height=over.height, width=over.width, pixel=0, row=0, border=NO_BORDER)


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
        # What stands behind the channels must stay a number: readers multiply it with weights of zero.
        is_last = f.compare("eq", panel, kernel.target.panels - 1) if kernel.target.channels % isa.lanes else None
        begin = f.mul(part, chunk)
        end = f.least(f.add(begin, chunk), width)
        whole = f.add(begin, f.mul(f.div(f.sub(end, begin), UNROLL), UNROLL))

        def several(x: Value, _: list[Value]) -> list[Value]:
            for u in range(UNROLL):
                _one(f, kernel, is_last, rows, [f.mul(f.add(x, u), ITEM * m.pixel) for m in maps])
            return []

        def one(x: Value, _: list[Value]) -> list[Value]:
            _one(f, kernel, is_last, rows, [f.mul(x, ITEM * m.pixel) for m in maps])
            return []

        f.loop(begin, whole, several, step=UNROLL)
        f.loop(whole, end, one)
        return []

    f.loop(first, last, line)


def _one(f: Function, kernel: Elementwise, is_last: Value | None, rows: list[Value], offsets: list[Index]) -> None:
    lanes = kernel.target.lanes
    x = f.load(vector(lanes), rows[0], offsets[0])
    if kernel.other is not None:
        is_gate = kernel.other.channels == 1 < kernel.target.channels
        y = f.load("float" if is_gate else vector(lanes), rows[2], offsets[2])
        y = f.splat(y, lanes) if is_gate else y
        if kernel.operation == "divide" and is_last is not None:
            y = f.select(is_last, trimmed(f, y, kernel.target.channels % lanes, 1.0), y)
        x = OPERATIONS[kernel.operation](f, x, y)
    elif kernel.operation != "keep":
        if is_last is not None:
            x = f.select(is_last, trimmed(f, x, kernel.target.channels % lanes, 1.0), x)
        x = UNARY[kernel.operation](f, x, *kernel.constants)
    f.store(activate(f, kernel.activation, x), rows[1], offsets[1])


CHUNK = 256
