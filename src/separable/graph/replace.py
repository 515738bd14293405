"""Modules exchanged. In: a model, and new modules by name. Out: a new model; the old one is as it was."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping

from torch import nn

from separable.errors import ModelError


def replace(model: nn.Module, modules: Mapping[str, nn.Module]) -> nn.Module:
    """A copy of the model in which each named module is the given one, itself and not a copy.

    A module that the model holds under several names is replaced under each of them; tied parameters stay tied, hooks
    and modes are copied, except that hooks on a replaced module go with it. Each given module is put into the mode of
    the one that it replaces. ``ModelError`` for a name that the model does not have, for two different modules in the
    place of one, and for a model that cannot be copied.
    """
    named = dict(model.named_modules(remove_duplicate=False))
    places: dict[int, nn.Module] = {}
    for name, module in modules.items():
        old = _found(named, name)
        if places.setdefault(id(old), module) is not module:
            expected = "one module for all names of the one that it replaces"
            raise ModelError(name, given="two different modules", expected=expected)
    for name, module in modules.items():
        module.train(named[name].training)
    try:
        # What the memo of a deep copy already has is taken from there, wherever it is met.
        copied: nn.Module = copy.deepcopy(model, dict(places))
    except (RuntimeError, TypeError) as error:
        remedy = "Keep no computed tensors, open files or locks as attributes of the model."
        raise ModelError(type(model).__name__, given=str(error), expected="a copyable model", remedy=remedy) from error
    return copied


def _found(named: Mapping[str, nn.Module], name: str) -> nn.Module:
    if name not in named:
        near = difflib.get_close_matches(name, named, n=3)
        remedy = f"Nearest names: {', '.join(near)}." if near else ""
        raise ModelError("replace", given=f"no module {name!r}", expected="a module of the model", remedy=remedy)
    return named[name]
