"""Pointwise layers with an eighth fewer multiplications (Strassen 1969). In: shapes, layouts, tile. Out: IR, weights.

The matrices of a 1×1 convolution, pixels × channels, are cut into halves both ways; seven products of sums of the
quarters make what eight would. Of the ways to do so this one has the fewest sums (Winograd 1971, see Higham, *Accuracy
and Stability of Numerical Algorithms*, section 23.1); those of the weights are formed once.

The halves of the output channels lie side by side in each strip, those of the pixels in each block, so that a thread
writes one run of either. Pixel i of the first half stands beside pixel i of the second, and a number that is not finite
spreads from one to the other. Of an odd number of pixels the one in the middle is in both, and taken from the first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from separable.errors import SpecError
from separable.kernels.convolution import (
    BIAS,
    RESIDUAL,
    RESIDUAL_TABLE,
    SIGNATURE,
    SOURCE,
    SOURCE_TABLE,
    TARGET,
    TARGET_TABLE,
    Floats,
    pixel_offsets,
)
from separable.kernels.epilogue import activate
from separable.kernels.ir import Index, Module, Value
from separable.kernels.isa import Isa
from separable.kernels.layout import ITEM, Layout
from separable.kernels.products import Emitter, Products


@dataclass(frozen=True, kw_only=True)
class Strassen(Products):
    """One 1×1 convolution as a kernel; pairs of pixels are the units of the products."""

    @property
    def products(self) -> int:
        """Seven."""
        return 7

    @property
    def units(self) -> int:
        """Pairs of pixels."""
        return -(-self.target.pixels // 2)

    @property
    def depth(self) -> int:
        """Half of the input channels."""
        return self.spec.c_in // 2

    @property
    def panels_out(self) -> int:
        """Half of the output's panels."""
        return self.target.panels // 2

    def weight_values(self, weight: Floats, first: int, last: int) -> NDArray[np.float64]:
        """(7, c_in / 2, last - first): sums of the quarters of the weights, for twice as many output channels."""
        whole = np.zeros((2 * (last - first), self.spec.c_in))
        found = weight[2 * first : 2 * last].reshape(-1, self.spec.c_in)
        whole[: len(found)] = found
        (b11, b21), (b12, b22) = (half.T.reshape(2, self.depth, -1) for half in np.split(whole, 2))
        t1 = b12 - b11
        t2 = b22 - t1
        return np.stack([b11, b21, b22, t2 - b21, t1, t2, b22 - b12])

    def offsets(self) -> tuple[NDArray[np.int32], ...]:
        """As of a convolution."""
        return pixel_offsets(self.spec, self.source, self.target, self.residual)


def write(module: Module, name: str, kernel: Strassen, isa: Isa) -> None:
    """The function ``name(arguments, share, shares, image)``; ``arguments`` as for a convolution with tables."""
    spec = kernel.spec
    if spec.kernel != (1, 1) or spec.groups > 1 or any(map(any, spec.padding)):
        raise SpecError("Strassen", given=str(spec), expected="a dense 1×1 layer without padding")
    if spec.c_in % (2 * isa.lanes) or kernel.target.panels % 2:
        raise SpecError("Strassen", given=str(spec), expected=f"halves of the channels in whole panels of {isa.lanes}")
    if kernel.source.lanes != isa.lanes or kernel.source.ring:
        raise SpecError("Strassen", given=str(kernel.source), expected="a whole map in panels")
    module.function(name, SIGNATURE, _Emitter(kernel, isa).write)


class _Emitter(Emitter[Strassen]):
    def gather(self, first: Index, count: Index) -> None:
        """The quarters of the input and the sums of them, in the order of the weights'."""
        f, kernel = self.f, self.kernel
        start, of_a_panel = f.at(self.pointers[SOURCE], kernel.source.offset()), ITEM * kernel.source.panel
        half = of_a_panel * kernel.panels_in

        def pair(t: Value) -> None:
            above, below = (f.at(start, pixel) for pixel in self._pixels(SOURCE_TABLE, first, t))
            kept = self.kept_at(t, 0)

            def panel(p: Value) -> None:
                a11, a12, a21, a22 = (
                    f.load(self.kind, f.at(pixel, f.mul(p, of_a_panel)), offset)
                    for pixel in (above, below)
                    for offset in (0, half)
                )
                s1 = f.float("fadd", a21, a22)
                s2 = f.float("fsub", s1, a11)
                s3, s4 = f.float("fsub", a11, a21), f.float("fsub", a12, s2)
                place = f.at(kept, f.mul(p, self.tile.pixels * self.vector_bytes))
                self.store([a11, a12, s4, a22, s1, s2, s3], place, kernel.kept_bytes)

            self.loop(0, kernel.panels_in, panel)

        self.loop(0, count, pair)

    def outputs(self, first: Index, count: Index, strip: tuple[Index, int], v: Value) -> None:
        """Two pixels of two panels, one of each half of a strip."""
        f, kernel, beside = self.f, self.kernel, self.kernel.residual
        panel = f.add(f.mul(strip[0], 2), v)
        panels = panel, f.add(panel, strip[1])
        bias = [f.load(self.kind, self.pointers[BIAS], f.mul(p, self.vector_bytes)) for p in panels]
        out = [f.at(self.pointers[TARGET], self._panel(kernel.target, p)) for p in panels]
        added = [f.at(self.pointers[RESIDUAL], self._panel(beside, p)) for p in panels] if beside else []

        def pair(t: Value) -> None:
            products = self.product_at(t, v, strip[1])
            p1, p2, p3, p4, p5, p6, p7 = self.load(products, kernel.product_bytes, kernel.products)
            u2 = f.float("fadd", p1, p6)
            u3 = f.float("fadd", u2, p7)
            c11, c21 = f.float("fadd", p1, p2), f.float("fsub", u3, p4)
            c12, c22 = f.float("fadd", f.float("fadd", u2, p5), p3), f.float("fadd", u3, p5)
            where = self._pixels(TARGET_TABLE, first, t)
            sides = self._pixels(RESIDUAL_TABLE, first, t) if beside else where

            def store(pixel: int, values: tuple[Value, Value]) -> None:
                for i, value in enumerate(values):
                    x = f.float("fadd", value, bias[i])
                    if beside:
                        x = f.float("fadd", x, f.load(self.kind, added[i], sides[pixel]))
                    f.store(activate(f, kernel.activation, x), out[i], where[pixel])

            store(0, (c11, c12))
            if kernel.target.pixels % 2:  # the one in the middle of the last block is also the first of its last pair
                begin = (kernel.blocks - 1) * kernel.capacity
                is_middle = f.both(f.compare("eq", first, begin), f.compare("eq", t, 0))
                f.when(f.opposite(is_middle), lambda: store(1, (c21, c22)))
            else:
                store(1, (c21, c22))

        self.loop(0, count, pair)

    def _panel(self, layout: Layout, panel: Index) -> Index:
        """Bytes from the start of a buffer to the first pixel of a panel."""
        return self.f.add(self.f.mul(panel, ITEM * layout.panel), layout.offset())

    def _pixels(self, table: int, first: Index, t: Index) -> list[Value]:
        """What a table holds for the two pixels of pair ``t`` of the block that begins with pair ``first``."""
        f, kernel = self.f, self.kernel
        pixel = f.mul(first, 2)
        behind = f.least(f.div(f.sub(kernel.target.pixels, pixel), 2), kernel.capacity)
        entries = [f.load("i32", self.pointers[table], f.mul(f.add(f.add(pixel, t), n), 4)) for n in (0, behind)]
        return [f.convert("sext", entry, "i64") for entry in entries]
