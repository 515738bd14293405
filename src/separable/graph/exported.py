"""An exported program as a model of layers. In: the path of a .pt2 file. Out: an nn.Module, and its example input."""

from __future__ import annotations

import inspect
import json
import keyword
import operator
import os
import re
from typing import Any

from torch import fx, nn

from separable.errors import FileError, ModelError
from separable.graph.archive import Archive, read_archive
from separable.graph.layers import STATE, layer_of
from separable.graph.operators import SIZE_MATHS, function_of, nested, value_of

EVALUATION = "a model exported in evaluation mode"
REMEDY = "Call model.eval() before torch.export.export."
POSITIONAL = 1  # torch/_export/serde/schema.py, ArgumentKind


def load_exported(path: str | os.PathLike[str]) -> tuple[nn.Module, Any]:
    """The model in a .pt2 file, on the CPU and in evaluation mode, and the example input that it was exported with.

    Every ``aten`` convolution, linear layer and batch norm whose weight is a parameter is an ``nn`` module again, under
    the name that it had before it was exported; the rest stays a function. The example is in one of the forms that
    ``count`` takes, or None. Nothing in the file is run: only ``aten`` operators on tensors and numbers are accepted.

    ``FileError`` when the file is damaged or holds something else, ``ModelError`` for an operator that is not
    understood and for a model that was exported in training mode.
    """
    archive = read_archive(path)
    try:
        return _Builder(archive).model(), archive.example
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        given = f"a graph that is not understood ({error!r})"
        raise FileError(archive.where, given=given, expected="a graph written by torch.export.save") from error


