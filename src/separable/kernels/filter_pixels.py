"""Rows of pixels of any type into rows of floats, and back. In: two types. Out: IR.

Integers are reached by rounding to the nearest, ties to even, and end at the limits of their type; what is not a
number becomes 0.
"""

from __future__ import annotations

from separable.kernels.filter_taps import ITEMS, lanes_of
from separable.kernels.ir import Function, Index, Module, Value, vector
from separable.kernels.isa import Isa

# The name that NumPy has for it: LLVM's type, its bytes, how it becomes a float, and the limits of an integer.
PIXELS = {
    "uint8": ("i8", 1, "uitofp", (0, 255)),
    "uint16": ("i16", 2, "uitofp", (0, 65535)),
    "int16": ("i16", 2, "sitofp", (-32768, 32767)),
    "float16": ("half", 2, "fpext", None),
    "float32": ("float", 4, "fpext", None),
    "float64": ("double", 8, "fpext", None),
}

NOWHERE = -(2**63)

# row, buffer, first, last, from, to, table, channels, constant
LOAD = ("ptr", "ptr", "i64", "i64", "i64", "i64", "ptr", "i64", "ptr")
STORE = ("ptr", "ptr", "i64")


def load_name(pixel: str, work: str) -> str:
    """The function's name."""
    return f"load_{pixel}_{work}"


def store_name(work: str, pixel: str) -> str:
    """The function's name."""
    return f"store_{work}_{pixel}"


def write_load(module: Module, pixel: str, work: str, isa: Isa) -> None:
    """A function of the arguments ``LOAD``: pixels ``first`` to ``last`` − 1 of a row, as floats.

    Those between ``from`` and ``to`` lie in the row; any other, x, stands at pixel ``table[x]``, or is ``constant``
    where that is ``NOWHERE``. Without a row all are ``constant``.
    """
    module.function(load_name(pixel, work), LOAD, lambda f, p: _load(f, p, pixel, work, isa))


def write_store(module: Module, work: str, pixel: str, isa: Isa) -> None:
    """A function of the arguments ``STORE``: n floats as pixels."""
    module.function(store_name(work, pixel), STORE, lambda f, p: _store(f, p, work, pixel, isa))


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
            f.store(_read(f, source, f.mul(x, size), pixel, work, lanes), target, f.mul(x, item))
            return []

        def one(x: Value, _: list[Value]) -> list[Value]:
            f.store(_read(f, source, f.mul(x, size), pixel, work, 1), target, f.mul(x, item))
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
            value = _read(f, source, f.mul(c, size), pixel, fill.type, 1)
            chosen = f.raw(f"select i1 {is_pixel.name}, {fill.type} {value.name}, {fill.type} {fill.name}", fill.type)
            f.store(chosen, target, f.mul(c, item))
            return []

        f.loop(0, channels, channel)
        return []

    f.loop(begin, end, one)


def _read(f: Function, pointer: Value, offset: Index, pixel: str, work: str, lanes: int) -> Value:
    kind, size, opcode, limits = PIXELS[pixel]
    at = f.at(pointer, offset)
    value = f.raw(f"load {vector(lanes, kind)}, ptr {at.name}, align {size}", vector(lanes, kind))
    if limits:
        wide = f.convert("zext" if opcode == "uitofp" else "sext", value, vector(lanes, "i32"))
        return f.convert("sitofp", wide, vector(lanes, work))
    if kind == work:
        return value
    if kind == "half" and work == "double":
        value = f.convert("fpext", value, vector(lanes, "float"))  # in two steps, each an instruction
    return f.convert("fpext", value, vector(lanes, work))


def _store(f: Function, parameters: list[Value], work: str, pixel: str, isa: Isa) -> None:
    sums, target, n = parameters
    size, item, lanes = PIXELS[pixel][1], ITEMS[work], lanes_of(work, isa)

    def write(x: Value, width: int) -> None:
        value = _finish(f, f.load(vector(width, work), sums, f.mul(x, item)), pixel)
        at = f.at(target, f.mul(x, size))
        f.raw(f"store {value.type} {value.name}, ptr {at.name}, align {size}")

    def several(x: Value, _: list[Value]) -> list[Value]:
        write(x, lanes)
        return []

    def one(x: Value, _: list[Value]) -> list[Value]:
        write(x, 1)
        return []

    whole = f.mul(f.div(n, lanes), lanes)
    f.loop(0, whole, several, step=lanes)
    f.loop(whole, n, one)


def _finish(f: Function, value: Value, pixel: str) -> Value:
    kind, _, _, limits = PIXELS[pixel]
    lanes, work = value.lanes, "double" if "double" in value.type else "float"
    if limits is None:
        if kind == work:
            return value
        if kind == "double":
            return f.convert("fpext", value, vector(lanes, kind))
        if kind == "half" and work == "double":
            value = f.convert("fptrunc", value, vector(lanes, "float"))
        return f.convert("fptrunc", value, vector(lanes, kind))
    low, high = (_number(limit, lanes, work) for limit in limits)
    is_number = f.raw(f"fcmp ord {value.type} {value.name}, {value.name}", vector(lanes, "i1"))
    value = f.select(is_number, value, Value("zeroinitializer" if lanes > 1 else "0.0", value.type))
    value = f.smaller(f.greater(value, low), high)
    suffix = ("v" + str(lanes) if lanes > 1 else "") + ("f64" if work == "double" else "f32")
    value = f.call(f"llvm.roundeven.{suffix}", value.type, [value])
    return f.convert("trunc", f.convert("fptosi", value, vector(lanes, "i32")), vector(lanes, kind))


def _number(value: int, lanes: int, work: str) -> Value:
    text = f"{value}.0"
    return Value(text if lanes == 1 else f"splat ({work} {text})", vector(lanes, work))
