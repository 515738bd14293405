"""A 1-D kernel along each row. In: which taps it has, how many channels lie beside each other. Out: IR.

A short kernel reads the row at every tap. A long one takes as many rows as two registers have lanes, turns them on
their side, and runs down the columns as ``filter_taps`` does, where each load serves several outputs.
"""

from __future__ import annotations

from dataclasses import dataclass

from separable.kernels.filter_taps import COLUMN_PASS, Columns, write_columns
from separable.kernels.filter_types import ITEMS, VECTORS, group_of, lanes_of
from separable.kernels.ir import Function, Module, Value, vector
from separable.kernels.isa import Isa
from separable.kernels.moving import transpose

# buffers, buffer_stride, ring, slots (of the rows in the ring), rows, n, weights, taps, where, aside
ROW_PASS = ("ptr", "i64", "ptr", "ptr", "i64", "i64", "ptr", "i64", "ptr", "ptr")
LONGEST_DIRECT = 17
UNROLL = 4
FLOATS = {"float": "float32", "double": "float64"}


def step_of(work: str, isa: Isa) -> int:
    """How many floats a short kernel does at a time: it reads and writes to the next multiple of that."""
    return UNROLL * lanes_of(work, isa)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The pass along rows: ``taps`` as in ``Columns``; ``channels`` only matter to the code of short kernels.

    A long kernel takes exactly ``group_of`` rows at a time. ``aside`` is then what it needs
    beside them, six words: how many pixels are done at a time, so that they stay in the first cache (a row of the ring
    holds a multiple of them), channels, floats that are read for those, the offsets of the columns, room for the rows
    on their side, room for the results on their side.
    """

    work: str
    taps: tuple[int, ...] | str
    channels: int = 1

    @property
    def name(self) -> str:
        """The function's name."""
        if isinstance(self.taps, str):
            return f"rows_{self.work}_{self.taps}"
        return f"rows_{self.work}_{self.channels}_{'_'.join(map(str, self.taps))}"


def write_rows(module: Module, spec: Rows, isa: Isa) -> None:
    """A function of the arguments ``ROW_PASS``: each row of the buffers, filtered, into its slot of the ring."""
    if isinstance(spec.taps, str):
        inner = Columns(work=spec.work, taps=spec.taps, pixel=FLOATS[spec.work])
        write_columns(module, inner, isa)
        module.function(spec.name, ROW_PASS, lambda f, p: _turned(f, p, spec, inner, isa))
    else:
        taps = spec.taps
        module.function(spec.name, ROW_PASS, lambda f, p: _direct(f, p, spec, taps, isa))


def _direct(f: Function, parameters: list[Value], spec: Rows, taps: tuple[int, ...], isa: Isa) -> None:
    buffers, stride, ring, slots, rows, n, weights, *_ = parameters
    lanes, item = lanes_of(spec.work, isa), ITEMS[spec.work]
    kind = vector(lanes, spec.work)
    fixed = [f.splat(f.load(spec.work, weights, i * item), lanes) for i in range(len(taps))]

    def row(j: Value, _: list[Value]) -> list[Value]:
        source, target = f.at(buffers, f.mul(j, stride)), f.at(ring, f.load("i64", slots, f.mul(j, 8)))

        def columns(x: Value, _: list[Value]) -> list[Value]:
            sums = [Value("zeroinitializer", kind)] * UNROLL
            at = f.at(source, f.mul(x, item))
            for k, weight in zip(taps, fixed, strict=True):
                values = [f.load(kind, at, (k * spec.channels + u * lanes) * item) for u in range(UNROLL)]
                sums = [f.fma(value, weight, total) for value, total in zip(values, sums, strict=True)]
            for u, total in enumerate(sums):
                f.store(total, target, f.add(f.mul(x, item), u * lanes * item))
            return []

        f.loop(0, n, columns, step=step_of(spec.work, isa))
        return []

    f.loop(0, rows, row)


def _turned(f: Function, parameters: list[Value], spec: Rows, inner: Columns, isa: Isa) -> None:
    buffers, stride, ring, slots, _, n, weights, taps, where, aside = parameters
    lanes, item, group = lanes_of(spec.work, isa), ITEMS[spec.work], group_of(spec.work, isa)
    pixels, channels, read = (f.load("i64", aside, 8 * i) for i in range(3))
    offsets, turned, summed = (f.load("ptr", aside, 8 * i) for i in range(3, 6))
    kind = vector(lanes, spec.work)
    width = f.mul(channels, group)
    null, zero = Value("null", "ptr"), Value("0", "i64")

    def part(start: Value, _: list[Value]) -> list[Value]:
        def turn_in(x: Value, _: list[Value]) -> list[Value]:
            for half in range(VECTORS):
                at = f.mul(f.add(start, x), item)
                rows = [f.load(kind, f.at(buffers, f.mul(stride, half * lanes + j)), at) for j in range(lanes)]
                for i, column in enumerate(transpose(f, rows)):
                    f.store(column, turned, f.mul(f.add(f.mul(f.add(x, i), group), half * lanes), item))
            return []

        def turn_out(x: Value, _: list[Value]) -> list[Value]:
            for half in range(VECTORS):
                places = [f.mul(f.add(f.mul(f.add(x, i), group), half * lanes), item) for i in range(lanes)]
                for j, row in enumerate(transpose(f, [f.load(kind, summed, place) for place in places])):
                    at = f.at(ring, f.load("i64", slots, 8 * (half * lanes + j)))
                    f.store(row, at, f.mul(f.add(start, x), item))
            return []

        f.loop(0, read, turn_in, step=lanes)
        arguments = [
            offsets, turned, weights, taps, where, null, zero, summed,
            f.operand(f.mul(width, item), "i64"), pixels, f.operand(width, "i64"), null,
        ]  # fmt: skip
        listed = ", ".join(f"{kind} {a.name}" for kind, a in zip(COLUMN_PASS, arguments, strict=True))
        f.raw(f"call void @{inner.name}({listed})")
        f.loop(0, f.mul(pixels, channels), turn_out, step=lanes)
        return []

    f.loop(0, n, part, step=f.mul(pixels, channels))
