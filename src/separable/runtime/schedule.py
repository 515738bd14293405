"""Where and how each operator runs. In: a network, an instruction set, threads. Out: kernels, buffers, and their order.

A map that a padded layer reads gets a border that holds the padding: written once, when memory is made, and never
again, because only maps of the same geometry share such a buffer. All other maps share one arena by liveness.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from separable.errors import ModelError
from separable.kernels import across, convolution, elementwise
from separable.kernels.catalogue import Kernel
from separable.kernels.chain import OF_A_LINK, Chain, Weighted, packed_floats, pixel_tables
from separable.kernels.convolution import Floats
from separable.kernels.elementwise import Elementwise, spread
from separable.kernels.gathering import Gather
from separable.kernels.group_norm import GroupNorm
from separable.kernels.isa import Isa
from separable.kernels.layout import ITEM, NO_BORDER, Border, Layout, channels_last, panels, planar
from separable.kernels.moving import Move
from separable.kernels.pooling import GlobalAverage, Pool
from separable.kernels.resampling import Resample
from separable.kernels.shifting import Shift
from separable.runtime import products, tiles
from separable.runtime.arrange import border
from separable.runtime.chains import chain_of, find_chains, is_expected_to_pay
from separable.runtime.network import (
    Activate,
    Combine,
    Convolve,
    Interleave,
    Join,
    Mean,
    Network,
    Node,
    Normalise,
    NormaliseGroups,
    Pad,
    Part,
    Pooling,
    Reduce,
    Reorder,
    Shape,
    Slope,
    Softmax,
    Take,
)

Kernels = tuple[Kernel, ...]  # that do some work one after the other
Choose = Callable[[Sequence[Kernels]], Kernels]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Bytes behind the start of a map; ``is_outside`` says that the caller brings the map."""

    map: str
    offset: int = 0
    is_outside: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Packed:
    """Weights in a kernel's order: ``put`` into a place of zeros for so many bytes, and not kept twice."""

    nbytes: int
    put: Callable[[Floats], object]


Constant = NDArray[np.generic] | Packed


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """One kernel with what it is given: maps and constants, by the position of the argument."""

    name: str
    kernel: Kernel
    maps: Mapping[int, Place]
    constants: Mapping[int, Constant]
    macs: int = 0


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A map's place in memory: bytes from the start, its layout, what its border holds."""

    offset: int
    layout: Layout
    fill: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Schedule:
    """Steps in order, and one image's memory."""

    steps: tuple[Step, ...]
    slots: Mapping[str, Slot]
    bytes: int


def schedule(network: Network, isa: Isa, threads: int, choose: Choose, last: frozenset[str] = frozenset()) -> Schedule:
    """``choose`` picks one of several ways to do the same work; inputs named in ``last`` come channels last."""
    return _Scheduler(network, isa, threads, choose, last).run()


