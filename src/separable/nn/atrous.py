"""One map seen at several scales. In: channels, dilation rates. Out: a pyramid of dilated separable convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from separable.errors import SpecError
from separable.nn.conv_norm import BATCH_NORMS, Activation, ConvNorm, Norm
from separable.nn.depthwise import (
    DepthwiseSeparableConv1d,
    DepthwiseSeparableConv2d,
    DepthwiseSeparableConv3d,
)
from separable.nn.geometry import check_input, check_positive
from separable.nn.squeeze_excitation import POOLS

SEPARABLE = (DepthwiseSeparableConv1d, DepthwiseSeparableConv2d, DepthwiseSeparableConv3d)


class _ASPP(nn.Module):
    """1×1, a dilated 3×3 for each of ``rates``, and the mean of the whole map, side by side; then 1×1 over all of them.

    Atrous spatial pyramid pooling with separable convolutions: Chen et al. 2018 (DeepLabV3+), section 3. Rates of
    6, 12, 18 belong to a map at 1/16 of the image. With r rates, at two dimensions: c_in · (9r + (r + 1) · c_out) +
    (r + 2) · c_out² MACs a position, and c_in · c_out for the mean. ``separable=False`` has ordinary dilated 3×3
    convolutions (DeepLabV3). In training the norm behind the mean needs more than one image.
    """

    dims: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 256,
        rates: Sequence[int] = (6, 12, 18),
        *,
        separable: bool = True,
        dropout: float = 0.5,
        norm: Norm | None = None,
        activation: Activation = nn.ReLU,
    ) -> None:
        super().__init__()
        where, dims = type(self).__name__, self.dims
        check_positive(where, in_channels=in_channels, out_channels=out_channels)
        if not rates or len(set(rates)) < len(rates):
            raise SpecError(where, given=f"rates (={tuple(rates)})", expected="one or more different dilations")
        self.in_channels = in_channels
        norm = norm or BATCH_NORMS[dims - 1]
        branches: list[nn.Module] = [ConvNorm(dims, in_channels, out_channels, norm=norm, activation=activation)]
        for rate in rates:
            if separable:
                shape: dict[str, Any] = {"padding": rate, "dilation": rate}
                branches.append(
                    SEPARABLE[dims - 1](in_channels, out_channels, 3, **shape, norm=norm, activation=activation)
                )
            else:
                branches.append(
                    ConvNorm(dims, in_channels, out_channels, 3, dilation=rate, norm=norm, activation=activation)
                )
        self.branches = nn.ModuleList(branches)
        self.mean = nn.Sequential(
            POOLS[dims - 1](1), *ConvNorm(dims, in_channels, out_channels, norm=norm, activation=activation)
        )
        joined = (len(rates) + 2) * out_channels
        self.project = ConvNorm(dims, joined, out_channels, norm=norm, activation=activation)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        check_input(type(self).__name__, x, self.dims, self.in_channels)
        parts = [branch(x) for branch in self.branches]
        parts.append(self.mean(x).expand_as(parts[0]))
        y: Tensor = self.dropout(self.project(torch.cat(parts, dim=1)))
        return y


class ASPP1d(_ASPP):
    """Atrous pyramid over (n, c, w)."""

    dims = 1


class ASPP2d(_ASPP):
    """Atrous pyramid over (n, c, h, w)."""

    dims = 2


class ASPP3d(_ASPP):
    """Atrous pyramid over (n, c, d, h, w)."""

    dims = 3
