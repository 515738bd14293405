"""Convolutions as several matrix products over fewer numbers. In: a kernel's sizes. Out: its loops, packed weights.

What Winograd's and Strassen's ways have in common: values are formed of the input, and once for all of the weights;
between them stand matrix products over the channels; the outputs are sums of these. A thread keeps the values of a
block, and its products with one strip of output channels, on its stack.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from separable.kernels.convolution import LINE_BYTES, MAX_AHEAD, WEIGHTS, Floats, Tile, channels_a_turn
from separable.kernels.epilogue import NONE, Activation
from separable.kernels.ir import Function, Index, Value, constant, vector
from separable.kernels.isa import Isa
from separable.kernels.layout import ITEM, Layout
from separable.kernels.strips import Strips, multiply
from separable.spec import ConvSpec


@dataclass(frozen=True, kw_only=True)
class Products(ABC):
    """One convolution as a kernel.

    ``tile.pixels`` counts units that are summed side by side, ``tile.block`` such groups whose values are kept at once.
    """

    spec: ConvSpec
    source: Layout
    target: Layout
    tile: Tile
    activation: Activation = NONE
    residual: Layout | None = None

    @property
    @abstractmethod
    def products(self) -> int:
        """Matrix products."""

    @property
    @abstractmethod
    def units(self) -> int:
        """Rows of each product: parts of the map that are computed together."""

    @property
    @abstractmethod
    def depth(self) -> int:
        """Channels of the values that each product sums over."""

    @property
    def panels_in(self) -> int:
        """Panels of the values."""
        return -(-self.depth // self.source.lanes)

    @property
    @abstractmethod
    def panels_out(self) -> int:
        """Panels of channels in each product."""

    @abstractmethod
    def weight_values(self, weight: Floats, first: int, last: int) -> NDArray[np.float64]:
        """(products, depth, last - first): the values of the weights (c_out, c_in, k_h, k_w) for some channels."""

    @property
    def capacity(self) -> int:
        """Units of a block."""
        return self.tile.pixels * self.tile.block

    @property
    def blocks(self) -> int:
        """Of units, the last one with what is left."""
        return -(-self.units // self.capacity)

    @property
    def strips(self) -> Strips:
        """Of output channels."""
        return Strips(self.panels_out, self.tile.vectors)

    @property
    def kept_bytes(self) -> int:
        """Of a block's values in one product: [group][panel][unit][lanes]."""
        return _odd_lines(self.panels_in * self.capacity * self.source.lanes * ITEM)

    @property
    def product_bytes(self) -> int:
        """Of a block's product with one strip: [unit][vector][lanes]."""
        return _odd_lines(self.capacity * self.tile.vectors * self.target.lanes * ITEM)

    @property
    def scratch_bytes(self) -> int:
        """What a thread keeps on its stack."""
        return self.products * (self.kept_bytes + self.product_bytes)

    def padded_channels(self, isa: Isa) -> int:
        """Output channels padded to whole panels."""
        return self.target.panels * isa.lanes

    def weight_floats(self, isa: Isa) -> int:
        """Values of the weights."""
        return self.products * self.depth * self.panels_out * isa.lanes

    def pack(self, weight: Floats, isa: Isa, into: Floats | None = None) -> Floats:
        """The values of the weights (c_out, c_in, k_h, k_w): [strip][product][channel][channel of the strip].

        They are formed in float64 and rounded once. ``into``: a place for them.
        """
        packed = np.zeros(self.weight_floats(isa), np.float32) if into is None else into
        size = self.products * self.depth
        for first, last in ((a * isa.lanes, b * isa.lanes) for a, b in self.strips.spans):
            room = packed[size * first : size * last].reshape(self.products, self.depth, -1)
            room[...] = self.weight_values(weight, first, last)
        return packed

    def pack_bias(self, bias: Floats, isa: Isa) -> Floats:
        """The bias padded to whole panels."""
        return np.pad(bias, (0, self.padded_channels(isa) - len(bias))).astype(np.float32)


