"""Some channels convolved, the others filtered from those. In: channels, ratio. Out: layers and residual blocks."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from separable.errors import SpecError
from separable.nn.conv_norm import Activation, ConvNorm, Norm
from separable.nn.geometry import check_input, check_positive
from separable.nn.squeeze_excitation import SQUEEZE_EXCITATION
from separable.spec import Ints


class _GhostConv(nn.Module):
    """An ordinary convolution for one channel in ``ratio``; each of these filtered depthwise makes the others.

    Han et al. 2020 (GhostNet), section 3.1. With m = ⌈c_out / ``ratio``⌉ primary channels: m · (c_in · k² + (``ratio``
    − 1) · d²) MACs a position, d the ``cheap_kernel``: about ``ratio`` times fewer than the ordinary convolution's.
    Channels beyond c_out are cut off. Parameter names as in timm.
    """

    dims: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints = 1,
        stride: Ints = 1,
        *,
        ratio: int = 2,
        cheap_kernel: Ints = 3,
        norm: Norm | None = None,
        activation: Activation | None = nn.ReLU,
    ) -> None:
        super().__init__()
        where, dims = type(self).__name__, self.dims
        check_positive(where, in_channels=in_channels, out_channels=out_channels)
        if ratio < 2 or ratio > out_channels:
            raise SpecError(where, given=f"ratio (={ratio})", expected=f"2 to out_channels (={out_channels})")
        self.in_channels, self.out_channels = in_channels, out_channels
        primary = math.ceil(out_channels / ratio)
        cheap = primary * (ratio - 1)
        rest: dict[str, Any] = {"norm": norm, "activation": activation, "where": where}
        self.primary_conv = ConvNorm(dims, in_channels, primary, kernel_size, stride=stride, **rest)
        self.cheap_operation = ConvNorm(dims, primary, cheap, cheap_kernel, groups=primary, **rest)

    def forward(self, x: Tensor) -> Tensor:
        check_input(type(self).__name__, x, self.dims, self.in_channels)
        primary = self.primary_conv(x)
        return torch.cat([primary, self.cheap_operation(primary)], dim=1)[:, : self.out_channels]


class GhostConv1d(_GhostConv):
    """Ghost module over (n, c, w)."""

    dims = 1


class GhostConv2d(_GhostConv):
    """Ghost module over (n, c, h, w).

    >>> layer = GhostConv2d(16, 24)
    >>> layer.primary_conv[0].weight.numel(), layer.cheap_operation[0].weight.numel()  # 12·16 and 12·3²; 24·16 = 384
    (192, 108)
    """

    dims = 2


class GhostConv3d(_GhostConv):
    """Ghost module over (n, c, d, h, w)."""

    dims = 3


class _GhostBottleneck(nn.Module):
    """A ghost module to ``hidden`` channels and one back, added to the input or to a depthwise-separable copy of it.

    Han et al. 2020, figure 3. With a stride there is a depthwise convolution in between. ``squeezed`` above 0 puts
    squeeze-and-excitation before the second module. Parameter names as in timm, where the attention's differ.
    """

    dims: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints = 3,
        stride: Ints = 1,
        *,
        hidden: int,
        squeezed: int = 0,
        norm: Norm | None = None,
        activation: Activation = nn.ReLU,
    ) -> None:
        super().__init__()
        where, dims = type(self).__name__, self.dims
        self.in_channels = in_channels
        is_strided = stride != 1 if isinstance(stride, int) else set(stride) != {1}
        ghost = GHOST_CONVS[dims - 1]
        rest: dict[str, Any] = {"norm": norm, "where": where}
        self.ghost1 = ghost(in_channels, hidden, norm=norm, activation=activation)
        middle: list[nn.Module | None] = [None, None]
        if is_strided:
            middle = list(ConvNorm(dims, hidden, hidden, kernel_size, stride=stride, groups=hidden, **rest))
        self.conv_dw, self.bn_dw = middle
        attention = SQUEEZE_EXCITATION[dims - 1]
        self.se = attention(hidden, squeezed, activation=activation, gate=nn.Hardsigmoid) if squeezed else None
        self.ghost2 = ghost(hidden, out_channels, norm=norm, activation=None)
        self.shortcut = nn.Sequential()
        if is_strided or in_channels != out_channels:
            filtered = ConvNorm(dims, in_channels, in_channels, kernel_size, stride=stride, groups=in_channels, **rest)
            self.shortcut = nn.Sequential(*filtered, *ConvNorm(dims, in_channels, out_channels, **rest))

    def forward(self, x: Tensor) -> Tensor:
        check_input(type(self).__name__, x, self.dims, self.in_channels)
        y = self.ghost1(x)
        for layer in (self.conv_dw, self.bn_dw, self.se):
            y = y if layer is None else layer(y)
        out: Tensor = self.ghost2(y) + self.shortcut(x)
        return out


GHOST_CONVS = (GhostConv1d, GhostConv2d, GhostConv3d)


class GhostBottleneck1d(_GhostBottleneck):
    """Ghost bottleneck over (n, c, w)."""

    dims = 1


class GhostBottleneck2d(_GhostBottleneck):
    """Ghost bottleneck over (n, c, h, w)."""

    dims = 2


class GhostBottleneck3d(_GhostBottleneck):
    """Ghost bottleneck over (n, c, d, h, w)."""

    dims = 3
