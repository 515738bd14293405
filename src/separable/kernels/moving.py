"""Maps brought from one layout to another. In: two layouts. Out: IR that copies, transposing lanes where they differ.

This is how a user's tensor enters and leaves a program, how maps are joined, and how a border is put around one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from separable.errors import SpecError
from separable.kernels.convolution import SIGNATURE
from separable.kernels.ir import Function, Index, Module, Value, constant, vector
from separable.kernels.isa import Isa
from separable.kernels.layout import ITEM, NO_BORDER, Layout

SOURCE, TARGET = 0, 3
CHUNK = 64  # pixels of a row that one thread takes: a map without borders is one long row
LARGE = 400  # pixels of a map that layers share out by rows: what one thread brought in, the same one reads


@dataclass(frozen=True, kw_only=True)
class Move:
    """Copies a map. ``source_image`` and ``target_image``: floats between the images of a batch on either side.

    Channels beyond the last become zeros in a target of panels. A part of a wider map is a layout with fewer channels.
    """

    source: Layout
    target: Layout
    source_image: int = 0
    target_image: int = 0

    @property
    def is_by_rows(self) -> bool:
        """Whether threads share out rows, and not channels."""
        return self.source.height * self.source.width >= LARGE


def write(module: Module, name: str, move: Move, isa: Isa) -> None:
    """The function ``name(arguments, thread, threads, image)``; source and target stand where a convolution's do."""
    source, target = move.source, move.target
    if (source.channels, source.height, source.width) != (target.channels, target.height, target.width):
        raise SpecError("Move", given=f"{source} to {target}", expected="maps of one size")
    module.function(name, SIGNATURE, _Emitter(_flattened(move), isa).write)


def transpose(f: Function, rows: list[Value]) -> list[Value]:
    """A square of n vectors of n lanes, transposed in log₂ n rounds of exchanges (Eklundh 1972)."""
    n, rows, step = len(rows), list(rows), 1
    while step < n:
        low = [j if not j & step else n + j - step for j in range(n)]
        high = [j + step if not j & step else n + j for j in range(n)]
        for i in range(n):
            if not i & step:
                a, b = rows[i], rows[i + step]
                rows[i], rows[i + step] = f.shuffle(a, b, low), f.shuffle(a, b, high)
        step *= 2
    return rows


def _flattened(move: Move) -> Move:
    """One long row in place of a map without borders, so that short rows do not end in scalars."""
    maps = (move.source, move.target)
    if not all(m.is_flat and m.border == NO_BORDER for m in maps):
        return move
    source, target = (replace(m, height=1, width=m.pixels, row=m.pixel * m.pixels) for m in maps)
    return replace(move, source=source, target=target)


