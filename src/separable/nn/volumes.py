"""Convolution of videos and volumes, split up. In: channels, kernel. Out: (2+1)D and channel-separated layers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from separable.errors import SpecError
from separable.nn.conv_norm import Activation, ConvNorm, Norm
from separable.nn.geometry import check_geometry, check_input, check_positive
from separable.spec import Ints


class SpaceTimeSeparableConv3d(nn.Sequential):
    """(2+1)D convolution over (n, c, t, h, w): 1×k_h×k_w in the image plane, norm, activation, then k_t×1×1 in time.

    Tran et al. 2018 (R(2+1)D), section 3.5. ``middle`` channels stand between; when not given, as many as leave the
    two with the weights of one k_t×k_h×k_w convolution, ⌊k_t·k_h·k_w·c_in·c_out / (k_h·k_w·c_in + k_t·c_out)⌋.
    The norm is batch norm when None. The bias is that of the last convolution.

    >>> SpaceTimeSeparableConv3d(64, 64, 3).space.out_channels  # 27·64·64 / (9·64 + 3·64)
    144
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Ints | str = 0,
        bias: bool = True,
        *,
        middle: int | None = None,
        norm: Norm | None = None,
        activation: Activation = nn.ReLU,
    ) -> None:
        where = "SpaceTimeSeparableConv3d"
        check_positive(where, in_channels=in_channels, out_channels=out_channels)
        geometry = check_geometry(where, 3, kernel_size, stride, padding, 1, "zeros")
        (k_t, k_h, k_w), (s_t, *s_image) = geometry.kernel, geometry.stride
        padding = geometry.padding
        if middle is None:
            dense = k_t * k_h * k_w * in_channels * out_channels
            middle = max(1, dense // (k_h * k_w * in_channels + k_t * out_channels))
        check_positive(where, middle=middle)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        image: dict[str, Any] = {"stride": (1, *s_image), "bias": False}
        image["padding"] = padding if isinstance(padding, str) else (0, *padding[1:])
        time: dict[str, Any] = {"stride": (s_t, 1, 1), "bias": bias}
        time["padding"] = padding if isinstance(padding, str) else (padding[0], 0, 0)
        layers["space"] = nn.Conv3d(in_channels, middle, (1, k_h, k_w), **image)
        layers["norm"] = (norm or nn.BatchNorm3d)(middle)
        layers["activation"] = activation()
        layers["time"] = nn.Conv3d(middle, out_channels, (k_t, 1, 1), **time)
        super().__init__(layers)


INTERACTIONS = ("preserved", "reduced")


class ChannelSeparatedBottleneck3d(nn.Module):
    """Residual bottleneck over (n, c, t, h, w) in which channels meet in 1×1×1 convolutions only.

    Tran et al. 2019 (CSN), section 3.4. 1×1×1 to ``hidden`` channels, a depthwise k×k×k, 1×1×1 to the channels out,
    added to the input or, where the shape changes, to a 1×1×1 convolution of it. With ``interaction="preserved"`` a
    1×1×1 stands before the depthwise one, so channels meet as often as in the ordinary block; "reduced" leaves it out.
    ``hidden`` · (c_in + [``hidden``] + k³ + c_out) MACs a position at stride 1, against k³ · ``hidden``² in the
    ordinary block for its middle alone.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints = 3,
        stride: Ints = 1,
        *,
        hidden: int,
        interaction: str = "preserved",
        norm: Norm | None = None,
        activation: Activation = nn.ReLU,
    ) -> None:
        super().__init__()
        where = "ChannelSeparatedBottleneck3d"
        check_positive(where, in_channels=in_channels, out_channels=out_channels, hidden=hidden)
        if interaction not in INTERACTIONS:
            expected = f"one of {', '.join(INTERACTIONS)}"
            raise SpecError(where, given=f"interaction (={interaction!r})", expected=expected)
        self.in_channels = in_channels
        layers = [ConvNorm(3, in_channels, hidden, norm=norm, activation=activation, where=where)]
        if interaction == "preserved":
            layers.append(ConvNorm(3, hidden, hidden, norm=norm, where=where))
        layers.append(
            ConvNorm(
                *(3, hidden, hidden, kernel_size),
                stride=stride,
                groups=hidden,
                norm=norm,
                activation=activation,
                where=where,
            )
        )
        layers.append(ConvNorm(3, hidden, out_channels, norm=norm, where=where))
        self.layers = nn.Sequential(*layers)
        strides = set(stride) if isinstance(stride, Sequence) else {stride}
        self.shortcut = nn.Sequential()
        if strides != {1} or in_channels != out_channels:
            self.shortcut = ConvNorm(3, in_channels, out_channels, stride=stride, norm=norm, where=where)
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        check_input("ChannelSeparatedBottleneck3d", x, 3, self.in_channels)
        y: Tensor = self.activation(self.layers(x) + self.shortcut(x))
        return y
