"""Makes maps fit kernels. In: a network, the lanes of a panel. Out: the same function in maps that kernels take.

A map has one border: one that is padded with zeros for some and with the least number for others gets a copy.
Channels that are taken apart behind a convolution are computed apart, unless that fills panels with zeros. Groups that
are no whole panels are put together, with zeros between them. A depthwise convolution with a multiplier writes a plane
of panels for each filter; who reads it gets its weights in that order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np

from separable.kernels.epilogue import NONE
from separable.runtime.network import (
    MAX_PHASES,
    Activate,
    Convolve,
    Floats,
    Network,
    Node,
    Pooling,
    Reorder,
    interleaved,
)
from separable.spec import ConvSpec

LEAST = float("-inf")
GATHERED, AWAITED = 4, 4000  # vector multiply-adds in the time of a gathered float, of a step that threads wait for


def arrange(network: Network, lanes: int) -> Network:
    """All changes; before the last one there is no group left that is not whole panels."""
    network = _with_one_border(_in_parts(network, lanes))
    network = replace(network, nodes=tuple(_with_whole_groups(node, lanes) for node in network.nodes))
    return _in_planes(network, lanes)


def _with_one_border(network: Network) -> Network:
    readers, made = network.readers(), {node.name: node for node in network.nodes}
    copies = {
        name: Node(name=f"{name}.pooled", inputs=(name,), operator=Activate(), shape=shape)
        for name, shape in network.shapes.items()
        if {border(reader, name, made.get(name)) for reader in readers[name]} >= {0.0, LEAST}
    }
    nodes = [copies[name] for name in network.inputs if name in copies]
    for node in network.nodes:
        source = node.inputs[0]
        if source in copies and border(node, source, made.get(source)) == LEAST:
            node = replace(node, inputs=(copies[source].name,))
        nodes += [node, *([copies[node.name]] if node.name in copies else [])]
    return replace(network, nodes=tuple(nodes))


def border(reader: Node, name: str, writer: Node | None) -> float | None:
    """What a reader must find around the map ``name``; None for one that does not look there."""
    operator = reader.operator
    if (
        not isinstance(operator, Convolve | Pooling)
        or reader.inputs[0] != name
        or not any(map(any, operator.spec.padding))
    ):
        return None
    is_max = isinstance(operator, Pooling) and operator.kind == "max"
    return LEAST if is_max and not (writer and writer.is_non_negative) else 0.0


def _in_parts(network: Network, lanes: int) -> Network:
    readers, outputs = network.readers(), network.outputs.values()
    nodes: list[Node] = []
    parted: dict[str, Node] = {}
    for node in network.nodes:
        whole = parted.get(node.inputs[0])
        if node.name not in outputs and _is_parted(node, readers[node.name], lanes):
            parted[node.name] = node
        else:
            nodes += [node] if whole is None else _parts(whole, node)
    return replace(network, nodes=tuple(nodes))


def _is_parted(node: Node, readers: Sequence[Node], lanes: int) -> bool:
    """Whether a convolution is read in other orders of its channels alone, and can compute them so."""
    operator = node.operator
    if not isinstance(operator, Convolve) or operator.spec.groups > 1 or len(node.inputs) > 1:
        return False
    parts: list[int] = []
    for reader in readers:
        reorder = reader.operator
        if (
            not isinstance(reorder, Reorder)
            or reorder.parts != (1, 1)
            or NONE not in (reader.activation, node.activation)
        ):
            return False
        parts += [reader.shape[0]] * prod(reorder.step)
    more = sum(-(-part // lanes) for part in parts) - -(-operator.spec.c_out // lanes)  # panels
    spent = more * operator.spec.weights // operator.spec.c_out * prod(node.shape[1:]) + AWAITED * (len(parts) - 1)
    return 0 < len(parts) <= MAX_PHASES and spent <= GATHERED * sum(parts) * prod(node.shape[1:])


def _parts(whole: Node, taken: Node) -> list[Node]:
    """The channels of a convolution that a reordering takes, in its place."""
    operator, reorder = whole.operator, taken.operator
    if not isinstance(operator, Convolve) or not isinstance(reorder, Reorder):
        raise TypeError(f"{taken} takes no part of {whole}")
    spec = ConvSpec(**{**operator.spec.to_json(), "c_out": taken.shape[0]})
    activation = taken.activation if whole.activation == NONE else whole.activation
    phases = [
        replace(
            whole,
            name=f"{taken.name}.{i}",
            operator=Convolve(spec=spec, weight=operator.weights[order], bias=operator.bias[order]),
            shape=(spec.c_out, *whole.shape[1:]),
            activation=activation,
        )
        for i, order in enumerate(reorder.order.reshape(-1, spec.c_out))
    ]
    return interleaved(phases, reorder.step, taken.name)


def _with_whole_groups(node: Node, lanes: int) -> Node:
    operator = node.operator
    if not isinstance(operator, Convolve) or operator.spec.groups == 1 or operator.is_depthwise:
        return node
    spec = operator.spec
    per_in, per_out = spec.c_in // spec.groups, spec.c_out // spec.groups
    together = next(
        (m for m in range(1, spec.groups) if spec.groups % m == 0 and not (m * per_in % lanes or m * per_out % lanes)),
        spec.groups,
    )
    wide = np.zeros((spec.c_out, together * per_in, *spec.kernel), np.float32)
    weights = operator.weights
    for o in range(spec.c_out):
        first = o // per_out % together * per_in
        wide[o, first : first + per_in] = weights[o]
    merged = ConvSpec(**{**spec.to_json(), "groups": spec.groups // together})
    return replace(node, operator=replace(operator, spec=merged, weight=wide, gain=None))


def _in_planes(network: Network, lanes: int) -> Network:
    readers, nodes = network.readers(), []
    moved: dict[str, tuple[int, int]] = {}  # name → (multiplier, channels of a plane)
    for node in network.nodes:
        operator = node.operator
        if isinstance(operator, Convolve) and node.inputs[0] in moved:
            node = replace(node, operator=_reordered(operator, *moved[node.inputs[0]]))
            operator = node.operator
        if isinstance(operator, Convolve) and operator.is_depthwise and operator.spec.c_out != operator.spec.c_in:
            times, plane = operator.spec.c_out // operator.spec.c_in, -(-operator.spec.c_in // lanes) * lanes
            is_read_densely = node.name not in network.outputs.values() and all(
                isinstance(r.operator, Convolve)
                and r.operator.spec.groups == 1
                and r.inputs[0] == node.name
                and node.name not in r.inputs[1:]
                for r in readers[node.name]
            )
            planes = replace(node, shape=(times * plane, *node.shape[1:]))
            if is_read_densely:
                moved[node.name] = (times, plane)
                nodes.append(planes)
            else:
                inner = replace(planes, name=f"{node.name}.planes")
                nodes += [inner, _sorted_back(node, inner.name, times, plane)]
        else:
            nodes.append(node)
    return replace(network, nodes=tuple(nodes))


def _reordered(operator: Convolve, times: int, plane: int) -> Convolve:
    spec = operator.spec
    weight: Floats = np.zeros((spec.c_out, times * plane, *spec.kernel), np.float32)
    channels = spec.c_in // times
    for t in range(times):
        weight[:, t * plane : t * plane + channels] = operator.weights[:, t::times]
    wider = ConvSpec(**{**spec.to_json(), "c_in": times * plane})
    return replace(operator, spec=wider, weight=weight, gain=None)


def _sorted_back(node: Node, source: str, times: int, plane: int) -> Node:
    """The channels put back in order."""
    channel, filter_of_it = np.divmod(np.arange(node.shape[0]), times)
    return Node(
        name=node.name, inputs=(source,), operator=Reorder(order=filter_of_it * plane + channel), shape=node.shape
    )