class _Emitter:
    def __init__(self, move: Move, isa: Isa) -> None:
        self.move, self.source, self.target = move, move.source, move.target
        self.lanes = max(move.source.lanes, move.target.lanes)
        self.isa = isa

    def write(self, f: Function, parameters: list[Value]) -> None:
        arguments, thread, threads, image = parameters
        self.f = f
        self.reads = f.at(f.load("ptr", arguments, 8 * SOURCE), self.source.offset())
        self.reads = f.at(self.reads, f.mul(image, ITEM * self.move.source_image))
        self.writes = f.at(f.load("ptr", arguments, 8 * TARGET), self.target.offset())
        self.writes = f.at(self.writes, f.mul(image, ITEM * self.move.target_image))
        groups, rest = divmod(self.source.channels, self.lanes)
        if groups:
            self._share((0, groups), self.lanes, thread, threads)
        if rest:
            self._share((groups, groups + 1), rest, thread, threads)

    def _share(self, panels: tuple[int, int], channels: int, thread: Value, threads: Value) -> None:
        """A share of all pieces of rows, or of the panels."""
        f = self.f
        chunks = -(-self.source.width // CHUNK)
        ranges: list[tuple[Index, Index]] = [panels, (0, self.source.height * chunks)]
        shared = ranges[self.move.is_by_rows]
        count = f.sub(shared[1], shared[0])
        first, last = (f.add(f.div(f.mul(f.add(thread, i), count), threads), shared[0]) for i in (0, 1))
        ranges[self.move.is_by_rows] = (first, last)

        def panel(p: Value, _: list[Value]) -> list[Value]:
            def piece(i: Value, _: list[Value]) -> list[Value]:
                start = f.mul(f.rem(i, chunks), CHUNK)
                stop = self.source.width if chunks == 1 else f.least(f.add(start, CHUNK), self.source.width)
                self._row(p, f.div(i, chunks), start, stop, channels)
                return []

            f.loop(*ranges[1], piece)
            return []

        f.loop(*ranges[0], panel)

    def _row(self, panel: Index, y: Index, start: Index, stop: Index, channels: int) -> None:
        """``channels`` of a panel along one row: by squares, of which the last may do pixels of the one before again.

        A row that is shorter than a square is done pixel by pixel.
        """
        f = self.f
        reads = f.at(self.reads, f.add(self._panel(self.source, panel), f.mul(y, ITEM * self.source.row)))
        writes = f.at(self.writes, f.add(self._panel(self.target, panel), f.mul(y, ITEM * self.target.row)))
        square = self.isa.lanes if self.lanes == 1 else self.lanes
        is_vector = self.lanes > 1 or (self.source.pixel == 1 and self.target.pixel == 1)

        def many(x: Value, _: list[Value]) -> list[Value]:
            first = f.least(x, f.sub(stop, square))
            self._put(writes, first, channels, self._get(reads, first, channels, square), square)
            return []

        def one(x: Value, _: list[Value]) -> list[Value]:
            for c in range(max(channels, self.target.lanes)):
                value = (
                    f.load("float", reads, f.add(f.mul(x, ITEM * self.source.pixel), self._lane(self.source, c)))
                    if c < channels
                    else constant(0.0)
                )
                f.store(value, writes, f.add(f.mul(x, ITEM * self.target.pixel), self._lane(self.target, c)))
            return []

        if is_vector and self.source.width >= square:
            f.loop(start, stop, many, step=square)
        else:
            f.loop(start, stop, one)

    def _panel(self, layout: Layout, panel: Index) -> Index:
        """Bytes to the first of the ``self.lanes`` channels of a panel."""
        return self.f.mul(panel, ITEM * layout.panel * (self.lanes // layout.lanes))

    def _lane(self, layout: Layout, c: int) -> int:
        return ITEM * (c if layout.lanes > 1 else c * layout.panel)

    def _get(self, reads: Value, x: Index, channels: int, square: int) -> list[Value]:
        """``square`` pixels as vectors of channels; of pixels, when both sides have one lane."""
        f, source = self.f, self.source
        at = f.at(reads, f.mul(x, ITEM * source.pixel))
        if self.lanes == 1:
            return [f.load(vector(square), at)]
        if source.lanes > 1 or (source.panel == 1 and channels == self.lanes):
            return [f.load(vector(self.lanes), at, ITEM * i * source.pixel) for i in range(square)]
        if source.pixel == 1:
            rows = [f.load(vector(square), at, self._lane(source, c)) for c in range(channels)]
            rows += [constant(0.0, square)] * (square - channels)
            return transpose(f, rows)
        return [self._gather(at, i, channels) for i in range(square)]

    def _gather(self, at: Value, i: int, channels: int) -> Value:
        f = self.f
        value = constant(0.0, self.lanes)
        for c in range(channels):
            lane = f.load("float", at, ITEM * i * self.source.pixel + self._lane(self.source, c))
            value = f.raw(f"insertelement {value.type} {value.name}, float {lane.name}, i64 {c}", value.type)
        return value

    def _put(self, writes: Value, x: Index, channels: int, pixels: list[Value], square: int) -> None:
        f, target = self.f, self.target
        at = f.at(writes, f.mul(x, ITEM * target.pixel))
        if self.lanes == 1:
            f.store(pixels[0], at)
        elif target.lanes > 1 or (target.panel == 1 and channels == self.lanes):
            for i, pixel in enumerate(pixels):
                f.store(pixel, at, ITEM * i * target.pixel)
        elif target.pixel == 1:
            for c, row in enumerate(transpose(f, pixels)[:channels]):
                f.store(row, at, self._lane(target, c))
        else:
            for i in range(square):
                for c in range(channels):
                    f.store(f.element(pixels[i], c), at, ITEM * i * target.pixel + self._lane(target, c))
