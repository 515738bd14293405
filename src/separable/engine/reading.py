"""What an operator is read from, and into. In: a call's arguments by name. Out: what it becomes, or why it does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from separable.kernels.epilogue import NONE, Activation
from separable.runtime.network import Floats, Node, Operator, Shape


class UnsupportedError(Exception):
    """There is no native operator for a call; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Map:
    """A value that a native operator can read: (c, h, w) for each image, or that flattened to a vector."""

    name: str
    shape: Shape
    rank: int  # axes of PyTorch's tensor
    is_flattened: bool = False


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A value with a depth: a map for each slice."""

    slices: tuple[Map, ...]


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """A value that no native operator can read, and why."""

    reason: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """A call: arguments by the schema's names (maps, constants, numbers), the shape of the result.

    ``is_channels_last``: for the call its maps had their channels behind all else; ``shape`` has them in front again.
    """

    arguments: Mapping[str, Any]
    shape: tuple[int, ...]
    is_channels_last: bool = False

    def map(self, name: str) -> Map:
        """The argument as a map that is not flattened."""
        value = self.arguments[name]
        if isinstance(value, Volume):
            raise UnsupportedError("it reads a volume")
        if not isinstance(value, Map):
            raise UnsupportedError(
                value.reason if isinstance(value, Foreign) else f"{name} is not computed by the network"
            )
        if value.is_flattened:
            raise UnsupportedError("it reads a flattened map")
        return value

    def array(self, name: str) -> Floats | None:
        """The argument as a constant array; None where the call has none."""
        value = self.arguments.get(name)
        if value is None:
            return None
        if not isinstance(value, Tensor):
            raise UnsupportedError(f"{name} is computed by the network")
        return np.ascontiguousarray(value.detach().cpu().to(torch.float32).numpy())


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a call becomes."""

    inputs: tuple[str, ...]
    operator: Operator
    shape: Shape
    activation: Activation = NONE

    def node(self, name: str) -> Node:
        """It as a node of a network."""
        return Node(name=name, inputs=self.inputs, operator=self.operator, shape=self.shape, activation=self.activation)


def map_shape(shape: Sequence[int]) -> Shape:
    """(c, h, w) of a tensor (n, c), (n, c, l) or (n, c, h, w)."""
    if len(shape) not in (2, 3, 4):
        raise UnsupportedError(f"it has {len(shape)} axes")
    c, *size = shape[1:]
    return (c, *([1] * (2 - len(size)) + list(size)))  # type: ignore[return-value]
