"""From a recorded forward to networks. In: a recording. Out: parts in order, native or left to PyTorch.

A call that has no operator here stays a call of PyTorch, with the reason; its neighbours stay native.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from separable.engine.fuse import fuse
from separable.engine.network import Convolve, Network, Node
from separable.engine.operators import FIRST_OF_SEVERAL, read
from separable.engine.reading import (
    Foreign,
    Map,
    Request,
    UnsupportedError,
    Volume,
    map_shape,
    slice_name,
    volume_of,
)
from separable.engine.record import Recording
from separable.engine.volumes import fold_chains, read_volume

FREE = frozenset({"alias", "clone", "detach", "lift_fresh_copy", "_to_copy"})
RESHAPES = frozenset({"view", "reshape", "_unsafe_view", "squeeze", "unsqueeze"})


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

    ``inputs`` has None for one that is no tensor, and part of the program. ``views`` are inputs in another shape: which
    input, and the shape. ``shapes`` are those of PyTorch, batch first, for every value that enters or leaves a network.
    """

    inputs: tuple[str | None, ...]
    constants: Mapping[str, Any]
    steps: tuple[Network | Call, ...]
    outputs: Any
    shapes: Mapping[str, tuple[int, ...]]
    views: Mapping[str, tuple[str, tuple[int, ...]]]

    @property
    def calls(self) -> tuple[Call, ...]:
        """What fell back to PyTorch."""
        return tuple(step for step in self.steps if isinstance(step, Call))


def names(tree: Any) -> set[str]:
    """The values that a tree of arguments refers to."""
    return {leaf.name for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Name)}


def lower(recording: Recording, lanes: int) -> Lowered:
    """The recorded calls as steps, for panels of so many lanes."""
    return _Lowering(recording, lanes).run()


