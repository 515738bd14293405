"""Depthwise convolution whose taps move with the image. In: channels, kernel. Out: the operation and two layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from separable.errors import SpecError
from separable.nn.conv_norm import centred_padding
from separable.nn.geometry import Geometry, check_geometry, check_input, check_positive
from separable.nn.pointwise import PointwiseConv2d
from separable.spec import ConvSpec, Ints


def deformable_depthwise_conv2d(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    mask: Tensor | None = None,
) -> Tensor:
    """Depthwise convolution of x (n, c, h, w) with each tap moved by its own offset, sampled bilinearly; zero outside.

    Dai et al. 2017; with ``mask``, a factor for each tap, Zhu et al. 2019. ``weight`` is (c · m, 1, k_h, k_w), m
    filters a channel. ``offset`` is (n, 2 · k_h · k_w, h_out, w_out): for each tap, row by row, how far down and how
    far right, in elements, as in torchvision; ``mask`` is (n, k_h · k_w, h_out, w_out). All channels move together. A
    tap anywhere outside reads zeros, and fades to them within one element of the border. Differentiable in everything;
    the gradient of a whole offset is the one towards larger offsets. Sampled in float32 at least. ``SpecError`` where
    shapes disagree.
    """
    where = "deformable_depthwise_conv2d"
    if x.dim() != 4 or weight.dim() != 4 or weight.shape[1] != 1 or weight.shape[0] % x.shape[1]:
        given = f"an input {tuple(x.shape)} and a weight {tuple(weight.shape)}"
        raise SpecError(where, given=given, expected="(n, c, h, w) and (c · m, 1, k_h, k_w)")
    geometry = check_geometry(where, 2, tuple(weight.shape[2:]), stride, padding, dilation, "zeros")
    amounts, taps = _amounts(where, geometry), geometry.kernel[0] * geometry.kernel[1]
    size = ConvSpec(1, 1, geometry.kernel, x.shape[2:], geometry.stride, amounts, geometry.dilation).size_out
    _check_shape("offset", offset, (x.shape[0], 2 * taps, *size))
    wide = torch.promote_types(torch.promote_types(x.dtype, offset.dtype), torch.float32)
    moved = offset.to(wide).reshape(-1, taps, 2, *size)
    row, column = (moved[:, :, axis] + _unmoved(axis, size, geometry, amounts, x.device) for axis in (0, 1))
    sampled = _bilinear(x.to(wide), row, column)
    if mask is not None:
        _check_shape("mask", mask, (x.shape[0], taps, *size))
        sampled = sampled * mask.to(wide).unsqueeze(1)
    # What is left is a depthwise convolution over (n, c, taps, positions) with kernels of taps × 1.
    y = F.conv2d(sampled.flatten(3).to(weight.dtype), weight.reshape(-1, 1, taps, 1), bias, groups=x.shape[1])
    return y.reshape(x.shape[0], -1, *size)


# A traced network keeps the operation as one node.
torch.fx.wrap("deformable_depthwise_conv2d")


def _amounts(where: str, geometry: Geometry) -> tuple[int, ...]:
    if isinstance(geometry.padding, str):
        return centred_padding(where, geometry.kernel, geometry.dilation)
    return geometry.padding


def _check_shape(name: str, tensor: Tensor, shape: Sequence[int]) -> None:
    if tuple(tensor.shape) != tuple(shape):
        given = f"{name} of shape {tuple(tensor.shape)}"
        raise SpecError("deformable_depthwise_conv2d", given=given, expected=f"{tuple(shape)}")


def _unmoved(
    axis: int, size: tuple[int, ...], geometry: Geometry, padding: tuple[int, ...], device: torch.device
) -> Tensor:
    """The row (axis 0) or column (1) that each tap reads without offset, (taps, h_out or 1, 1 or w_out)."""
    k_h, k_w = geometry.kernel
    tap = torch.arange(geometry.kernel[axis], device=device) * geometry.dilation[axis]
    taps = tap.repeat_interleave(k_w) if axis == 0 else tap.repeat(k_h)
    output = torch.arange(size[axis], device=device) * geometry.stride[axis] - padding[axis]
    return taps.reshape(-1, 1, 1) + output.reshape((-1, 1) if axis == 0 else (1, -1))


def _bilinear(x: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """x (n, c, h, w) at positions (n, taps, h_out, w_out), as (n, c, taps, h_out, w_out); zero outside, NaN at NaN."""
    n, c, h, w = x.shape
    # From one element beyond the border on everything is zero, so no position is too far for an integer.
    row, column = row.clamp(-1, h), column.clamp(-1, w)
    top, left = row.detach().floor(), column.detach().floor()
    down, right = row - top, column - left
    pixels, total = x.flatten(2), x.new_zeros(())
    for y, share_y in ((top, 1 - down), (top + 1, down)):
        for z, share_z in ((left, 1 - right), (left + 1, right)):
            is_inside = (y >= 0) & (y < h) & (z >= 0) & (z < w)
            index = torch.where(is_inside, y.long() * w + z.long(), 0).flatten(1)
            values = pixels.gather(2, index.unsqueeze(1).expand(n, c, -1)).reshape(n, c, *row.shape[1:])
            total = total + values * (share_y * share_z * is_inside).unsqueeze(1)
    return total


class DeformableDepthwiseConv2d(nn.Module):
    """Depthwise convolution over (n, c, h, w) with taps that a convolution of the input moves, or moves and weighs.

    ``offset`` is the convolution that finds the offsets, 2 · k² channels, starting at zero; ``modulation``, with
    ``modulated``, the one that finds the masks, k² channels through 2 · sigmoid, starting at one: so the layer starts
    as the plain one. Both have its kernel, stride, padding and dilation. 2 · k⁴ · c MACs a position for the offsets,
    half as many for the masks, and k² · c · ``multiplier`` for the filters.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: Ints = 3,
        stride: Ints = 1,
        padding: Ints | str = 0,
        dilation: Ints = 1,
        bias: bool = True,
        *,
        multiplier: int = 1,
        modulated: bool = False,
    ) -> None:
        super().__init__()
        where = type(self).__name__
        check_positive(where, channels=channels, multiplier=multiplier)
        geometry = check_geometry(where, 2, kernel_size, stride, padding, dilation, "zeros")
        self.channels = channels
        self.sliding: dict[str, Any] = {
            "stride": geometry.stride,
            "padding": _amounts(where, geometry),
            "dilation": geometry.dilation,
        }
        kernel: Any = geometry.kernel
        taps = geometry.kernel[0] * geometry.kernel[1]
        self.offset = _zeroed(nn.Conv2d(channels, 2 * taps, kernel, **self.sliding))
        self.modulation = _zeroed(nn.Conv2d(channels, taps, kernel, **self.sliding)) if modulated else None
        filters = nn.Conv2d(channels, channels * multiplier, kernel, groups=channels, bias=bias)
        self.weight, self.bias = filters.weight, filters.bias

    def forward(self, x: Tensor) -> Tensor:
        check_input(type(self).__name__, x, 2, self.channels)
        mask = None if self.modulation is None else 2 * torch.sigmoid(self.modulation(x))
        return deformable_depthwise_conv2d(x, self.offset(x), self.weight, self.bias, mask=mask, **self.sliding)


class DeformableSeparableConv2d(nn.Sequential):
    """A deformable depthwise convolution over (n, c, h, w), then a 1×1, which has the bias."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints = 3,
        stride: Ints = 1,
        padding: Ints | str = 0,
        dilation: Ints = 1,
        bias: bool = True,
        *,
        modulated: bool = False,
    ) -> None:
        super().__init__()
        sliding = (kernel_size, stride, padding, dilation)
        self.depthwise = DeformableDepthwiseConv2d(in_channels, *sliding, bias=False, modulated=modulated)
        self.pointwise = PointwiseConv2d(in_channels, out_channels, bias=bias)


@torch.no_grad()
def _zeroed(conv: nn.Conv2d) -> nn.Conv2d:
    for parameter in conv.parameters():
        parameter.zero_()
    return conv
