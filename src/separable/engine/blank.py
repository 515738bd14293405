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
    *numbers, is_transposed, more, groups = how
    dims = weight.ndim - 2
    stride, padding, dilation, more = (list(e) * dims if len(e) == 1 else list(e) for e in (*numbers, more))
    sizes = [
        (n - 1) * s - 2 * p + d * (k - 1) + m + 1 if m < max(s, d) else 0
        for n, k, s, p, d, m in zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, more, strict=False)
    ]
    is_odd = is_transposed and (x.shape[1] != weight.shape[0] or min(sizes) < 1)
    if x.ndim != weight.ndim or x.dtype != weight.dtype or is_odd:
        call = torch.ops.aten.convolution.default
        return call(x, weight, bias, *how)  # type: ignore[no-any-return]
    if is_transposed:
        shape = (x.shape[0], weight.shape[1] * groups, *sizes)
        return torch.empty(shape, device="meta", dtype=x.dtype, **_format(x, weight))
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


def _combined(func: Any) -> Callable[..., Any]:
    """The shape of arithmetic on two tensors of one dtype and one order of memory, where one has the result's shape."""

    def shape(x: Any, y: Any, *how: Any) -> Any:
        if isinstance(x, Tensor) and isinstance(y, Tensor) and x.dtype == y.dtype and x.ndim == y.ndim:
            large, small = (x, y) if x.numel() >= y.numel() else (y, x)
            fits = all(n in (1, m) for m, n in zip(large.shape, small.shape, strict=True))
            is_plain = large.is_contiguous() and small.is_contiguous()
            if fits and (is_plain or (large.shape == small.shape and large.stride() == small.stride())):
                return _like(large)
        return func(x, y, *how)

    return shape


def _mean(x: Tensor, dims: Sequence[int] | None, keeps: bool = False) -> Tensor:
    if not dims or not x.is_contiguous():
        return torch.ops.aten.mean.dim(x, dims, keeps)  # type: ignore[no-any-return]
    gone = {d % x.ndim for d in dims}
    sizes = [1 if d in gone else n for d, n in enumerate(x.shape) if keeps or d not in gone]
    return torch.empty(sizes, device="meta", dtype=x.dtype)


def _cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    first, joined = tensors[0], dim % max(tensors[0].ndim, 1)
    kinds = {(x.dtype, x.is_contiguous(), *x.shape[:joined], -1, *x.shape[joined + 1 :]) for x in tensors}
    if len(kinds) > 1 or not first.is_contiguous():
        return torch.ops.aten.cat.default(tensors, dim)  # type: ignore[no-any-return]
    sizes = [sum(x.shape[d] for x in tensors) if d == joined else n for d, n in enumerate(first.shape)]
    return torch.empty(sizes, device="meta", dtype=first.dtype)


def _max_pool(func: Any) -> Callable[..., Any]:
    """The shape of a pool over as many axes as its kernel has entries."""

    def shape(x: Tensor, kernel: Sequence[int], *how: Any) -> tuple[Tensor, Tensor]:
        dims = len(kernel)
        usual: list[Any] = [(), (0,) * dims, (1,) * dims, False]
        stride, padding, dilation, is_ceiled = [*how, *usual[len(how) :]]
        if x.ndim != dims + 2 or is_ceiled or any(len(e) != dims for e in (stride, padding, dilation)):
            return func(x, kernel, *how)  # type: ignore[no-any-return]
        channels = x.shape[1]
        spec = ConvSpec(channels, channels, kernel, x.shape[2:], stride, padding, dilation, channels)
        sizes, form = (*x.shape[:2], *spec.size_out), _format(x)
        values = torch.empty(sizes, device="meta", dtype=x.dtype, **form)
        return values, torch.empty(sizes, device="meta", dtype=torch.int64, **form)

    return shape


def _addmm(bias: Tensor, x: Tensor, y: Tensor) -> Tensor:
    if x.shape[1] != y.shape[0] or bias.shape not in (y.shape[1:], (x.shape[0], y.shape[1])):
        return torch.ops.aten.addmm.default(bias, x, y)  # type: ignore[no-any-return]
    return torch.empty((x.shape[0], y.shape[1]), device="meta", dtype=x.dtype)


def _itself(x: Tensor, *_: Any) -> Tensor:
    return x


UNARY = ("relu", "hardtanh", "hardswish", "hardsigmoid", "silu", "sigmoid", "tanh", "leaky_relu")
BINARY = ("add", "sub", "mul", "div")
QUICK: Mapping[Any, Callable[..., Any]] = {
    torch.ops.aten.convolution.default: _convolution,
    torch.ops.aten.native_batch_norm.default: _batch_norm,
    torch.ops.aten.mean.dim: _mean,
    torch.ops.aten.cat.default: _cat,
    torch.ops.aten.addmm.default: _addmm,
    **{
        call: _max_pool(call)
        for call in (torch.ops.aten.max_pool2d_with_indices.default, torch.ops.aten.max_pool3d_with_indices.default)
    },
    **{getattr(torch.ops.aten, name).Tensor: _combined(getattr(torch.ops.aten, name).Tensor) for name in BINARY},
    **{getattr(torch.ops.aten, name).default: _like for name in UNARY},
    **{getattr(torch.ops.aten, f"{name}_").default: _itself for name in UNARY},
}
