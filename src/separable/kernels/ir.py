"""A small layer over LLVM IR. In: Python calls that read like a loop nest. Out: the text of an LLVM module.

Values are names with a type. Integers of Python stay integers until an instruction needs them, so index arithmetic on
constants costs nothing in the generated code. All offsets are in bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Value:
    """One SSA value or constant, and its LLVM type."""

    name: str
    type: str

    @property
    def lanes(self) -> int:
        """Elements of a vector, 1 for a scalar."""
        return int(self.type[1:].split(" ")[0]) if self.type.startswith("<") else 1


Index = Value | int
Body = Callable[[Value, list[Value]], list[Value]]
Turn = Callable[[list[Value]], tuple[Value, list[Value]]]


def vector(lanes: int, element: str = "float") -> str:
    """The type of ``lanes`` elements; a scalar type when there is one.

    >>> vector(8), vector(1)
    ('<8 x float>', 'float')
    """
    return element if lanes == 1 else f"<{lanes} x {element}>"


def constant(number: float, lanes: int = 1) -> Value:
    """A float32 constant in every lane, written exactly."""
    (single,) = struct.unpack("<f", struct.pack("<f", number))
    text = "0x" + struct.pack(">d", single).hex().upper()
    return Value(text if lanes == 1 else f"splat (float {text})", vector(lanes))


class Module:
    """The text of one LLVM module: functions in the order written, each external function declared once."""

    def __init__(self) -> None:
        self._declared: dict[str, str] = {}
        self._parts: list[str] = []
        self.has_streams = False

    def declare(self, name: str, result: str, arguments: Sequence[str]) -> None:
        """An external function or an intrinsic; saying it twice is fine."""
        self._declared[name] = f"declare {result} @{name}({', '.join(arguments)})"

    def table(self, name: str, entries: Sequence[int]) -> Value:
        """A constant array of i64."""
        body = ", ".join(f"i64 {entry}" for entry in entries)
        self._parts.append(f"@{name} = private unnamed_addr constant [{len(entries)} x i64] [{body}], align 64")
        return Value(f"@{name}", "ptr")

    def function(
        self,
        name: str,
        parameters: Sequence[str],
        write: Callable[[Function, list[Value]], Index | None],
        *,
        result: str = "void",
        is_internal: bool = False,
    ) -> None:
        """A function whose body ``write`` emits; what ``write`` returns is the result.

        ``is_internal``: only this module calls it.
        """
        function = Function(self, [Value(f"%p{i}", kind) for i, kind in enumerate(parameters)])
        returned = write(function, function.parameters)
        signature = ", ".join(f"{p.type} {p.name}" for p in function.parameters)
        end = "ret void" if returned is None else f"ret {result} {function.operand(returned, result).name}"
        lines = "\n".join(["entry:", *function.lines, f"  {end}"])
        linkage, inlining = ("internal ", "noinline ") if is_internal else ("", "")
        self._parts.append(f"define {linkage}{result} @{name}({signature}) {inlining}#0 {{\n{lines}\n}}")

    @property
    def text(self) -> str:
        """The module as LLVM assembly. Full vector width on.

        LLVM makes no call of memset from a loop: a kernel calls nothing outside its module. The stack is aligned to a
        cache line: a vector put there across two of them is slow to come back.
        """
        attributes = (
            "attributes #0 = { nounwind alignstack=64 "
            '"no-builtins" "prefer-vector-width"="512" "min-legal-vector-width"="512" }'
        )
        numbers = ["!0 = !{i32 1}"] * self.has_streams
        return "\n\n".join([*self._declared.values(), *self._parts, attributes, *numbers]) + "\n"


class Function:
    """Emits the instructions of one function, one method an instruction or a control structure."""

    def __init__(self, module: Module, parameters: list[Value]) -> None:
        self.module = module
        self.parameters = parameters
        self.lines: list[str] = []
        self._count = 0
        self._block = "entry"

    # -- integers and addresses -----------------------------------------------------------------------

    def add(self, a: Index, b: Index) -> Index:
        """a + b."""
        if isinstance(a, int) and isinstance(b, int):
            return a + b
        if b == 0:
            return a
        return b if a == 0 else self._binary("add nsw", a, b)

    def sub(self, a: Index, b: Index) -> Index:
        """a − b."""
        if isinstance(a, int) and isinstance(b, int):
            return a - b
        return a if b == 0 else self._binary("sub nsw", a, b)

    def mul(self, a: Index, b: Index) -> Index:
        """a · b."""
        if isinstance(a, int) and isinstance(b, int):
            return a * b
        if a == 0 or b == 0:
            return 0
        if b == 1:
            return a
        return b if a == 1 else self._binary("mul nsw", a, b)

    def div(self, a: Index, b: Index) -> Index:
        """a // b of two numbers that are not negative."""
        if isinstance(a, int) and isinstance(b, int):
            return a // b
        return a if b == 1 else self._binary("udiv", a, b)

    def rem(self, a: Index, b: Index) -> Index:
        """a % b of two numbers that are not negative."""
        if isinstance(a, int) and isinstance(b, int):
            return a % b
        return 0 if b == 1 else self._binary("urem", a, b)

    def least(self, a: Index, b: Index) -> Index:
        """min(a, b)."""
        if isinstance(a, int) and isinstance(b, int):
            return min(a, b)
        return self.select(self.compare("slt", a, b), a, b)

    def most(self, a: Index, b: Index) -> Index:
        """max(a, b)."""
        if isinstance(a, int) and isinstance(b, int):
            return max(a, b)
        return self.select(self.compare("sgt", a, b), a, b)

    def compare(self, how: str, a: Index, b: Index) -> Value:
        """``how`` is one of LLVM's integer predicates."""
        kind = self._type(a, b)
        return self._emit(f"icmp {how} {kind} {self.operand(a, kind).name}, {self.operand(b, kind).name}", "i1")

    def select(self, condition: Value, a: Index, b: Index) -> Value:
        """``a`` where the condition holds, else ``b``."""
        kind = self._type(a, b)
        x, y = self.operand(a, kind), self.operand(b, kind)
        return self._emit(f"select {condition.type} {condition.name}, {kind} {x.name}, {kind} {y.name}", kind)

    def both(self, a: Value, b: Value) -> Value:
        """Whether two conditions hold."""
        return self._emit(f"and i1 {a.name}, {b.name}", "i1")

    def opposite(self, a: Value) -> Value:
        """Whether a condition does not hold."""
        return self._emit(f"xor i1 {a.name}, true", "i1")

    def at(self, pointer: Value, offset: Index) -> Value:
        """The address ``offset`` bytes behind ``pointer``."""
        if offset == 0:
            return pointer
        o = self.operand(offset, "i64")
        return self._emit(f"getelementptr i8, ptr {pointer.name}, i64 {o.name}", "ptr")

    # -- memory -----------------------------------------------------------------------------------------

    def load(self, kind: str, pointer: Value, offset: Index = 0) -> Value:
        """A value from memory; vectors need not be aligned."""
        return self._emit(f"load {kind}, ptr {self.at(pointer, offset).name}, align {_alignment(kind)}", kind)

    def store(self, value: Value, pointer: Value, offset: Index = 0) -> None:
        """A value into memory; vectors need not be aligned."""
        where = self.at(pointer, offset)
        self.lines.append(f"  store {value.type} {value.name}, ptr {where.name}, align {_alignment(value.type)}")

    def stream(self, value: Value, pointer: Value, alignment: int) -> None:
        """A value into memory past the caches, at an aligned address; others see it after a fence."""
        self.module.has_streams = True
        self.lines.append(f"  store {value.type} {value.name}, ptr {pointer.name}, align {alignment}, !nontemporal !0")

    def prefetch(self, pointer: Value, offset: Index = 0) -> None:
        """Asks for a cache line that will be read soon."""
        self.module.declare("llvm.prefetch.p0", "void", ["ptr", "i32", "i32", "i32"])
        self.lines.append(f"  call void @llvm.prefetch.p0(ptr {self.at(pointer, offset).name}, i32 0, i32 3, i32 1)")

    def opaque(self, x: Value) -> Value:
        """The same value, of which LLVM forgets how it was made; for vectors that x86 has registers for."""
        return self._emit(f'call {x.type} asm "", "=v,0"({x.type} {x.name})', x.type)

    def hold(self) -> None:
        """What is loaded below is not loaded any earlier."""
        self.lines.append('  call void asm sideeffect "", "~{memory}"()')

    # -- floats -----------------------------------------------------------------------------------------

    def splat(self, scalar: Value, lanes: int) -> Value:
        """The scalar in every lane."""
        if lanes == 1:
            return scalar
        kind = vector(lanes, scalar.type)
        one = self._emit(f"insertelement {kind} poison, {scalar.type} {scalar.name}, i64 0", kind)
        return self._emit(f"shufflevector {kind} {one.name}, {kind} poison, <{lanes} x i32> zeroinitializer", kind)

    def shuffle(self, a: Value, b: Value, lanes: Sequence[int]) -> Value:
        """Lanes of ``a`` and, counted on from its last, of ``b``."""
        mask = ", ".join(f"i32 {lane}" for lane in lanes)
        kind = vector(len(lanes), a.type.split(" x ")[1].rstrip(">"))
        return self._emit(f"shufflevector {a.type} {a.name}, {b.type} {b.name}, <{len(lanes)} x i32> <{mask}>", kind)

    def element(self, a: Value, lane: int) -> Value:
        """One lane of a vector as a scalar."""
        kind = a.type.split(" x ")[1].rstrip(">")
        return self._emit(f"extractelement {a.type} {a.name}, i64 {lane}", kind)

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """a · b + c with one rounding."""
        element = "f64" if "double" in a.type else "f32"
        suffix = f"v{a.lanes}{element}" if a.lanes > 1 else element
        return self.call(f"llvm.fma.{suffix}", a.type, [a, b, c])

    def float(self, opcode: str, a: Value, b: Value) -> Value:
        """``fadd``, ``fsub``, ``fmul`` or ``fdiv``."""
        return self._emit(f"{opcode} {a.type} {a.name}, {b.name}", a.type)

    def greater(self, a: Value, b: Value) -> Value:
        """The larger of two floats; ``b`` when it is not a number."""
        return self.select(self._mask("ogt", a, b), a, b)

    def smaller(self, a: Value, b: Value) -> Value:
        """The smaller of two floats; ``b`` when it is not a number."""
        return self.select(self._mask("olt", a, b), a, b)

    def maximum(self, a: Value, b: Value) -> Value:
        """The larger of two floats; not a number where one of them is not."""
        return self.select(self._mask("uno", a, a), a, self.greater(a, b))

    def minimum(self, a: Value, b: Value) -> Value:
        """The smaller of two floats; not a number where one of them is not."""
        return self.select(self._mask("uno", a, a), a, self.smaller(a, b))

    def where(self, how: str, x: Value, y: Value, a: Value, b: Value) -> Value:
        """``a`` where x and y are as one of LLVM's float predicates says, else ``b``."""
        return self.select(self._mask(how, x, y), a, b)

    def where_negative(self, x: Value, a: Value, b: Value) -> Value:
        """``a`` where x < 0, else ``b``."""
        return self.where("olt", x, constant(0.0, x.lanes), a, b)

    def sqrt(self, x: Value) -> Value:
        """The square root."""
        return self.call(f"llvm.sqrt.v{x.lanes}f32" if x.lanes > 1 else "llvm.sqrt.f32", x.type, [x])

    def convert(self, opcode: str, a: Value, kind: str) -> Value:
        """A cast: ``bitcast``, ``fptosi``, ``sitofp``, ``sext``, ``ptrtoint`` …"""
        return self._emit(f"{opcode} {a.type} {a.name} to {kind}", kind)

    def call(self, name: str, result: str, arguments: Sequence[Value]) -> Value:
        """A call of a declared function or an intrinsic with a result."""
        self.module.declare(name, result, [a.type for a in arguments])
        listed = ", ".join(f"{a.type} {a.name}" for a in arguments)
        return self._emit(f"call {result} @{name}({listed})", result)

    # -- control ----------------------------------------------------------------------------------------

    def raw(self, line: str, kind: str | None = None) -> Value:
        """An instruction this layer has no word for; its result when ``kind`` says that it has one."""
        if kind is None:
            self.lines.append(f"  {line}")
            return Value("void", "void")
        return self._emit(line, kind)

    def loop(
        self, start: Index, stop: Index, body: Body, *, step: Index = 1, carried: Sequence[Value] = ()
    ) -> list[Value]:
        """``for i in range(start, stop, step)``; ``body(i, carried)`` returns the carried values of the next turn."""
        before, name = self._block, self.fresh()
        head, inside, after = f"head{name}", f"body{name}", f"after{name}"
        index = Value(f"%i{name}", "i64")
        phis = [Value(f"%c{name}.{k}", value.type) for k, value in enumerate(carried)]
        self.branch(head)
        self.label(head)
        mark = len(self.lines)
        more = self.compare("slt", index, stop)
        self.lines.append(f"  br i1 {more.name}, label %{inside}, label %{after}")
        self.label(inside)
        results = body(index, list(phis))
        following = self.operand(self.add(index, step), "i64")
        latch = self._block
        self.branch(head)
        self.label(after)
        first = self.operand(start, "i64")
        entries = [(index, first, following), *zip(phis, carried, results, strict=True)]
        self.lines[mark:mark] = [
            f"  {phi.name} = phi {phi.type} [ {old.name}, %{before} ], [ {new.name}, %{latch} ]"
            for phi, old, new in entries
        ]
        return phis

    def when(self, condition: Value, body: Callable[[], object]) -> None:
        """``if condition: body()``."""
        name = self.fresh()
        self.lines.append(f"  br i1 {condition.name}, label %then{name}, label %join{name}")
        self.label(f"then{name}")
        body()
        self.branch(f"join{name}")
        self.label(f"join{name}")

    def repeat(self, body: Turn, carried: Sequence[Value] = ()) -> list[Value]:
        """``body(carried)`` at least once and as long as it says so; the values that the last turn carried on."""
        before, name = self._block, self.fresh()
        phis = [Value(f"%c{name}.{k}", value.type) for k, value in enumerate(carried)]
        self.branch(f"turn{name}")
        self.label(f"turn{name}")
        mark = len(self.lines)
        again, results = body(list(phis))
        latch = self._block
        self.lines.append(f"  br i1 {again.name}, label %turn{name}, label %after{name}")
        self.label(f"after{name}")
        self.lines[mark:mark] = [
            f"  {phi.name} = phi {phi.type} [ {old.name}, %{before} ], [ {new.name}, %{latch} ]"
            for phi, old, new in zip(phis, carried, results, strict=True)
        ]
        return results

    def operand(self, value: Index, kind: str) -> Value:
        """A Python integer as a constant of this type; a value as it is."""
        return value if isinstance(value, Value) else Value(str(value), kind)

    def _type(self, a: Index, b: Index) -> str:
        return a.type if isinstance(a, Value) else b.type if isinstance(b, Value) else "i64"

    def _binary(self, opcode: str, a: Index, b: Index) -> Value:
        kind = self._type(a, b)
        return self._emit(f"{opcode} {kind} {self.operand(a, kind).name}, {self.operand(b, kind).name}", kind)

    def _mask(self, how: str, a: Value, b: Value) -> Value:
        return self._emit(f"fcmp {how} {a.type} {a.name}, {b.name}", vector(a.lanes, "i1"))

    def _emit(self, text: str, kind: str) -> Value:
        value = Value(f"%v{self.fresh()}", kind)
        self.lines.append(f"  {value.name} = {text}")
        return value

    def fresh(self) -> int:
        """A number for a name that nobody else has."""
        self._count += 1
        return self._count

    def branch(self, label: str) -> None:
        """Goes on at a label."""
        self.lines.append(f"  br label %{label}")

    def label(self, label: str) -> None:
        """Begins a block."""
        self.lines.append(f"{label}:")
        self._block = label


def _alignment(kind: str) -> int:
    return 8 if kind in ("i64", "ptr", "double") else 4 if kind != "i8" else 1
