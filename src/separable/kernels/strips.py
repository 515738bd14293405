"""Strips of output channels, and the multiply-adds of a tile with one. In: panels, sums. Out: IR.

Strips are as even as can be: ten panels, three a strip at most, are 2, 3, 2 and 3, so that two threads get as much.
A strip that ends with a panel of which at most half is used ends with half a vector: with AVX-512, 24 channels are one
vector and a half.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from separable.kernels.ir import Function, Index, Value
from separable.kernels.isa import Isa
from separable.kernels.layout import ITEM

MANY = 16  # values of a tile at once, from which on LLVM runs out of registers by loading early


@dataclass(frozen=True)
class Strips:
    """``panels`` in strips of at most ``most``; ``is_narrow``: of the last one the first half is enough."""

    panels: int
    most: int
    is_narrow: bool = False

    @property
    def count(self) -> int:
        """How many strips."""
        return -(-self.panels // self.most)

    @property
    def spans(self) -> list[tuple[int, int]]:
        """The first panel of each strip and the one behind its last."""
        return list(pairwise(n * self.panels // self.count for n in range(self.count + 1)))

    @property
    def kinds(self) -> list[tuple[int, bool]]:
        """Of each strip, how many panels it has, and whether it ends with half a vector."""
        widths = [last - first for first, last in self.spans]
        return [*((width, False) for width in widths[:-1]), (widths[-1], self.is_narrow)]

    def choose(self, f: Function, n: Index, body: Callable[[Index, int, bool], object]) -> None:
        """``body`` of strip ``n``: its first panel, how many it has, and whether it ends with half a vector."""
        first, behind = (f.div(f.mul(f.add(n, i), self.panels), self.count) for i in (0, 1))
        different = list(dict.fromkeys(self.kinds))
        for width, ends in different:
            if len(different) == 1:
                body(first, width, ends)
                return
            is_so = f.compare("eq", f.sub(behind, first), width)
            if self.is_narrow:
                is_so = f.both(is_so, f.compare("eq" if ends else "ne", n, self.count - 1))
            f.when(is_so, lambda width=width, ends=ends: body(first, width, ends))  # type: ignore[misc]


def multiply(f: Function, isa: Isa, values: Sequence[Value], weights: Value, offset: int, sums: list[Value]) -> None:
    """Adds to ``sums`` [pixel][vector] the values at these addresses times the vectors of weights at ``offset``.

    In a tile of many sums each value is loaded when those before have been used. Otherwise LLVM loads them all at once
    and keeps sums in memory: with 32 registers, 14 pixels × 2 vectors then ran at 40 to 95 % of the peak instead of 98.
    """
    vectors = len(sums) // len(values)
    is_held = isa.is_x86 and vectors > 1 and len(sums) + vectors + 2 >= MANY
    row = [f.load(sums[v].type, weights, offset + v * isa.lanes * ITEM) for v in range(vectors)]
    is_mixed = isa.is_x86 and row[0].lanes != row[-1].lanes
    for r, value in enumerate(values):
        if is_held:
            f.hold()
        a = f.splat(f.load("float", value), row[0].lanes)
        if is_mixed:  # else half of it is loaded once more, and a shuffle makes the whole
            a = f.opaque(a)
        for v, b in enumerate(row):
            factor = a if b.lanes == a.lanes else f.shuffle(a, a, range(b.lanes))
            sums[r * vectors + v] = f.fma(factor, b, sums[r * vectors + v])
