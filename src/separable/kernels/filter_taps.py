"""A 1-D kernel along the rows of a buffer. In: which taps it has. Out: IR that sums weighted rows.

The buffer is found row by row through a table of offsets, so it may be a ring, and one row may stand for several. Every
output is one chain of fused multiply-adds in the order of the taps, wherever it lies: its bits depend on nothing but
the pixels under the kernel. A tap whose weight is zero is never read.

Adding the two pixels of a symmetric pair before they are multiplied was slower on Zen 3 but for very long kernels.
"""

from __future__ import annotations

from dataclasses import dataclass

from separable.kernels.filter_types import ITEMS, PIXELS, VECTORS, group_of, lanes_of, write_pixels
from separable.kernels.ir import Function, Index, Module, Value, vector
from separable.kernels.isa import Isa

# A short kernel is unrolled with its weights in registers; a long one is a loop that serves every length.
LONGEST_UNROLLED = 7
DENSE, SPARSE = "dense", "sparse"
ROWS = 4  # are summed at a time: each row of the buffer is loaded once for all of them
# Past the caches memory takes one row at a time faster than several side by side. What the next rows read of the buffer
# comes from the first cache when all rows of a block are done for so many columns before the next columns are.
LINE, CHUNK = 64, 256

# slots, buffer, weights, taps, where, before, before_stride, target, target_stride, rows, n, spare
COLUMN_PASS = ("ptr", "ptr", "ptr", "i64", "ptr", "ptr", "i64", "ptr", "i64", "i64", "i64", "ptr")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The pass down the columns: ``taps`` are the offsets of a short kernel, or ``DENSE``, or ``SPARSE``.

    ``adds``: the sums begin with what other terms left, instead of zero. ``pixel``: what the sums become. ``streams``:
    a short kernel's results, floats, go past the caches, which could not hold them anyway; the target's stride is a
    multiple of ``LINE`` then, and a fence must follow before another thread reads them.
    """

    work: str
    taps: tuple[int, ...] | str
    pixel: str
    adds: bool = False
    streams: bool = False

    @property
    def name(self) -> str:
        """The function's name."""
        taps = self.taps if isinstance(self.taps, str) else "_".join(map(str, self.taps))
        return f"columns_{self.work}_{self.pixel}_{taps}" + "_adds" * self.adds + "_streams" * self.streams


def write_columns(module: Module, spec: Columns, isa: Isa) -> None:
    """A function of the arguments ``COLUMN_PASS``: sums of weighted rows of a buffer.

    ``slots[y + k]`` is the offset of the row under tap k of output row y. Rows beyond ``rows`` and the last, partial
    group of columns go to ``spare``, which holds one row and one group of rows.
    """
    module.function(spec.name, COLUMN_PASS, lambda f, p: _Columns(f, p, spec, isa).write())


