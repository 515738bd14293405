"""A map seen with other axes. In: views and permutations of a tensor. Out: what its axes are made of, or a new order.

Channel shuffles split the axis of channels, exchange the parts and join them again; pixel shuffles join some to rows
and columns; layers that work on channels last turn a map over and back. None moves data here: a tensor is remembered
as its map and the axes that it is made of.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from separable.engine.reading import Map
from separable.runtime.network import Reorder

KINDS = {2: "nc", 3: "ncw", 4: "nchw", 5: "ncdhw"}  # a map is a volume of one slice too


@dataclass(frozen=True)
class Axis:
    """A part of one axis of a map: ``size`` steps of ``stride`` along images, channels, rows or columns (``kind``)."""

    kind: str
    size: int
    stride: int = 1


Group = tuple[Axis, ...]  # one axis of a tensor: the last part runs fastest; none for a size of 1


@dataclass(frozen=True, kw_only=True)
class Arranged:
    """A map, and the axes of the tensor that it is seen as."""

    map: Map
    groups: tuple[Group, ...]

    @property
    def is_channels_last(self) -> bool:
        """Whether the tensor has the channels behind everything else, which is in order."""
        if not self.groups:
            return False
        *before, last = self.groups
        plain = of_map(self.map, prod(a.size for g in before for a in g if a.kind == "n")).groups
        return last == plain[1] != () and _joined(a for g in before for a in g) == _joined(
            a for i, g in enumerate(plain) for a in g if i != 1
        )

    @property
    def has_images_in_channels(self) -> bool:
        """Whether all images' channels are seen as those of one image, as an instance norm sees them."""
        plain = of_map(self.map, prod(a.size for g in self.groups for a in g if a.kind == "n")).groups
        return self.groups == ((), plain[0] + plain[1], *plain[2:])

    def with_channels(self, map: Map) -> Arranged:
        """Another map, of the same pixels, in the same way, where the channels are last."""
        return Arranged(map=map, groups=(*self.groups[:-1], of_map(map, 1).groups[1]))

    def restored(self, x: Tensor) -> Tensor:
        """The map's own tensor from one that is seen in this way."""
        flat, order = self._parts()
        c, h, w = self.map.shape
        return x.reshape([a.size for a in flat]).permute(order).reshape(-1, c, h, w)

    def seen(self, x: Tensor) -> Tensor:
        """The map's own tensor, seen in this way."""
        parts, order, shape = self.view
        return x.reshape(parts).permute(order).reshape(shape)

    @property
    def view(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """How it is seen: the parts that the map's own tensor is cut into, their new order, the shape they join to."""
        flat, order = self._parts()
        back = sorted(range(len(order)), key=order.__getitem__)
        return tuple(flat[i].size for i in order), tuple(back), tuple(prod(a.size for a in g) for g in self.groups)

    def _parts(self) -> tuple[list[Axis], list[int]]:
        """All parts of axes in the tensor's order, and where each of them stands, in the map's order."""
        flat = [a for group in self.groups for a in group]
        return flat, sorted(range(len(flat)), key=lambda i: ("nchw".index(flat[i].kind), -flat[i].stride))


def of_map(map: Map, batch: int) -> Arranged:
    """A map as it is."""
    c, h, w = map.shape
    sizes = {"n": batch, "c": c, "d": 1, "h": h, "w": w}
    groups = tuple((Axis(kind, sizes[kind]),) if sizes[kind] > 1 else () for kind in KINDS[map.rank])
    return Arranged(map=map, groups=groups)


def viewed(x: Arranged, shape: Sequence[int]) -> Arranged | None:
    """``x.reshape(shape)``; None where an axis would have to be cut unevenly."""
    rest = list(_joined(a for group in x.groups for a in group))
    groups = []
    for size in shape:
        group = []
        while size > 1 and rest:
            axis = rest.pop(0)
            if axis.size > size and axis.size % size == 0:
                inner = axis.size // size
                rest.insert(0, Axis(axis.kind, inner, axis.stride))
                axis = Axis(axis.kind, size, axis.stride * inner)
            if size % axis.size:
                return None
            group.append(axis)
            size //= axis.size
        groups.append(_joined(group))
    return Arranged(map=x.map, groups=tuple(groups))


def permuted(x: Arranged, dims: Sequence[int]) -> Arranged:
    """``x.permute(dims)``."""
    return Arranged(map=x.map, groups=tuple(x.groups[d] for d in dims))


def shuffled(x: Arranged, shape: Sequence[int]) -> Arranged | None:
    """A map after a pixel shuffle to this shape."""
    (n, c, h, w), (_, rows, columns) = shape, x.map.shape
    parts = viewed(x, (n, c, h // rows, w // columns, rows, columns))
    return parts and viewed(permuted(parts, (0, 1, 4, 2, 5, 3)), shape)


def unshuffled(x: Arranged, shape: Sequence[int]) -> Arranged | None:
    """A map after a pixel unshuffle to this shape."""
    (n, _, rows, columns), (c, h, w) = shape, x.map.shape
    parts = viewed(x, (n, c, rows, h // rows, columns, w // columns))
    return parts and viewed(permuted(parts, (0, 1, 3, 5, 2, 4)), shape)


def reorder_of(x: Arranged, batch: int) -> Reorder | None:
    """What makes a map of the tensor's shape: channels move, or to pixels, or pixels to channels; else None.

    A tensor with its channels last, and one that has more axes than the map, are left as they are seen.
    """
    if not 2 <= len(x.groups) <= 4:
        return None
    images, channels, *given = x.groups
    space: list[Group] = [()] * (2 - len(given)) + given  # a signal has one row
    if images != ((Axis("n", batch),) if batch > 1 else ()) or any(a.kind == "n" for a in channels):
        return None
    begins, parts = [], []
    for kind, group, size in zip("hw", space, x.map.shape[1:], strict=True):
        own = group[:1] if group and group[0].kind == kind else ()
        stride = own[0].stride if own else size
        if own not in ((), (Axis(kind, size // stride, stride),)) or any(a.kind != "c" for a in group[len(own) :]):
            return None
        begins.append(_positions(group[len(own) :], "c"))
        parts.append(stride)
    step = [len(begin) for begin in begins]
    is_shuffle = len(x.groups) == x.map.rank if x.map.shape[1:] != (1, 1) else min(step) > 1
    if step + parts != [1] * 4 and not (is_shuffle and min(max(step), max(parts)) == 1):
        return None
    c, down, right = (_positions(channels, kind) for kind in "chw")
    firsts = (begins[0][:, None] + begins[1]).reshape(-1, 1)
    order = ((firsts + c) * parts[0] + down) * parts[1] + right
    return Reorder(order=order.ravel(), parts=(parts[0], parts[1]), step=(step[0], step[1]))


def _positions(axes: Iterable[Axis], kind: str) -> NDArray[np.int64]:
    """Where along one of the map's axes each step along all of these is."""
    found = np.zeros(1, np.int64)
    for axis in axes:
        found = (found[:, None] + (axis.stride if axis.kind == kind else 0) * np.arange(axis.size)).ravel()
    return found


def _joined(axes: Iterable[Axis]) -> Group:
    """Neighbours that were one axis are one again."""
    found: list[Axis] = []
    for axis in axes:
        if found and found[-1].kind == axis.kind and found[-1].stride == axis.size * axis.stride:
            axis = Axis(axis.kind, found.pop().size * axis.size, axis.stride)
        found.append(axis)
    return tuple(found)
