"""Makes a network shorter. In: a network as lowered. Out: the same function with fewer, larger operators.

Each pass is a function from network to network; ``PASSES`` is their order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod

import numpy as np

from separable.kernels.epilogue import NONE
from separable.runtime.network import (
    Activate,
    Affine,
    Combine,
    Convolve,
    Edit,
    Interleave,
    Network,
    Node,
    NormaliseGroups,
    Pad,
    Part,
    Pooling,
    Reorder,
    Shape,
    Slope,
)
from separable.spec import ConvSpec

FINISHING = Convolve | Combine | Pooling | Activate | Slope | NormaliseGroups | Reorder  # with an activation


def fuse(network: Network) -> Network:
    """All passes."""
    for each in PASSES:
        network = each(network)
    return network


def work_before_interleaving(network: Network) -> Network:
    """What is done to every pixel of a map of phases is done to these; a scale and shift is done before a shuffle."""
    edit, nodes, shapes = Edit(network), dict[str, Node](), network.shapes
    for node in network.nodes:
        whole = edit.sole(node.inputs[0])
        before = _before(node, whole, shapes) if whole else []
        if whole is None or not before:
            nodes[node.name] = node
            continue
        nodes |= {each.name: each for each in before}
        shapes |= {each.name: each.shape for each in before}
        edit.merge(node, whole, inputs=tuple(each.name for each in before))
        del nodes[whole.name]
        nodes[whole.name] = edit.nodes[whole.name]
    edit.nodes = nodes
    return edit.finish()


def _before(node: Node, whole: Node, shapes: Mapping[str, Shape]) -> list[Node]:
    """``node`` on each map that ``whole`` reads; nothing where it cannot come before it."""
    work, moved = node.operator, whole.operator
    given = [shapes[name] for name in whole.inputs]
    if isinstance(moved, Reorder) and isinstance(work, Affine) and moved.parts == (1, 1):
        place = np.argsort(moved.order)
        if not np.array_equal(moved.order[place], np.arange(given[0][0])):
            return []
        scale, shift = (np.tile(each, prod(moved.step))[place] for each in (work.scale, work.shift))
        work = Affine(scale=scale, shift=shift)
    elif not isinstance(moved, Interleave) or not isinstance(work, Activate | Affine):
        return []
    return [
        replace(node, name=f"{node.name}.{i}", inputs=(name,), operator=work, shape=shape)
        for i, (name, shape) in enumerate(zip(whole.inputs, given, strict=True))
    ]


def fold_pads(network: Network) -> Network:
    """Zeros around a map become the padding of the convolutions that read it."""
    readers = network.readers()
    pads = {node.name: node for node in network.nodes if isinstance(node.operator, Pad)}
    taken = {
        name
        for name in pads
        if name not in network.outputs.values()
        and all(isinstance(reader.operator, Convolve) for reader in readers[name])
    }
    nodes = []
    for node in network.nodes:
        pad = pads.get(node.inputs[0]) if node.inputs else None
        if (
            pad is not None
            and pad.name in taken
            and isinstance(node.operator, Convolve)
            and isinstance(pad.operator, Pad)
        ):
            spec = node.operator.spec
            around = [
                tuple(a + b for a, b in zip(*p, strict=True))
                for p in zip(spec.padding, pad.operator.padding, strict=True)
            ]
            before = network.shapes[pad.inputs[0]]
            wider = ConvSpec(**{**spec.to_json(), "padding": around, "size": before[1:]})
            node = replace(node, inputs=(pad.inputs[0], *node.inputs[1:]), operator=replace(node.operator, spec=wider))
        nodes.append(node)
    return replace(network, nodes=tuple(n for n in nodes if n.name not in taken))


def fold_affines(network: Network) -> Network:
    """A scale and shift behind a convolution goes into its weights; one that stands alone becomes a 1×1 depthwise."""
    edit = Edit(network)
    for node in network.nodes:
        if not isinstance(node.operator, Affine):
            continue
        scale, shift = node.operator.scale, node.operator.shift
        before = edit.sole(node.inputs[0])
        if (
            before is not None
            and isinstance(before.operator, Convolve)
            and before.activation == NONE
            and len(before.inputs) == 1
        ):
            edit.merge(node, before, operator=before.operator.scaled(scale, shift))
        else:
            c, h, w = node.shape
            spec = ConvSpec(c, c, kernel=(1, 1), size=(h, w), groups=c)
            edit.nodes[node.name] = replace(
                node, operator=Convolve(spec=spec, weight=scale.reshape(c, 1, 1, 1), bias=shift)
            )
    return edit.finish()


def add_residuals(network: Network) -> Network:
    """A sum whose later half is a convolution read by nobody else is finished by that convolution."""
    edit = Edit(network)
    place = {name: i for i, name in enumerate(network.shapes)}
    for node in network.nodes:
        if not isinstance(node.operator, Combine) or node.operator.operation != "add" or len(set(node.inputs)) == 1:
            continue
        for name in sorted(node.inputs, key=lambda n: place[n], reverse=True)[:1]:
            other = node.inputs[1 - node.inputs.index(name)]
            before = edit.sole(name)
            if before is not None and _can_add(before) and network.shapes[other] == node.shape == before.shape:
                edit.merge(node, before, inputs=(before.inputs[0], edit.name(other)))
    return edit.finish()


def _can_add(node: Node) -> bool:
    operator = node.operator
    if not isinstance(operator, Convolve) or node.activation != NONE or len(node.inputs) != 1:
        return False
    return not operator.is_depthwise or operator.spec.c_in == operator.spec.c_out


def finish_with_activations(network: Network) -> Network:
    """An activation moves into the operator that writes its input."""
    edit = Edit(network)
    for node in network.nodes:
        if not isinstance(node.operator, Activate):
            continue
        before = edit.sole(node.inputs[0])
        is_able = before is not None and isinstance(before.operator, FINISHING)
        if before is not None and is_able and before.activation == NONE:
            edit.merge(node, before, activation=node.activation)
    return edit.finish()


def take_parts_in_order(network: Network) -> Network:
    """Parts of channels in another order are taken from where these were, when nobody needs them all."""
    readers = network.readers()
    shuffles = {
        node.name: node
        for node in network.nodes
        if isinstance(node.operator, Reorder)
        and node.operator.step == (1, 1)
        and node.name not in network.outputs.values()
        and all(isinstance(reader.operator, Part) for reader in readers[node.name])
    }
    nodes = []
    for node in network.nodes:
        shuffle = shuffles.get(node.inputs[0])
        if shuffle is not None and isinstance(shuffle.operator, Reorder) and isinstance(node.operator, Part):
            first = node.operator.first
            order = shuffle.operator.order[first : first + node.shape[0]]
            node = replace(node, inputs=shuffle.inputs, operator=replace(shuffle.operator, order=order))
        nodes.append(node)
    return replace(network, nodes=tuple(node for node in nodes if node.name not in shuffles))


PASSES = (
    take_parts_in_order,
    work_before_interleaving,
    fold_pads,
    fold_affines,
    add_residuals,
    finish_with_activations,
)
