"""Calls that are several operators. In: a call of ATen. Out: nodes, the last of which writes its result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import prod

import numpy as np

from separable.engine.operators import read
from separable.engine.reading import Map, Request, UnsupportedError
from separable.kernels.epilogue import NONE, Activation
from separable.runtime.network import Activate, Affine, Combine, Node, Operator, Part


@dataclass
class _Composed:
    """Nodes that are named after the result that they lead to."""

    request: Request
    nodes: list[Node] = field(default_factory=list)

    def then(self, operator: Operator, like: Map, *others: Map, act: Activation = NONE) -> Map:
        """A map of the same shape as ``like``, the first that the operator reads."""
        return self._add(Node(name="", inputs=(), operator=operator, shape=like.shape, activation=act), like, *others)

    def mean(self, x: Map) -> Map:
        """Over the axes that the call names."""
        reading = read("mean", Request(arguments={**self.request.arguments, "self": x}, shape=self.request.shape))
        return self._add(reading.node(""), x)

    def scaled(self, x: Map, factor: float) -> Map:
        """Each number times the same."""
        c = x.shape[0]
        return self.then(Affine(scale=np.full(c, factor, np.float32), shift=np.zeros(c, np.float32)), x)

    def _add(self, node: Node, *given: Map) -> Map:
        self.nodes.append(replace(node, name=str(len(self.nodes)), inputs=tuple(x.name for x in given)))
        return replace(given[0], name=self.nodes[-1].name, shape=node.shape)

    def named(self, result: str) -> list[Node]:
        """The nodes under their names."""
        last = len(self.nodes) - 1
        names = {node.name: result if i == last else f"{result}.{i}" for i, node in enumerate(self.nodes)}
        return [
            replace(node, name=names[node.name], inputs=tuple(names.get(each, each) for each in node.inputs))
            for node in self.nodes
        ]


def _gated(call: _Composed) -> None:
    """A gated linear unit: the first half of the channels, times the sigmoid of the second."""
    x = call.request.map("self")
    if call.request.arguments["dim"] % x.rank != 1:
        raise UnsupportedError("a gate over anything but the channels has no native operator")
    half = replace(x, shape=(x.shape[0] // 2, *x.shape[1:]))
    value, gate = (call.then(Part(first=first), half) for first in (0, half.shape[0]))
    call.then(Combine(operation="multiply"), value, call.then(Activate(), gate, act=Activation(kind="sigmoid")))


def _sum(call: _Composed) -> None:
    x = call.request.map("self")
    mean = call.mean(x)
    call.scaled(mean, prod(x.shape) // prod(mean.shape))


def _variance(call: _Composed) -> Map:
    x = call.request.map("self")
    mean = call.mean(x)
    far = call.then(Combine(operation="subtract"), x, mean)
    variance = call.mean(call.then(Combine(operation="multiply"), far, far))
    count, given = prod(x.shape) // prod(mean.shape), call.request.arguments.get("correction")
    correction = 1 if given is None else given
    if count <= correction:
        raise UnsupportedError("a variance of too few numbers has no native operator")
    return call.scaled(variance, count / (count - correction)) if correction else variance


def _deviation(call: _Composed) -> None:
    call.then(Combine(operation="sqrt"), _variance(call))


def _norm(call: _Composed) -> None:
    x = call.request.map("self")
    if call.request.arguments["ord"] != 2:
        raise UnsupportedError("a norm other than the Euclidean has no native operator")
    mean = call.mean(call.then(Combine(operation="multiply"), x, x))
    call.then(Combine(operation="sqrt"), call.scaled(mean, prod(x.shape) // prod(mean.shape)))


def read_composed(name: str, request: Request, result: str) -> list[Node]:
    """The nodes of a call of ``aten::name``, one of ``COMPOSED``."""
    call = _Composed(request)
    COMPOSED[name](call)
    return call.named(result)


COMPOSED: dict[str, Callable[[_Composed], object]] = {
    "glu": _gated,
    "sum": _sum,
    "var": _variance,
    "std": _deviation,
    "linalg_vector_norm": _norm,
}
