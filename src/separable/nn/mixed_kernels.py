"""Depthwise convolution with several kernel sizes at once. In: channels, kernels. Out: a layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from separable.errors import SpecError
from separable.nn.conv_norm import centred_padding
from separable.nn.factorized import CONVS
from separable.nn.geometry import check_geometry, check_input, check_positive
from separable.spec import Ints


class _MixConv(nn.Module):
    """The channels in groups of equal size, each filtered depthwise with a kernel size of its own.

    Tan, Le 2019 (MixConv). The first groups take one channel more where the channels do not divide. c · mean(k²) MACs a
    position at two dimensions. Padded so that only the stride changes the size; odd kernels.
    """

    dims: ClassVar[int]

    def __init__(
        self, channels: int, kernel_sizes: Sequence[int] = (3, 5, 7), stride: Ints = 1, bias: bool = True
    ) -> None:
        super().__init__()
        where, dims = type(self).__name__, self.dims
        check_positive(where, channels=channels)
        if not 1 <= len(kernel_sizes) <= channels:
            given, expected = f"kernel_sizes (={tuple(kernel_sizes)})", f"1 to {channels}, the number of channels"
            raise SpecError(where, given=given, expected=expected)
        whole, more = divmod(channels, len(kernel_sizes))
        self.groups = [whole + (index < more) for index in range(len(kernel_sizes))]
        convs = []
        for count, kernel in zip(self.groups, kernel_sizes, strict=True):
            geometry = check_geometry(where, dims, kernel, stride, 0, 1, "zeros")
            padding = centred_padding(where, geometry.kernel, geometry.dilation)
            options = {**geometry.options(), "padding": padding, "groups": count, "bias": bias}
            convs.append(CONVS[dims - 1](count, count, **options))
        self.convs = nn.ModuleList(convs)

    def forward(self, x: Tensor) -> Tensor:
        check_input(type(self).__name__, x, self.dims, sum(self.groups))
        parts = torch.split(x, self.groups, dim=1)
        return torch.cat([conv(parts[index]) for index, conv in enumerate(self.convs)], dim=1)


class MixConv1d(_MixConv):
    """Mixed depthwise convolution over (n, c, w)."""

    dims = 1


class MixConv2d(_MixConv):
    """Mixed depthwise convolution over (n, c, h, w).

    >>> sum(weight.numel() for weight in MixConv2d(8, (3, 5), bias=False).parameters())  # 4·9 + 4·25
    136
    """

    dims = 2


class MixConv3d(_MixConv):
    """Mixed depthwise convolution over (n, c, d, h, w)."""

    dims = 3
