"""A model as an exported program. In: a model, an example input, a path. Out: a .pt2 file, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.utils._pytree import tree_map

from separable.errors import ModelError
from separable.files import checked_writable, written_whole
from separable.graph.inference import Example, evaluating


def save_exported(model: nn.Module, example: Example, path: str | os.PathLike[str]) -> None:
    """Write the model in evaluation mode as ``torch.export`` has it; the batch size stays free.

    ``FileError`` where the file cannot be written, ``ModelError`` for a model that ``torch.export`` cannot follow.
    """
    checked_writable(path)
    with evaluating(model):
        try:
            program = _exported(model, example)
        except Exception as error:  # torch.export raises whatever the model's own code or its tracer raises
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ModelError(
                "save",
                given=f"a model that torch.export cannot follow ({reason})",
                expected="a forward without branches on data",
                remedy="Save model.state_dict() instead.",
            ) from error
    with written_whole(path) as temporary:
        torch.export.save(program, temporary)


def _exported(model: nn.Module, example: Example) -> torch.export.ExportedProgram:
    arguments, named = _call(example)
    # An axis of 1 would be taken for a constant, so that the program is traced on two samples, and told of the example
    # afterwards.
    two, two_named = tree_map(_doubled, (arguments, named))
    free = tree_map(lambda leaf: {0: Dim.AUTO} if isinstance(leaf, Tensor) and leaf.dim() else None, (two, two_named))
    shapes: Any = free[1] if two_named else free[0]
    program = torch.export.export(model, two, two_named or None, dynamic_shapes=shapes)
    program.example_inputs = (arguments, named)
    return program


def _call(example: Example) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example, Mapping):
        return (), dict(example)
    return (example if isinstance(example, tuple) else (example,)), {}


def _doubled(leaf: Any) -> Any:
    return torch.cat([leaf, leaf])[: max(2, len(leaf))] if isinstance(leaf, Tensor) and leaf.dim() else leaf
