"""Channels weighted by what the whole map holds. In: channels. Out: a layer, alone or in a separable convolution."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, ClassVar

from torch import Tensor, nn

from separable.nn.conv_norm import Activation, ConvNorm, Norm
from separable.nn.factorized import CONVS
from separable.nn.geometry import check_input, check_positive
from separable.spec import Ints

POOLS: tuple[type[nn.Module], ...] = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)


class _SqueezeExcitation(nn.Module):
    """Each channel times a gate, worked out from the means of all channels by two layers with ``squeezed`` between.

    Hu, Shen, Sun 2018, section 3. Input and output have one shape. 2 · c · ``squeezed`` MACs whatever the size, and as
    many weights, with c + ``squeezed`` biases. MobileNetV3 takes ``gate=nn.Hardsigmoid``, EfficientNet
    ``activation=nn.SiLU``. Parameter names as in torchvision.
    """

    dims: ClassVar[int]

    def __init__(
        self, channels: int, squeezed: int, *, activation: Activation = nn.ReLU, gate: Activation = nn.Sigmoid
    ) -> None:
        super().__init__()
        check_positive(type(self).__name__, channels=channels, squeezed=squeezed)
        self.channels = channels
        self.avgpool = POOLS[self.dims - 1](1)
        self.fc1 = CONVS[self.dims - 1](channels, squeezed, 1)
        self.activation = activation()
        self.fc2 = CONVS[self.dims - 1](squeezed, channels, 1)
        self.scale_activation = gate()

    def forward(self, x: Tensor) -> Tensor:
        check_input(type(self).__name__, x, self.dims, self.channels)
        squeezed = self.activation(self.fc1(self.avgpool(x)))
        scaled: Tensor = x * self.scale_activation(self.fc2(squeezed))
        return scaled


class SqueezeExcitation1d(_SqueezeExcitation):
    """Squeeze-and-excitation over (n, c, w)."""

    dims = 1


class SqueezeExcitation2d(_SqueezeExcitation):
    """Squeeze-and-excitation over (n, c, h, w).

    >>> sum(weight.numel() for weight in SqueezeExcitation2d(16, 4).parameters())  # 2·16·4 + 16 + 4
    148
    """

    dims = 2


class SqueezeExcitation3d(_SqueezeExcitation):
    """Squeeze-and-excitation over (n, c, d, h, w)."""

    dims = 3


class _AttentionSeparableConv(nn.Sequential):
    """A depthwise-separable convolution with squeeze-and-excitation between its halves, on the filtered channels.

    Depthwise, norm, activation, attention, pointwise, norm, activation: the order of MobileNetV3's blocks (Howard et
    al. 2019, section 3). (k² + c_out) · c_in MACs an output position, and 2 · c_in · ``squeezed`` for an image.
    ``squeezed`` is a quarter of the input channels when not given. Padded so that only the stride changes the size.
    """

    dims: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints = 3,
        stride: Ints = 1,
        dilation: Ints = 1,
        *,
        squeezed: int | None = None,
        norm: Norm | None = None,
        activation: Activation = nn.ReLU,
        gate: Activation = nn.Sigmoid,
    ) -> None:
        where, dims = type(self).__name__, self.dims
        squeezed = max(1, in_channels // 4) if squeezed is None else squeezed
        sliding: dict[str, Any] = {"stride": stride, "dilation": dilation, "groups": in_channels}
        rest: dict[str, Any] = {"norm": norm, "activation": activation, "where": where}
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["depthwise"] = ConvNorm(dims, in_channels, in_channels, kernel_size, **sliding, **rest)
        layers["attention"] = SQUEEZE_EXCITATION[dims - 1](in_channels, squeezed, gate=gate)
        layers["pointwise"] = ConvNorm(dims, in_channels, out_channels, **rest)
        super().__init__(layers)


SQUEEZE_EXCITATION = (SqueezeExcitation1d, SqueezeExcitation2d, SqueezeExcitation3d)


class AttentionSeparableConv1d(_AttentionSeparableConv):
    """Depthwise-separable convolution with attention over (n, c, w)."""

    dims = 1


class AttentionSeparableConv2d(_AttentionSeparableConv):
    """Depthwise-separable convolution with attention over (n, c, h, w)."""

    dims = 2


class AttentionSeparableConv3d(_AttentionSeparableConv):
    """Depthwise-separable convolution with attention over (n, c, d, h, w)."""

    dims = 3