class _Columns:
    def __init__(self, f: Function, parameters: list[Value], spec: Columns, isa: Isa) -> None:
        self.f, self.spec = f, spec
        self.lanes, self.group, self.item = lanes_of(spec.work, isa), group_of(spec.work, isa), ITEMS[spec.work]
        self.size = PIXELS[spec.pixel][1]
        self.kind = vector(self.lanes, spec.work)
        self.rows = 1 if spec.streams else ROWS
        (
            self.slots, self.buffer, self.weights, self.taps, self.where, self.before, self.before_stride,
            self.target, self.target_stride, self.count, self.n, self.spare,
        ) = parameters  # fmt: skip

    def write(self) -> None:
        f, group = self.f, self.group
        if isinstance(self.spec.taps, str):
            over = self._down_each_group
        else:
            self.fixed = {k: self._weight(i) for i, k in enumerate(self.spec.taps)}
            over = self._along_each_row
        first: Index = 0
        if self.spec.streams:
            beyond = f.rem(f.convert("ptrtoint", self.target, "i64"), LINE)
            first = f.least(self.n, f.div(f.rem(f.sub(LINE, beyond), LINE), self.size))
            f.when(f.compare("sgt", first, 0), lambda: over(0, first, aside=first))
        full = f.add(first, f.mul(f.div(f.sub(self.n, first), group), group))
        over(first, full)
        # The last group is summed aside; of it only the columns that there are go to the target.
        f.when(f.compare("sgt", self.n, full), lambda: over(full, self.n, aside=self.n))

    def _along_each_row(self, first: Index, last: Index, aside: Index | None = None) -> None:
        f, taps = self.f, self.spec.taps

        def rows(begin: Index, end: Index) -> None:
            def some(y: Value, _: list[Value]) -> list[Value]:
                reach = max(taps) + self.rows  # type: ignore[operator]
                used = [i for i in range(reach) if any(i - r in taps for r in range(self.rows))]
                reads = {i: self._row(f.add(y, i)) for i in used}
                targets = self._targets(y, aside is not None)

                def columns(x: Value, _: list[Value]) -> list[Value]:
                    self._store(self._unrolled(reads, y, x), targets, x, aside is not None)
                    if aside is not None:
                        self._copy(y, x, aside)
                    return []

                f.loop(begin, end, columns, step=self.group)
                return []

            f.loop(0, self.count, some, step=self.rows)

        def chunk(x: Value, _: list[Value]) -> list[Value]:
            rows(x, f.least(f.add(x, CHUNK), last))
            return []

        if self.spec.streams and aside is None:
            f.loop(first, last, chunk, step=CHUNK)
        else:
            rows(first, last)

    def _down_each_group(self, first: Index, last: Index, aside: Index | None = None) -> None:
        f = self.f
        sums = self._dense if self.spec.taps == DENSE else self._sparse

        def columns(x: Value, _: list[Value]) -> list[Value]:
            def rows(y: Value, _: list[Value]) -> list[Value]:
                targets = self._targets(y, aside is not None)
                self._store(sums(y, x), targets, x, aside is not None)
                if aside is not None:
                    self._copy(y, x, aside)
                return []

            f.loop(0, self.count, rows, step=self.rows)
            return []

        f.loop(first, last, columns, step=self.group)

    def _targets(self, y: Value, aside: bool) -> list[Value]:
        """Where each of the rows goes: to ``spare`` when there is no such row."""
        f = self.f
        if aside:
            return [f.at(self.spare, r * self.group * self.size) for r in range(self.rows)]
        found = []
        for r in range(self.rows):
            at = f.at(self.target, f.mul(f.add(y, r), self.target_stride))
            is_row = f.compare("slt", f.add(y, r), self.count)
            found.append(f.raw(f"select i1 {is_row.name}, ptr {at.name}, ptr {self.spare.name}", "ptr"))
        return found

    def _copy(self, y: Value, x: Index, end: Index) -> None:
        """Of the group that lies aside and begins with column ``x`` those before ``end``."""
        f = self.f
        for r in range(self.rows):

            def row(r: int = r) -> None:
                at = f.at(self.target, f.add(f.mul(f.add(y, r), self.target_stride), f.mul(x, self.size)))
                kind = f"i{8 * self.size}"

                def one(i: Value, _: list[Value]) -> list[Value]:
                    lies = f.at(self.spare, f.add(r * self.group * self.size, f.mul(i, self.size)))
                    value = f.raw(f"load {kind}, ptr {lies.name}, align {self.size}", kind)
                    f.raw(f"store {kind} {value.name}, ptr {f.at(at, f.mul(i, self.size)).name}, align {self.size}")
                    return []

                f.loop(0, f.least(self.group, f.sub(end, x)), one)

            f.when(f.compare("slt", f.add(y, r), self.count), row)

    def _store(self, sums: list[list[Value]], targets: list[Value], x: Value, aside: bool) -> None:
        offset = 0 if aside else self.f.mul(x, self.size)
        for row, target in zip(sums, targets, strict=True):
            write_pixels(self.f, row, self.spec.pixel, target, offset, streams=self.spec.streams and not aside)

    def _begin(self, y: Value, x: Value) -> list[list[Value]]:
        f = self.f
        if not self.spec.adds:
            return [[Value("zeroinitializer", self.kind)] * VECTORS for _ in range(self.rows)]
        starts = [
            f.at(self.before, f.add(f.mul(f.add(y, r), self.before_stride), f.mul(x, self.item)))
            for r in range(self.rows)
        ]
        return [[f.load(self.kind, at, u * self.lanes * self.item) for u in range(VECTORS)] for at in starts]

    def _row(self, i: Index) -> Value:
        return self.f.at(self.buffer, self.f.load("i64", self.slots, self.f.mul(i, 8)))

    def _load(self, row: Value, x: Value) -> list[Value]:
        at = self.f.at(row, self.f.mul(x, self.item))
        return [self.f.load(self.kind, at, u * self.lanes * self.item) for u in range(VECTORS)]

    def _weight(self, k: Index) -> Value:
        return self.f.splat(self.f.load(self.spec.work, self.weights, self.f.mul(k, self.item)), self.lanes)

    def _fma(self, values: list[Value], weight: Value, sums: list[Value]) -> list[Value]:
        return [self.f.fma(value, weight, total) for value, total in zip(values, sums, strict=True)]

    def _unrolled(self, reads: dict[int, Value], y: Value, x: Value) -> list[list[Value]]:
        """One register of columns after the other: with several at a time the weights would not fit beside the sums."""
        f, starts = self.f, self._begin(y, x)
        for u in range(VECTORS):
            at = f.add(f.mul(x, self.item), u * self.lanes * self.item)
            for i, row in reads.items():
                value = f.load(self.kind, row, at)
                for r in range(self.rows):
                    if i - r in self.fixed:
                        starts[r][u] = f.fma(value, self.fixed[i - r], starts[r][u])
        return starts

    def _dense(self, y: Value, x: Value) -> list[list[Value]]:
        """All taps of several rows at once: each row of the buffer is loaded once for all outputs that it touches."""
        f, rows = self.f, self.rows
        sums = self._begin(y, x)
        recent: list[Value] = []
        for i in range(rows - 1):
            values, recent = self._load(self._row(f.add(y, i)), x), [self._weight(i), *recent]
            for r in range(i + 1):
                sums[r] = self._fma(values, recent[r], sums[r])

        def tap(i: Value, carried: list[Value]) -> list[Value]:
            values, weights = self._load(self._row(f.add(y, i)), x), [self._weight(i), *carried[: rows - 1]]
            sums = _paired(carried[rows - 1 :])
            sums = [self._fma(values, weights[r], sums[r]) for r in range(rows)]
            return [*weights[: rows - 1], *(value for row in sums for value in row)]

        carried = f.loop(rows - 1, self.taps, tap, carried=[*recent, *(value for row in sums for value in row)])
        recent, sums = carried[: rows - 1], _paired(carried[rows - 1 :])
        for j in range(rows - 1):
            values = self._load(self._row(f.add(y, f.add(self.taps, j))), x)
            for r in range(j + 1, rows):
                sums[r] = self._fma(values, recent[r - j - 1], sums[r])
        return sums

    def _sparse(self, y: Value, x: Value) -> list[list[Value]]:
        f = self.f

        def tap(t: Value, carried: list[Value]) -> list[Value]:
            weight, at = self._weight(t), f.add(y, f.load("i64", self.where, f.mul(t, 8)))
            rows = [
                self._fma(self._load(self._row(f.add(at, r)), x), weight, total)
                for r, total in enumerate(_paired(carried))
            ]
            return [value for row in rows for value in row]

        sums = self._begin(y, x)
        return _paired(f.loop(0, self.taps, tap, carried=[value for row in sums for value in row]))


def _paired(values: list[Value]) -> list[list[Value]]:
    return [values[i : i + VECTORS] for i in range(0, len(values), VECTORS)]
