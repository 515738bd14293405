"""Convolutions behind each other, a band of rows at a time. In: kernels whose maps between are rings. Out: IR.

For each band of the last map's rows the first link computes the rows that are still missing, the next one reads them
while they lie in the cache, and so on: the maps between are never whole, and never leave the cache. Each link runs as
the same code as alone, in the same order of sums, so that the result has the same bits. Of the maps between only the
rows are kept that are still read; the padding is zeros written into the ring.

Threads share out the rows of the last map: the few rows that two shares read of a map between are computed twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from separable.errors import SpecError
from separable.kernels import convolution, depthwise
from separable.kernels.convolution import (
    RESIDUAL_TABLE,
    SIGNATURE,
    SOURCE,
    SOURCE_TABLE,
    TARGET,
    TARGET_TABLE,
    Convolution,
)
from separable.kernels.depthwise import Depthwise
from separable.kernels.ir import Function, Index, Module, Value, constant
from separable.kernels.isa import Isa
from separable.kernels.layout import ITEM, Layout
from separable.kernels.products import Products
from separable.kernels.strassen import Strassen
from separable.kernels.winograd import Winograd
from separable.spec import ConvSpec

Link = Convolution | Depthwise
Weighted = Link | Strassen | Winograd  # with weights and a bias, a link or not
MAX_LINKS = 3
OF_A_LINK = 8  # addresses of one link's arguments; in the chain's they stand behind each other
ARGUMENTS = OF_A_LINK * MAX_LINKS


@dataclass(frozen=True, kw_only=True)
class Chain:
    """``links`` in order; ``rows`` of the last map are a band.

    Arguments of link i begin at ``OF_A_LINK``·i; source and target of the chain stand where other kernels have them.
    """

    links: tuple[Link, ...]
    rows: int

    @property
    def spec(self) -> ConvSpec:
        """The last convolution."""
        return self.links[-1].spec

    @property
    def source(self) -> Layout:
        """The map that the first link reads."""
        return self.links[0].source

    @property
    def target(self) -> Layout:
        """The map that the last link writes."""
        return self.links[-1].target

    @property
    def tall(self) -> int:
        """Rows that stay together: a tile of the depthwise link."""
        return max((link.rows for link in self.links if isinstance(link, Depthwise)), default=1)

    @property
    def row_tiles(self) -> int:
        """What threads share out."""
        return -(-self.spec.size_out[0] // self.tall)

    def __str__(self) -> str:
        return " then ".join(str(link.spec) for link in self.links)


def packed_floats(kernel: Weighted, isa: Isa) -> tuple[int, int]:
    """Floats of a kernel's weights and of its bias, packed."""
    channels = kernel.padded_channels(isa)
    if isinstance(kernel, Products):
        return kernel.weight_floats(isa), channels
    return channels * (kernel.spec.weights // kernel.spec.c_out), channels


def pixel_tables(kernel: object) -> dict[int, NDArray[np.int32]]:
    """The tables that a kernel takes its pixels' addresses from, by their position in the arguments."""
    if isinstance(kernel, Strassen) or (isinstance(kernel, Convolution) and not kernel.is_rowwise):
        return dict(zip((SOURCE_TABLE, TARGET_TABLE, RESIDUAL_TABLE), kernel.offsets(), strict=True))
    return {}


def ring_rows(spec: ConvSpec, rows: int) -> int:
    """Rows of its input that a convolution reads for so many rows of its output."""
    return (rows - 1) * spec.stride[0] + (spec.kernel[0] - 1) * spec.dilation[0] + 1


def write(module: Module, name: str, kernel: Chain, isa: Isa) -> None:
    """The function ``name(arguments, share, shares, image)``."""
    for a, b in zip(kernel.links[:-1], kernel.links[1:], strict=True):
        if a.target != b.source or not a.target.ring or len(kernel.links) > MAX_LINKS:
            raise SpecError("Chain", given=str(kernel), expected="up to three links, with a ring between two")
    for i, link in enumerate(kernel.links):
        write_link = depthwise.write_rows if isinstance(link, Depthwise) else convolution.write_rows
        write_link(module, f"{name}.{i}", link, isa)  # type: ignore[arg-type]
    module.function(name, SIGNATURE, _Emitter(name, kernel, isa).write)


class _Emitter:
    def __init__(self, name: str, kernel: Chain, isa: Isa) -> None:
        self.name, self.kernel, self.isa = name, kernel, isa
        self.links = kernel.links

    def write(self, f: Function, parameters: list[Value]) -> None:
        arguments, share, shares, _ = parameters
        self.f = f
        # Shares are even, whatever the bands: seven bands for two threads would be three and four.
        tall, tiles, height = self.kernel.tall, self.kernel.row_tiles, self.kernel.spec.size_out[0]
        first, last = (f.least(f.mul(f.div(f.mul(f.add(share, i), tiles), shares), tall), height) for i in (0, 1))
        self.rings = [self._memory(ITEM * link.target.floats) for link in self.links[:-1]]
        self.arguments = [self._memory(8 * OF_A_LINK) for _ in self.links]
        for i in range(len(self.links)):
            self._argue(i, arguments)
        for ring, link in zip(self.rings, self.links, strict=False):
            self._zero_columns(ring, link.target)
        f.loop(
            first,
            last,
            lambda y, done: self._band(y, f.least(f.add(y, self.kernel.rows), last), done),
            step=self.kernel.rows,
            carried=self._begin(first),
        )

    def _memory(self, size: int) -> Value:
        return self.f.raw(f"alloca [{size} x i8], align 64", "ptr")

    def _argue(self, i: int, arguments: Value) -> None:
        """The addresses for link i: those that were given, with the rings between."""
        f, own = self.f, self.arguments[i]
        for k in range(OF_A_LINK):
            f.store(f.load("ptr", arguments, 8 * (OF_A_LINK * i + k)), own, 8 * k)
        if i > 0:
            f.store(self.rings[i - 1], own, 8 * SOURCE)
        target = self.rings[i] if i < len(self.rings) else f.load("ptr", arguments, 8 * TARGET)
        f.store(target, own, 8 * TARGET)

    def _zero_columns(self, ring: Value, layout: Layout) -> None:
        """The padding at the left and right of every row."""
        f, (left, right) = self.f, layout.border[1]
        for x in [*range(left), *range(left + layout.width, left + layout.width + right)]:

            def column(panel: Value, x: int = x) -> None:
                start = f.at(panel, ITEM * x * layout.pixel)
                self._loop(0, layout.ring, lambda r: self._zero(f.at(start, f.mul(r, ITEM * layout.row))))

            self._over_panels(layout, ring, column)

    def _begin(self, first: Index) -> list[Value]:
        """The first row of each map between that the share needs; the padding above it is written."""
        f, row = self.f, first
        begins: list[Value] = []
        for i in range(len(self.links) - 1, 0, -1):
            spec = self.links[i].spec
            begin = f.sub(f.mul(row, spec.stride[0]), spec.padding[0][0])
            self._zero_rows(i - 1, begin, 0)
            row = f.operand(f.most(begin, 0), "i64")
            begins.insert(0, row)
        return begins

    def _band(self, y: Value, last: Index, done: list[Value]) -> list[Value]:
        f, end, needs = self.f, last, [last]
        for i in range(len(self.links) - 1, 0, -1):
            spec, layout = self.links[i].spec, self.links[i - 1].target
            reach = (spec.kernel[0] - 1) * spec.dilation[0] + 1 - spec.padding[0][0]
            wanted = f.add(f.mul(f.sub(end, 1), spec.stride[0]), reach)
            self._zero_rows(i - 1, layout.height, wanted)
            end = f.least(wanted, layout.height)
            needs.insert(0, end)
        for i, (start, stop) in enumerate(zip([*done, y], needs, strict=True)):
            given = (self.arguments[i], f.operand(start, "i64"), f.operand(stop, "i64"))
            f.raw(f"call void @{self.name}.{i}({', '.join(f'{x.type} {x.name}' for x in given)})")
        return [f.operand(f.most(a, b), "i64") for a, b in zip(done, needs[:-1], strict=True)]

    def _zero_rows(self, i: int, first: Index, last: Index) -> None:
        """Rows of padding above or below the map behind link i."""
        f, layout = self.f, self.links[i].target
        size = ITEM * layout.lanes

        def row(y: Value) -> None:
            start = f.at(self.rings[i], layout.row_offset(f, y))
            pixels = layout.row // layout.lanes
            self._over_panels(
                layout, start, lambda at: self._loop(0, pixels, lambda x: self._zero(f.at(at, f.mul(x, size))))
            )

        self._loop(first, last, row)

    def _zero(self, at: Value) -> None:
        self.f.store(constant(0.0, self.isa.lanes), at)

    def _over_panels(self, layout: Layout, start: Value, body: Callable[[Value], None]) -> None:
        f = self.f
        self._loop(0, layout.panels, lambda p: body(f.at(start, f.mul(p, ITEM * layout.panel))))

    def _loop(self, start: Index, stop: Index, body: Callable[[Value], None]) -> None:
        def turn(i: Value, _: list[Value]) -> list[Value]:
            body(i)
            return []

        self.f.loop(start, stop, turn)
