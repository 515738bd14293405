"""What a pixel and a float are to the code of a filter. In: a type's name. Out: IR that turns one into the other.

Integers are reached by rounding to the nearest, ties to even, and end at the limits of their type; what is not a
number becomes 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from separable.kernels.ir import Function, Index, Value, vector
from separable.kernels.isa import Isa

ITEMS = {"float": 4, "double": 8}
# The name that NumPy has for it: LLVM's type, its bytes, how it becomes a float, and the limits of an integer.
PIXELS = {
    "uint8": ("i8", 1, "uitofp", (0, 255)),
    "uint16": ("i16", 2, "uitofp", (0, 65535)),
    "int16": ("i16", 2, "sitofp", (-32768, 32767)),
    "float16": ("half", 2, "fpext", None),
    "float32": ("float", 4, "fpext", None),
    "float64": ("double", 8, "fpext", None),
}
VECTORS = 2


def lanes_of(work: str, isa: Isa) -> int:
    """Elements of a register."""
    return isa.lanes * 4 // ITEMS[work]


def group_of(work: str, isa: Isa) -> int:
    """Elements that the inner loops take at a time: rows are padded to it."""
    return VECTORS * lanes_of(work, isa)


def read_pixels(f: Function, pointer: Value, offset: Index, pixel: str, work: str, lanes: int) -> Value:
    """Pixels in memory as floats."""
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


def write_pixels(
    f: Function, values: Sequence[Value], pixel: str, pointer: Value, offset: Index = 0, *, streams: bool = False
) -> None:
    """Neighbouring vectors of floats into memory as pixels; with ``streams`` as floats past the caches, aligned."""
    kind, size, _, limits = PIXELS[pixel]
    at = f.at(pointer, offset)
    if limits is None:
        for value in values:
            found = _as_float(f, value, kind)
            if streams:
                f.stream(found, at, found.lanes * size)
            else:
                f.raw(f"store {found.type} {found.name}, ptr {at.name}, align {size}")
            at = f.at(at, found.lanes * size)
        return
    lanes = values[0].lanes
    whole = [_as_integer(f, value, limits) for value in values]
    wide = reduce(lambda a, b: f.shuffle(a, b, range(a.lanes + lanes)), whole)
    for name, limit in zip(("smax", "smin"), limits, strict=True):
        wide = f.call(f"llvm.{name}.v{wide.lanes}i32", wide.type, [wide, Value(f"splat (i32 {limit})", wide.type)])
    found = f.convert("trunc", wide, vector(wide.lanes, kind))
    f.raw(f"store {found.type} {found.name}, ptr {at.name}, align {size}")


def _as_float(f: Function, value: Value, kind: str) -> Value:
    lanes, work = value.lanes, "double" if "double" in value.type else "float"
    if kind == work:
        return value
    if kind == "double":
        return f.convert("fpext", value, vector(lanes, kind))
    if kind == "half" and work == "double":
        value = f.convert("fptrunc", value, vector(lanes, "float"))
    return f.convert("fptrunc", value, vector(lanes, kind))


def _as_integer(f: Function, value: Value, limits: tuple[int, int]) -> Value:
    """A 32-bit integer that is right or beyond the limits on the right side.

    What lies below -2³¹, and NaN, becomes -2³¹ on x86, and NaN 0 on aarch64: an unsigned type makes 0 of both.
    """
    lanes, work = value.lanes, "double" if "double" in value.type else "float"
    if limits[0] < 0:
        is_number = f.raw(f"fcmp ord {value.type} {value.name}, {value.name}", vector(lanes, "i1"))
        value = f.select(is_number, value, Value("zeroinitializer", value.type))
    value = f.smaller(Value(f"splat ({work} {limits[1]}.0)", value.type), value)
    kind = vector(lanes, "i32")
    return f.call(f"llvm.lrint.v{lanes}i32.v{lanes}f{64 if work == 'double' else 32}", kind, [value])
