"""Pixels taken from elsewhere. In: layouts, taps. Out: IR for resizing, cropping, turning and padding with pixels.

Each output pixel is a weighted sum of ``taps`` pixels of the source: rows and columns are chosen apart, each from a
table. One tap is a copy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from separable.kernels.convolution import SIGNATURE, SOURCE, SOURCE_TABLE, TARGET, WEIGHTS, Floats
from separable.kernels.epilogue import NONE, Activation, activate
from separable.kernels.ir import Function, Index, Module, Value, vector
from separable.kernels.isa import Isa
from separable.kernels.layout import ITEM, Layout


@dataclass(frozen=True, kw_only=True, eq=False)
class Axis:
    """Along one axis: the source of each output (size_out, taps), and its weight."""

    index: NDArray[np.int32]
    weight: Floats

    @property
    def taps(self) -> int:
        """Pixels that an output is made of, along this axis."""
        return int(self.index.shape[1])

    @property
    def is_copy(self) -> bool:
        """Whether each output is one pixel as it is."""
        return self.taps == 1 and bool((self.weight == 1).all())


@dataclass(frozen=True, kw_only=True)
class Resample:
    """``taps`` (rows, columns); ``is_copy``: no weights are read."""

    source: Layout
    target: Layout
    taps: tuple[int, int]
    is_copy: bool
    activation: Activation = NONE

    def offsets(self, rows: Axis, columns: Axis) -> NDArray[np.int32]:
        """Bytes from the first pixel to each tap: those of the rows, then those of the columns."""
        steps = (rows.index * (ITEM * self.source.row), columns.index * (ITEM * self.source.pixel))
        return np.concatenate([step.ravel() for step in steps]).astype(np.int32)

    def weights(self, rows: Axis, columns: Axis) -> Floats:
        """In the order of the offsets."""
        return np.concatenate([rows.weight.ravel(), columns.weight.ravel()]).astype(np.float32)


def write(module: Module, name: str, kernel: Resample, isa: Isa) -> None:
    """The function ``name(arguments, thread, threads, image)``; offsets stand where a convolution's table does."""
    module.function(name, SIGNATURE, _Emitter(kernel, isa).write)


class _Emitter:
    def __init__(self, kernel: Resample, isa: Isa) -> None:
        self.kernel, self.isa = kernel, isa
        self.height, self.width = kernel.target.height, kernel.target.width

    def write(self, f: Function, parameters: list[Value]) -> None:
        arguments, thread, threads, _ = parameters
        self.f, source, target = f, self.kernel.source, self.kernel.target
        reads, weights, writes, table = (
            f.load("ptr", arguments, 8 * place) for place in (SOURCE, WEIGHTS, TARGET, SOURCE_TABLE)
        )
        reads, writes = f.at(reads, source.offset()), f.at(writes, target.offset())
        count = target.panels * self.height
        first, last = (f.div(f.mul(f.add(thread, i), count), threads) for i in (0, 1))

        def line(i: Value, _: list[Value]) -> list[Value]:
            panel, y = f.div(i, self.height), f.rem(i, self.height)
            at = f.at(reads, f.mul(panel, ITEM * source.panel))
            out = f.at(writes, f.add(f.mul(panel, ITEM * target.panel), f.mul(y, ITEM * target.row)))
            rows = [f.at(at, offset) for offset in self._offsets(table, 0, y, 0)]
            shares = self._weights(weights, 0, y, 0)

            def pixel(x: Value, _: list[Value]) -> list[Value]:
                value = self._pixel(rows, shares, table, weights, x)
                f.store(activate(f, self.kernel.activation, value), out, f.mul(x, ITEM * target.pixel))
                return []

            f.loop(0, self.width, pixel)
            return []

        f.loop(first, last, line)

    def _pixel(self, rows: list[Value], shares: list[Value], table: Value, weights: Value, x: Value) -> Value:
        f = self.f
        begin = self.height * self.kernel.taps[0]
        offsets, across = self._offsets(table, begin, x, 1), self._weights(weights, begin, x, 1)
        kind = vector(self.isa.lanes)
        if self.kernel.is_copy:
            return f.load(kind, rows[0], offsets[0])
        total: Value | None = None
        for row, share in zip(rows, shares, strict=True):
            line: Value | None = None
            for offset, weight in zip(offsets, across, strict=True):
                value = f.load(kind, row, offset)
                line = f.float("fmul", value, weight) if line is None else f.fma(value, weight, line)
            if line is not None:
                total = f.float("fmul", line, share) if total is None else f.fma(line, share, total)
        if total is None:
            raise ValueError("a pixel is made of at least one")
        return total

    def _offsets(self, table: Value, begin: int, position: Index, axis: int) -> list[Value]:
        f, taps = self.f, self.kernel.taps[axis]
        at = f.mul(f.add(f.mul(position, taps), begin), 4)
        return [f.convert("sext", f.load("i32", table, f.add(at, 4 * t)), "i64") for t in range(taps)]

    def _weights(self, weights: Value, begin: int, position: Index, axis: int) -> list[Value]:
        if self.kernel.is_copy:
            return []
        f, taps = self.f, self.kernel.taps[axis]
        at = f.mul(f.add(f.mul(position, taps), begin), ITEM)
        return [f.splat(f.load("float", weights, f.add(at, ITEM * t)), self.isa.lanes) for t in range(taps)]
