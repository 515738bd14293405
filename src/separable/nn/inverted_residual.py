"""Blocks that are wide inside and narrow outside. In: channels, kernel, width inside. Out: residual blocks."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from separable.nn.conv_norm import Activation, ConvNorm, Norm
from separable.nn.geometry import check_input, check_positive
from separable.nn.squeeze_excitation import SQUEEZE_EXCITATION
from separable.nn.stochastic_depth import StochasticDepth
from separable.nn.width import make_divisible
from separable.spec import Ints


class _Residual(nn.Module):
    """``block``, added to the input where the stride is 1 and the channels agree."""

    dims: ClassVar[int]

    def __init__(self, in_channels: int, out_channels: int, stride: Ints, block: list[nn.Module], drop: float) -> None:
        super().__init__()
        strides = {stride} if isinstance(stride, int) else set(stride)
        self.in_channels = in_channels
        self.is_residual = strides == {1} and in_channels == out_channels
        self.block = nn.Sequential(*block)
        self.stochastic_depth = StochasticDepth(drop)

    def forward(self, x: Tensor) -> Tensor:
        check_input(type(self).__name__, x, self.dims, self.in_channels)
        y: Tensor = self.block(x)
        return x + self.stochastic_depth(y) if self.is_residual else y


class _InvertedResidual(_Residual):
    """1×1 to ``hidden`` channels, depthwise, 1×1 to the channels out without activation (the linear bottleneck).

    Sandler et al. 2018, section 3. ``hidden`` is 6 · c_in when not given; where it is c_in there is no first 1×1.
    ``hidden`` · (c_in + k² + c_out) MACs a position at stride 1; with stride the first term is one of the larger map.
    ``squeezed`` above 0 puts squeeze-and-excitation behind the depthwise convolution, with ``gate`` (MobileNetV3).
    ``drop`` is the probability with which training leaves the branch out. Padded so that only the stride changes the
    size; odd kernels. Parameter names as in torchvision's MobileNetV3.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints = 3,
        stride: Ints = 1,
        dilation: Ints = 1,
        *,
        hidden: int | None = None,
        squeezed: int = 0,
        drop: float = 0.0,
        norm: Norm | None = None,
        activation: Activation = nn.ReLU6,
        squeeze_activation: Activation = nn.ReLU,
        gate: Activation = nn.Sigmoid,
    ) -> None:
        where, dims = type(self).__name__, self.dims
        check_positive(where, in_channels=in_channels, out_channels=out_channels)
        hidden = 6 * in_channels if hidden is None else hidden
        sliding: dict[str, Any] = {"stride": stride, "dilation": dilation, "groups": hidden}
        rest: dict[str, Any] = {"norm": norm, "where": where}
        block: list[nn.Module] = []
        if hidden != in_channels:
            block.append(ConvNorm(dims, in_channels, hidden, activation=activation, **rest))
        block.append(ConvNorm(dims, hidden, hidden, kernel_size, activation=activation, **sliding, **rest))
        if squeezed:
            attention = SQUEEZE_EXCITATION[dims - 1]
            block.append(attention(hidden, squeezed, activation=squeeze_activation, gate=gate))
        block.append(ConvNorm(dims, hidden, out_channels, **rest))
        super().__init__(in_channels, out_channels, stride, block, drop)


class InvertedResidual1d(_InvertedResidual):
    """Inverted residual over (n, c, w)."""

    dims = 1


class InvertedResidual2d(_InvertedResidual):
    """Inverted residual over (n, c, h, w).

    >>> import torch
    >>> from separable.cost import count
    >>> block = InvertedResidual2d(8, 8, hidden=48)
    >>> count(block, torch.empty(1, 8, 14, 14)).total.macs  # 48·(8 + 9 + 8)·14²
    235200
    """

    dims = 2


class InvertedResidual3d(_InvertedResidual):
    """Inverted residual over (n, c, d, h, w)."""

    dims = 3


class _MBConv(_InvertedResidual):
    """The inverted residual of EfficientNet: ``expansion`` · c_in channels inside, SiLU, squeeze-and-excitation.

    Tan, Le 2019 (the block is MnasNet's, Tan et al. 2019). The channels inside are rounded to a multiple of 8; the
    attention squeezes to c_in · ``squeeze``, at least 1, and 0 leaves it out. Costs as for the inverted residual.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints = 3,
        stride: Ints = 1,
        *,
        expansion: float = 6.0,
        squeeze: float = 0.25,
        drop: float = 0.0,
        norm: Norm | None = None,
        activation: Activation = nn.SiLU,
    ) -> None:
        check_positive(type(self).__name__, in_channels=in_channels, out_channels=out_channels)
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            hidden=_expanded(in_channels, expansion),
            squeezed=max(1, int(in_channels * squeeze)) if squeeze else 0,
            drop=drop,
            norm=norm,
            activation=activation,
            squeeze_activation=activation,
        )


class MBConv1d(_MBConv):
    """MBConv over (n, c, w)."""

    dims = 1


class MBConv2d(_MBConv):
    """MBConv over (n, c, h, w)."""

    dims = 2


class MBConv3d(_MBConv):
    """MBConv over (n, c, d, h, w)."""

    dims = 3


class _FusedMBConv(_Residual):
    """MBConv with its first 1×1 and depthwise convolution written as one standard convolution, then 1×1.

    Tan, Le 2021 (EfficientNetV2), figure 2. More MACs, ``expansion`` · c_in · (c_in · k² + c_out) a position, yet often
    faster where maps are large and channels few. Without expansion it is a single convolution with its activation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints = 3,
        stride: Ints = 1,
        *,
        expansion: float = 4.0,
        drop: float = 0.0,
        norm: Norm | None = None,
        activation: Activation = nn.SiLU,
    ) -> None:
        where, dims = type(self).__name__, self.dims
        check_positive(where, in_channels=in_channels, out_channels=out_channels)
        hidden = _expanded(in_channels, expansion)
        is_expanded = hidden != in_channels
        first: dict[str, Any] = {"stride": stride, "norm": norm, "activation": activation, "where": where}
        block: list[nn.Module] = [
            ConvNorm(dims, in_channels, hidden if is_expanded else out_channels, kernel_size, **first)
        ]
        if is_expanded:
            block.append(ConvNorm(dims, hidden, out_channels, norm=norm, where=where))
        super().__init__(in_channels, out_channels, stride, block, drop)


class FusedMBConv1d(_FusedMBConv):
    """Fused MBConv over (n, c, w)."""

    dims = 1


class FusedMBConv2d(_FusedMBConv):
    """Fused MBConv over (n, c, h, w)."""

    dims = 2


class FusedMBConv3d(_FusedMBConv):
    """Fused MBConv over (n, c, d, h, w)."""

    dims = 3


def _expanded(channels: int, expansion: float) -> int:
    return channels if expansion == 1 else make_divisible(channels * expansion)
