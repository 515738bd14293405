"""A forward as steps. In: networks, and calls of PyTorch with the reason for each. Out: what an environment runs.

An environment holds values by name; a map is held as the tensor (n, c, h, w), however those that read it see it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from separable.engine.axes import Arranged
from separable.runtime.network import Network


@dataclass(frozen=True, kw_only=True)
class Name:
    """A value computed earlier, as a tensor of this shape, or seen in this way, which may have to be contiguous."""

    name: str
    shape: tuple[int, ...] | None = None
    seen: Arranged | None = None
    is_contiguous: bool = False

    def of(self, value: Any) -> Any:
        """The tensor that the value is read as."""
        if self.seen is not None:
            value = self.seen.seen(value)
        elif self.shape is not None:
            value = value.reshape(self.shape)
        return value.contiguous() if self.is_contiguous else value


@dataclass(frozen=True, kw_only=True, eq=False)
class Call:
    """One call of PyTorch, and why it is one; a ``Name`` in the arguments stands for a value."""

    name: str
    target: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    reason: str

    @property
    def needs(self) -> set[str]:
        """The values that it reads."""
        return names(self.args) | names(self.kwargs)

    def run(self, environment: Mapping[str, Any]) -> Any:
        """What PyTorch gives for values by name."""
        args, kwargs = self._read(environment)
        return self.target(*args, **kwargs)

    @cached_property
    def _read(self) -> Callable[[Mapping[str, Any]], Any]:
        return reader_of((self.args, dict(self.kwargs)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Lowered:
    """What a forward does: ``steps`` in order over an environment that begins with the inputs and the constants.

    ``inputs`` has None for one that is no tensor, and part of the program. ``views`` are inputs in another shape: which
    input, and the shape. ``shapes`` are those of PyTorch, batch first, for every value that enters or leaves a network.
    """

    inputs: tuple[str | None, ...]
    constants: Mapping[str, Any]
    steps: tuple[Network | Call, ...]
    outputs: Any
    shapes: Mapping[str, tuple[int, ...]]
    views: Mapping[str, tuple[str, tuple[int, ...]]]

    @cached_property
    def result(self) -> Callable[[Mapping[str, Any]], Any]:
        """What makes the outputs from the values at the end."""
        return reader_of(self.outputs)

    @property
    def calls(self) -> tuple[Call, ...]:
        """What fell back to PyTorch."""
        return tuple(step for step in self.steps if isinstance(step, Call))


def names(tree: Any) -> set[str]:
    """The values that a tree of arguments refers to."""
    return {leaf.name for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Name)}


def reader_of(tree: Any) -> Callable[[Mapping[str, Any]], Any]:
    """What makes a tree with every ``Name`` replaced by its value; walking the tree at each call would cost more."""
    if isinstance(tree, Name):
        return lambda environment: tree.of(environment[tree.name])
    if type(tree) in (list, tuple):
        parts, kind = [reader_of(part) for part in tree], type(tree)
        return lambda environment: kind([part(environment) for part in parts])
    if type(tree) is dict:
        entries = {key: reader_of(value) for key, value in tree.items()}
        return lambda environment: {key: part(environment) for key, part in entries.items()}
    if pytree.tree_is_leaf(tree):
        return lambda _: tree
    leaves, form = pytree.tree_flatten(tree)
    readers = [reader_of(leaf) for leaf in leaves]
    return lambda environment: pytree.tree_unflatten([read(environment) for read in readers], form)


@dataclass(frozen=True)
class OnCopy:
    """A call that writes to its first argument, done on a copy of it."""

    target: Any

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return self.target(x.clone(), *args, **kwargs)


@dataclass(frozen=True)
class ItemOf:
    """One of the results of a call."""

    target: Any
    index: Any

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.target(*args, **kwargs)[self.index]


@dataclass(frozen=True)
class Restored:
    """A call whose result, seen with other axes, is kept as the map that it is."""

    target: Any
    seen: Arranged

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.seen.restored(self.target(*args, **kwargs))