@dataclass
class _Lowering:
    """Native operators and calls stand in stages, in turns: a node comes as early as what it reads allows."""

    recording: Recording
    lanes: int
    stages: list[list[tuple[list[Node], Call]]] = field(default_factory=list)  # of calls at 0, 2, … natives at 1, 3, …
    stage_of: dict[str, int] = field(default_factory=dict)
    floor: int = 0  # what follows a call with an effect does not come before it
    maps: dict[str, Map | Volume | Foreign] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    views: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    batch: int | None = None

    def run(self) -> Lowered:
        self.known = self.recording.constants
        for node in self.recording.graph.nodes:
            if node.name not in self.known:
                self._enter(node)
                if node.op == "call_function":
                    self._call(node)
        outputs = self._arguments(self.recording.outputs)
        steps = self._steps(outputs)
        used = set().union(names(outputs), *(step.needs for step in steps if isinstance(step, Call)))
        constants = {name: value for name, value in self.known.items() if name in used}
        inputs = tuple(None if node is None else node.name for node in self.recording.inputs)
        return Lowered(
            inputs=inputs, constants=constants, steps=steps, outputs=outputs, shapes=self.shapes, views=self.views
        )

    def _enter(self, node: fx.Node) -> None:
        """A value gets a shape, and can be read natively when it is float32 with the batch in front."""
        value = node.meta["val"]
        if not isinstance(value, Tensor):
            self.maps[node.name] = Foreign(reason="it reads what is not one tensor")
            return
        shape = self.shapes[node.name] = tuple(value.shape)
        if self.batch is None and len(shape) > 1:
            self.batch = shape[0]
        if node.meta.get("is_shared"):
            self.maps[node.name] = Foreign(reason="it reads memory that is changed in place under another name")
        elif value.dtype != torch.float32:
            self.maps[node.name] = Foreign(reason=f"it reads {value.dtype}")
        elif len(shape) == 5 and shape[0] == self.batch:
            n, c, depth, h, w = shape
            names = [slice_name(node.name, d) for d in range(depth)]
            self.shapes |= dict.fromkeys(names, (n, c, h, w))
            self.maps[node.name] = Volume(slices=tuple(Map(name=name, shape=(c, h, w), rank=4) for name in names))
        elif len(shape) not in (2, 3, 4) or shape[0] != self.batch:
            self.maps[node.name] = Foreign(reason=f"it reads a tensor of {shape}, which is no batch of maps")
        else:
            self.maps[node.name] = Map(name=node.name, shape=map_shape(shape), rank=len(shape))

    def _call(self, node: fx.Node) -> None:
        if _operation(node) in FIRST_OF_SEVERAL and _only_first(node):
            return  # it is read where its first result is taken
        try:
            if not self._sees_through(node):
                nodes = self._native(node)
                self._append(nodes, self._as_call(node), {name for each in nodes for name in each.inputs})
        except UnsupportedError as unsupported:
            taken = node.args[0] if node.target is operator.getitem else None
            if isinstance(taken, fx.Node) and taken.name not in self.stage_of:
                self._append_call(taken, str(unsupported))
            self._append_call(node, str(unsupported))

    def _append_call(self, node: fx.Node, reason: str) -> None:
        call = replace(self._as_call(node), reason=reason)
        self._append([], call, call.needs, has_effect=bool(node.meta.get("has_effect")))

    def _append(self, nodes: list[Node], call: Call, needs: Iterable[str], *, has_effect: bool = False) -> None:
        stage = max((self.stage_of.get(volume_of(name), 0) for name in needs), default=0)
        stage = max(stage, self.floor, len(self.stages) - 1 if has_effect else 0)
        stage += stage % 2 != bool(nodes)
        self.stages += [[] for _ in range(stage + 1 - len(self.stages))]
        self.stages[stage].append((nodes, call))
        self.stage_of[call.name] = stage
        if has_effect:
            self.floor = stage

    def _as_call(self, node: fx.Node) -> Call:
        target: Any = node.target
        if _operation(node) in ("view", "_unsafe_view"):
            target = torch.ops.aten.reshape.default  # PyTorch's own layout may have been another one
        elif node.meta.get("has_effect") and not node.meta["is_shared"] and _operation(node).endswith("_"):
            target = _OnCopy(target)  # whoever reads the old value may come later
        return Call(
            name=node.name,
            target=target,
            args=self._arguments(node.args),
            kwargs=self._arguments(node.kwargs),
            reason="",
        )

    def _native(self, node: fx.Node) -> list[Node]:
        result = self.maps[node.name]
        if isinstance(result, Foreign):
            raise UnsupportedError(result.reason.replace("reads", "gives"))
        call = node
        if node.target is operator.getitem:
            call = node.args[0]  # type: ignore[assignment]
            name, arguments = ("slice", self._chunk(node)) if _is_split(call) else (_operation(call), None)
        else:
            name, arguments = _operation(node), None
        if arguments is None:
            schema = call.target._schema.arguments  # type: ignore[union-attr]
            arguments = {a.name: a.default_value for a in schema if a.has_default_value()}
            arguments |= {a.name: self._operand(v) for a, v in zip(schema, call.args, strict=False)}
            arguments |= {key: self._operand(value) for key, value in call.kwargs.items()}
        name = name.rstrip("_")
        request = Request(arguments=arguments, shape=self.shapes[node.name], lanes=self.lanes)
        if any(isinstance(value, Volume) for value in pytree.tree_leaves(arguments)):
            return read_volume(name, request, node.name)
        reading = read(name, request)
        return [
            Node(
                name=node.name,
                inputs=reading.inputs,
                operator=reading.operator,
                shape=reading.shape,
                activation=reading.activation,
            )
        ]

    def _chunk(self, node: fx.Node) -> dict[str, Any]:
        """The part that ``getitem`` takes of a split along the channels, as the arguments of a slice."""
        split: Any = node.args[0]
        index: Any = node.args[1]
        dim = _dim(split)
        parts = [int(part.shape[dim]) for part in split.meta["val"]]
        return {"self": self._operand(split.args[0]), "dim": dim, "start": sum(parts[:index]), "step": 1}

    def _sees_through(self, node: fx.Node) -> bool:
        """Whether the node only looks at its input in another way: then its readers read the input."""
        name = _operation(node).rstrip("_")
        source = self._operand(node.args[0]) if node.args else None
        result = self.maps[node.name]
        given = node.args[0] if node.args else None
        if name in RESHAPES and isinstance(given, fx.Node) and self._is_given(given) and not node.meta["is_shared"]:
            self.views[node.name] = (given.name, self.shapes[node.name])
            return True
        if _is_split(node) and all(user.target is operator.getitem for user in node.users):
            return isinstance(source, Map) and not source.is_flattened and _dim(node) == 1
        if isinstance(source, Volume) and isinstance(result, Volume) and name in FREE:
            self.maps[node.name] = source
            self.stage_of[node.name] = self.stage_of.get(volume_of(source.slices[0].name), 0)
            return True
        if isinstance(source, Volume) and len(source.slices) == 1:
            source = source.slices[0]
        if not isinstance(source, Map) or not isinstance(result, Map):
            return False
        is_same = name in RESHAPES | FREE and result.shape == source.shape
        if is_same:
            self.maps[node.name] = replace(source, rank=result.rank)
        elif name in RESHAPES and result.shape == (prod(source.shape), 1, 1) and _only_linear(node):
            self.maps[node.name] = replace(source, is_flattened=True)
        else:
            return False
        self.stage_of[node.name] = self.stage_of.get(volume_of(source.name), 0)
        return True

    def _is_given(self, node: fx.Node) -> bool:
        """Whether it is an input of the model, or one in another shape."""
        return node in self.recording.inputs or node.name in self.views

    def _operand(self, value: Any) -> Any:
        """An argument as a map, a constant or a plain value."""
        if isinstance(value, fx.Node):
            return self.known[value.name] if value.name in self.known else self.maps[value.name]
        return [self._operand(v) for v in value] if isinstance(value, list | tuple) else value

    def _arguments(self, tree: Any) -> Any:
        """The arguments of a call of PyTorch: what was seen through gets its own shape back."""

        def refer(leaf: Any) -> Any:
            if not isinstance(leaf, fx.Node):
                return leaf
            seen = self.maps.get(leaf.name)
            if isinstance(seen, Volume):
                return Name(name=volume_of(seen.slices[0].name), shape=None)
            if isinstance(seen, Map) and seen.name != leaf.name:
                return Name(name=seen.name, shape=self.shapes[leaf.name])
            return Name(name=leaf.name, shape=None)

        return pytree.tree_map(refer, tree, is_leaf=lambda leaf: isinstance(leaf, fx.Node))

    def _steps(self, outputs: Any) -> tuple[Network | Call, ...]:
        """Stages in order: networks where there is a convolution to win by, calls elsewhere."""
        steps: list[Network | Call] = []
        needed = names(outputs)
        for stage in reversed(self.stages):
            nodes = [node for each, _ in stage for node in each]
            if any(isinstance(node.operator, Convolve) for node in nodes):
                network = fuse(fold_chains(_network(nodes, needed, self.shapes)))
                needed |= set(network.inputs)
                steps.append(network)
            else:
                for _, call in reversed(stage):
                    steps.append(replace(call, reason=call.reason or "no convolution is near that it could run with"))
                    needed |= call.needs
        return tuple(reversed(steps))


