"""Rows of pixels of any type into rows of floats, and rows of results past the caches. In: two types. Out: IR."""

from __future__ import annotations

from separable.kernels.filter_types import ITEMS, PIXELS, lanes_of, read_pixels
from separable.kernels.ir import Function, Index, Module, Value
from separable.kernels.isa import Isa

NOWHERE = -(2**63)

# row, buffer, first, last, from, to, table, channels, constant
LOAD = ("ptr", "ptr", "i64", "i64", "i64", "i64", "ptr", "i64", "ptr")
# row, target, bytes
STREAM = ("ptr", "ptr", "i64")
STREAM_NAME = "stream_bytes"
LINE = 64


def load_name(pixel: str, work: str) -> str:
    """The function's name."""
    return f"load_{pixel}_{work}"


def write_load(module: Module, pixel: str, work: str, isa: Isa) -> None:
    """A function of the arguments ``LOAD``: pixels ``first`` to ``last`` − 1 of a row, as floats.

    Those between ``from`` and ``to`` lie in the row; any other, x, stands at pixel ``table[x]``, or is ``constant``
    where that is ``NOWHERE``. Without a row all are ``constant``.
    """
    module.function(load_name(pixel, work), LOAD, lambda f, p: _load(f, p, pixel, work, isa))


def write_stream(module: Module, isa: Isa) -> None:
    """A function of the arguments ``STREAM``: a row into memory without reading what lay there, past the caches."""
    module.function(STREAM_NAME, STREAM, lambda f, p: _stream(f, p, isa))


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


def _stream(f: Function, parameters: list[Value], isa: Isa) -> None:
    """Whole lines past the caches; the first and last 64 bytes, which may share a line with others, as usual."""
    row, target, size = parameters
    kind, step = f"<{isa.lanes} x float>", isa.lanes * 4

    def line(at: Index, *, is_whole: bool) -> None:
        for part in range(0, LINE, step):
            value = f.load(kind, row, f.add(at, part))
            (f.stream if is_whole else f.store)(value, target, f.add(at, part))

    def large() -> None:
        line(0, is_whole=False)
        misaligned = f.raw(f"and i64 {f.convert('ptrtoint', target, 'i64').name}, {LINE - 1}", "i64")
        begin = f.sub(LINE, misaligned)
        whole = f.add(begin, f.mul(f.div(f.sub(size, begin), LINE), LINE))

        def lines(at: Value, _: list[Value]) -> list[Value]:
            line(at, is_whole=True)
            return []

        f.loop(begin, whole, lines, step=LINE)
        line(f.sub(size, LINE), is_whole=False)

    def small() -> None:
        def byte(at: Value, _: list[Value]) -> list[Value]:
            f.store(f.load("i8", row, at), target, at)
            return []

        f.loop(0, size, byte)

    f.when(f.compare("slt", size, LINE), small)
    f.when(f.compare("sge", size, LINE), large)
