"""Rows of pixels of any type into rows of floats, with what lies beside them. In: two types. Out: IR."""

from __future__ import annotations

from separable.kernels.filter_types import ITEMS, PIXELS, lanes_of, read_pixels
from separable.kernels.ir import Function, Index, Module, Value
from separable.kernels.isa import Isa

NOWHERE = -(2**63)

# row, buffer, first, last, from, to, table, channels, constant
LOAD = ("ptr", "ptr", "i64", "i64", "i64", "i64", "ptr", "i64", "ptr")


def load_name(pixel: str, work: str) -> str:
    """The function's name."""
    return f"load_{pixel}_{work}"


def write_load(module: Module, pixel: str, work: str, isa: Isa) -> None:
    """A function of the arguments ``LOAD``: pixels ``first`` to ``last`` − 1 of a row, as floats.

    Those between ``from`` and ``to`` lie in the row; any other, x, stands at pixel ``table[x]``, or is ``constant``
    where that is ``NOWHERE``. Without a row all are ``constant``.
    """
    module.function(load_name(pixel, work), LOAD, lambda f, p: _load(f, p, pixel, work, isa))


def _load(f: Function, parameters: list[Value], pixel: str, work: str, isa: Isa) -> None:
    row, buffer, first, last, begin, end, table, channels, constant = parameters
    size, item, lanes = PIXELS[pixel][1], ITEMS[work], lanes_of(work, isa)
    fill = f.load(work, constant)

    def empty() -> None:
        def one(i: Value, _: list[Value]) -> list[Value]:
            f.store(fill, buffer, f.mul(i, item))
            return []

        f.loop(0, f.mul(f.sub(last, first), channels), one)

    def filled() -> None:
        a = f.least(f.most(begin, first), last)
        b = f.most(f.least(end, last), a)
        _edge(f, row, buffer, (first, first, a), (table, channels, fill), pixel)
        source = f.at(row, f.mul(f.mul(a, channels), size))
        target = f.at(buffer, f.mul(f.mul(f.sub(a, first), channels), item))
        n = f.mul(f.sub(b, a), channels)

        def several(x: Value, _: list[Value]) -> list[Value]:
            f.store(read_pixels(f, source, f.mul(x, size), pixel, work, lanes), target, f.mul(x, item))
            return []

        def one(x: Value, _: list[Value]) -> list[Value]:
            f.store(read_pixels(f, source, f.mul(x, size), pixel, work, 1), target, f.mul(x, item))
            return []

        whole = f.mul(f.div(n, lanes), lanes)
        f.loop(0, whole, several, step=lanes)
        f.loop(whole, n, one)
        _edge(f, row, buffer, (first, b, last), (table, channels, fill), pixel)

    null = Value("null", "ptr")
    f.when(f.compare("eq", row, null), empty)
    f.when(f.compare("ne", row, null), filled)


def _edge(
    f: Function,
    row: Value,
    buffer: Value,
    span: tuple[Value, Index, Index],
    rule: tuple[Value, Value, Value],
    pixel: str,
) -> None:
    (first, begin, end), (table, channels, fill) = span, rule
    size, item = PIXELS[pixel][1], ITEMS[fill.type]

    def one(x: Value, _: list[Value]) -> list[Value]:
        at = f.load("i64", table, f.mul(x, 8))
        is_pixel = f.compare("ne", at, NOWHERE)
        # Where there is no pixel the first one is read, and not used.
        source = f.at(row, f.mul(f.mul(f.select(is_pixel, at, 0), channels), size))
        target = f.at(buffer, f.mul(f.mul(f.sub(x, first), channels), item))

        def channel(c: Value, _: list[Value]) -> list[Value]:
            value = read_pixels(f, source, f.mul(c, size), pixel, fill.type, 1)
            chosen = f.raw(f"select i1 {is_pixel.name}, {fill.type} {value.name}, {fill.type} {fill.name}", fill.type)
            f.store(chosen, target, f.mul(c, item))
            return []

        f.loop(0, channels, channel)
        return []

    f.loop(begin, end, one)
