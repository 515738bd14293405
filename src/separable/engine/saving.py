"""A forward without PyTorch. In: a forward and its inputs' shapes. Out: what a file holds, or why it cannot be one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from separable.engine.forward import Forward
from separable.engine.lowered import Lowered, Name, names
from separable.errors import ModelError
from separable.runtime.saved import Output, Saved

WHERE = "Program.save"


class Given(NamedTuple):
    """An input of a forward; a tuple, because one is made and looked up at every call."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    is_channels_last: bool


def saved(forward: Forward, given: Sequence[Given]) -> Saved:
    """Raises ``ModelError`` where a part is left to PyTorch, or what comes in or goes out is more than arrays."""
    lowered = forward.lowered
    if lowered.calls:
        told = "".join(f"\n  {call.name}: {call.reason}" for call in lowered.calls)
        raise ModelError(
            WHERE,
            given=f"calls that stay in PyTorch:{told}\n",
            expected="a model that runs natively as a whole",
            remedy="Save the native part as a model of its own.",
        )
    others = [str(each.dtype) for each in given if each.dtype != torch.float32]
    if others:
        raise ModelError(WHERE, given=f"an input of {others[0]}", expected="inputs of float32")
    inputs = tuple((str(name), each.shape) for name, each in zip(lowered.inputs, given, strict=True))
    held = {name: value for name, value in lowered.constants.items() if name in names(lowered.outputs)}
    networks = [native.network for native in forward.natives.values()]
    needed = {name for network in networks for name in (*network.inputs, *network.outputs)}
    return Saved(
        inputs=inputs,
        constants={name: value.detach().numpy() for name, value in held.items()},
        networks=tuple(networks),
        shapes={name: shape for name, shape in lowered.shapes.items() if name in needed | names(lowered.outputs)},
        views=lowered.views,
        last=tuple(sorted(name for native in forward.natives.values() for name, is_last in native.given if is_last)),
        outputs=_outputs(lowered.outputs, lowered),
    )


def _outputs(tree: Any, lowered: Lowered) -> Any:
    if isinstance(tree, Name):
        return _output(tree, lowered)
    if type(tree) is dict:
        return {key: _outputs(item, lowered) for key, item in tree.items()}
    if type(tree) in (list, tuple):
        return type(tree)(_outputs(item, lowered) for item in tree)
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    raise ModelError(WHERE, given=f"a {type(tree).__name__} as output", expected="tensors, or lists and dicts of them")


def _output(seen: Name, lowered: Lowered) -> Output:
    if seen.seen is not None:
        parts, order, shape = seen.seen.view
        return Output(name=seen.name, parts=parts, order=order, shape=shape)
    constant = lowered.constants.get(seen.name)
    held = lowered.shapes[seen.name] if constant is None else tuple(constant.shape)
    shape = held if seen.shape is None else seen.shape
    return Output(name=seen.name, parts=shape, order=tuple(range(len(shape))), shape=shape)
