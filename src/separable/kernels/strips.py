"""Strips of output channels, and the multiply-adds of a tile with one. In: panels, sums. Out: IR.

Strips are as even as can be: ten panels, three a strip at most, are 2, 3, 2 and 3, so that two threads get as much.
The last may end in half a vector, where a processor does it in half the time: 24 channels of 16 lanes are one and a
half.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from separable.kernels.ir import Function, Index, Value
from separable.kernels.isa import Isa
from separable.kernels.layout import ITEM

MANY = 16  # values of a tile at once, from which on LLVM runs out of registers by loading early


@dataclass(frozen=True)
class Strips:
    """``panels`` in strips of at most ``most``; ``ends_in_half``: of the last panel the first half is enough."""

    panels: int
    most: int
    ends_in_half: bool = False

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
        """Of each strip, how many panels it has, and whether it ends in half a vector."""
        widths = [last - first for first, last in self.spans]
        return [*((width, False) for width in widths[:-1]), (widths[-1], self.ends_in_half)]

    def choose(self, f: Function, n: Index, body: Callable[[Index, int, bool], object]) -> None:
        """``body`` of strip ``n``: its first panel, how many it has, and whether it ends in half a vector."""
        first, behind = (f.div(f.mul(f.add(n, i), self.panels), self.count) for i in (0, 1))
        different = list(dict.fromkeys(self.kinds))
        if len(different) == 1:
            body(first, *different[0])
            return
        for width, is_halved in different:
            is_so = f.compare("eq", f.sub(behind, first), width)
            if self.ends_in_half:
                is_so = f.both(is_so, f.compare("eq" if is_halved else "ne", n, self.count - 1))
            f.when(is_so, partial(body, first, width, is_halved))


def multiply(f: Function, isa: Isa, values: Sequence[Value], weights: Value, offset: int, sums: list[Value]) -> None:
    """Adds to ``sums`` [pixel][vector] the values at these addresses times the vectors of weights at ``offset``.

    In a tile of many sums each value is loaded when those before have been used: LLVM would load them all at once, and
    keep sums in memory.
    """
    vectors = len(sums) // len(values)
    is_held = isa.is_x86 and vectors > 1 and len(sums) + vectors + 2 >= MANY
    row = [f.load(sums[v].type, weights, offset + v * isa.lanes * ITEM) for v in range(vectors)]
    is_mixed = isa.passes > 1 and row[0].lanes != row[-1].lanes
    for r, value in enumerate(values):
        if is_held:
            f.hold()
        a = f.splat(f.load("float", value), row[0].lanes)
        if is_mixed:  # else half of it is loaded once more, and a shuffle makes the whole
            a = f.opaque(a)
        for v, b in enumerate(row):
            factor = a if b.lanes == a.lanes else f.shuffle(a, a, range(b.lanes))
            sums[r * vectors + v] = f.fma(factor, b, sums[r * vectors + v])
