"""The words of an exported graph. In: an operator's name, an argument. Out: the function, the value that is meant."""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Callable
from typing import Any

import torch

from separable.errors import ModelError
from separable.graph.archive import DTYPES

# torch/_export/serde/schema.py, MemoryFormat and Layout.
MEMORY_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}
LAYOUTS = {7: torch.strided}
# Arithmetic on sizes that depend on the input.
SIZE_MATHS: dict[str, Callable[..., Any]] = {
    **{f"_operator.{name}": getattr(operator, name) for name in ("add", "sub", "mul", "floordiv", "truediv", "mod")},
    **{f"_operator.{name}": getattr(operator, name) for name in ("neg", "pow", "eq", "ne", "lt", "le", "gt", "ge")},
    **{f"math.{name}": getattr(math, name) for name in ("trunc", "ceil", "floor")},
    **{f"torch.{name}": getattr(torch, name) for name in ("sym_int", "sym_float", "sym_max", "sym_min", "sym_not")},
}
PLAIN = ["int", "ints", "int_lists", "float", "floats", "float_lists", "string", "strings", "bool", "bools"]


def function_of(target: str) -> Callable[..., Any]:
    """The ``aten`` operator, or the arithmetic on sizes, that a node calls; ``ModelError`` for anything else."""
    if target in SIZE_MATHS:
        return SIZE_MATHS[target]
    match = re.fullmatch(r"torch\.ops\.aten\.([a-z]\w*|_[a-z]\w*)\.(\w+)", target, re.ASCII)
    packet = getattr(torch.ops.aten, match[1], None) if match else None
    found = getattr(packet, match[2], None) if match and isinstance(packet, torch._ops.OpOverloadPacket) else None
    # aten.save and aten.from_file reach for files.
    if not isinstance(found, torch._ops.OpOverload) or any(a.name == "filename" for a in found._schema.arguments):
        raise ModelError(target, given="an operator that is not known here", expected="operators of torch.ops.aten")
    return found


def value_of(argument: dict[str, Any], lookup: Callable[[str], Any]) -> Any:
    """The value of an argument; ``lookup`` gives that of a name. Devices become the CPU, where the weights are."""
    ((kind, value),) = argument.items()
    match kind.removeprefix("as_"):
        case "none":
            return None
        case "name":
            return lookup(value)
        case "tensor":
            return lookup(value["name"])
        case "tensors":
            return [lookup(entry["name"]) for entry in value]
        case "nested_tensors":
            return [[lookup(entry["name"]) for entry in entries] for entries in value]
        case "optional_tensor" | "sym_int" | "sym_float" | "sym_bool":
            return value_of(value, lookup)
        case "optional_tensors" | "sym_ints" | "sym_floats" | "sym_bools":
            return [value_of(entry, lookup) for entry in value]
        case "scalar_type":
            return DTYPES[value]
        case "memory_format":
            return MEMORY_FORMATS[value]
        case "layout":
            return LAYOUTS[value]
        case "device":
            return torch.device("cpu")
        case "complex":
            return complex(value["real"], value["imag"])
        case plain if plain in PLAIN:
            return value
    raise ModelError("exported graph", given=f"an argument of kind {kind}", expected="tensors, numbers and strings")


def nested(spec: dict[str, Any], leaves: list[Any]) -> Any:
    """``leaves``, used up from the front, in the tuples, lists and dicts that a tree specification describes."""
    if spec["type"] is None:
        return leaves.pop(0)
    children = [nested(child, leaves) for child in spec["children_spec"]]
    match spec["type"]:
        case "builtins.tuple":
            return tuple(children)
        case "builtins.list":
            return children
        case "builtins.dict" | "collections.OrderedDict":
            return dict(zip(json.loads(spec["context"]), children, strict=True))
    raise ModelError("exported graph", given=f"a value of type {spec['type']}", expected="tuples, lists and dicts")
