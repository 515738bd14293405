"""Both passes of a separable filter over an image. In: types and taps. Out: one function, called for each unit of work.

A unit is a strip of columns and a run of rows. The rows come once from the image, are filtered along the row
into a ring that stays in the cache, and are summed down the columns from there, a few rows at a time, straight into the
result. Several terms have a ring each and are summed before anything is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

from separable.kernels.convolution import SIGNATURE
from separable.kernels.filter_pixels import LOAD, NOWHERE, load_name, write_load
from separable.kernels.filter_rows import ROW_PASS, Rows, step_of, write_rows
from separable.kernels.filter_taps import COLUMN_PASS, Columns, write_columns
from separable.kernels.filter_types import ITEMS
from separable.kernels.ir import Function, Index, Module, Value
from separable.kernels.isa import Isa
from separable.kernels.jit import Library, object_code

# What the driver is told, one i64 each, in this order. All offsets and strides are in bytes, all else is counted in
# rows, pixels or floats. "Logical" rows and columns begin at 0 with the first of the result; those that a kernel
# reaches beside it are negative or beyond its size.
WORDS = (
    "unit_table",  # a unit: source offset, target offset, first row, last row, first column, last column
    "source", "target", "target_row", "target_item",
    "load", "is_straight",  # a function; whether rows are filtered where they lie, being of the type to compute in
    "row_table", "first_row", "last_row",  # the rows that are read: where each lies, NOWHERE for a constant one
    "above", "below", "slot_table",  # the ring's offset of each logical row, from -above on
    "ring_rows", "ring_row", "block", "at_once",  # rows of the ring, its stride, rows summed, rows read at a time
    "left", "right", "channels",
    "first_column", "last_column", "column_table", "constant",  # the columns that lie in a row; where others stand
    "terms", "term_table",  # a term: see TERM
    "memory",  # of this thread
    "buffers", "buffer_row", "aside", "partial", "partial_row", "spare",  # offsets in a thread's memory
)  # fmt: skip
TERM = (
    "rows", "columns", "row_weights", "row_taps", "row_where", "row_shift",
    "column_weights", "column_taps", "column_where", "column_shift", "ring",
)  # fmt: skip
UNIT_WORDS = 6


@dataclass(frozen=True, kw_only=True)
class Filtering:
    """The functions of one kind of filter: pixel types, the type that is computed in, the passes of each term."""

    work: str
    source: str
    rows: tuple[Rows, ...]
    columns: tuple[Columns, ...]


@dataclass(frozen=True, kw_only=True)
class Entries:
    """Addresses of the functions of a ``Filtering``; the library holds them in memory."""

    library: Library
    driver: int
    load: int
    rows: tuple[int, ...]
    columns: tuple[int, ...]


@cache
def entries(filtering: Filtering, isa: Isa) -> Entries:
    """The machine code of a filter, from the disk where it lies there."""
    library = Library([object_code(text, isa) for text in sources(filtering, isa).values()], isa)
    return Entries(
        library=library,
        driver=library.address(_driver_name(filtering.work)),
        load=library.address(load_name(filtering.source, filtering.work)),
        rows=tuple(library.address(rows.name) for rows in filtering.rows),
        columns=tuple(library.address(columns.name) for columns in filtering.columns),
    )


def sources(filtering: Filtering, isa: Isa) -> dict[str, str]:
    """The LLVM module of each function by the function's name, in the order in which they can be loaded.

    Rows come last: they call functions, and of objects that are loaded after the first that does, LLVM's loader
    (22, large code model) places the constants wrongly: a limit of 255 was read as 0.
    """
    work = filtering.work
    writers: dict[str, Callable[[Module], None]] = {
        _driver_name(work): lambda m: m.function(
            _driver_name(work), SIGNATURE, lambda f, p: _Driver(f, p, work, isa).write()
        ),
        load_name(filtering.source, work): lambda m: write_load(m, filtering.source, work, isa),
    }
    writers |= {columns.name: partial(write_columns, spec=columns, isa=isa) for columns in filtering.columns}
    writers |= {rows.name: partial(write_rows, spec=rows, isa=isa) for rows in filtering.rows}
    return {name: _source(write) for name, write in writers.items()}


def _driver_name(work: str) -> str:
    return f"filter_{work}"


def _source(write: Callable[[Module], None]) -> str:
    module = Module()
    write(module)
    return module.text


class _Driver:
    def __init__(self, f: Function, parameters: list[Value], work: str, isa: Isa) -> None:
        self.f, self.isa, self.item, self.step = f, isa, ITEMS[work], step_of(work, isa)
        arguments, _, _, self.number = parameters
        self.words = {name: f.load("i64", arguments, 8 * i) for i, name in enumerate(WORDS)}
        self.memory = self.slots = self._pointer(self.words["memory"])  # a thread's memory begins with room for slots
        self.buffers, self.aside, self.partial, self.spare = (
            f.at(self.memory, self.words[name]) for name in ("buffers", "aside", "partial", "spare")
        )

    def write(self) -> None:
        """One unit."""
        f, words = self.f, self.words
        table = f.at(self._pointer(words["unit_table"]), f.mul(self.number, 8 * UNIT_WORDS))
        source, target, y0, y1, self.x0, self.x1 = (f.load("i64", table, 8 * i) for i in range(UNIT_WORDS))
        self.source = f.at(self._pointer(words["source"]), source)
        self.target = f.at(self._pointer(words["target"]), target)
        self.n = f.mul(f.sub(self.x1, self.x0), words["channels"])

        def block(y: Value, carried: list[Value]) -> list[Value]:
            count = f.least(words["block"], f.sub(y1, y))
            needed = self._read_row(f.add(f.add(y, count), words["below"]))
            read = f.loop(carried[0], needed, self._fill, step=words["at_once"], carried=[carried[0]])
            self._sum(y, count)
            return read

        f.loop(y0, y1, block, step=words["block"], carried=[self._read_row(f.sub(y0, words["above"]))])
        if self.isa.is_x86:  # elsewhere the thread's report that a unit is done is a barrier for such stores too
            f.module.declare("llvm.x86.sse.sfence", "void", [])
            f.raw("call void @llvm.x86.sse.sfence()")

    def _read_row(self, y: Index) -> Value:
        """Of the rows that are read, the first not before logical row ``y``."""
        f, words = self.f, self.words
        return f.operand(f.most(words["first_row"], f.least(y, words["last_row"])), "i64")

    def _fill(self, row: Value, _: list[Value]) -> list[Value]:
        """The next rows, filtered along themselves, into the rings of all terms."""
        f, words = self.f, self.words

        def slot(j: Value, _: list[Value]) -> list[Value]:
            index = f.sub(f.add(row, j), words["first_row"])
            place = f.mul(f.rem(index, words["ring_rows"]), words["ring_row"])
            f.store(f.operand(place, "i64"), self.slots, f.mul(j, 8))
            return []

        f.loop(0, words["at_once"], slot)
        is_straight = f.compare("ne", words["is_straight"], 0)
        f.when(is_straight, lambda: self._straight(row))
        f.when(f.compare("eq", words["is_straight"], 0), lambda: self._buffered(row))
        return [f.operand(f.add(row, words["at_once"]), "i64")]

    def _buffered(self, row: Value) -> None:
        """Rows by way of buffers, as floats with what lies beside them."""
        f = self.f

        def load(j: Value, _: list[Value]) -> list[Value]:
            at = f.add(row, j)
            is_row = f.compare("slt", at, self.words["last_row"])
            f.when(is_row, lambda: self._load(self._offset(at), j, self.x0, self.x1))
            return []

        f.loop(0, self.words["at_once"], load)
        self._filter(self.buffers, self.x0, self.x1)

    def _straight(self, row: Value) -> None:
        """One row from where it lies; by way of the buffer only results whose kernel reaches beyond the image."""
        f, words, step = self.f, self.words, self.step
        offset = self._offset(row)
        is_there = f.compare("ne", offset, NOWHERE)
        a = f.least(self.x1, f.most(self.x0, f.add(words["first_column"], words["left"])))
        room = f.sub(f.least(self.x1, f.sub(words["last_column"], words["right"])), a)
        b = f.add(a, f.mul(f.div(f.most(room, 0), step), step))
        a, b = f.select(is_there, a, self.x0), f.select(is_there, b, self.x0)

        def end(first: Value, last: Value) -> None:
            self._load(offset, 0, first, last)
            self._filter(self.buffers, first, last)

        def middle() -> None:
            reach = f.mul(f.mul(f.sub(a, words["left"]), words["channels"]), self.item)
            self._filter(f.at(self.source, f.add(offset, reach)), a, b)

        f.when(f.compare("slt", self.x0, a), lambda: end(self.x0, a))
        f.when(f.compare("slt", a, b), middle)
        f.when(f.compare("slt", b, self.x1), lambda: end(b, self.x1))

    def _offset(self, row: Index) -> Value:
        f = self.f
        index = f.sub(row, self.words["first_row"])
        return f.load("i64", self._pointer(self.words["row_table"]), f.mul(index, 8))

    def _filter(self, pixels: Value, first: Value, last: Value) -> None:
        """Results ``first`` to ``last`` − 1 of rows of floats, that begin as far before them as any kernel reaches."""
        f, words = self.f, self.words
        place = f.mul(f.mul(f.sub(first, self.x0), words["channels"]), self.item)
        n = f.mul(f.sub(last, first), words["channels"])

        def term(t: Value, _: list[Value]) -> list[Value]:
            facts = self._term(t)
            self._call(
                facts["rows"], ROW_PASS,
                [
                    f.at(pixels, f.mul(facts["row_shift"], self.item)), words["buffer_row"],
                    f.at(self.memory, f.add(facts["ring"], place)), self.slots, words["at_once"], n,
                    self._pointer(facts["row_weights"]), facts["row_taps"], self._pointer(facts["row_where"]),
                    self.aside,
                ],
            )  # fmt: skip
            return []

        f.loop(0, words["terms"], term)

    def _load(self, offset: Value, j: Index, first: Value, last: Value) -> None:
        f, words = self.f, self.words
        is_nowhere = f.compare("eq", offset, NOWHERE)
        at = f.at(self.source, offset)
        row = f.raw(f"select i1 {is_nowhere.name}, ptr null, ptr {at.name}", "ptr")
        self._call(
            words["load"], LOAD,
            [
                row, f.at(self.buffers, f.mul(j, words["buffer_row"])),
                f.sub(first, words["left"]), f.add(last, words["right"]),
                words["first_column"], words["last_column"], self._pointer(words["column_table"]),
                words["channels"], self._pointer(words["constant"]),
            ],
        )  # fmt: skip

    def _sum(self, y: Value, count: Index) -> None:
        """The rows of a block from the rings, all terms one after the other, the last one into the result."""
        f, words = self.f, self.words
        at = f.at(self.target, f.mul(y, words["target_row"]))
        target = f.at(at, f.mul(f.mul(self.x0, words["channels"]), words["target_item"]))
        slots = self._pointer(words["slot_table"])

        def term(t: Value, _: list[Value]) -> list[Value]:
            facts = self._term(t)
            is_last = f.compare("eq", f.add(t, 1), words["terms"])
            sums = f.raw(f"select i1 {is_last.name}, ptr {target.name}, ptr {self.partial.name}", "ptr")
            self._call(
                facts["columns"], COLUMN_PASS,
                [
                    f.at(slots, f.mul(f.add(y, facts["column_shift"]), 8)), f.at(self.memory, facts["ring"]),
                    self._pointer(facts["column_weights"]), facts["column_taps"],
                    self._pointer(facts["column_where"]), self.partial, words["partial_row"], sums,
                    f.select(is_last, words["target_row"], words["partial_row"]), count, self.n, self.spare,
                ],
            )  # fmt: skip
            return []

        f.loop(0, words["terms"], term)

    def _term(self, t: Value) -> dict[str, Value]:
        f = self.f
        table = f.at(self._pointer(self.words["term_table"]), f.mul(t, 8 * len(TERM)))
        return {name: f.load("i64", table, 8 * i) for i, name in enumerate(TERM)}

    def _pointer(self, address: Index) -> Value:
        return self.f.convert("inttoptr", self.f.operand(address, "i64"), "ptr")

    def _call(self, function: Value, signature: Sequence[str], arguments: Sequence[Index]) -> None:
        f = self.f
        listed = ", ".join(f"{kind} {f.operand(a, kind).name}" for kind, a in zip(signature, arguments, strict=True))
        f.raw(f"call void {self._pointer(function).name}({listed})")
