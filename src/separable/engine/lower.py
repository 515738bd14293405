"""From a recorded forward to networks. In: a recording. Out: parts in order, native or left to PyTorch.

A call that has no operator here stays a call of PyTorch, with the reason; its neighbours stay native.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from separable.engine.axes import Arranged, of_map, permuted, reorder_of, shuffled, unshuffled, viewed
from separable.engine.composed import COMPOSED, read_composed
from separable.engine.fuse import fuse
from separable.engine.lowered import Call, ItemOf, Lowered, Name, OnCopy, Restored, names
from separable.engine.operators import ACTIVATIONS, FIRST_OF_SEVERAL, read
from separable.engine.phases import read_transposed
from separable.engine.reading import (
    Foreign,
    Map,
    Request,
    UnsupportedError,
    Volume,
    map_shape,
)
from separable.engine.record import Recording
from separable.engine.volumes import fold_chains, read_volume
from separable.runtime.environment import slice_name, volume_of
from separable.runtime.network import Convolve, Network, Node, Shape

FREE = frozenset({"alias", "clone", "detach", "lift_fresh_copy", "_to_copy"})
RESHAPES = frozenset({"view", "reshape", "_unsafe_view", "squeeze", "unsqueeze"})
VIEWS = RESHAPES | {"transpose", "permute", "t"}
ON_EACH = frozenset({"add", "sub", "mul", "div", "native_layer_norm", "addmm", "mm"})  # pixel, with channels last
SHUFFLES = {"pixel_shuffle": shuffled, "pixel_unshuffle": unshuffled}
SETTLED = "what reads it natively needs its axes in this order"


def lower(recording: Recording) -> Lowered:
    """The recorded calls as steps, for any processor."""
    return _Lowering(recording).run()


@dataclass
class _Lowering:
    """Native operators and calls stand in stages, in turns: a node comes as early as what it reads allows."""

    recording: Recording
    stages: list[list[tuple[list[Node], Call]]] = field(default_factory=list)  # of calls at 0, 2, … natives at 1, 3, …
    stage_of: dict[str, int] = field(default_factory=dict)
    floor: int = 0  # what follows a call with an effect does not come before it
    maps: dict[str, Map | Volume | Arranged | Foreign] = field(default_factory=dict)
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
        if self.batch is None and isinstance(value, Tensor) and value.ndim > 1:
            self.batch = value.shape[0]
        if node.meta.get("is_shared"):
            self.shapes[node.name] = tuple(value.shape)
            self.maps[node.name] = Foreign(reason="it reads memory that is changed in place under another name")
        else:
            self.maps[node.name] = self._held(node.name, value)

    def _held(self, name: str, value: Any) -> Map | Volume | Foreign:
        """What can read the value that is held as ``name``."""
        if not isinstance(value, Tensor):
            return Foreign(reason="it reads what is not one tensor")
        shape = self.shapes[name] = tuple(value.shape)
        if value.dtype != torch.float32:
            return Foreign(reason=f"it reads {value.dtype}")
        if len(shape) == 5 and shape[0] == self.batch and shape[2]:
            n, c, depth, h, w = shape
            names = [slice_name(name, d) for d in range(depth)]
            self.shapes |= dict.fromkeys(names, (n, c, h, w))
            return Volume(slices=tuple(Map(name=each, shape=(c, h, w), rank=4) for each in names))
        if len(shape) not in (2, 3, 4) or shape[0] != self.batch:
            return Foreign(reason=f"it reads a tensor of {shape}, which is no batch of maps")
        return Map(name=name, shape=map_shape(shape), rank=len(shape))

    def _call(self, node: fx.Node) -> None:
        if _operation(node) in FIRST_OF_SEVERAL and _only_first(node):
            return  # it is read where its first result is taken
        try:
            if not self._sees_through(node):
                nodes = self._native_or_settled(node)
                call = self._as_call(node, is_native=True)
                self._append(nodes, call, {name for each in nodes for name in each.inputs})
        except UnsupportedError as unsupported:
            taken = node.args[0] if node.target is operator.getitem else None
            if isinstance(taken, fx.Node) and taken.name not in self.stage_of and not _is_split(taken):
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

    def _as_call(self, node: fx.Node, *, is_native: bool = False) -> Call:
        """The call that it is, or would be: a native operator's reads nothing that the operator does not."""
        target: Any = node.target
        if _operation(node) in ("view", "_unsafe_view"):
            target = torch.ops.aten.reshape.default  # PyTorch's own layout may have been another one
        elif node.meta.get("has_effect") and not node.meta["is_shared"] and _operation(node).endswith("_"):
            target = OnCopy(target)  # whoever reads the old value may come later
        args, kwargs = node.args, node.kwargs
        taken: Any = args[0] if target is operator.getitem else None
        if taken is not None and (is_native or taken.name not in self.stage_of):  # called where one result is taken
            target, args, kwargs = ItemOf(taken.target, args[1]), taken.args, taken.kwargs
        seen = self.maps[node.name]
        if isinstance(seen, Arranged):
            target = Restored(target, seen)
        return Call(
            name=node.name, target=target, args=self._arguments(args), kwargs=self._arguments(kwargs), reason=""
        )

    def _native_or_settled(self, node: fx.Node) -> list[Node]:
        """A native operator, if need be on what PyTorch has brought into the order of the axes that it is seen in."""
        try:
            return self._native(node)
        except UnsupportedError:
            reader: Any = node.args[0] if node.target is operator.getitem else node
            before = {
                n.name: seen for n in reader.all_input_nodes if isinstance(seen := self.maps.get(n.name), Arranged)
            }
            values = {n.name: n.meta["val"] for n in reader.all_input_nodes}
            self.maps |= {name: self._held(f"{name}.settled", values[name]) for name in before}
            try:
                nodes = self._native(node)
            except UnsupportedError:
                self.maps |= before
                raise
        for name, seen in before.items():
            args = (Name(name=seen.map.name, seen=seen),)
            call = Call(name=f"{name}.settled", target=Tensor.contiguous, args=args, kwargs={}, reason=SETTLED)
            self._append([], call, call.needs)
        return nodes

    def _native(self, node: fx.Node) -> list[Node]:
        call, result = node, self.maps[node.name]
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
        seen = next((v for v in pytree.tree_leaves(arguments) if isinstance(v, Arranged)), None)
        if seen is not None and seen.has_images_in_channels and name == "native_batch_norm":
            return self._on_each_image(name, arguments, node, seen)
        if seen is not None:
            return self._on_each_pixel(name, arguments, node, seen)
        if isinstance(result, Foreign):
            raise UnsupportedError(result.reason.replace("reads", "gives"))
        request = Request(arguments=arguments, shape=self.shapes[node.name])
        if any(isinstance(value, Volume) for value in pytree.tree_leaves(arguments)):
            return read_volume(name, request, node.name)
        if name == "convolution" and arguments["transposed"]:
            return read_transposed(request, node.name)
        is_one = name not in COMPOSED
        nodes = [read(name, request).node(node.name)] if is_one else read_composed(name, request, node.name)
        if isinstance(result, Map) and result.shape != nodes[-1].shape:
            self._without_channels(node, nodes[-1].shape)
        return nodes

    def _without_channels(self, node: fx.Node, shape: Shape) -> None:
        """A map of one channel that PyTorch sees without an axis for it."""
        rank = node.meta["val"].ndim + 1
        whole = of_map(Map(name=node.name, shape=shape, rank=rank), self.batch or 1)
        self.maps[node.name] = replace(whole, groups=(whole.groups[0], *whole.groups[2:]))
        self.shapes[node.name] = (self.batch or 1, *shape)

    def _on_each_pixel(self, name: str, arguments: Mapping[str, Any], node: fx.Node, seen: Arranged) -> list[Node]:
        """An operator on maps whose channels come last; its result is seen in the same way."""
        others = [v for v in pytree.tree_leaves(arguments) if isinstance(v, Arranged | Map | Volume | Foreign)]
        is_alike = all(isinstance(v, Arranged) and v.groups == seen.groups for v in others)
        is_known = name in ON_EACH or name in ACTIVATIONS
        if not (seen.is_channels_last and is_alike and is_known) or node.meta["is_shared"]:
            raise UnsupportedError("a map with other axes has no native operator here")
        n, (_, h, w) = self.batch or 1, seen.map.shape
        given = {key: _channels_first(value, name) for key, value in arguments.items()}
        shape = (n, node.meta["val"].shape[-1], h, w)
        reading = read(name, Request(arguments=given, shape=shape, is_channels_last=True))
        self.shapes[node.name] = shape
        self.maps[node.name] = seen.with_channels(Map(name=node.name, shape=reading.shape, rank=4))
        return [reading.node(node.name)]

    def _on_each_image(self, name: str, arguments: Mapping[str, Any], node: fx.Node, seen: Arranged) -> list[Node]:
        """A norm that sees all images' channels as one image's; its constants are alike for every image."""
        given = {key: _of_one_image(value, seen.map) for key, value in arguments.items()}
        reading = read(name, Request(arguments=given, shape=(1, *seen.map.shape)))
        self.shapes[node.name] = (self.batch or 1, *seen.map.shape)
        self.maps[node.name] = replace(seen, map=Map(name=node.name, shape=reading.shape, rank=4))
        return [reading.node(node.name)]

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
        if _is_split(node):
            return True  # each part is read, or called, by itself
        if isinstance(source, Volume) and isinstance(result, Volume) and name in FREE:
            self.maps[node.name] = source
            self.stage_of[node.name] = self.stage_of.get(volume_of(source.slices[0].name), 0)
            return True
        if isinstance(source, Volume) and len(source.slices) == 1:
            source = replace(source.slices[0], rank=5)
        if not isinstance(source, Map) or not isinstance(result, Map):
            return self._sees_axes(node, name, source)
        is_same = name in RESHAPES | FREE and result.shape == source.shape
        if is_same:
            self.maps[node.name] = replace(source, rank=result.rank)
        elif name in RESHAPES and result.shape == (prod(source.shape), 1, 1) and _only_linear(node):
            self.maps[node.name] = replace(source, is_flattened=True)
        else:
            return self._sees_axes(node, name, source)
        self.stage_of[node.name] = self.stage_of.get(volume_of(source.name), 0)
        return True

    def _sees_axes(self, node: fx.Node, name: str, source: Any) -> bool:
        """Whether a map is seen with other axes; where its channels or pixels only stand elsewhere, they move."""
        value = node.meta["val"]
        if not self.batch:
            return False  # axes without elements cannot be told from each other
        if isinstance(source, Map) and not source.is_flattened:
            source = of_map(source, self.batch)
        if not isinstance(source, Arranged) or name not in VIEWS | FREE | SHUFFLES.keys() or node.meta["is_shared"]:
            return False
        if value.dtype != torch.float32:
            return False
        seen: Arranged | None
        if name in ("transpose", "permute", "t"):
            seen = permuted(source, _dims(node, value.ndim))
        elif name in SHUFFLES:
            seen = SHUFFLES[name](source, value.shape)
        else:
            seen = viewed(source, value.shape)
        if seen is None:
            return False
        reorder = reorder_of(seen, self.batch)
        x = source.map
        if reorder is None:
            self.maps[node.name] = seen
        elif reorder.is_none:
            self.maps[node.name] = replace(x, rank=value.ndim)
        else:
            shape = map_shape(value.shape)
            self.maps[node.name] = Map(name=node.name, shape=shape, rank=value.ndim)
            moved = Node(name=node.name, inputs=(x.name,), operator=reorder, shape=shape)
            self._append([moved], self._as_call(node), {x.name})
            return True
        self.stage_of[node.name] = self.stage_of.get(volume_of(x.name), 0)
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
            seen, value = self.maps.get(leaf.name), leaf.meta["val"]
            # An input may come in other strides than those that were recorded; a copy may have been seen through.
            is_own = isinstance(value, Tensor) and not leaf.meta.get("is_shared")
            is_dense = is_own and (value.is_contiguous() or _operation(leaf) == "clone")
            if isinstance(seen, Volume):
                return Name(name=volume_of(seen.slices[0].name), is_contiguous=is_dense)
            if isinstance(seen, Arranged):
                return Name(name=seen.map.name, seen=seen, is_contiguous=is_dense)
            if isinstance(seen, Map) and seen.name != leaf.name:
                return Name(name=seen.name, shape=tuple(value.shape), is_contiguous=is_dense)
            return Name(name=leaf.name, is_contiguous=is_dense)

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
                steps += [network] if network.nodes else []
            else:
                for _, call in reversed(stage):
                    steps.append(replace(call, reason=call.reason or "no convolution is near that it could run with"))
                    needed |= call.needs
        return tuple(reversed(steps))


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