class _Builder:
    """Builds the graph node by node: ``values`` has the nodes so far by their name in the file."""

    def __init__(self, archive: Archive) -> None:
        self.where = archive.where
        self.nodes = archive.graph_module["graph"]["nodes"]
        self.shapes = archive.graph_module["graph"]["tensor_values"]
        self.signature = archive.graph_module["signature"]
        self.call = archive.graph_module["module_call_graph"][0]["signature"]
        self.tensors = archive.tensors
        self.root, self.graph = nn.Module(), fx.Graph()
        self.values: dict[str, fx.Node] = {}
        self.held: dict[str, str] = {}  # where in the model an input of the graph lies that is no argument
        self.temporary: set[str] = set()  # those of them that no state dict holds
        self.layers: dict[str, str] = {}

    def model(self) -> nn.Module:
        self._read_inputs()
        for node in self.nodes:
            self._add(node)
        self.graph.output(self._outputs())
        model = fx.GraphModule(self.root, self.graph, class_name="Exported").eval()
        for path, buffer in dict(model.named_buffers()).items():
            if path in self.temporary:
                owner, _, leaf = path.rpartition(".")
                model.get_submodule(owner).register_buffer(leaf, buffer, persistent=False)
        return model

    def _read_inputs(self) -> None:
        arguments: list[tuple[str, Any]] = []
        for entry in self.signature["input_specs"]:
            ((kind, spec),) = entry.items()
            if kind == "user_input" and "as_tensor" in spec["arg"]:
                arguments.append((spec["arg"]["as_tensor"]["name"], inspect.Signature.empty))
            elif kind == "constant_input":
                ((form, constant),) = spec["value"].items()
                arguments.append((spec["name"], None if form == "as_none" else constant))
            elif kind in ("parameter", "buffer", "tensor_constant"):
                path = self._checked(spec[f"{kind}_name"])
                self.held[spec["arg"]["name"]] = path
                if kind == "tensor_constant" or not spec.get("persistent", True):
                    self.temporary.add(path)
            else:
                raise ModelError(self.where, given=f"an input of kind {kind}", expected="tensors and constants")
        for (value, default), name in zip(arguments, self._argument_names(len(arguments)), strict=True):
            self.values[value] = self.graph.placeholder(name, default_value=default)

    def _argument_names(self, count: int) -> list[str]:
        positional, keywords = json.loads(self.call["in_spec"])[1]["children_spec"]
        children = [*positional["children_spec"], *keywords["children_spec"]]
        names = self.call["forward_arg_names"] or []
        if len(names) != len(children) or count != len(children) or any(child["children_spec"] for child in children):
            given = "a forward with nested or variable arguments"
            raise ModelError(self.where, given=given, expected="named arguments that are tensors or constants")
        for name in names:
            if not name.isidentifier() or keyword.iskeyword(name):
                raise FileError(self.where, given=f"an argument called {name!r}", expected="a Python name")
        return list(names)

    def _checked(self, path: str) -> str:
        # The path goes into the code that torch.fx writes.
        if not re.fullmatch(r"\w+(\.\w+)*", path, re.ASCII):
            raise FileError(self.where, given=f"a tensor called {path!r}", expected="names joined by dots")
        return path

    def _add(self, node: dict[str, Any]) -> None:
        target, inputs = node["target"], {entry["name"]: entry["arg"] for entry in node["inputs"]}
        if target.startswith("torch.ops.aten._assert_tensor_metadata."):
            return  # it would tie the model to the dtype and device that it was exported with
        if {"as_bool": True} in (inputs.get("training"), inputs.get("train")) and _keeps_training(inputs):
            raise ModelError(self.where, given=f"{target} in training mode", expected=EVALUATION, remedy=REMEDY)
        layer = self._layer(target, inputs) if target in STATE else None
        if layer is not None:
            made = self.graph.call_module(layer, (self._value(inputs["input"]),))
        else:
            args = [self._value(entry["arg"]) for entry in node["inputs"] if _is_positional(entry, target)]
            named = {e["name"]: self._value(e["arg"]) for e in node["inputs"] if not _is_positional(e, target)}
            made = self.graph.call_function(function_of(target), tuple(args), named)
        self._keep(made, node["outputs"])

    def _keep(self, made: fx.Node, outputs: list[dict[str, Any]]) -> None:
        if len(outputs) == 1 and "as_tensors" not in outputs[0]:
            self.values[_name(outputs[0])] = made
            return
        parts = outputs[0]["as_tensors"] if len(outputs) == 1 else outputs
        for index, part in enumerate(parts):
            if "as_none" not in part:
                self.values[_name(part)] = self.graph.call_function(operator.getitem, (made, index))

    def _value(self, argument: dict[str, Any]) -> Any:
        return value_of(argument, self._node)

    def _node(self, name: str) -> fx.Node:
        if name not in self.values:
            path = self.held[name]
            owner, _, leaf = path.rpartition(".")
            container, tensor = self._container(owner), self.tensors[path]
            if leaf not in container._parameters and leaf not in container._buffers:
                if isinstance(tensor, nn.Parameter):
                    container.register_parameter(leaf, tensor)
                else:
                    container.register_buffer(leaf, tensor)
            self.values[name] = self.graph.get_attr(path)
        return self.values[name]

    def _layer(self, target: str, inputs: dict[str, Any]) -> str | None:
        """The path of the layer that stands for this node, made when it is new; None when the node stays a function."""
        given = {name: inputs.get(name, {"as_none": True}) for name in STATE[target]}
        paths = {name: self.held.get(arg.get("as_tensor", {}).get("name"), "") for name, arg in given.items()}
        if any(not path and "as_none" not in given[name] for name, path in paths.items()) or not any(paths.values()):
            return None
        numbers = {name: self._value(arg) for name, arg in inputs.items() if name not in ("input", *given)}
        if any(isinstance(part, fx.Node) for value in numbers.values() for part in _parts(value)):
            return None
        call = json.dumps([target, paths, numbers], sort_keys=True)
        if call not in self.layers:
            state = {name: self.tensors[path] if path else None for name, path in paths.items()}
            axes = len(self.shapes[inputs["input"]["as_tensor"]["name"]]["sizes"])
            layer = layer_of(target, state, numbers, axes)
            if layer is None:
                return None
            self.layers[call] = self._put(layer, paths)
        return self.layers[call]

    def _put(self, layer: nn.Module, paths: dict[str, str]) -> str:
        name, tensor = next((name, path) for name, path in paths.items() if path)
        home, _, leaf = tensor.rpartition(".")
        counter = self.tensors.get(f"{home}.num_batches_tracked")
        if counter is not None and hasattr(layer, "num_batches_tracked"):
            layer.num_batches_tracked = counter
        path = self._free(home if home and leaf == name else f"{tensor}_{type(layer).__name__.lower()}")
        owner, _, leaf = path.rpartition(".")
        self._container(owner).add_module(leaf, layer)
        return path

    def _free(self, path: str) -> str:
        """``path``, or with a number behind it when something is there already."""
        taken, number, free = dict(self.root.named_modules()), 1, path
        while free in taken:
            number += 1
            free = f"{path}_{number}"
        return free

    def _container(self, path: str) -> nn.Module:
        module = self.root
        for name in filter(None, path.split(".")):
            if name not in module._modules:
                module.add_module(name, nn.Module())
            module = module.get_submodule(name)
        return module

    def _outputs(self) -> Any:
        leaves = []
        for entry in self.signature["output_specs"]:
            ((kind, spec),) = entry.items()
            if kind != "user_output":
                expected = f"outputs only, as from {EVALUATION}"
                raise ModelError(self.where, given=f"an output of kind {kind}", expected=expected, remedy=REMEDY)
            leaves.append(self._value(spec["arg"]))
        return nested(json.loads(self.call["out_spec"])[1], leaves)


def _keeps_training(inputs: dict[str, Any]) -> bool:
    """Whether training mode means anything here: a batch norm without statistics computes the same in both."""
    return "running_mean" not in inputs or "as_none" not in inputs["running_mean"]


def _is_positional(entry: dict[str, Any], target: str) -> bool:
    return entry["kind"] == POSITIONAL or target in SIZE_MATHS


def _name(output: dict[str, Any]) -> str:
    """The name under which later nodes know an output."""
    while "name" not in output and "as_name" not in output:
        ((_, output),) = output.items()
    found = output.get("name", output.get("as_name"))
    return str(found)


def _parts(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
