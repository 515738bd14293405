"""Transposed convolutions. In: a call. Out: convolutions at stride 1, and how their outputs interleave.

At stride s every s-th output reads every s-th tap alone: each of these phases is a convolution (Shi et al. 2016, "Is
the deconvolution layer the same as a convolutional layer?").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod

import numpy as np

from separable.engine.reading import Request, UnsupportedError
from separable.engine.sampling import copied
from separable.runtime.network import MAX_PHASES, Convolve, Floats, Node, Reorder, Take, interleaved
from separable.spec import ConvSpec

Pair = tuple[int, int]
FEW = 8  # phases along one axis


def read_transposed(request: Request, result: str) -> list[Node]:
    """The nodes of a transposed convolution, the last of which writes ``result``."""
    a, x = request.arguments, request.map("input")
    weight, bias = request.array("weight"), request.array("bias")
    if weight is None or 0 in request.shape[2:]:
        raise UnsupportedError("maps without pixels have no native operator")
    dims, g = weight.ndim - 2, a["groups"]
    rows, columns = [lines(1, 1, 1, 1, 0, 1)] * (2 - dims) + [
        lines(*each)
        for each in zip(
            x.shape[3 - dims :],
            request.shape[2:],
            weight.shape[2:],
            *(a[name] * (dims // len(a[name])) for name in ("stride", "padding", "dilation")),
            strict=True,
        )
    ]
    step = (len(rows), len(columns))
    if prod(step) > MAX_PHASES:
        raise UnsupportedError(f"transposed convolutions of {prod(step)} phases have no native operator")
    by_output = weight.reshape(g, x.shape[0] // g, -1, *[1] * (2 - dims), *weight.shape[2:]).swapaxes(1, 2)
    turned = by_output.reshape(-1, *by_output.shape[2:])[..., ::-1, ::-1]
    bias = np.zeros(len(turned), np.float32) if bias is None else bias
    crops: dict[tuple[range, range], Node] = {}
    phases = []
    for i, (row, column) in enumerate(product(rows, columns)):
        source, size = x.name, (len(row.pixels), len(column.pixels))
        if size != x.shape[1:]:
            cut = Take(rows=copied(row.pixels), columns=copied(column.pixels))
            crop = Node(name=f"{result}.cut{i}", inputs=(x.name,), operator=cut, shape=(x.shape[0], *size))
            source = crops.setdefault((row.pixels, column.pixels), crop).name
        operator = _convolve(row, column, turned, bias, g)
        h, w = operator.spec.size_out
        phases.append(Node(name=f"{result}.{i}", inputs=(source,), operator=operator, shape=(len(turned), h, w)))
    return [*crops.values(), *(_together(phases, step, result) or interleaved(phases, step, result))]


@dataclass(frozen=True, kw_only=True)
class Line:
    """What one phase reads along an axis: pixels, with padding (before, after); taps of the kernel turned around."""

    pixels: range
    padding: Pair
    taps: slice
    dilation: int


def lines(size: int, size_out: int, kernel: int, stride: int, padding: int, dilation: int) -> list[Line]:
    """The phases of a transposed convolution along one axis, those without outputs left out.

    Output y is the sum of all taps t, each of the pixel (y + padding − t · dilation) / stride where that is whole.
    """
    if size == 1 and size_out <= FEW:
        stride = size_out  # as an output reads one tap at most, and a phase no padding then
    found = []
    for first in range(min(stride, size_out)):
        count = -(-(size_out - first) // stride)
        places = [divmod(first + padding - t * dilation, stride) for t in reversed(range(kernel))]
        taps = [t for t, (at, rest) in enumerate(places) if rest == 0 and -count < at < size]
        if not taps:  # two of zeros, on both sides of a pixel: zeros times what is no number would not be zero
            around = Line(pixels=range(1), padding=(count, count), taps=slice(0), dilation=count + 1)
            found.append(around)
            continue
        begin, end = places[taps[0]][0], places[taps[-1]][0] + count
        second = taps[1] if len(taps) > 1 else None
        found.append(
            Line(
                pixels=range(max(begin, 0), min(end, size)),
                padding=(max(-begin, 0), max(end - size, 0)),
                taps=slice(taps[0], taps[-1] + 1, second - taps[0] if second else 1),
                dilation=places[second][0] - begin if second else 1,
            )
        )
    return found


def _convolve(row: Line, column: Line, turned: Floats, bias: Floats, groups: int) -> Convolve:
    """One phase of the kernel ``turned`` around; of two taps of zeros where it has none."""
    taps = turned[:, :, row.taps, column.taps]
    if not taps.size:
        taps = np.zeros([n or 2 for n in taps.shape], np.float32)
    spec = ConvSpec(
        taps.shape[1] * groups,
        taps.shape[0],
        kernel=taps.shape[2:],
        size=(len(row.pixels), len(column.pixels)),
        padding=(row.padding, column.padding),
        dilation=(row.dilation, column.dilation),
        groups=groups,
    )
    return Convolve(spec=spec, weight=taps, bias=bias)


def _together(phases: Sequence[Node], step: Pair, result: str) -> list[Node]:
    """Phases that are alike as one convolution and a pixel shuffle; else nothing."""
    operators = [phase.operator for phase in phases if isinstance(phase.operator, Convolve)]
    (channels, h, w), first, count = phases[0].shape, operators[0], len(phases)
    kinds = {(phase.inputs, operator.spec) for phase, operator in zip(phases, operators, strict=True)}
    if len(kinds) > 1 or count == 1 or first.spec.groups > 1:
        return []
    together = Convolve(
        spec=ConvSpec(**{**first.spec.to_json(), "c_out": count * channels}),
        weight=np.concatenate([o.weight for o in operators]),
        bias=np.tile(first.bias, count),
    )
    whole = replace(phases[0], name=f"{result}.phases", operator=together, shape=(count * channels, h, w))
    shuffle, shape = Reorder(order=np.arange(count * channels), step=step), (channels, h * step[0], w * step[1])
    return [whole, Node(name=result, inputs=(whole.name,), operator=shuffle, shape=shape)]
