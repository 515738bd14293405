"""Calls on volumes, slice by slice. In: a call with a depth. Out: operators on maps that write the result's slices.

A convolution over a depth is a sum of convolutions over maps, one for each of its taps in depth: each adds its part to
the sum so far, as a residual.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from torch import Tensor

from separable.engine.arithmetic import BINARY
from separable.engine.operators import ACTIVATIONS, read
from separable.engine.phases import read_transposed
from separable.engine.reading import Request, UnsupportedError, Volume
from separable.kernels.epilogue import NONE
from separable.runtime.environment import slice_name
from separable.runtime.network import Affine, Combine, Convolve, Edit, Mean, Network, Node
from separable.spec import ConvSpec

BY_CHANNEL = {"cat", "slice", "native_batch_norm", "_native_batch_norm_legit_no_training", "_prelu_kernel"}
ON_EACH_SLICE = ACTIVATIONS.keys() | BINARY.keys() | BY_CHANNEL
NO_DEPTH = "it mixes slices in a way that has no native operator"


def read_volume(operation: str, request: Request, result: str) -> list[Node]:
    """The nodes of a call of ``aten::operation``; they write the slices of ``result``, or ``result`` if it is flat."""
    if operation in SPATIAL:
        return SPATIAL[operation](request, result)
    if len(request.shape) != 5 or operation not in ON_EACH_SLICE or request.arguments.get("training"):
        raise UnsupportedError(NO_DEPTH)
    nodes: list[Node] = []
    for d in range(request.shape[2]):
        reading = read(operation, _at(request, d))
        operator = nodes[0].operator if nodes else reading.operator  # one object, so that its constants are kept once
        nodes.append(replace(reading, operator=operator).node(slice_name(result, d)))
    return nodes


def fold_chains(network: Network) -> Network:
    """A scale and shift behind a sum of convolutions goes into the weights of all of them."""
    edit, scaled = Edit(network), {}
    for node in network.nodes:
        affine = node.operator
        chain = _chain(edit, node.inputs[0]) if isinstance(affine, Affine) else []
        if not isinstance(affine, Affine) or len(chain) < 2:
            continue
        for part in chain:
            key = (id(part.operator), id(affine), part is chain[-1])
            if key not in scaled:
                scaled[key] = _scaled(part, affine, is_first=part is chain[-1])
            edit.nodes[part.name] = replace(part, operator=scaled[key])
        edit.merge(node, edit.nodes[chain[0].name])
    return edit.finish()


def _chain(edit: Edit, name: str) -> list[Node]:
    """The convolutions that add up to a map, the last one first; none if something else is in the sum."""
    found: list[Node] = []
    node = edit.sole(name)
    while node is not None and isinstance(node.operator, Convolve) and node.activation == NONE:
        found.append(node)
        if len(node.inputs) == 1:
            return found
        node = edit.sole(node.inputs[1])
    return []


def _scaled(node: Node, affine: Affine, *, is_first: bool) -> Convolve:
    operator = node.operator
    if not isinstance(operator, Convolve):
        raise TypeError(f"{node} is no convolution")
    return operator.scaled(affine.scale, affine.shift if is_first else np.zeros_like(affine.shift))


def _at(request: Request, depth: int) -> Request:
    """The same call on one slice; what has one slice is the same for all."""

    def cut(value: Any) -> Any:
        if isinstance(value, Volume):
            return value.slices[depth if len(value.slices) > 1 else 0]
        if isinstance(value, Tensor) and value.ndim == 5:
            if value.shape[2] != 1:
                raise UnsupportedError("a constant that changes with the depth has no native operator")
            return value.squeeze(2)
        return [cut(v) for v in value] if isinstance(value, list | tuple) else value

    arguments = {name: cut(value) for name, value in request.arguments.items()}
    if arguments.get("dim", 1) != 1:
        raise UnsupportedError(NO_DEPTH)
    n, c, _, h, w = request.shape
    return Request(arguments=arguments, shape=(n, c, h, w))


def _volume(request: Request, name: str) -> Volume:
    value = request.arguments[name]
    if not isinstance(value, Volume):
        raise UnsupportedError("it reads what is no volume")
    return value


def _convolution(request: Request, result: str) -> list[Node]:
    a, x, weight = request.arguments, _volume(request, "input"), request.array("weight")
    if weight is None:
        raise UnsupportedError("a convolution without weights has no native operator")
    if a["transposed"]:
        return _transposed(request, result)
    (stride, *strides), (pad, *pads), (dilation, *dilations) = (
        _three(a[name]) for name in ("stride", "padding", "dilation")
    )
    spec = ConvSpec(
        weight.shape[1] * a["groups"],
        weight.shape[0],
        kernel=weight.shape[3:],
        size=x.slices[0].shape[1:],
        stride=strides,
        padding=pads,
        dilation=dilations,
        groups=a["groups"],
    )
    if spec.groups == spec.c_in > 1 and spec.c_out != spec.c_in and weight.shape[2] > 1:
        raise UnsupportedError("a depthwise convolution over a depth with a multiplier has no native operator")
    zeros = np.zeros(spec.c_out, np.float32)
    bias = request.array("bias")
    parts = [
        [Convolve(spec=spec, weight=np.ascontiguousarray(weight[:, :, t]), bias=b) for b in (zeros, bias)]
        if bias is not None
        else [Convolve(spec=spec, weight=np.ascontiguousarray(weight[:, :, t]), bias=zeros)] * 2
        for t in range(weight.shape[2])
    ]
    nodes: list[Node] = []
    for d in range(request.shape[2]):
        taps = _taps(d * stride - pad, weight.shape[2], dilation, len(x.slices))
        for j, (t, i) in enumerate(taps):
            is_last = j == len(taps) - 1
            nodes.append(
                Node(
                    name=slice_name(result, d) if is_last else f"{slice_name(result, d)}.{j}",
                    inputs=(x.slices[i].name, *([nodes[-1].name] if j else [])),
                    operator=parts[t][not j],
                    shape=(spec.c_out, *spec.size_out),  # type: ignore[arg-type]
                )
            )
    return nodes


def _transposed(request: Request, result: str) -> list[Node]:
    """Each slice is a sum of transposed convolutions over maps, one for each tap that reaches it."""
    a, x = request.arguments, _volume(request, "input")
    (stride, *strides), (pad, *pads), (dilation, *dilations) = (
        _three(a[name]) for name in ("stride", "padding", "dilation")
    )
    n, c, depth, h, w = request.shape
    flat = {**a, "stride": strides, "padding": pads, "dilation": dilations}

    @cache
    def part(tap: int, is_first: bool) -> list[Node]:
        given = {"input": x.slices[0], "weight": a["weight"][:, :, tap], "bias": a["bias"] if is_first else None}
        return read_transposed(Request(arguments={**flat, **given}, shape=(n, c, h, w)), "")

    nodes: list[Node] = []
    for d in range(depth):
        places = [(t, divmod(d + pad - t * dilation, stride)) for t in range(a["weight"].shape[2])]
        taps = [(t, i) for t, (i, rest) in places if not rest and 0 <= i < len(x.slices)]
        if not taps:
            raise UnsupportedError("a slice that no tap reaches has no native operator")
        sums = []
        for j, (t, i) in enumerate(taps):
            under = slice_name(result, d) + (f".{j}" if len(taps) > 1 else "")
            names = {x.slices[0].name: x.slices[i].name} | {node.name: under + node.name for node in part(t, not j)}
            inner = [
                replace(node, name=names[node.name], inputs=tuple(names[each] for each in node.inputs))
                for node in part(t, not j)
            ]
            nodes += inner
            sums.append(inner[-1])
        nodes += _reduced(sums, "add", slice_name(result, d))[len(sums) :]
    return nodes


def _taps(start: int, kernel: int, dilation: int, depth: int) -> list[tuple[int, int]]:
    """(tap, slice) of a window in depth, those in the padding left out."""
    found = [(t, start + t * dilation) for t in range(kernel) if 0 <= start + t * dilation < depth]
    if not found:
        raise UnsupportedError("a window in the padding alone has no native operator")
    return found


def _mean(request: Request, result: str) -> list[Node]:
    x, a = _volume(request, "self"), request.arguments
    if "output_size" in a and list(request.shape[2:]) != [1, 1, 1]:
        raise UnsupportedError("averages to more than one element of a volume have no native operator")
    if "dim" in a and sorted(d % 5 for d in a["dim"] or ()) != [2, 3, 4]:
        raise UnsupportedError("a mean over anything but all elements of a volume has no native operator")
    name = result if len(request.shape) == 2 else slice_name(result, 0)
    shape = (x.slices[0].shape[0], 1, 1)
    means = [Node(name=f"{name}.{d}", inputs=(s.name,), operator=Mean(), shape=shape) for d, s in enumerate(x.slices)]
    return _averaged(means, name)


def _max_pool(request: Request, result: str) -> list[Node]:
    pooled = _pooled("max_pool2d_with_indices", request, result)
    return [node for nodes in pooled for node in _reduced(nodes, "maximum", _target(nodes))]


def _average_pool(request: Request, result: str) -> list[Node]:
    if any(_three(request.arguments["padding"])) or request.arguments["ceil_mode"]:
        raise UnsupportedError("an average over windows that stick out of a volume has no native operator")
    pooled = _pooled("avg_pool2d", request, result)
    return [node for nodes in pooled for node in _averaged(nodes, _target(nodes))]


def _pooled(operation: str, request: Request, result: str) -> list[list[Node]]:
    """For each slice of the result, the slices that it is made of, pooled as maps."""
    a, x = request.arguments, _volume(request, "self")
    kernel = _three(a["kernel_size"])
    stride, pad = _three(a["stride"] or kernel), _three(a["padding"])
    dilation = _three(a.get("dilation", 1))
    flat = {
        **a, "kernel_size": kernel[1:], "stride": stride[1:], "padding": pad[1:], "dilation": dilation[1:]
    }  # fmt: skip
    n, c, depth, h, w = request.shape
    windows = []
    for d in range(depth):
        nodes = []
        for _, i in _taps(d * stride[0] - pad[0], kernel[0], dilation[0], len(x.slices)):
            on_map = Request(arguments={**flat, "self": x.slices[i]}, shape=(n, c, h, w))
            nodes.append(read(operation, on_map).node(f"{slice_name(result, d)}.{i}"))
        windows.append(nodes)
    return windows


def _target(nodes: Sequence[Node]) -> str:
    return nodes[0].name.rpartition(".")[0]


def _reduced(nodes: Sequence[Node], operation: str, name: str) -> list[Node]:
    """The nodes, then one after another combined, the last one under this name."""
    if len(nodes) == 1:
        return [replace(nodes[0], name=name)]
    found: list[Node] = []
    for j, node in enumerate(nodes[1:], start=1):
        so_far = found[-1].name if found else nodes[0].name
        called = name if j == len(nodes) - 1 else f"{name}.{operation}{j}"
        found.append(
            Node(name=called, inputs=(so_far, node.name), operator=Combine(operation=operation), shape=node.shape)
        )
    return [*nodes, *found]


def _averaged(nodes: list[Node], name: str) -> list[Node]:
    if len(nodes) == 1:
        return [replace(nodes[0], name=name)]
    total = _reduced(nodes, "add", f"{name}.sum")
    last = Node(name=name, inputs=(f"{name}.sum",), operator=_scale(nodes[0], 1 / len(nodes)), shape=nodes[0].shape)
    return [*total, last]


def _scale(node: Node, factor: float) -> Affine:
    channels = node.shape[0]
    return Affine(scale=np.full(channels, factor, np.float32), shift=np.zeros(channels, np.float32))


def _three(value: int | Sequence[int]) -> list[int]:
    entries = [value] if isinstance(value, int) else list(value)
    return entries * 3 if len(entries) == 1 else entries


SPATIAL: dict[str, Callable[[Request, str], list[Node]]] = {
    "convolution": _convolution,
    "mean": _mean,
    "_adaptive_avg_pool3d": _mean,
    "max_pool3d_with_indices": _max_pool,
    "avg_pool3d": _average_pool,
}
