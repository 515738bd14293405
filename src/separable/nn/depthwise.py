"""Convolutions that keep channels apart, and the pair with a 1×1. In: the arguments of nn.Conv. Out: layers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from separable.nn.factorized import CONVS
from separable.nn.geometry import check_geometry, check_positive
from separable.nn.pointwise import PointwiseConv1d, PointwiseConv2d, PointwiseConv3d
from separable.spec import Ints

Norm = Callable[[int], nn.Module]
Activation = Callable[[], nn.Module]


class _DepthwiseConv(_ConvNd):
    """A filter of its own for every channel: n channels in, n · ``multiplier`` out, those of one channel together."""

    dims: ClassVar[int]

    def __init__(
        self,
        channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Ints | str = 0,
        dilation: Ints = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        multiplier: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        where = type(self).__name__
        check_positive(where, channels=channels, multiplier=multiplier)
        geometry = check_geometry(where, self.dims, kernel_size, stride, padding, dilation, padding_mode)
        options = {**geometry.options(), "groups": channels, "bias": bias, "device": device, "dtype": dtype}
        super().__init__(channels, channels * multiplier, **options)


class DepthwiseConv1d(_DepthwiseConv, nn.Conv1d):
    """Depthwise convolution over (n, c, w)."""

    dims = 1


class DepthwiseConv2d(_DepthwiseConv, nn.Conv2d):
    """Depthwise convolution over (n, c, h, w).

    >>> DepthwiseConv2d(3, 5, bias=False).weight.numel()  # 3 filters of 5×5
    75
    """

    dims = 2


class DepthwiseConv3d(_DepthwiseConv, nn.Conv3d):
    """Depthwise convolution over (n, c, d, h, w)."""

    dims = 3


class _DepthwiseSeparableConv(nn.Sequential):
    """A depthwise convolution and a 1×1: takes the arguments of the ``nn.Conv`` that it stands in for.

    The depthwise half has ``multiplier`` filters a channel and does the sliding. With ``pointwise_first`` the 1×1 gives
    c_out · ``multiplier`` channels, and each output channel adds up its own ``multiplier`` filtered ones. ``norm``
    (called with the channels) and ``activation`` follow each half; of a pair, one follows the half applied first, the
    other the second. A bias that a norm or the next convolution would take in is left out.
    """

    dims: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Ints | str = 0,
        dilation: Ints = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        multiplier: int = 1,
        pointwise_first: bool = False,
        norm: Norm | tuple[Norm | None, Norm | None] | None = None,
        activation: Activation | tuple[Activation | None, Activation | None] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        where = type(self).__name__
        check_positive(where, in_channels=in_channels, out_channels=out_channels, multiplier=multiplier)
        geometry = check_geometry(where, self.dims, kernel_size, stride, padding, dilation, padding_mode)
        norms = norm if isinstance(norm, tuple) else (norm, norm)
        activations = activation if isinstance(activation, tuple) else (activation, activation)
        biases = (bias and norms[0] is None and activations[0] is not None, bias and norms[1] is None)
        names = ("pointwise", "depthwise") if pointwise_first else ("depthwise", "pointwise")
        middle = multiplier * (out_channels if pointwise_first else in_channels)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for half, name in enumerate(names):
            c_in, c_out = ((in_channels, middle), (middle, out_channels))[half]
            if name == "pointwise":
                conv: nn.Module = POINTWISE[self.dims - 1](c_in, c_out, bias=biases[half], device=device, dtype=dtype)
            else:
                options = {**geometry.options(), "groups": min(c_in, c_out), "device": device, "dtype": dtype}
                conv = CONVS[self.dims - 1](c_in, c_out, bias=biases[half], **options)
            layers[name] = conv
            if (make_norm := norms[half]) is not None:
                layers[f"{name}_norm"] = make_norm(c_out).to(device=device, dtype=dtype)
            if (make_activation := activations[half]) is not None:
                layers[f"{name}_activation"] = make_activation()
        super().__init__(layers)


POINTWISE = (PointwiseConv1d, PointwiseConv2d, PointwiseConv3d)


class DepthwiseSeparableConv1d(_DepthwiseSeparableConv):
    """Depthwise-separable convolution over (n, c, w)."""

    dims = 1


class DepthwiseSeparableConv2d(_DepthwiseSeparableConv):
    """Depthwise-separable convolution over (n, c, h, w).

    >>> layer = DepthwiseSeparableConv2d(3, 4, kernel_size=3, bias=False)
    >>> [weight.numel() for weight in layer.parameters()]  # where a standard one has 108
    [27, 12]
    """

    dims = 2


class DepthwiseSeparableConv3d(_DepthwiseSeparableConv):
    """Depthwise-separable convolution over (n, c, d, h, w)."""

    dims = 3
