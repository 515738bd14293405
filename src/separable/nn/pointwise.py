"""Convolutions that only mix channels. In: the arguments of nn.Conv without a kernel. Out: layers."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from separable.nn.geometry import check_divisible, check_geometry
from separable.spec import Ints


class _PointwiseConv(_ConvNd):
    dims: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: Ints = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        where = type(self).__name__
        check_divisible(where, groups, in_channels=in_channels, out_channels=out_channels)
        geometry = check_geometry(where, self.dims, 1, stride, 0, 1, "zeros")
        options = {**geometry.options(), "groups": groups, "bias": bias, "device": device, "dtype": dtype}
        super().__init__(in_channels, out_channels, **options)


class PointwiseConv1d(_PointwiseConv, nn.Conv1d):
    """Convolution over (n, c, w) with a kernel of 1."""

    dims = 1


class PointwiseConv2d(_PointwiseConv, nn.Conv2d):
    """Convolution over (n, c, h, w) with a kernel of 1×1."""

    dims = 2


class PointwiseConv3d(_PointwiseConv, nn.Conv3d):
    """Convolution over (n, c, d, h, w) with a kernel of 1×1×1."""

    dims = 3
