"""Shapes of calls on tensors without data. In: calls of ATen. Out: the same shapes, strides and types as on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from separable.engine.blank import QUICK, shape_of_call

aten = torch.ops.aten
CALLS: tuple[tuple[Any, Sequence[tuple[int, ...]], tuple[Any, ...]], ...] = (
    (aten.add.Tensor, ((2, 6, 5, 7), (2, 6, 5, 7)), ()),
    (aten.mul.Tensor, ((2, 6, 5, 7), (2, 6, 1, 1)), ()),
    (aten.mul.Tensor, ((2, 6, 1, 1), (2, 6, 5, 7)), ()),
    (aten.sub.Tensor, ((2, 1, 5, 7), (1, 6, 5, 7)), ()),
    (aten.div.Tensor, ((3, 4), (4,)), ()),
    (aten.mean.dim, ((2, 6, 5, 7),), ([2, 3],)),
    (aten.mean.dim, ((2, 6, 5, 7),), ([-1, -2], True)),
    (aten.mean.dim, ((2, 6, 5, 7),), ([1],)),
    (aten.max_pool2d_with_indices.default, ((2, 6, 9, 8),), ([3, 3], [2, 2], [1, 1])),
    (aten.max_pool2d_with_indices.default, ((2, 6, 9, 8),), ([2, 2], [2, 2], [0, 0], [1, 1], True)),
    (aten.max_pool3d_with_indices.default, ((2, 6, 9, 8, 7),), ([3, 3, 3], [2, 2, 2], [1, 1, 1])),
    (aten.addmm.default, ((5,), (2, 3), (3, 5)), ()),
    (aten.addmm.default, ((1, 5), (2, 3), (3, 5)), ()),
    (
        aten.convolution.default,
        ((2, 6, 5, 7), (6, 4, 3, 2)),
        (None, [2, 3], [1, 0], [1, 2], True, [1, 0], 2),
    ),
    (aten.convolution.default, ((2, 6, 7), (6, 4, 5)), (None, [3], [1], [1], True, [2], 1)),
    (aten.relu.default, ((2, 6, 5, 7),), ()),
)


def _check(call: Any, tensors: list[Tensor], how: tuple[Any, ...]) -> None:
    expected = call(*tensors, *how)
    found = shape_of_call(call, [x.to("meta") for x in tensors] + list(how), {})
    for x, y in zip(pytree.tree_leaves(expected), pytree.tree_leaves(found), strict=True):
        assert (y.shape, y.stride(), y.dtype) == (x.shape, x.stride(), x.dtype)
        assert y.device.type == "meta"


@pytest.mark.parametrize(("call", "shapes", "how"), CALLS, ids=str)
@pytest.mark.parametrize("is_last", [False, True], ids=["contiguous", "channels_last"])
def test_a_quick_shape_is_that_of_the_cpu(call: Any, shapes: Any, how: tuple[Any, ...], is_last: bool) -> None:
    assert call in QUICK
    tensors = [torch.rand(shape) for shape in shapes]
    if is_last:
        tensors = [x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x for x in tensors]
    _check(call, tensors, how)


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_the_shape_of_joined_tensors_is_that_of_the_cpu(dim: int) -> None:
    shapes = [[2, 3, 4], [2, 3, 4]]
    shapes[1][dim] = 5
    tensors = [torch.rand(shape) for shape in shapes]
    expected = torch.cat(tensors, dim)
    found = shape_of_call(aten.cat.default, ([x.to("meta") for x in tensors], dim), {})
    assert (found.shape, found.stride()) == (expected.shape, expected.stride())


def test_tensors_that_do_not_fit_raise_what_pytorch_raises() -> None:
    three, five = torch.empty(2, 3, device="meta"), torch.empty(2, 5, device="meta")
    with pytest.raises(RuntimeError, match="broadcast"):
        shape_of_call(aten.add.Tensor, (three, five), {})
    with pytest.raises(RuntimeError, match=r"[Ss]izes"):
        shape_of_call(aten.cat.default, ([three, five],), {})
    with pytest.raises(RuntimeError, match="reduction dim"):
        shape_of_call(aten.addmm.default, (five, three, three), {})
