"""Tensors without data, and what calls make of them. In: shapes, a call of ATen. Out: the shapes of its results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from separable.errors import ModelError
from separable.spec import ConvSpec

WHERE = "separable.compile"


class Blank(Tensor):
    """A tensor of the CPU without data: ``shape`` computes the shapes, on PyTorch's meta device.

    PyTorch has such a class, whose import costs two seconds.
    """

    meta: Tensor

    @staticmethod
    def __new__(cls, meta: Tensor) -> Blank:
        """Of the same shape, strides and dtype."""
        blank: Blank = Tensor._make_wrapper_subclass(
            cls, meta.size(), strides=meta.stride(), storage_offset=meta.storage_offset(), dtype=meta.dtype
        )
        blank.meta = meta
        return blank

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, *_: Any) -> Any:
        """Nothing computes on it after the recording."""
        raise ModelError(WHERE, given=f"{func} on a tensor without data", expected="a forward without effects")


def shape_of_call(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The results of a call on PyTorch's meta device.

    The commonest calls are done here: PyTorch would import two seconds' worth of modules for them.
    """
    quick = QUICK.get(func)
    return func(*args, **kwargs) if quick is None or kwargs else quick(*args)


def _convolution(x: Tensor, weight: Tensor, bias: Tensor | None, *how: Any) -> Tensor:
    stride, padding, dilation, is_transposed, _, groups = how
    if is_transposed or x.ndim != weight.ndim or x.dtype != weight.dtype:
        call = torch.ops.aten.convolution.default
        return call(x, weight, bias, *how)  # type: ignore[no-any-return]
    dims = weight.ndim - 2
    stride, padding, dilation = (list(e) * dims if len(e) == 1 else list(e) for e in (stride, padding, dilation))
    c_in = weight.shape[1] * groups
    if c_in != x.shape[1]:
        raise ValueError(f"a convolution of {c_in} channels was given {x.shape[1]}")
    spec = ConvSpec(c_in, weight.shape[0], weight.shape[2:], x.shape[2:], stride, padding, dilation, groups)
    return torch.empty((x.shape[0], spec.c_out, *spec.size_out), device="meta", dtype=x.dtype, **_format(x, weight))


def _format(*tensors: Tensor) -> dict[str, Any]:
    """Channels last where one of them is, as PyTorch does."""
    last = torch.channels_last
    is_last = any(x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=last) for x in tensors)
    return {"memory_format": last} if is_last else {}


def _batch_norm(x: Tensor, *how: Any) -> tuple[Tensor, Tensor, Tensor]:
    if how[4]:
        call = torch.ops.aten.native_batch_norm.default
        return call(x, *how)  # type: ignore[no-any-return]
    nothing = torch.empty(0, device="meta", dtype=x.dtype)
    return _like(x), nothing, torch.empty_strided((0,), (1,), device="meta", dtype=x.dtype)


def _like(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_strided(x.size(), x.stride(), device="meta", dtype=x.dtype)


def _itself(x: Tensor, *_: Any) -> Tensor:
    return x


UNARY = ("relu", "hardtanh", "hardswish", "hardsigmoid", "silu", "sigmoid", "tanh", "leaky_relu")
QUICK: Mapping[Any, Callable[..., Any]] = {
    torch.ops.aten.convolution.default: _convolution,
    torch.ops.aten.native_batch_norm.default: _batch_norm,
    **{getattr(torch.ops.aten, name).default: _like for name in UNARY},
    **{getattr(torch.ops.aten, f"{name}_").default: _itself for name in UNARY},
}
