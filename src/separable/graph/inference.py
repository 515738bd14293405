"""Running a model without leaving a trace. In: a model and an example. Out: its output; the model as it was before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from separable.errors import ModelError


@runtime_checkable
class Batch(Protocol):
    """Inputs that know how a model takes them."""

    def to(self, device: torch.device) -> Batch:
        """The same inputs on another device."""

    def through(self, model: nn.Module) -> Any:
        """What the model answers."""


Example = Tensor | tuple[Any, ...] | Mapping[str, Any] | Batch


def run(model: nn.Module, example: Example) -> Any:
    """What the model answers, on its device, to a tensor, a tuple or dict of arguments, or a batch."""
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    if isinstance(example, Tensor):
        return forward(model, example.to(device))
    if isinstance(example, Batch):
        return example.to(device).through(model)
    moved = tree_map_only(Tensor, lambda tensor: tensor.to(device), example)
    return forward(model, **moved) if isinstance(moved, Mapping) else forward(model, *moved)


def forward(model: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
    """What the model answers; ``ModelError`` where it changes its input, which others are still to read."""
    given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and not x.is_inference()]
    versions = [tensor._version for tensor in given]
    result = model(*args, **kwargs)
    if any(tensor._version != version for tensor, version in zip(given, versions, strict=True)):
        remedy = "Let its forward clone the input first."
        raise ModelError(
            type(model).__name__, given="a forward that changes its input", expected="one that does not", remedy=remedy
        )
    return result


def outputs(result: Any) -> tuple[Tensor, ...]:
    """The floating-point tensors in what a model answered, in order."""
    return tuple(leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and leaf.is_floating_point())


def examples(inputs: Example | Iterable[Example]) -> Iterable[Example]:
    """One example as a series of one; a series as it is."""
    return [inputs] if isinstance(inputs, Tensor | tuple | Mapping | Batch) else inputs


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients inside; every module is back in its own mode afterwards."""
    modes = {module: module.training for model in models for module in model.modules()}
    try:
        for model in models:
            model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
