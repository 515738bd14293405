"""DeepLabV3+, a class for each pixel. In: a classifier's network, classes, output stride. Out: the network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from separable.models.images import check_images
from separable.models.mobilenet_v2 import mobilenet_v2
from separable.models.mobilenet_v3 import mobilenet_v3_large
from separable.models.resnet import resnet50
from separable.models.taps import Taps, blocks_of, dilate_, in_channels, last_at, reach, without_head
from separable.models.xception import xception
from separable.nn import ASPP2d, DepthwiseSeparableConv2d, initialize_
from separable.nn.conv_norm import ConvNorm
from separable.nn.geometry import check_positive

RATES = (6, 12, 18)  # At output stride 16; at 8 they are doubled (Chen et al. 2017, section 4.1).
LOW_STRIDE, LOW_CHANNELS = 4, 48


class DeepLabV3Plus(nn.Module):
    """Images (n, c, h, w) to logits (n, classes, h, w).

    Chen et al. 2018: an atrous pyramid of ``width`` channels over the last map, enlarged to stride 4, joined
    with 48 channels of the map there and refined by two 3×3 convolutions. With ``separable`` all 3×3 convolutions of
    pyramid and decoder are depthwise-separable. ``classes`` counts the background, class 0.
    """

    def __init__(
        self,
        network: nn.Module,
        classes: int,
        output_stride: int,
        *,
        width: int = 256,
        rates: Sequence[int] | None = None,
        separable: bool = True,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        check_positive("DeepLabV3Plus", classes=classes, width=width)
        blocks = without_head(blocks_of(network))
        reached = reach(blocks)
        channels, low, high = reached.channels, last_at(LOW_STRIDE, reached), list(reached.leaving)[-1]
        dilate_(blocks, output_stride)
        self.output_stride = output_stride
        self.in_channels = in_channels(blocks)
        self.input_shape = (self.in_channels, 513, 513)
        self.backbone = Taps(blocks, (low, high))
        rates = rates or tuple(rate * 16 // output_stride for rate in RATES)
        self.pyramid = ASPP2d(channels[high], width, rates, separable=separable, dropout=dropout)
        self.low = ConvNorm(2, channels[low], LOW_CHANNELS, activation=nn.ReLU)
        self.refine = nn.Sequential(
            _refining(width + LOW_CHANNELS, width, separable), _refining(width, width, separable)
        )
        self.classifier = nn.Conv2d(width, classes, 1)
        for head in (self.pyramid, self.low, self.refine, self.classifier):
            initialize_(head)

    def forward(self, x: Tensor) -> Tensor:
        check_images("DeepLabV3Plus", x, channels=self.in_channels, stride=self.output_stride)
        low, high = self.backbone(x)
        enlarged = F.interpolate(self.pyramid(high), size=low.shape[-2:], mode="bilinear", align_corners=False)
        logits = self.classifier(self.refine(torch.cat([enlarged, self.low(low)], dim=1)))
        return F.interpolate(logits, size=x.shape[-2:], mode="bilinear", align_corners=False)


def deeplabv3plus(network: nn.Module, classes: int = 21, *, output_stride: int = 16, **options: Any) -> DeepLabV3Plus:
    """DeepLabV3+ on a copy of any network of this room, with its weights, that has a map at stride 4.

    ``output_stride`` is that of the last map: 8, 16, or 32 for none dilated. ``options`` are those of the class.
    """
    return DeepLabV3Plus(network, classes, output_stride, **options)


def deeplabv3plus_xception(classes: int = 21, *, output_stride: int = 16, separable: bool = True) -> DeepLabV3Plus:
    """DeepLabV3+ on Xception as Chollet has it, its poolings dilated; the paper replaces them by convolutions."""
    return DeepLabV3Plus(xception(), classes, output_stride, separable=separable)


def deeplabv3plus_mobilenet_v2(
    width: float = 1.0, classes: int = 21, *, output_stride: int = 16, separable: bool = True
) -> DeepLabV3Plus:
    """DeepLabV3+ on MobileNetV2 with its channels times ``width``."""
    return DeepLabV3Plus(mobilenet_v2(width), classes, output_stride, separable=separable)


def deeplabv3plus_mobilenet_v3_large(
    width: float = 1.0, classes: int = 21, *, output_stride: int = 16, separable: bool = True
) -> DeepLabV3Plus:
    """DeepLabV3+ on MobileNetV3-Large with its channels times ``width``."""
    return DeepLabV3Plus(mobilenet_v3_large(width), classes, output_stride, separable=separable)


def deeplabv3plus_resnet50(classes: int = 21, *, output_stride: int = 16, separable: bool = True) -> DeepLabV3Plus:
    """DeepLabV3+ on ResNet-50."""
    return DeepLabV3Plus(resnet50(), classes, output_stride, separable=separable)


def _refining(c_in: int, c_out: int, separable: bool) -> nn.Module:
    if not separable:
        return ConvNorm(2, c_in, c_out, 3, activation=nn.ReLU)
    return DepthwiseSeparableConv2d(c_in, c_out, 3, padding=1, norm=nn.BatchNorm2d, activation=nn.ReLU)