def _channels_first(value: Any, name: str) -> Any:
    """An operand as it would be with the channels in front: maps as they are, constants along the channels."""
    if isinstance(value, Arranged):
        return replace(value.map, rank=4)
    if isinstance(value, Tensor) and name in ("add", "sub", "mul", "div") and value.ndim:
        if prod(value.shape) != value.shape[-1]:
            raise UnsupportedError(f"a constant of {tuple(value.shape)} has no native operator")
        return value.reshape(-1, 1, 1)
    return value


def _of_one_image(value: Any, x: Map) -> Any:
    """An operand for one image: the map as it is, constants of so many channels."""
    if isinstance(value, Arranged):
        return replace(x, rank=4)
    if isinstance(value, Tensor):
        images = value.reshape(-1, x.shape[0])
        if not (images == images[0]).all():
            raise UnsupportedError("a norm that is another one for each image has no native operator")
        return images[0]
    return value


def _dims(node: fx.Node, rank: int) -> list[int]:
    """The order in which a permutation takes the axes of its input."""
    if _operation(node) == "permute":
        given: Any = node.args[1]
        return [d % rank for d in given]
    pair: Any = (0, 1) if _operation(node) == "t" else node.args[1:3]
    order = list(range(rank))
    order[pair[0]], order[pair[1]] = order[pair[1]], order[pair[0]]
    return order


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
