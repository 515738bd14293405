"""Residual blocks of separable convolutions. In: channels. Out: Xception's block and the three flows made of it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

from torch import Tensor, nn

from separable.errors import SpecError
from separable.nn.conv_norm import BATCH_NORMS, Activation, ConvNorm, Norm
from separable.nn.depthwise import (
    DepthwiseSeparableConv1d,
    DepthwiseSeparableConv2d,
    DepthwiseSeparableConv3d,
)
from separable.nn.factorized import CONVS
from separable.nn.geometry import check_input, check_positive

SEPARABLE = (DepthwiseSeparableConv1d, DepthwiseSeparableConv2d, DepthwiseSeparableConv3d)
POOLS: tuple[type[nn.Module], ...] = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)


class _XceptionBlock(nn.Module):
    """Separable 3×3 convolutions to each of ``widths`` in turn, added to the input.

    Chollet 2017, figure 5. The activation stands before each convolution (before the first only with
    ``activated``), a norm behind; nothing stands between the halves. ``stride`` is that of a 3×3 maximum
    pooling at the end. The shortcut is a 1×1 convolution with norm where the channels or the size change, and the input
    itself otherwise. A convolution from c to c' has (9 + c') · c MACs a position at two dimensions.
    """

    dims: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int],
        stride: int = 1,
        *,
        activated: bool = True,
        norm: Norm | None = None,
        activation: Activation = nn.ReLU,
    ) -> None:
        super().__init__()
        where, dims = type(self).__name__, self.dims
        if not widths:
            raise SpecError(where, given="no widths", expected="the channels behind each convolution")
        check_positive(where, in_channels=in_channels, stride=stride)
        self.in_channels = in_channels
        layers: list[nn.Module] = []
        for c_in, c_out in pairwise((in_channels, *widths)):
            layers += [activation()] if activated or layers else []
            layers.append(_separable(dims, c_in, c_out, norm))
        if stride > 1:
            layers.append(POOLS[dims - 1](3, stride, 1))
        self.layers = nn.Sequential(*layers)
        self.shortcut = nn.Sequential()
        if stride > 1 or widths[-1] != in_channels:
            self.shortcut = ConvNorm(dims, in_channels, widths[-1], stride=stride, norm=norm, where=where)

    def forward(self, x: Tensor) -> Tensor:
        check_input(type(self).__name__, x, self.dims, self.in_channels)
        y: Tensor = self.layers(x) + self.shortcut(x)
        return y


class XceptionBlock1d(_XceptionBlock):
    """Xception block over (n, c, w)."""

    dims = 1


class XceptionBlock2d(_XceptionBlock):
    """Xception block over (n, c, h, w)."""

    dims = 2


class XceptionBlock3d(_XceptionBlock):
    """Xception block over (n, c, d, h, w)."""

    dims = 3


BLOCKS = (XceptionBlock1d, XceptionBlock2d, XceptionBlock3d)


class _XceptionEntryFlow(nn.Sequential):
    """Two unpadded 3×3 convolutions to ``stem`` channels, the first with stride 2, then a block of stride 2 a width.

    A size of 299 becomes 19.
    """

    dims: ClassVar[int]

    def __init__(
        self,
        in_channels: int = 3,
        stem: tuple[int, int] = (32, 64),
        widths: Sequence[int] = (128, 256, 728),
    ) -> None:
        check_positive(type(self).__name__, in_channels=in_channels, first=stem[0], second=stem[1])
        conv, norm = CONVS[self.dims - 1], BATCH_NORMS[self.dims - 1]
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["stem"] = nn.Sequential(
            *(conv(in_channels, stem[0], 3, 2, bias=False), norm(stem[0]), nn.ReLU(inplace=True)),
            *(conv(stem[0], stem[1], 3, bias=False), norm(stem[1]), nn.ReLU(inplace=True)),
        )
        for index, (c_in, c_out) in enumerate(pairwise((stem[1], *widths))):
            layers[f"block{index + 1}"] = BLOCKS[self.dims - 1](c_in, (c_out, c_out), stride=2, activated=index > 0)
        super().__init__(layers)


class XceptionEntryFlow1d(_XceptionEntryFlow):
    """Entry flow over (n, c, w)."""

    dims = 1


class XceptionEntryFlow2d(_XceptionEntryFlow):
    """Entry flow over (n, c, h, w)."""

    dims = 2


class XceptionEntryFlow3d(_XceptionEntryFlow):
    """Entry flow over (n, c, d, h, w)."""

    dims = 3


class _XceptionMiddleFlow(nn.Sequential):
    """``blocks`` blocks of three convolutions that keep channels and size."""

    dims: ClassVar[int]

    def __init__(self, channels: int = 728, blocks: int = 8) -> None:
        check_positive(type(self).__name__, channels=channels, blocks=blocks)
        super().__init__(*(BLOCKS[self.dims - 1](channels, (channels,) * 3) for _ in range(blocks)))


class XceptionMiddleFlow1d(_XceptionMiddleFlow):
    """Middle flow over (n, c, w)."""

    dims = 1


class XceptionMiddleFlow2d(_XceptionMiddleFlow):
    """Middle flow over (n, c, h, w)."""

    dims = 2


class XceptionMiddleFlow3d(_XceptionMiddleFlow):
    """Middle flow over (n, c, d, h, w)."""

    dims = 3


class _XceptionExitFlow(nn.Sequential):
    """A block of stride 2 to the first width, then a separable convolution with norm and ReLU to each other width."""

    dims: ClassVar[int]

    def __init__(self, in_channels: int = 728, widths: Sequence[int] = (1024, 1536, 2048)) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["block"] = BLOCKS[self.dims - 1](in_channels, (in_channels, *widths[:1]), stride=2)
        for index, (c_in, c_out) in enumerate(pairwise(widths)):
            layers[f"separable{index + 1}"] = _separable(self.dims, c_in, c_out, None)
            layers[f"activation{index + 1}"] = nn.ReLU(inplace=True)
        super().__init__(layers)


class XceptionExitFlow1d(_XceptionExitFlow):
    """Exit flow over (n, c, w)."""

    dims = 1


class XceptionExitFlow2d(_XceptionExitFlow):
    """Exit flow over (n, c, h, w)."""

    dims = 2


class XceptionExitFlow3d(_XceptionExitFlow):
    """Exit flow over (n, c, d, h, w)."""

    dims = 3


def _separable(dims: int, c_in: int, c_out: int, norm: Norm | None) -> nn.Module:
    behind = (None, norm or BATCH_NORMS[dims - 1])
    return SEPARABLE[dims - 1](c_in, c_out, 3, padding=1, bias=False, norm=behind)
