"""What happens inside a forward. In: modules of a model. Out: what they were fed or answered while it ran."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from separable.errors import ModelError
from separable.nn.factorized import FactorizedConv

Heard = dict[str, list[Tensor]]


def rewritten_layers(model: nn.Module) -> dict[str, FactorizedConv]:
    """The layers that stand in for a convolution, each once, by the first of its names."""
    return {name: module for name, module in model.named_modules() if isinstance(module, FactorizedConv)}


def counterparts(original: nn.Module, names: Iterable[str]) -> dict[str, nn.Module]:
    """The modules of the original at these names; ``ModelError`` where there is none."""
    modules = dict(original.named_modules(remove_duplicate=False))
    missing = [name for name in names if name not in modules]
    if missing:
        expected = f"an original with a module {missing[0]!r}, as the rewritten model has"
        raise ModelError("original", given=f"a {type(original).__name__} without it", expected=expected)
    return {name: modules[name] for name in names}


@contextmanager
def heard(modules: Mapping[str, nn.Module], *, inputs: bool = False, calls: int = 0) -> Iterator[Heard]:
    """Inside the block, a list for each module of what it answers, or of its inputs, call by call.

    The keys come in the order of the first calls. After that many ``calls`` of one module its forward is left, and the
    block with it, without an error.
    """
    seen: Heard = {}

    def note(name: str, tensor: Tensor) -> None:
        # A copy: what comes next may well be an activation in place.
        seen.setdefault(name, []).append(tensor.clone())
        if len(seen[name]) == calls:
            raise _HeardEnough

    handles: list[RemovableHandle] = []
    for name, module in modules.items():
        if inputs:
            hook = partial(_note_input, partial(note, name))
            handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        else:
            handles.append(module.register_forward_hook(partial(_note_answer, partial(note, name))))
    try:
        yield seen
    except _HeardEnough:
        pass
    finally:
        for handle in handles:
            handle.remove()


def _note_input(note: Callable[[Tensor], None], _: nn.Module, args: Any, kwargs: Any) -> None:
    note(next(iter([*args, *kwargs.values()])))


def _note_answer(note: Callable[[Tensor], None], _: nn.Module, __: Any, answer: Tensor) -> None:
    note(answer)


class _HeardEnough(BaseException):
    """Leaves a forward. Not an Exception, so that no model catches it."""
