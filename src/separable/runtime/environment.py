"""Values of a forward by name. In: a model's inputs. Out: what networks read and wrote, in the model's shapes.

Tensors of PyTorch and arrays of NumPy alike: only how slices are stacked differs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Views = Mapping[str, tuple[str, tuple[int, ...]]]


def slice_name(volume: str, depth: int) -> str:
    """What one slice of a volume is called."""
    return f"{volume}@{depth}"


def volume_of(name: str) -> str:
    """The volume that a slice belongs to; any other name as it is."""
    return name.partition("@")[0]


class Environment(dict[str, Any]):
    """An input is seen in another shape, a slice taken from its volume, a volume put together from written slices.

    ``views``: which input, and the shape. ``stack`` takes a list and the new axis.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        shapes: Mapping[str, tuple[int, ...]],
        views: Views,
        stack: Callable[[list[Any], int], Any],
    ) -> None:
        super().__init__(values)
        self._shapes, self._views, self._stack = shapes, views, stack

    def __missing__(self, name: str) -> Any:
        if name in self._views:
            given, shape = self._views[name]
            return self[given].reshape(shape)
        volume = volume_of(name)
        if volume != name:
            return self[volume][:, :, int(name.removeprefix(volume)[1:])]
        slices = [dict.__getitem__(self, slice_name(name, d)) for d in range(self._shapes[name][2])]
        self[name] = self._stack(slices, 2)
        return self[name]
