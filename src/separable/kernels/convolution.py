"""Dense, grouped, pointwise and linear layers as an implicit GEMM. In: shapes, layouts, tile. Out: IR, packed weights.

For a tile of ``pixels`` × ``vectors`` accumulators the kernel walks over the taps and channels of the receptive field:
each input element is broadcast and multiplied with vectors of weights that lie in the order of the walk. Neither
stride nor dilation nor padding changes the inner loop, only the offsets of the walk: the input brings its own border.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from separable.errors import SpecError
from separable.kernels.epilogue import NONE, Activation, activate
from separable.kernels.ir import Function, Index, Module, Value, constant, vector
from separable.kernels.isa import Isa
from separable.kernels.layout import ITEM, Layout
from separable.kernels.strips import Strips, multiply
from separable.spec import ConvSpec

Floats = NDArray[np.float32]
SIGNATURE = ("ptr", "i64", "i64", "i64")
SOURCE, WEIGHTS, BIAS, TARGET, RESIDUAL, SOURCE_TABLE, TARGET_TABLE, RESIDUAL_TABLE = range(8)


@dataclass(frozen=True, kw_only=True)
class Tile:
    """``pixels`` × ``vectors`` accumulators; ``block`` tiles of pixels are done for all channels before the next.

    ``turns`` of the walk are done for all tiles of a block before the next ones, so that their weights stay in the
    first-level cache; 0 means all. ``split`` says what threads share out: ``"pixels"`` or ``"channels"``.
    ``ends_in_half``: of the last vector of channels no more than half is used, and computed.
    """

    pixels: int
    vectors: int
    block: int
    split: str = "pixels"
    turns: int = 0
    ends_in_half: bool = False


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """One convolution as a kernel: the value that decides its code, weights apart.

    ``is_rowwise``: a tile stays in one row of the output, and addresses are strides; otherwise tiles run over all
    pixels and the addresses come from two tables, ``offsets``.
    """

    spec: ConvSpec
    source: Layout
    target: Layout
    tile: Tile
    activation: Activation = NONE
    residual: Layout | None = None
    is_rowwise: bool = True

    @property
    def per_group(self) -> tuple[int, int]:
        """(input panels, output panels) of a group."""
        g = self.spec.groups
        return -(-self.spec.c_in // g // self.source.lanes), -(-self.spec.c_out // g // self.target.lanes)

    @property
    def strips(self) -> Strips:
        """Of the output channels of a group."""
        return Strips(self.per_group[1], self.tile.vectors, ends_in_half=self.tile.ends_in_half)

    @property
    def columns(self) -> int:
        """Pixels over which a tile may run."""
        return self.target.width if self.is_rowwise and not self.is_flat else self.target.pixels

    @property
    def is_flat(self) -> bool:
        """Whether the whole map is one row: neither border nor stride breaks it."""
        maps = (self.source, self.target, self.residual or self.target)
        return all(m.is_flat for m in maps) and set(self.spec.stride) == {1} and self.spec.size == self.spec.size_out

    def padded_channels(self, isa: Isa) -> int:
        """Output channels with each group padded to whole panels."""
        return self.spec.groups * self.per_group[1] * isa.lanes

    def walk(self) -> list[Walk]:
        """The receptive field in the order in which it is read: loops of ``outer`` over unrolled ``inner`` steps."""
        spec, source = self.spec, self.source
        channels = spec.c_in // spec.groups
        (k_h, k_w), (d_h, d_w) = spec.kernel, spec.dilation
        taps = [(y, x) for y in range(k_h) for x in range(k_w)]
        move = {(y, x): ITEM * (y * d_h * source.row + x * d_w * source.pixel) for y, x in taps}
        if source.lanes == 1:
            step = ITEM * source.panel
            if channels * k_w <= MAX_UNROLL:
                inner = tuple((x, c, move[0, x] + c * step) for x in range(k_w) for c in range(channels))
                return [Walk(outer=tuple((y, 0, 0, move[y, 0]) for y in range(k_h)), inner=inner)]
            whole, rest = divmod(channels, 8)
            walks = [
                Walk(
                    outer=tuple((y, x, 8 * c, move[y, x] + 8 * c * step) for y, x in taps for c in range(whole)),
                    inner=tuple((0, c, c * step) for c in range(8)),
                ),
                Walk(
                    outer=tuple((y, x, 8 * whole, move[y, x] + 8 * whole * step) for y, x in taps),
                    inner=tuple((0, c, c * step) for c in range(rest)),
                ),
            ]
            return [w for w in walks if w.outer and w.inner]
        whole, rest = divmod(channels, source.lanes)
        panel = ITEM * source.panel
        lanes, step = source.lanes, channels_a_turn(source.lanes)
        walks = [
            Walk(
                outer=tuple(
                    (y, x, lanes * p + c, move[y, x] + p * panel + ITEM * c)
                    for y, x in taps
                    for p in range(whole)
                    for c in range(0, lanes, step)
                ),
                inner=tuple((0, c, ITEM * c) for c in range(step)),
            ),
            Walk(
                outer=tuple((y, x, lanes * whole, move[y, x] + whole * panel) for y, x in taps),
                inner=tuple((0, c, ITEM * c) for c in range(rest)),
            ),
        ]
        return [w for w in walks if w.outer and w.inner]

    def pack(self, weight: Floats, isa: Isa, into: Floats | None = None) -> Floats:
        """The weights (c_out, c_in/g, k_h, k_w) in the order of the walk, one run a tile of output channels.

        ``into``: zeros, a place for them; they are not held a second time on the way.
        """
        spec, lanes = self.spec, isa.lanes
        c_out = spec.c_out // spec.groups
        taps = [(o[0], o[1] + i[0], o[2] + i[1]) for w in self.walk() for o in w.outer for i in w.inner]
        y, x, c = (np.array(t) for t in zip(*taps, strict=True))
        grouped = weight.reshape(spec.groups, c_out, *spec.weight_shape[1:])
        size = self.padded_channels(isa) * len(taps)
        packed = (np.zeros(size, np.float32) if into is None else into).reshape(spec.groups, -1)
        for group, run in zip(grouped, packed, strict=True):
            for first, last in self.strips.spans:
                channels = group[first * lanes : last * lanes][:, c, y, x]
                room = run[first * lanes * len(taps) : last * lanes * len(taps)].reshape(len(taps), -1)
                room[:, : len(channels)] = channels.T
        return packed.ravel()

    def pack_bias(self, bias: Floats, isa: Isa) -> Floats:
        """The bias with each group padded to whole panels."""
        g = self.spec.groups
        padded = np.zeros((g, self.per_group[1] * isa.lanes), np.float32)
        padded[:, : self.spec.c_out // g] = bias.reshape(g, -1)
        return padded.ravel()

    def offsets(self) -> tuple[NDArray[np.int32], ...]:
        """For every output pixel, the bytes from the first to its receptive field, its place, its residual."""
        return pixel_offsets(self.spec, self.source, self.target, self.residual)


def pixel_offsets(
    spec: ConvSpec, source: Layout, target: Layout, residual: Layout | None
) -> tuple[NDArray[np.int32], ...]:
    """The tables of a kernel whose pixels are numbered."""
    (s_h, s_w), beside = spec.stride, residual or target
    y, x = np.divmod(np.arange(target.pixels), target.width)
    strides = ((s_h * source.row, s_w * source.pixel), (target.row, target.pixel), (beside.row, beside.pixel))
    return tuple((ITEM * (y * row + x * pixel)).astype(np.int32) for row, pixel in strides)


@dataclass(frozen=True, kw_only=True)
class Walk:
    """``outer``: (y, x, c, bytes) of each turn of a loop; ``inner``: (x, c, bytes) of the steps unrolled within."""

    outer: tuple[tuple[int, int, int, int], ...]
    inner: tuple[tuple[int, int, int], ...]


def channels_a_turn(lanes: int) -> int:
    """Input channels of a turn of the walk over panels; more of them only take LLVM longer."""
    return min(lanes, 8)


MAX_UNROLL = 32
LINE_BYTES, MAX_AHEAD = 64, 4


def write(module: Module, name: str, kernel: Convolution, isa: Isa) -> None:
    """The function ``name(arguments, thread, threads, image)``; ``arguments``: eight addresses, in the order above."""
    module.function(name, SIGNATURE, _emitter(module, name, kernel, isa).write)


def write_rows(module: Module, name: str, kernel: Convolution, isa: Isa) -> None:
    """The same for the calls of a chain: ``name(arguments, first, last)``, rows of the output of a kernel by rows."""
    module.function(name, SIGNATURE[:3], _emitter(module, name, kernel, isa).write_rows, is_internal=True)


def _emitter(module: Module, name: str, kernel: Convolution, isa: Isa) -> _Emitter:
    if kernel.spec.groups > 1 and (
        (kernel.spec.c_in // kernel.spec.groups) % kernel.source.lanes
        or (kernel.spec.c_out // kernel.spec.groups) % isa.lanes
    ):
        raise SpecError("Convolution", given=str(kernel.spec), expected=f"groups of whole panels of {isa.lanes}")
    if kernel.source.ring and (kernel.spec.kernel[0] > 1 or any(kernel.spec.padding[0])):
        raise SpecError("Convolution", given=str(kernel.spec), expected="one row at a time where rows go round")
    return _Emitter(module, name, kernel, isa)


class _Emitter:
    def __init__(self, module: Module, name: str, kernel: Convolution, isa: Isa) -> None:
        self.kernel, self.isa, self.tile = kernel, isa, kernel.tile
        self.walks = kernel.walk()
        self.tables = [_steps(module, f"{name}.walk{i}", walk) for i, walk in enumerate(self.walks)]
        self.depth = sum(len(w.outer) * len(w.inner) for w in self.walks)
        self.panels_in, self.panels_out = kernel.per_group
        self.tiles_a_row = -(-kernel.columns // self.tile.pixels)
        self.rows = kernel.target.pixels // kernel.columns
        self.pixel_tiles = self.rows * self.tiles_a_row
        self.strips = kernel.strips
        self.channel_tiles = self.strips.count * kernel.spec.groups
        self.turns = sum(len(walk.outer) for walk in self.walks)
        self.chunk = self.tile.turns or self.turns
        self.is_chunked = self.chunk < self.turns
        if self.is_chunked and len(self.walks) > 1:
            raise SpecError("Tile.turns", given=str(kernel.spec), expected="whole panels of input channels")

    def write(self, f: Function, parameters: list[Value]) -> None:
        arguments, thread, threads, _ = parameters
        ranges: dict[str, tuple[Index, Index]] = {"pixels": (0, self.pixel_tiles), "channels": (0, self.channel_tiles)}
        count = ranges[self.tile.split][1]
        first = f.div(f.mul(thread, count), threads)
        last = f.div(f.mul(f.add(thread, 1), count), threads)
        ranges[self.tile.split] = (first, last)
        self._run(f, arguments, ranges["pixels"], ranges["channels"])

    def write_rows(self, f: Function, parameters: list[Value]) -> None:
        arguments, first, last = parameters
        tiles = (f.mul(first, self.tiles_a_row), f.mul(last, self.tiles_a_row))
        self._run(f, arguments, tiles, (0, self.channel_tiles))

    def _run(self, f: Function, arguments: Value, pixels: tuple[Index, Index], channels: tuple[Index, Index]) -> None:
        """All blocks of tiles in these ranges."""
        self.f, self.pixel_range, self.channel_range = f, pixels, channels
        self.pointers = [f.load("ptr", arguments, 8 * i) for i in range(8)]
        if self.is_chunked:  # sums of a block between two chunks; by tile, because the last tiles of rows overlap
            size = self.tile.block * self.tile.pixels * self.tile.vectors * self.isa.lanes * ITEM
            self.partial = f.raw(f"alloca [{size} x i8], align 64", "ptr")
        f.loop(*pixels, self._block, step=self.tile.block)

    def _block(self, first: Value, _: list[Value]) -> list[Value]:
        f = self.f
        last = f.least(f.add(first, self.tile.block), self.pixel_range[1])

        def channels(index: Value, _: list[Value]) -> list[Value]:
            group, n = f.div(index, self.strips.count), f.rem(index, self.strips.count)
            if self.kernel.spec.groups == 1:
                group, n = 0, index
            self.strips.choose(f, n, lambda *strip: self._strip((first, last), group, strip))
            return []

        f.loop(*self.channel_range, channels)
        return []

    def _strip(self, block: tuple[Value, Index], group: Index, strip: tuple[Index, int, bool]) -> None:
        """All tiles of pixels of a block, for one strip of channels."""
        f, lanes = self.f, self.isa.lanes
        (first, last), (begin, vectors, ends_in_half) = block, strip
        panel = f.add(f.mul(group, self.panels_out), begin)
        run = f.mul(panel, self.depth * lanes * ITEM)
        weights = f.at(self.pointers[WEIGHTS], run)
        kinds = [vector(lanes)] * (vectors - ends_in_half) + [vector(lanes // 2)] * ends_in_half
        of_strip = f.at(self.pointers[BIAS], f.mul(panel, lanes * ITEM))
        bias = [f.load(kind, of_strip, v * lanes * ITEM) for v, kind in enumerate(kinds)]
        source = f.at(self.pointers[SOURCE], f.mul(group, self.panels_in * self.kernel.source.panel * ITEM))

        size = self.depth * vectors * lanes * ITEM
        lines = self._lines_ahead(size)
        tiles = f.sub(last, first)

        def chunk(start: Index, _: list[Value]) -> list[Value]:
            span = (start, f.least(f.add(start, self.chunk), self.turns))

            def one(t: Value, _: list[Value]) -> list[Value]:
                seen = f.add(f.mul(start, tiles), f.mul(f.sub(t, first), f.sub(span[1], start)))
                ahead = f.at(weights, f.add(f.mul(seen, lines * LINE_BYTES), size))
                self._one(t, f.sub(t, first), span, panel, source, (weights, ahead, lines), bias)
                return []

            f.loop(first, last, one)
            return []

        if self.is_chunked:
            f.loop(0, self.turns, chunk, step=self.chunk)
        else:
            chunk(0, [])

    def _lines_ahead(self, size: int) -> int:
        """Lines of the next strip's weights that each turn of a tile asks for.

        Few pixels use each weight few times, and then the weights come from memory: asking for them a strip early took
        7×7 layers with cold weights from 70 to 80 % of the peak. Many pixels hide the wait by themselves.
        """
        room = LINE_BYTES * self.turns * min(self.tile.block, self.rows * self.tiles_a_row)
        return min(MAX_AHEAD, -(-size // room)) if 2 * size >= room else 0

    def _one(
        self,
        t: Value,
        place: Index,
        span: tuple[Index, Index],
        panel: Index,
        source: Value,
        strip: tuple[Value, Value, int],
        bias: list[Value],
    ) -> None:
        """One tile, number ``place`` of its block, for a span of turns.

        ``strip``: its weights, where to fetch ahead, and how many lines a turn.
        """
        f, kernel, R = self.f, self.kernel, self.tile.pixels
        weights, ahead, lines = strip
        y, x = f.div(t, self.tiles_a_row), f.mul(f.rem(t, self.tiles_a_row), R)
        if self.rows == 1:
            y, x = 0, f.mul(t, R)
        if kernel.columns % R:
            x = f.least(x, kernel.columns - R)  # the last tile goes back and does some pixels again
        reads, writes, sides = self._addresses(source, y, x)
        accumulators = [value for _ in range(R) for value in bias]
        places = list(zip(writes, sides, strict=True))
        if self.is_chunked:
            self._part(
                accumulators, place, span, reads, strip, lambda sums: self._finish(sums, len(bias), panel, places)
            )
            return
        for walk, table in zip(self.walks, self.tables, strict=True):
            size = len(walk.outer) * len(walk.inner) * len(bias) * self.isa.lanes * ITEM
            accumulators = self._walk(walk, table, (0, len(walk.outer)), reads, (weights, ahead, lines), accumulators)
            weights, ahead = f.at(weights, size), f.at(ahead, len(walk.outer) * lines * LINE_BYTES)
        self._finish(accumulators, len(bias), panel, places)

    def _part(
        self,
        bias: list[Value],
        place: Index,
        span: tuple[Index, Index],
        reads: list[Value],
        strip: tuple[Value, Value, int],
        finish: Callable[[list[Value]], None],
    ) -> None:
        """A span of turns: sums begin with the bias or where the span before left them, and are left or finished."""
        f, size = self.f, self.isa.lanes * ITEM
        kept = f.at(self.partial, f.mul(place, len(bias) * size))
        is_first = f.compare("eq", span[0], 0)
        sums = [f.select(is_first, value, f.load(value.type, kept, i * size)) for i, value in enumerate(bias)]
        sums = self._walk(self.walks[0], self.tables[0], span, reads, strip, sums)
        is_last = f.compare("eq", span[1], self.turns)
        f.when(is_last, lambda: finish(sums))

        def keep() -> None:
            for i, value in enumerate(sums):
                f.store(value, kept, i * size)

        f.when(f.compare("ne", span[1], self.turns), keep)

    def _addresses(self, source: Value, y: Index, x: Index) -> tuple[list[Value], list[Index], list[Index]]:
        """For each pixel of the tile: where its receptive field begins, its offset in the output, in the residual."""
        f, kernel, R = self.f, self.kernel, self.tile.pixels
        pads, target, beside = kernel.spec.padding, kernel.target, kernel.residual or kernel.target
        start = f.at(source, kernel.source.offset(-pads[0][0], -pads[1][0]))
        if not kernel.is_rowwise and not kernel.is_flat:
            reads = [f.at(start, offset) for offset in self._listed(SOURCE_TABLE, x)]
            writes = self._listed(TARGET_TABLE, x)
            return reads, writes, self._listed(RESIDUAL_TABLE, x) if kernel.residual else writes
        s_h, s_w = kernel.spec.stride
        origin = f.add(kernel.source.row_offset(f, f.mul(y, s_h)), f.mul(x, ITEM * s_w * kernel.source.pixel))
        corner = f.at(start, origin)
        out, side = (f.add(m.row_offset(f, y), f.mul(x, ITEM * m.pixel)) for m in (target, beside))
        return (
            [f.at(corner, ITEM * i * s_w * kernel.source.pixel) for i in range(R)],
            [f.add(out, ITEM * i * target.pixel) for i in range(R)],
            [f.add(side, ITEM * i * beside.pixel) for i in range(R)],
        )

    def _listed(self, table: int, x: Index) -> list[Index]:
        """The entries of a table for the pixels from x on."""
        f = self.f
        entries = [f.load("i32", self.pointers[table], f.add(f.mul(x, 4), 4 * i)) for i in range(self.tile.pixels)]
        return [f.convert("sext", entry, "i64") for entry in entries]

    def _walk(
        self,
        walk: Walk,
        table: Value | int,
        span: tuple[Index, Index],
        reads: list[Value],
        strip: tuple[Value, Value, int],
        accumulators: list[Value],
    ) -> list[Value]:
        f, lanes = self.f, self.isa.lanes
        weights, ahead, lines = strip
        vectors = len(accumulators) // len(reads)
        stride = vectors * lanes * ITEM

        def turn(i: Value, sums: list[Value]) -> list[Value]:
            move = f.mul(i, table) if isinstance(table, int) else f.load("i64", table, f.mul(i, 8))
            run = f.at(weights, f.mul(i, len(walk.inner) * stride))
            for line in range(lines):
                f.prefetch(ahead, f.add(f.mul(f.sub(i, span[0]), lines * LINE_BYTES), line * LINE_BYTES))
            for k, (_, _, offset) in enumerate(walk.inner):
                values = [f.at(f.at(read, move), offset) for read in reads]
                multiply(f, self.isa, values, run, k * stride, sums)
            return sums

        return f.loop(*span, turn, carried=accumulators)

    def _finish(self, accumulators: list[Value], vectors: int, panel: Index, places: list[tuple[Index, Index]]) -> None:
        f, kernel, lanes = self.f, self.kernel, self.isa.lanes
        target, residual = kernel.target, kernel.residual
        out = f.at(self.pointers[TARGET], f.add(f.mul(panel, ITEM * target.panel), target.origin))
        if residual is not None:
            beside = f.at(self.pointers[RESIDUAL], f.add(f.mul(panel, ITEM * residual.panel), residual.offset()))
        for r, (place, side) in enumerate(places):
            for v in range(vectors):
                x = accumulators[r * vectors + v]
                if x.lanes < lanes:
                    x = f.shuffle(x, constant(0.0, x.lanes), range(lanes))
                if residual is not None:
                    x = f.float("fadd", x, f.load(vector(lanes), beside, f.add(side, ITEM * v * residual.panel)))
                f.store(activate(f, kernel.activation, x), out, f.add(place, ITEM * v * target.panel))


def _steps(module: Module, name: str, walk: Walk) -> Value | int:
    """The offsets of a walk's turns: one stride where there is one, else a table."""
    offsets = [o[3] for o in walk.outer]
    stride = offsets[1] - offsets[0] if len(offsets) > 1 else 0
    if offsets == [i * stride for i in range(len(offsets))]:
        return stride
    return module.table(name, offsets)
