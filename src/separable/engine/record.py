"""A forward written down while it runs on tensors without data. In: a module, its inputs. Out: a graph of ATen calls.

The module's own Python runs, every time, so a recording is never older than the module: nothing of it is kept on disk.
It takes a tenth of a second for MobileNetV2, where ``torch.export`` takes several.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from separable.engine.blank import WHERE, Blank, shape_of_call
from separable.errors import ModelError


@dataclass(frozen=True, kw_only=True, eq=False)
class Recording:
    """Calls in order; ``constants`` are the tensors that are not computed from the inputs, by the name of their node.

    ``inputs`` has a node for each tensor among the inputs, None for what is none. A node's ``meta`` has its value
    without data (``val``), whether it can change under another name (``is_shared``), and whether its call has an effect
    beside its result (``has_effect``). ``outputs`` is what the module returns, nodes in place of tensors.
    """

    graph: fx.Graph
    inputs: tuple[fx.Node | None, ...]
    constants: Mapping[str, Tensor]
    outputs: Any


def record(module: nn.Module, inputs: Sequence[Any], held: Sequence[int] = ()) -> Recording:
    """The calls that a forward makes for inputs of these shapes, under ``torch.no_grad``.

    ``held``: positions of inputs that are constants. What is computed from constants alone is one.

    ``ModelError`` where the forward depends on the data in Python, changes the model, or keeps a tensor in it.
    """
    attributes = [(name, each, dict(vars(each))) for name, each in module.named_modules()]
    try:
        recording = _recorded(module, inputs, held)
    except ModelError:
        raise
    except Exception as error:
        message = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            WHERE,
            given=f"{type(module).__name__}: {message}",
            expected="a model whose forward runs on this input, and does not depend on its data in Python",
            remedy="Take control flow that depends on data out of the forward, or use torch.compile.",
        ) from error
    finally:
        kept = _restore(attributes)
    if kept is not None:
        remedy = "Return what is wanted as an output."
        raise ModelError(WHERE, given=f"a forward that keeps a tensor in {kept}", expected="no effects", remedy=remedy)
    return recording


def _recorded(module: nn.Module, inputs: Sequence[Any], held: Sequence[int]) -> Recording:
    names = {id(t): name for name, t in (*module.named_parameters(), *module.named_buffers())}
    try:
        return _Recorder(names, folds=True).run(module, inputs, held)
    except _RefilledError:
        return _Recorder(names, folds=False).run(module, inputs, held)


WHOLE = {getattr(torch._VF, name): getattr(torch.ops.aten, name).input for name in ("gru", "rnn_tanh", "rnn_relu")}


class _RefilledError(Exception):
    """A tensor that was taken for a constant is written to later."""


class _Recorder(TorchDispatchMode):
    """Runs each call without data and appends it; calls on constants alone are done for real."""

    def __init__(self, names: Mapping[int, str], *, folds: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names, self.folds = names, folds
        self.graph = fx.Graph()
        self.constants: dict[str, Tensor] = {}
        self.nodes: dict[int, fx.Node] = {}  # the node of each tensor, by identity
        self.alive: list[Any] = []  # so that no identity is given twice
        self.blanks: dict[int, Blank] = {}
        self.owners: dict[int, set[int]] = {}  # the tensors that share a storage
        self.made: set[int] = set()  # storages of constants made by the forward itself
        self.writes: list[tuple[fx.Node, int]] = []  # to storages that are known under another name too

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: saying so would import Dynamo, which takes two seconds."""
        return False

    def run(self, module: nn.Module, inputs: Sequence[Any], held: Sequence[int]) -> Recording:
        given: list[Any] = []
        placeholders: list[fx.Node | None] = []
        for i, x in enumerate(inputs):
            is_free = isinstance(x, Tensor) and i not in held
            given.append(self._blank(x) if is_free else x)
            node = self.graph.placeholder(f"input_{i}") if is_free else None
            placeholders.append(node)
            if node is not None:
                self._bind(given[-1], node)
                self.owners[_storage(given[-1])].add(0)  # the caller holds it too
        with torch.no_grad(), self, _Whole(self):
            outputs = module(*given)
        result = pytree.tree_map(lambda leaf: self._node(leaf) if isinstance(leaf, Tensor) else leaf, outputs)
        self._finish({leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, fx.Node)})
        return Recording(graph=self.graph, inputs=tuple(placeholders), constants=self.constants, outputs=result)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = _tensors((args, kwargs))
        written = _written(func, args, kwargs)
        is_random = torch.Tag.nondeterministic_seeded in func.tags
        is_new = not tensors and not self.folds and any("Tensor" in str(r.type) for r in func._schema.returns)
        if not (is_random or is_new or any(isinstance(x, Blank) for x in tensors)):
            return self._fold(func, args, kwargs, written)
        self._require_writable(written, is_by_data=True)
        if torch.Tag.inplace_view in func.tags:
            return _unmoved(func, args, kwargs)
        result = self._shapes_of(func, args, kwargs)
        if _tensors(result):
            self._append(func, (args, kwargs), result, written, is_random=is_random)
        return result

    def _shapes_of(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The result without data; an argument that is written to is given back itself."""
        blanks = {id(x.meta): x for x in map(self._blank, _tensors((args, kwargs)))}
        args, kwargs = pytree.tree_map(lambda x: self._blank(x).meta if isinstance(x, Tensor) else x, (args, kwargs))
        if any(a.name == "device" for a in func._schema.arguments):
            kwargs = {**kwargs, "device": torch.device("meta")}
        result = shape_of_call(func, args, kwargs)
        return pytree.tree_map(
            lambda x: (blanks[id(x)] if id(x) in blanks else Blank(x)) if isinstance(x, Tensor) else x,
            result,
        )

    def _fold(self, func: Any, args: Any, kwargs: Any, written: list[Tensor]) -> Any:
        self._require_writable(written, is_by_data=False)
        result = func(*args, **kwargs)
        before = {_storage(x) for x in _tensors((args, kwargs))}
        for x in _tensors(result):
            if _storage(x) not in before:
                self.alive.append(x)
                self.made.add(_storage(x))
        return result

    def _require_writable(self, written: list[Tensor], *, is_by_data: bool) -> None:
        for x in written:
            if isinstance(x, Blank):
                continue
            if _storage(x) not in self.made:
                name = self.names.get(id(x), "a tensor that it holds")
                remedy = "Keep state outside of the forward: give it as an input, return it as an output."
                raise ModelError(WHERE, given=f"a forward that changes {name}", expected="no effects", remedy=remedy)
            if is_by_data or any(_storage(c) == _storage(x) for c in self.constants.values()):
                raise _RefilledError

    def _append(self, func: Any, call: tuple[Any, Any], result: Any, written: list[Tensor], *, is_random: bool) -> None:
        args, kwargs = pytree.tree_map(lambda leaf: self._node(leaf) if isinstance(leaf, Tensor) else leaf, call)
        layers = (self._layer(leaf) for leaf in pytree.tree_leaves(call))
        name = next((layer for layer in layers if layer), func._schema.name.partition("::")[2].strip("_"))
        node = self.graph.create_node("call_function", func, args, kwargs, name=name)
        node.meta |= {"val": result, "has_effect": is_random or bool(written)}
        for x in written:
            self._bind(x, node)
        if isinstance(result, list | tuple):
            for i, x in enumerate(result):
                if isinstance(x, Tensor):
                    part = self.graph.call_function(operator.getitem, (node, i))
                    self._bind(x, part)
        elif not any(x is result for x in written):
            self._bind(result, node)
        for x in written:
            if len(self.owners[_storage(x)]) > 1:
                self.writes.append((node, _storage(x)))

    def _bind(self, x: Tensor, node: fx.Node) -> None:
        node.meta.setdefault("val", x)
        self.alive.append(x)
        self.nodes[id(x)] = node
        self.owners.setdefault(_storage(x), set()).add(id(x))

    def _node(self, x: Tensor) -> fx.Node:
        """The node of a tensor; one that is not computed from the inputs becomes a constant."""
        if id(x) not in self.nodes:
            node = self.graph.placeholder(self.names.get(id(x), "constant").replace(".", "_"))
            self.alive.append(x)
            self.nodes[id(x)], self.constants[node.name] = node, x
            node.meta["val"] = x
        return self.nodes[id(x)]

    def _layer(self, leaf: Any) -> str | None:
        """The name of the layer whose weight this is."""
        owner, _, kind = self.names.get(id(leaf), "").rpartition(".")
        return owner.replace(".", "_") if kind == "weight" and owner else None

    def _blank(self, x: Tensor) -> Blank:
        if isinstance(x, Blank):
            return x
        if id(x) not in self.blanks:
            self.alive.append(x)
            self.blanks[id(x)] = Blank(torch.empty_strided(x.size(), x.stride(), dtype=x.dtype, device="meta"))
        return self.blanks[id(x)]

    def _finish(self, outputs: set[fx.Node]) -> None:
        """Drops what nobody uses, and says of the rest what can change under another name."""
        for node in reversed(self.graph.nodes):
            is_call = node.op == "call_function"
            if is_call and not node.users and node not in outputs and not node.meta.get("has_effect"):
                self.graph.erase_node(node)
        place = {node: i for i, node in enumerate(self.graph.nodes)}
        named = {node: _storage(node.meta["val"]) for node in place if isinstance(node.meta["val"], Tensor)}

        def is_seen(write: fx.Node, storage: int) -> bool:
            """Whether somebody may read under an older name what was written."""
            older = [node for node in named if named[node] == storage and place[node] < place[write]]
            readers = [reader for node in older for reader in node.users]
            is_late = any(place[reader] > place[write] for reader in readers)
            return is_late or 0 in self.owners[storage] or not outputs.isdisjoint(older)

        shared = {storage for write, storage in self.writes if is_seen(write, storage)}
        for node in place:
            node.meta["is_shared"] = named.get(node) in shared


class _Whole(TorchFunctionMode):
    """Recurrent layers as one call each: the calls that PyTorch makes of them change a shape in place."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        call = WHOLE.get(func)
        if call is None or not isinstance(args[-1], bool):  # a packed sequence has no such last argument
            return func(*args, **kwargs or {})
        with _disable_current_modes():
            return self.recorder.__torch_dispatch__(call, types, args)


def _storage(x: Tensor) -> int:
    return int((x.meta if isinstance(x, Blank) else x).untyped_storage()._cdata)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _unmoved(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    """The argument of a call that changes its view in place, where no element moves: strides of single elements."""
    x: Blank = args[0]
    after = func(x.meta.detach(), *args[1:], **kwargs)
    axes = [(size, stride) for size, stride in zip(after.shape, after.stride(), strict=True) if size > 1]
    if after.shape != x.shape or axes != [(n, s) for n, s in zip(x.shape, x.stride(), strict=True) if n > 1]:
        raise ModelError(WHERE, given=f"{func}, which changes a shape in place", expected="a new tensor")
    return x


def _written(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The arguments that a call changes."""
    found: list[Tensor] = []
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[i] if i < len(args) else kwargs.get(argument.name)
            found += _tensors(value)
    return found


def _restore(attributes: list[tuple[str, nn.Module, dict[str, Any]]]) -> str | None:
    """Takes tensors without data out of the model again; the first attribute that held one."""
    found = None
    for name, module, before in attributes:
        for key, value in list(vars(module).items()):
            if value is not before.get(key) and any(isinstance(x, Blank) for x in pytree.tree_leaves(value)):
                found = found or f"{name}.{key}".lstrip(".")
                vars(module).pop(key)
                vars(module).update({key: before[key]} if key in before else {})
    return found
