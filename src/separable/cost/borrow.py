"""In: a model. Out: the same model with other tensors inside for a while, and everything put back afterwards."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any

from torch import Tensor, nn


@contextmanager
def borrowed(model: nn.Module, stand_in: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """While entered, each tensor of ``model`` is replaced by its one ``stand_in`` and the model is in evaluation mode.

    Afterwards, also after an error, every module has the attributes that it had before: parameters, buffers, flags,
    hooks, caches, and the entries of the lists and dicts that it holds.
    """
    stands: dict[int, Tensor] = {}

    def replaced(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if id(value) not in stands:
            stands[id(value)] = stand_in(value)
        return stands[id(value)]

    saved = [(held, copy(held)) for module in model.modules() for held in _holders(module)]
    try:
        for held, before in saved:
            if isinstance(before, dict):
                held.update({key: replaced(value) for key, value in before.items()})
            else:
                held[:] = map(replaced, before)
        for module in model.modules():
            module.training = False
        yield
    finally:
        for held, before in saved:
            held.clear()
            held.update(before) if isinstance(before, dict) else held.extend(before)


def _holders(module: nn.Module) -> list[Any]:
    attributes = vars(module)
    return [attributes, *(value for value in attributes.values() if type(value) in (dict, OrderedDict, list))]
