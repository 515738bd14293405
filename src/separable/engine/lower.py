"""From PyTorch's graph to networks. In: an exported graph, its constants. Out: parts, native or left to PyTorch.

A node that has no operator here stays a call of PyTorch, with the reason; its neighbours stay native.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from separable.engine.fuse import fuse
from separable.engine.network import Convolve, Network, Node
from separable.engine.operators import Foreign, Map, Request, UnsupportedError, map_shape, read

FREE = frozenset(
    {"dropout", "feature_dropout", "alias", "contiguous", "clone", "detach", "lift_fresh_copy", "identity"}
)
RESHAPES = frozenset({"flatten", "view", "reshape", "_unsafe_view", "squeeze", "unsqueeze"})


@dataclass(frozen=True, kw_only=True)
class Name:
    """A value computed earlier, as a tensor of this shape."""

    name: str
    shape: tuple[int, ...] | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Call:
    """One call of PyTorch, and why it is one; a ``Name`` in the arguments stands for a value."""

    name: str
    target: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    reason: str

    @property
    def needs(self) -> set[str]:
        """The values that it reads."""
        return names(self.args) | names(self.kwargs)


@dataclass(frozen=True, kw_only=True, eq=False)
class Lowered:
    """What a forward does: ``steps`` in order over an environment that begins with the inputs and the constants.

    ``shapes`` are those of PyTorch, batch first, for every value that enters or leaves a network.
    """

    inputs: tuple[str, ...]
    constants: Mapping[str, Any]
    steps: tuple[Network | Call, ...]
    outputs: Any
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def calls(self) -> tuple[Call, ...]:
        """What fell back to PyTorch."""
        return tuple(step for step in self.steps if isinstance(step, Call))


def names(tree: Any) -> set[str]:
    """The values that a tree of arguments refers to."""
    return {leaf.name for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Name)}


def lower(graph: fx.Graph, constants: Mapping[str, Any], lanes: int) -> Lowered:
    """The graph (ATen, shapes in ``meta``) as steps; ``constants`` names the placeholders that never change."""
    return _Lowering(graph, constants, lanes).run()


@dataclass
class _Lowering:
    graph: fx.Graph
    given: Mapping[str, Any]
    lanes: int
    runs: list[list[tuple[Node | None, Call]]] = field(default_factory=list)
    known: dict[str, Any] = field(default_factory=dict)  # constants, by the name of their node
    current: dict[str, str] = field(default_factory=dict)  # the node whose value a node has by now
    maps: dict[str, Map | Foreign] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    batch: int | None = None

    def run(self) -> Lowered:
        inputs, outputs = [], None
        for node in self.graph.nodes:
            self.current[node.name] = node.name
            if node.op == "placeholder" and node.name in self.given:
                self.known[node.name] = self.given[node.name]
            elif node.op == "placeholder":
                inputs.append(node.name)
                self._enter(node)
            elif node.op == "get_attr":
                self.known[node.name] = operator.attrgetter(str(node.target))(self.graph.owning_module)
            elif node.op == "output":
                outputs = self._arguments(node.args[0])
            else:
                self._call(node)
        steps = self._steps(outputs)
        used = set().union(names(outputs), *(step.needs for step in steps if isinstance(step, Call)))
        constants = {name: value for name, value in self.known.items() if name in used}
        return Lowered(inputs=tuple(inputs), constants=constants, steps=steps, outputs=outputs, shapes=self.shapes)

    def _enter(self, node: fx.Node) -> None:
        """A value gets a shape, and can be read natively when it is float32 with the batch in front."""
        value = node.meta.get("val", node.meta.get("example_value"))
        if not isinstance(value, Tensor):
            self.maps[node.name] = Foreign(reason="it reads what is not one tensor")
            return
        shape = self.shapes[node.name] = tuple(int(n) for n in value.shape)
        if self.batch is None and len(shape) > 1:
            self.batch = shape[0]
        if value.dtype != torch.float32:
            self.maps[node.name] = Foreign(reason=f"it reads {value.dtype}")
        elif len(shape) not in (2, 3, 4) or shape[0] != self.batch:
            self.maps[node.name] = Foreign(reason=f"it reads a tensor of {shape}, which is no batch of maps")
        else:
            self.maps[node.name] = Map(name=node.name, shape=map_shape(shape))

    def _call(self, node: fx.Node) -> None:
        sources = [source.name for source in node.all_input_nodes]
        if all(source in self.known for source in sources):
            arguments = fx.map_arg((node.args, node.kwargs), lambda n: self.known[n.name])
            self.known[node.name] = node.target(*arguments[0], **arguments[1])  # type: ignore[operator]
            return
        call = Call(
            name=node.name,
            target=node.target,
            args=self._arguments(node.args),
            kwargs=self._arguments(node.kwargs),
            reason="",
        )
        self._enter(node)
        try:
            if not self._sees_through(node):
                self._append(self._native(node), call)
        except UnsupportedError as unsupported:
            self._append(None, Call(**{**vars(call), "reason": str(unsupported)}))
        if _operation(node).endswith("_"):
            self.current[node.all_input_nodes[0].name] = node.name

    def _append(self, native: Node | None, call: Call) -> None:
        if not self.runs or (self.runs[-1][0][0] is None) != (native is None):
            self.runs.append([])
        self.runs[-1].append((native, call))

    def _native(self, node: fx.Node) -> Node:
        result = self.maps[node.name]
        if isinstance(result, Foreign):
            raise UnsupportedError(result.reason.replace("reads", "gives"))
        if node.target is operator.getitem:
            name, arguments = "slice", self._chunk(node)
        elif not isinstance(node.target, torch._ops.OpOverload):
            raise UnsupportedError(f"{node.target} is no operator of ATen")
        else:
            name, schema = _operation(node).rstrip("_"), node.target._schema.arguments
            arguments = {a.name: a.default_value for a in schema if a.has_default_value()}
            arguments |= {a.name: self._operand(v) for a, v in zip(schema, node.args, strict=False)}
            arguments |= {key: self._operand(value) for key, value in node.kwargs.items()}
        reading = read(name, Request(arguments=arguments, shape=self.shapes[node.name], lanes=self.lanes))
        return Node(
            name=node.name,
            inputs=reading.inputs,
            operator=reading.operator,
            shape=reading.shape,
            activation=reading.activation,
        )

    def _chunk(self, node: fx.Node) -> dict[str, Any]:
        """The part that ``getitem`` takes of a split along the channels, as the arguments of a slice."""
        split, index = node.args
        if (
            not isinstance(split, fx.Node)
            or not isinstance(index, int)
            or not _operation(split).startswith(("chunk", "split"))
        ):
            raise UnsupportedError("it takes an element of what is not a split")
        whole = split.args[0]
        parts = [int(part.shape[1]) for part in split.meta["val"]]
        dim = split.kwargs.get("dim", split.args[2] if len(split.args) > 2 else 0)
        return {"self": self._operand(whole), "dim": dim, "start": sum(parts[:index]), "step": 1}

    def _sees_through(self, node: fx.Node) -> bool:
        """Whether the node only looks at its input in another way: then its readers read the input."""
        name = _operation(node).rstrip("_")
        source = self._operand(node.args[0]) if node.args else None
        result = self.maps[node.name]
        if name.startswith(("chunk", "split")) and all(user.target is operator.getitem for user in node.users):
            return isinstance(source, Map) and not source.is_flattened and self._can_split(node)
        if not isinstance(source, Map) or not isinstance(result, Map):
            return False
        is_same = name in RESHAPES | FREE and result.shape == source.shape
        if is_same or name in FREE - {"clone"}:
            self.maps[node.name] = source
        elif name in RESHAPES and result.shape == (prod(source.shape), 1, 1) and _only_linear(node):
            self.maps[node.name] = Map(name=source.name, shape=source.shape, is_flattened=True)
        else:
            return False
        return True

    def _can_split(self, node: fx.Node) -> bool:
        dim = node.kwargs.get("dim", node.args[2] if len(node.args) > 2 else 0)
        first, fits = 0, bool(dim == 1)
        for part in node.meta["val"]:
            fits = fits and first % self.lanes == 0
            first += int(part.shape[1])
        return fits

    def _operand(self, value: Any) -> Any:
        """An argument as a map, a constant or a plain value."""
        if isinstance(value, fx.Node):
            name = self.current[value.name]
            return self.known[name] if name in self.known else self.maps[name]
        return [self._operand(v) for v in value] if isinstance(value, list | tuple) else value

    def _arguments(self, tree: Any) -> Any:
        """The arguments of a call of PyTorch: what was seen through gets its own shape back."""

        def refer(node: fx.Node) -> Any:
            name = self.current[node.name]
            seen = self.maps.get(name)
            if isinstance(seen, Map) and seen.name != name:
                return Name(name=seen.name, shape=self.shapes[name])
            return Name(name=name, shape=None)

        return fx.map_arg(tree, refer)

    def _steps(self, outputs: Any) -> tuple[Network | Call, ...]:
        """Runs in order: networks where there is a convolution to win by, calls elsewhere."""
        steps: list[Network | Call] = []
        needed = names(outputs)
        for run in reversed(self.runs):
            nodes = [node for node, _ in run if node is not None]
            if any(isinstance(node.operator, Convolve) for node in nodes):
                network = fuse(_network(nodes, needed, self.shapes))
                needed |= set(network.inputs)
                steps.append(network)
            else:
                for _, call in reversed(run):
                    reason = call.reason or "it stands between calls of PyTorch"
                    steps.append(Call(**{**vars(call), "reason": reason}))
                    needed |= call.needs
        return tuple(reversed(steps))


def _network(nodes: list[Node], needed: set[str], shapes: Mapping[str, tuple[int, ...]]) -> Network:
    """The nodes that somebody needs, and what they read from outside."""
    outputs = tuple(node.name for node in nodes if node.name in needed)
    live = set(outputs)
    kept: list[Node] = []
    for node in reversed(nodes):
        if node.name in live:
            kept.append(node)
            live |= set(node.inputs)
    made = {node.name for node in kept}
    inputs = {name: map_shape(shapes[name]) for node in reversed(kept) for name in node.inputs if name not in made}
    return Network(inputs=inputs, nodes=tuple(reversed(kept)), outputs={name: name for name in outputs})


def _operation(node: fx.Node) -> str:
    target = node.target
    return target._schema.name.split("::")[-1] if isinstance(target, torch._ops.OpOverload) else str(target)


def _only_linear(node: fx.Node) -> bool:
    """Whether nothing but linear layers reads a flattened map, directly or through a dropout."""
    return all(
        _operation(user) == "linear" or (_operation(user).rstrip("_") in FREE and _only_linear(user))
        for user in node.users
    )


def arguments_of(tree: Any, environment: Mapping[str, Any]) -> Any:
    """A tree with every ``Name`` replaced by its value."""

    def value(leaf: Any) -> Any:
        if not isinstance(leaf, Name):
            return leaf
        found = environment[leaf.name]
        return found if leaf.shape is None else found.reshape(leaf.shape)

    return pytree.tree_map(value, tree)


__all__: Sequence[str] = ("Call", "Lowered", "Name", "arguments_of", "lower", "names")