def _odd_lines(size: int) -> int:
    """An odd number of cache lines: what lies so far apart does not meet in one set of the cache."""
    return (-(-size // LINE_BYTES) | 1) * LINE_BYTES


def scratch(f: Function, size: int) -> Value:
    """So many bytes on the stack; for the beginning of a function."""
    return f.raw(f"alloca [{size} x i8], align 64", "ptr")


Kernel = TypeVar("Kernel", bound=Products)


class Emitter(ABC, Generic[Kernel]):
    """Writes a kernel ``name(arguments, share, shares, image)``; ``arguments`` as for a convolution."""

    def __init__(self, kernel: Kernel, isa: Isa) -> None:
        self.kernel, self.isa, self.tile = kernel, isa, kernel.tile
        self.kind, self.vector_bytes = vector(isa.lanes), isa.lanes * ITEM
        self.step = channels_a_turn(isa.lanes)
        self.turns = kernel.depth // isa.lanes * (isa.lanes // self.step)

    @abstractmethod
    def gather(self, first: Index, count: Index) -> None:
        """The values of ``count`` units from ``first`` on, into ``kept``."""

    @abstractmethod
    def outputs(self, first: Index, count: Index, strip: tuple[Index, int], v: Value) -> None:
        """The outputs from panel ``v`` of the products with a strip: its first panel and how many it has."""

    def write(self, f: Function, parameters: list[Value]) -> None:
        """The whole function."""
        arguments, share, shares, _ = parameters
        self.f, kernel = f, self.kernel
        self.pointers = [f.load("ptr", arguments, 8 * i) for i in range(8)]
        self.kept, self.products = (
            scratch(f, kernel.products * size) for size in (kernel.kept_bytes, kernel.product_bytes)
        )
        is_by_channels = self.tile.split == "channels"
        count = kernel.strips.count if is_by_channels else kernel.blocks
        span = (f.div(f.mul(share, count), shares), f.div(f.mul(f.add(share, 1), count), shares))
        blocks, strips = ((0, kernel.blocks), span) if is_by_channels else (span, (0, kernel.strips.count))
        self.loop(*blocks, lambda block: self._block(block, strips))

    def _block(self, block: Value, strips: tuple[Index, Index]) -> None:
        f = self.f
        first = f.mul(block, self.kernel.capacity)
        count = f.least(f.sub(self.kernel.units, first), self.kernel.capacity)
        self.gather(first, count)

        def strip(n: Value) -> None:
            self.kernel.strips.choose(f, n, lambda panel, vectors, _: self._strip(first, count, panel, vectors))

        self.loop(*strips, strip)

    def _strip(self, first: Index, count: Index, panel: Index, vectors: int) -> None:
        """All products of a block with one strip of weights, and the outputs from them."""
        f, kernel, R = self.f, self.kernel, self.tile.pixels
        of_a_channel = vectors * self.vector_bytes
        size = kernel.depth * of_a_channel
        of_a_panel = kernel.products * kernel.depth * self.vector_bytes
        weights, lines = f.at(self.pointers[WEIGHTS], f.mul(panel, of_a_panel)), self._lines_ahead(size)

        def product(k: Value) -> None:
            run = f.at(weights, f.mul(k, size))
            kept = f.at(self.kept, f.mul(k, kernel.kept_bytes))
            of_a_group = self.kernel.panels_in * R * self.vector_bytes
            products = f.at(self.products, f.mul(k, kernel.product_bytes))

            def group(t: Value) -> None:
                ahead = f.at(run, f.add(f.mul(f.div(t, R), self.turns * lines * LINE_BYTES), size))
                sums = self._sums(f.at(kept, f.mul(f.div(t, R), of_a_group)), (run, ahead, lines), vectors)
                self.store(sums, f.at(products, f.mul(t, of_a_channel)), self.vector_bytes)

            self.loop(0, count, group, step=R)

        self.loop(0, kernel.products, product)
        self.loop(0, vectors, lambda v: self.outputs(first, count, (panel, vectors), v))

    def _lines_ahead(self, size: int) -> int:
        """Lines of the next product's weights that each turn asks for.

        Few units use each weight few times. Asking early took a 3×3 layer of 512 channels on 7×7 from 1.3 to 1.9 times
        the speed of the implicit GEMM.
        """
        groups = -(-min(self.kernel.capacity, self.kernel.units) // self.tile.pixels)
        room = LINE_BYTES * groups * max(1, self.turns)
        return min(MAX_AHEAD, -(-size // room)) if 2 * size >= room else 0

    def _sums(self, kept: Value, strip: tuple[Value, Value, int], vectors: int) -> list[Value]:
        """A group of units summed over the channels.

        ``strip``: its weights, where to fetch ahead, and how many lines a turn.
        """
        f, R, (weights, ahead, lines) = self.f, self.tile.pixels, strip
        of_a_channel, of_a_panel = vectors * self.vector_bytes, self.isa.lanes // self.step

        def turn(i: Index, channels: int, sums: list[Value]) -> list[Value]:
            place = f.add(
                f.mul(f.div(i, of_a_panel), R * self.vector_bytes), f.mul(f.rem(i, of_a_panel), self.step * ITEM)
            )
            values, run = f.at(kept, place), f.at(weights, f.mul(i, self.step * of_a_channel))
            for line in range(lines):
                f.prefetch(ahead, f.add(f.mul(i, lines * LINE_BYTES), line * LINE_BYTES))
            for c in range(channels):
                of_units = [f.at(values, t * self.vector_bytes + c * ITEM) for t in range(R)]
                multiply(f, self.isa, of_units, run, c * of_a_channel, sums)
            return sums

        sums = [constant(0.0, self.isa.lanes)] * (R * vectors)
        if self.turns:
            sums = f.loop(0, self.turns, lambda i, sums: turn(i, self.step, sums), carried=sums)
        rest = self.kernel.depth % self.isa.lanes
        return turn(self.turns, rest, sums) if rest else sums

    def product_at(self, unit: Value, v: Value, vectors: int) -> Value:
        """The first product of a unit with panel ``v`` of a strip of so many."""
        f = self.f
        return f.at(self.products, f.mul(f.add(f.mul(unit, vectors), v), self.vector_bytes))

    def kept_at(self, unit: Index, panel: Index) -> Value:
        """Where the first product's value of a unit is kept, whose panels lie ``tile.pixels`` vectors apart."""
        f, R = self.f, self.tile.pixels
        group = f.mul(f.div(unit, R), self.kernel.panels_in)
        vectors = f.add(f.mul(f.add(group, panel), R), f.rem(unit, R))
        return f.at(self.kept, f.mul(vectors, self.vector_bytes))

    # -- for the ways of their own ----------------------------------------------------------------------------

    def load(self, start: Value, stride: int, count: int) -> list[Value]:
        """Vectors ``stride`` bytes apart."""
        return [self.f.load(self.kind, start, i * stride) for i in range(count)]

    def store(self, values: list[Value], start: Value, stride: int) -> None:
        """Vectors ``stride`` bytes apart."""
        for i, value in enumerate(values):
            self.f.store(value, start, i * stride)

    def loop(self, start: Index, stop: Index, body: Callable[[Value], None], *, step: Index = 1) -> None:
        """A loop that carries nothing."""

        def turn(i: Value, _: list[Value]) -> list[Value]:
            body(i)
            return []

        self.f.loop(start, stop, turn, step=step)
