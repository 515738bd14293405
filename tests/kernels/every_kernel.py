"""One kernel of every kind. In: a level. Out: cases, each with what it reads; channels fill no panel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from guarded import Constants, Inputs, given
from numpy.typing import NDArray

from separable.kernels.across import Normalise, Reduce, Softmax
from separable.kernels.catalogue import Kernel
from separable.kernels.chain import OF_A_LINK, Chain, Weighted, ring_rows
from separable.kernels.convolution import Convolution, Tile
from separable.kernels.depthwise import Depthwise
from separable.kernels.elementwise import OPERATIONS, UNARY, Elementwise, spread
from separable.kernels.epilogue import KINDS, Activation
from separable.kernels.gathering import Gather
from separable.kernels.group_norm import GroupNorm
from separable.kernels.isa import Isa
from separable.kernels.layout import Layout, channels_last, panels, planar
from separable.kernels.moving import Move
from separable.kernels.pooling import GlobalAverage, Pool
from separable.kernels.resampling import Axis, Resample
from separable.kernels.shifting import Shift
from separable.kernels.strassen import Strassen
from separable.kernels.winograd import Winograd
from separable.spec import ConvSpec

TILE = Tile(pixels=4, vectors=2, block=4)
RELU = Activation(kind="relu")
CONSTANTS = {"power": (3.0,), "soft shrink": (0.3,), "hard shrink": (0.4,), "threshold": (0.1, -0.2)}


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """A kernel, and its inputs and constants by their position in the arguments."""

    kernel: Kernel
    inputs: Inputs
    constants: Constants


def every_kernel(isa: Isa) -> list[Case]:
    """The same cases at every level, but for the panels."""
    weighted = [Case(kernel=k, inputs=i, constants=c) for k in layers(isa) for i, c, _ in [given(k, isa)]]
    return [*weighted, chain(isa), *between(isa), *elementwise(isa), *moved(isa)]


def layers(isa: Isa) -> list[Weighted]:
    """Every loop: pointwise, dense, strided, by tables, in chunks, of planes, in groups; depthwise; fewer products."""
    dense, strided = ConvSpec(40, 21, 3, (9, 9), padding=1), ConvSpec(21, 33, 3, (9, 9), padding=1, stride=2)
    stem, spatial = ConvSpec(3, 20, 3, (15, 14), stride=2, padding=1), ConvSpec(21, 19, (1, 5), (6, 9), padding=(0, 2))
    chunked = Tile(pixels=4, vectors=2, block=3, turns=2)
    found: list[Weighted] = [
        Convolution(**maps(ConvSpec(40, 70, 1, (9, 9)), isa), tile=TILE),
        Convolution(**maps(ConvSpec(40, 34, 1, (9, 9)), isa), tile=replace(TILE, ends_in_half=True), activation=RELU),
        Convolution(**maps(ConvSpec(80, 48, 1, (7, 7)), isa), tile=chunked, activation=RELU),
        Convolution(**maps(ConvSpec(100, 33, 1, 1), isa), tile=Tile(pixels=1, vectors=2, block=1, split="channels")),
        Convolution(**maps(dense, isa), tile=TILE),
        Convolution(**maps(strided, isa), tile=TILE, is_rowwise=False),
        Convolution(**maps(spatial, isa), tile=TILE),
        Convolution(**maps(ConvSpec(64, 64, 3, (5, 6), padding=1, groups=2), isa), tile=TILE),
        Convolution(**{**maps(stem, isa), "source": planar(3, (15, 14), stem.padding)}, tile=TILE),
    ]
    for kernel, stride in ((3, 1), (3, 2), (5, 1), (13, 1)):
        spec = ConvSpec(40, 40, kernel, (16, 15), padding=kernel // 2, groups=40, stride=stride)
        tall = 1 if kernel > 5 else 2
        found.append(Depthwise(**maps(spec, isa), rows=tall, columns=3, activation=RELU))
    beside = panels(21, dense.size_out, isa.lanes, ((2, 0), (0, 1)))
    found += [Winograd(**maps(dense, isa), width=width, tile=TILE, residual=beside) for width in (2, 4)]
    for split in ("pixels", "channels"):
        tile = Tile(pixels=3, vectors=3, block=2, split=split)
        found.append(Strassen(**maps(ConvSpec(64, 160, 1, (5, 7)), isa), tile=tile, activation=RELU))
    return found


def maps(spec: ConvSpec, isa: Isa) -> dict[str, ConvSpec | Layout]:
    source = panels(spec.c_in, (spec.size[0], spec.size[1]), isa.lanes, spec.padding)
    return {"spec": spec, "source": source, "target": panels(spec.c_out, spec.size_out, isa.lanes)}


def chain(isa: Isa) -> Case:
    """Pointwise, depthwise, pointwise, in bands of two rows."""
    specs = (
        ConvSpec(11, 19, 1, (9, 7)),
        ConvSpec(19, 19, 3, (9, 7), padding=1, groups=19),
        ConvSpec(19, 13, 1, (9, 7)),
    )
    first = panels(19, (9, 7), isa.lanes, specs[1].padding, ring=ring_rows(specs[1], ring_rows(specs[2], 2)))
    second = panels(19, (9, 7), isa.lanes, ring=ring_rows(specs[2], 2))
    tile = Tile(pixels=3, vectors=2, block=2)
    links = (
        Convolution(**{**maps(specs[0], isa), "target": first}, tile=tile, activation=RELU),
        Depthwise(spec=specs[1], source=first, target=second, rows=1, columns=3, activation=RELU),
        Convolution(**{**maps(specs[2], isa), "source": second}, tile=tile),
    )
    inputs: Inputs = {}
    constants: Constants = {}
    for i, link in enumerate(links):
        read, packed, _ = given(link, isa)
        inputs |= read if i == 0 else {}
        constants |= {OF_A_LINK * i + place: array for place, array in packed.items()}
    return Case(kernel=Chain(links=links, rows=2), inputs=inputs, constants=constants)


def between(isa: Isa) -> Iterator[Case]:
    """What sees whole pixels, windows, or whole maps."""
    lanes = isa.lanes
    one, dot = panels(21, (6, 7), lanes), panels(21, (1, 1), lanes)
    image = numbers(21, 6, 7)
    inputs: Inputs = {0: (one, image, np.nan)}
    tables: Constants = {
        place: np.pad(numbers(21), (0, one.panels * lanes - 21)).astype(np.float32) for place in (1, 2)
    }
    yield Case(kernel=Normalise(source=one, target=one, eps=1e-5), inputs=inputs, constants=tables)
    for is_log in (False, True):
        yield Case(kernel=Softmax(source=one, target=one, is_log=is_log), inputs=inputs, constants={})
    for kind in ("max", "mean"):
        reduced = Reduce(kind=kind, source=one, target=panels(1, (6, 7), lanes))
        yield Case(kernel=reduced, inputs=inputs, constants={})
    for groups in (3, 21):
        norm = GroupNorm(source=one, target=one, groups=groups, eps=1e-5, activation=RELU)
        yield Case(kernel=norm, inputs=inputs, constants=tables)
    yield Case(kernel=GlobalAverage(source=one, target=dot), inputs=inputs, constants={})
    spec = ConvSpec(21, 21, 3, (6, 7), stride=2, padding=1, groups=21)
    bordered = panels(21, (6, 7), lanes, spec.padding)
    for kind, border in (("max", -np.inf), ("average", 0.0)):
        pool = Pool(kind=kind, spec=spec, source=bordered, target=panels(21, spec.size_out, lanes))
        yield Case(kernel=pool, inputs={0: (bordered, image, border)}, constants={1: pool.shares()})
    rows, columns = (
        Axis(index=index.astype(np.int32), weight=np.full(index.shape, 0.5, np.float32))
        for index in (np.array([[0, 1], [5, 3], [2, 2]]), np.array([[6, 0], [3, 4]]))
    )
    resample = Resample(source=one, target=panels(21, (3, 2), lanes), taps=(2, 2), is_copy=False)
    taken: Constants = {1: resample.weights(rows, columns), 5: resample.offsets(rows, columns)}
    yield Case(kernel=resample, inputs=inputs, constants=taken)


def elementwise(isa: Isa) -> Iterator[Case]:
    """All operations and activations."""
    one = panels(21, (6, 7), isa.lanes)
    inputs: Inputs = {0: (one, numbers(21, 6, 7), np.nan), 4: (one, numbers(21, 7, 6).reshape(21, 6, 7), np.nan)}
    for operation in OPERATIONS:
        kernel = Elementwise(operation=operation, source=one, target=one, other=one)
        yield Case(kernel=kernel, inputs=inputs, constants={})
    for operation in UNARY:
        kernel = Elementwise(operation=operation, source=one, target=one, constants=CONSTANTS.get(operation, ()))
        yield Case(kernel=kernel, inputs={0: inputs[0]}, constants={})
    for kind in KINDS:
        activation = Activation(kind=kind, low=-0.5, high=1.0)
        kernel = Elementwise(operation="keep", source=one, target=one, activation=activation)
        yield Case(kernel=kernel, inputs={0: inputs[0]}, constants={})
    gate = spread(panels(21, (1, 1), isa.lanes), one)
    spread_gate: Inputs = {0: inputs[0], 4: (gate, np.broadcast_to(numbers(21, 1, 1), (21, 6, 7)), np.nan)}
    yield Case(
        kernel=Elementwise(operation="multiply", source=one, target=one, other=gate), inputs=spread_gate, constants={}
    )


def moved(isa: Isa) -> Iterator[Case]:
    """Between planes, channels last and panels; shifted and gathered channels."""
    size, border = (5, 18), ((1, 2), (0, 3))
    for channels in (3, 21):
        image, inside = numbers(channels, *size), panels(channels, size, isa.lanes, border)
        for outside in (planar(channels, size), channels_last(channels, size)):
            for source, target in ((outside, inside), (inside, outside)):
                kernel = Move(source=source, target=target)
                yield Case(kernel=kernel, inputs={0: (source, image, np.nan)}, constants={})
    source = panels(84, (6, 7), isa.lanes)
    gather = Gather(source=source, target=panels(21, (12, 14), isa.lanes), step=(2, 2))
    order = np.random.default_rng(0).permutation(84)
    inputs: Inputs = {0: (source, numbers(84, 6, 7), np.nan)}
    yield Case(kernel=gather, inputs=inputs, constants={5: gather.offsets(order)})
    shift = Shift(source=source, target=panels(37, (6, 7), isa.lanes), first_in=11, first_out=0, channels=37)
    yield Case(kernel=shift, inputs=inputs, constants={})


def numbers(*shape: int) -> NDArray[np.float64]:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32).astype(np.float64)