@dataclass
class _Scheduler:
    network: Network
    isa: Isa
    threads: int
    choose: Choose
    last: frozenset[str]
    layouts: dict[str, Layout] = field(default_factory=dict)
    fills: dict[str, float] = field(default_factory=dict)
    lasting: set[str] = field(default_factory=set)  # maps whose margin is written once, like a border
    within: dict[str, Place] = field(default_factory=dict)  # maps that are a part of another one
    steps: list[Step] = field(default_factory=list)
    wrote: dict[str, Kernel] = field(default_factory=dict)  # what computes a map
    packed: dict[tuple[int, Kernel], tuple[Packed, Floats]] = field(
        default_factory=dict
    )  # a volume's slices share them

    def run(self) -> Schedule:
        self.readers = self.network.readers()
        for name, shape in self.network.inputs.items():
            self._enter(name, shape)
        found = find_chains(self.network, self.readers)
        early = {node.name for nodes in found.values() for node in nodes[:-1]}
        for node in self.network.nodes:
            if node.name in found:
                self._chain(found[node.name])
            elif node.name not in early:
                self._lay_out(node.name, node.shape, node)
                self._node(node)
        for name, source in self.network.outputs.items():
            self._leave(name, source)
        slots, size = place(self.steps, self.layouts, self.fills, self.lasting)
        return Schedule(steps=tuple(self.steps), slots=slots, bytes=size)

    def _enter(self, name: str, shape: Shape) -> None:
        """Brings an input into panels or planes."""
        outside = (channels_last if name in self.last else planar)(shape[0], shape[1:])
        self._lay_out(name, shape, None)
        image = shape[0] * shape[1] * shape[2]
        self._add(
            f"{name} in",
            Move(source=outside, target=self.layouts[name], source_image=image),
            {0: Place(map=name, is_outside=True), 3: Place(map=name)},
        )

    def _leave(self, name: str, source: str) -> None:
        """Brings a map out as the tensor that the caller knows as ``name``."""
        c, h, w = self.network.shapes[source]
        move = Move(source=self.layouts[source], target=planar(c, (h, w)), target_image=c * h * w)
        self._add(f"{name} out", move, {0: Place(map=source), 3: Place(map=name, is_outside=True)})

    def _lay_out(self, name: str, shape: Shape, node: Node | None) -> None:
        """Decides the border of a map from those who read it; what is interleaved is written where it will be."""
        whole = self.readers[name][0] if len(self.readers[name]) == 1 else None
        if whole is not None and isinstance(whole.operator, Interleave):
            self._lay_out(whole.name, whole.shape, whole)
            step, layout = whole.operator.step, self.layouts[whole.name]
            first = divmod(whole.inputs.index(name), step[1])
            self.layouts[name] = layout.phase(step, first)
            self.within[name] = self._at(Place(map=whole.name, offset=layout.offset(*first)))
            return
        widest, self.fills[name] = NO_BORDER, 0.0
        for reader in self.readers[name]:
            fill = border(reader, name, node)
            if fill is not None:
                widest = _widest(widest, reader.operator.spec.padding)  # type: ignore[union-attr,arg-type]
                self.fills[name] = fill
        is_planar = shape[0] < self.isa.lanes and self._may_be_planar(name, node)
        lay_out = planar if is_planar else partial(panels, lanes=self.isa.lanes)
        self.layouts[name] = lay_out(shape[0], shape[1:], border=widest)

    def _may_be_planar(self, name: str, node: Node | None) -> bool:
        """Whether what writes a map can write planes, and only dense convolutions or the caller read it."""
        return (node is None or isinstance(node.operator, Reorder)) and all(
            isinstance(reader.operator, Convolve) and not reader.operator.is_depthwise and reader.inputs[1:] == ()
            for reader in self.readers[name]
        )

    def _node(self, node: Node) -> None:
        source, target = self.layouts[node.inputs[0]], self.layouts[node.name]
        there, here = Place(map=node.inputs[0]), Place(map=node.name)
        both = {0: there, 3: here}
        act = node.activation
        match node.operator:
            case Convolve():
                self._convolve(node)
            case Pooling() as p:
                pool = Pool(
                    kind=p.kind,
                    spec=p.spec,
                    source=source,
                    target=target,
                    counts_padding=p.counts_padding,
                    activation=act,
                )
                self._add(node.name, pool, both, {1: pool.shares()})
            case Mean():
                self._add(node.name, GlobalAverage(source=source, target=target, activation=act), both)
            case Activate():
                self._add(node.name, Elementwise(operation="keep", source=source, target=target, activation=act), both)
            case Combine() | Slope():
                self._combine(node, node.operator, both)
            case Join():
                self._join(node)
            case Part() as part if part.first % self.isa.lanes:
                channels = target.channels
                self._add(
                    node.name,
                    Shift(source=source, target=target, first_in=part.first, first_out=0, channels=channels),
                    both,
                )
            case Part() as part:
                whole = replace(source, channels=target.channels)
                start = Place(map=there.map, offset=ITEM * source.panel * (part.first // self.isa.lanes))
                self._add(node.name, Move(source=whole, target=target), {0: start, 3: here})
            case Pad() as pad:
                (top, _), (left, _) = pad.padding
                inner = replace(target, height=source.height, width=source.width, border=NO_BORDER)
                self.lasting.add(node.name)
                start = Place(map=node.name, offset=target.offset(top, left))
                self._add(node.name, Move(source=source, target=inner), {0: there, 3: start})
            case Take() as take:
                self._take(node, take, both)
            case Reorder() as reorder:
                gather = Gather(source=source, target=target, parts=reorder.parts, step=reorder.step, activation=act)
                self._add(node.name, gather, both, {convolution.SOURCE_TABLE: gather.offsets(reorder.order)})
            case Interleave():
                pass  # its inputs were written into it
            case Softmax(is_log=is_log):
                self._add(node.name, across.Softmax(source=source, target=target, is_log=is_log), both)
            case Reduce(kind=kind):
                self._add(node.name, across.Reduce(kind=kind, source=source, target=target), both)
            case Normalise() | NormaliseGroups():
                self._normalise(node, node.operator, both)
            case _:
                raise ModelError(node.name, given=str(node), expected="an operator with a kernel")

    def _combine(self, node: Node, operator: Combine | Slope, places: dict[int, Place]) -> None:
        source, target = self.layouts[node.inputs[0]], self.layouts[node.name]
        tables: dict[int, Constant] = {}
        other, start = None, 0
        if isinstance(operator, Slope):
            other = panels(target.channels, (1, 1), self.isa.lanes)
            tables = {elementwise.OTHER: np.pad(operator.slope, (0, target.panels * self.isa.lanes - target.channels))}
        elif len(node.inputs) > 1:
            other = self.layouts[node.inputs[1]]
        if other is not None and other.pixels == 1 < target.pixels:
            other, start = spread(other, target), other.offset()
        if other is not None and other.channels == 1:
            other = replace(other, panel=0)
        if len(node.inputs) > 1:
            places = {**places, elementwise.OTHER: Place(map=node.inputs[1], offset=start)}
        kernel = Elementwise(
            operation="slope" if isinstance(operator, Slope) else operator.operation,
            source=source,
            target=target,
            other=other,
            activation=node.activation,
            constants=() if isinstance(operator, Slope) else operator.constants,
        )
        self._add(node.name, kernel, places, tables)

    def _normalise(self, node: Node, norm: Normalise | NormaliseGroups, places: dict[int, Place]) -> None:
        source, target = self.layouts[node.inputs[0]], self.layouts[node.name]
        rest = target.panels * self.isa.lanes - target.channels
        tables = {convolution.WEIGHTS: np.pad(norm.scale, (0, rest)), convolution.BIAS: np.pad(norm.shift, (0, rest))}
        kernel: Kernel = across.Normalise(source=source, target=target, eps=norm.eps)
        if isinstance(norm, NormaliseGroups):
            kernel = GroupNorm(
                source=source, target=target, groups=norm.groups, eps=norm.eps, activation=node.activation
            )
        self._add(node.name, kernel, places, tables)

    def _take(self, node: Node, take: Take, places: dict[int, Place]) -> None:
        rows, columns = take.rows, take.columns
        resample = Resample(
            source=self.layouts[node.inputs[0]],
            target=self.layouts[node.name],
            taps=(rows.taps, columns.taps),
            is_copy=rows.is_copy and columns.is_copy,
            activation=node.activation,
        )
        tables = {
            convolution.WEIGHTS: resample.weights(rows, columns),
            convolution.SOURCE_TABLE: resample.offsets(rows, columns),
        }
        self._add(node.name, resample, places, tables)

    def _chain(self, nodes: tuple[Node, ...]) -> None:
        """Several convolutions, by themselves or in bands of rows, whatever is fastest."""
        apart = []
        for node in nodes:
            self._lay_out(node.name, node.shape, node)
            apart.append(self._kernel(node))
        maps = (self._maps(nodes[0])[0], *self._maps(nodes[-1])[1:])
        chain = chain_of(nodes, maps, self.isa, self.threads, apart)
        ways: list[Kernels] = [tuple(apart)] + ([(chain,)] if chain else [])
        if is_expected_to_pay(apart):
            ways.reverse()
        for kernel in self.choose(ways):
            count = len(kernel.links) if isinstance(kernel, Chain) else 1
            self._run(nodes[:count], kernel)
            nodes = nodes[count:]

    def _convolve(self, node: Node) -> None:
        self._run((node,), self._kernel(node))

    def _maps(self, node: Node) -> tuple[Layout, Layout, Layout | None]:
        residual = self.layouts[node.inputs[1]] if len(node.inputs) > 1 else None
        return self.layouts[node.inputs[0]], self.layouts[node.name], residual

    def _kernel(self, node: Node) -> Weighted:
        operator = node.operator
        if not isinstance(operator, Convolve):
            raise TypeError(f"{node} is not a convolution")
        given = (operator.spec, self._maps(node), node.activation, self.isa, self.threads)
        before = self.wrote.get(node.inputs[0])
        found = tiles.depthwise(*given, before) if operator.is_depthwise else products.dense(*given)
        (kernel,) = self.choose([(option,) for option in found])
        if not isinstance(kernel, Weighted):
            raise TypeError(f"a convolution cannot run as {kernel}")
        self.wrote[node.name] = kernel
        return kernel

    def _run(self, nodes: Sequence[Node], kernel: Kernel) -> None:
        """A convolution, or a chain of several."""
        places = {convolution.SOURCE: Place(map=nodes[0].inputs[0]), convolution.TARGET: Place(map=nodes[-1].name)}
        constants: dict[int, Constant] = {}
        links: tuple[Kernel, ...] = kernel.links if isinstance(kernel, Chain) else (kernel,)
        self.wrote[nodes[-1].name] = kernel
        macs = 0
        for i, (node, link) in enumerate(zip(nodes, links, strict=True)):
            if not isinstance(link, Weighted) or not isinstance(node.operator, Convolve):
                raise TypeError(f"{node} cannot run as {link}")
            at, macs = OF_A_LINK * i, macs + link.spec.macs
            weights, bias = self._packed(node.operator, link)
            constants |= {at + convolution.WEIGHTS: weights, at + convolution.BIAS: bias}
            constants |= pixel_tables(link)
            if len(node.inputs) > 1:
                places[at + convolution.RESIDUAL] = Place(map=node.inputs[1])
        self._add(nodes[-1].name, kernel, places, constants, macs)

    def _packed(self, operator: Convolve, kernel: Weighted) -> tuple[Packed, Floats]:
        key = (id(operator), kernel)
        if key not in self.packed:
            weights, _ = packed_floats(kernel, self.isa)
            self.packed[key] = (
                Packed(nbytes=ITEM * weights, put=lambda place: kernel.pack(operator.weights, self.isa, place)),
                kernel.pack_bias(operator.bias, self.isa),
            )
        return self.packed[key]

    def _join(self, node: Node) -> None:
        target, first = self.layouts[node.name], 0
        for name in node.inputs:
            source = self.layouts[name]
            if first % self.isa.lanes:
                shift = Shift(source=source, target=target, first_in=0, first_out=first, channels=source.channels)
                self._add(f"{node.name} {name}", shift, {0: Place(map=name), 3: Place(map=node.name)})
                first += source.channels
                continue
            offset = ITEM * target.panel * (first // self.isa.lanes)
            move = Move(source=source, target=replace(target, channels=source.channels))
            self._add(f"{node.name} {name}", move, {0: Place(map=name), 3: Place(map=node.name, offset=offset)})
            first += source.channels

    def _add(
        self,
        name: str,
        kernel: Kernel,
        maps: Mapping[int, Place],
        constants: Mapping[int, Constant] | None = None,
        macs: int = 0,
    ) -> None:
        places = {position: self._at(where) for position, where in maps.items()}
        self.steps.append(Step(name=name, kernel=kernel, maps=places, constants=constants or {}, macs=macs))

    def _at(self, where: Place) -> Place:
        whole = self.within.get(where.map)
        return where if whole is None or where.is_outside else replace(whole, offset=whole.offset + where.offset)


def place(
    steps: Sequence[Step], layouts: Mapping[str, Layout], fills: Mapping[str, float], lasting: set[str]
) -> tuple[dict[str, Slot], int]:
    """Offsets by liveness: first fit for plain maps, one of the same geometry for maps with a border."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for i, step in enumerate(steps):
        for where in step.maps.values():
            if not where.is_outside:
                first.setdefault(where.map, i)
                last[where.map] = i
    plain = [name for name in first if layouts[name].border == NO_BORDER and name not in lasting]
    slots, size = _first_fit(plain, first, last, layouts)
    kept: dict[tuple[object, ...], list[tuple[int, list[str]]]] = {}
    for name in (n for n in first if n not in slots):
        layout = layouts[name]
        key = (replace(layout, channels=layout.lanes), fills[name], layout.panels, name if name in lasting else "")
        rooms = kept.setdefault(key, [])
        room = next((r for r in rooms if last[r[1][-1]] < first[name]), None)
        if room is None:
            room = (size, [])
            rooms.append(room)
            size += _rounded(layout.floats * ITEM)
        room[1].append(name)
        slots[name] = Slot(offset=room[0], layout=layout, fill=fills[name])
    return slots, size


def _first_fit(
    names: list[str], first: Mapping[str, int], last: Mapping[str, int], layouts: Mapping[str, Layout]
) -> tuple[dict[str, Slot], int]:
    slots: dict[str, Slot] = {}
    size = 0
    for name in names:
        need, offset = _rounded(layouts[name].floats * ITEM), 0
        alive = [
            (s.offset, s.offset + _rounded(s.layout.floats * ITEM)) for n, s in slots.items() if last[n] >= first[name]
        ]
        for begin, end in sorted(alive):
            if offset + need <= begin:
                break
            offset = max(offset, end)
        slots[name] = Slot(offset=offset, layout=layouts[name], fill=0.0)
        size = max(size, offset + need)
    return slots, size


def _rounded(size: int) -> int:
    """Buffers begin on cache lines, some lines apart, so that no kernel's last load meets the next buffer."""
    return -(-size // 64) * 64 + 192


def _widest(a: Border, b: Border) -> Border:
    (t, u), (v, w) = (tuple(max(p, q) for p, q in zip(x, y, strict=True)) for x, y in zip(a, b, strict=True))
    return ((t, u), (v, w))
