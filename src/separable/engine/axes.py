"""A map seen with other axes. In: views and permutations of a tensor. Out: what its axes are made of, or a new order.

Channel shuffles split the axis of channels, exchange the parts and join them again; layers that work on channels last
turn a map over and back. Neither moves data here: a tensor is remembered as its map and the axes that it is made of.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from separable.engine.reading import Map

KINDS = {2: "nc", 3: "ncw", 4: "nchw"}


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
    sizes = {"n": batch, "c": c, "h": h, "w": w}
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


def order_of_channels(x: Arranged, batch: int) -> NDArray[np.int64] | None:
    """The map's channels in the order of the tensor's, where nothing else is changed; None where more is."""
    rank = len(x.groups)
    if rank not in KINDS or (rank < 4 and x.map.shape[1] > 1) or (rank < 3 and x.map.shape[2] > 1):
        return None
    plain = of_map(Map(name=x.map.name, shape=x.map.shape, rank=rank), batch).groups
    channels = x.groups[1]
    if (x.groups[0], *x.groups[2:]) != (plain[0], *plain[2:]) or any(a.kind != "c" for a in channels):
        return None
    order = np.zeros(1, np.int64)
    for axis in channels:
        order = (order[:, None] + axis.stride * np.arange(axis.size)).ravel()
    return order


def _joined(axes: Iterable[Axis]) -> Group:
    """Neighbours that were one axis are one again."""
    found: list[Axis] = []
    for axis in axes:
        if found and found[-1].kind == axis.kind and found[-1].stride == axis.size * axis.stride:
            axis = Axis(axis.kind, found.pop().size * axis.size, axis.stride)
        found.append(axis)
    return tuple(found)