@dataclass(frozen=True)
class _OnCopy:
    """A call that writes to its first argument, done on a copy of it."""

    target: Any

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return self.target(x.clone(), *args, **kwargs)


def _network(nodes: list[Node], needed: set[str], shapes: Mapping[str, tuple[int, ...]]) -> Network:
    """The nodes that somebody needs, and what they read from outside."""
    parts = {name for name in shapes if volume_of(name) in needed}
    outputs = tuple(node.name for node in nodes if node.name in needed | parts)
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


def _is_split(node: fx.Node) -> bool:
    return _operation(node) in ("split", "split_with_sizes")


def _dim(split: Any) -> int:
    dim: int = split.kwargs.get("dim", split.args[2] if len(split.args) > 2 else 0)
    return dim % int(split.args[0].meta["val"].ndim)


def _only_first(node: fx.Node) -> bool:
    return all(user.target is operator.getitem and user.args[1] == 0 for user in node.users)


def _only_linear(node: fx.Node) -> bool:
    """Whether nothing but linear layers reads a flattened map, directly or in another shape."""
    return all(
        _operation(user) in ("addmm", "mm") or (_operation(user).rstrip("_") in FREE and _only_linear(user))
        for user in node.users
    )


def arguments_of(tree: Any, environment: Mapping[str, Any]) -> Any:
    """A tree with every ``Name`` replaced by its value."""

    def value(leaf: Any) -> Any:
        if not isinstance(leaf, Name):
            return leaf
        found = environment[leaf.name]
        return found if leaf.shape is None else found.reshape(leaf.shape)

    return value(tree) if isinstance(tree, Name) else pytree.tree_map(value, tree)


__all__: Sequence[str] = ("Call", "Lowered", "Name", "arguments_of", "lower", "names")
