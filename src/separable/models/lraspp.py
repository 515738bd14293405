"""LR-ASPP, a class for each pixel at little cost. In: width, classes, output stride. Out: the network."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from separable.models.images import check_images
from separable.models.mobilenet_v3 import MobileNetV3, mobilenet_v3_large
from separable.models.taps import Taps, blocks_of, dilate_, reach
from separable.nn import initialize_
from separable.nn.geometry import check_positive

LOW, HIGH = "4", "16"  # The first block at stride 8, and the last convolution.


class LRASPP(nn.Module):
    """Images (n, 3, h, w) to logits (n, classes, h, w): "lite reduced" atrous pyramid pooling.

    Howard et al. 2019 (MobileNetV3), section 6.4. The last map, gated by its own mean, is classified beside the map at
    stride 8, and the sum enlarged to the image. ``classes`` counts the background, class 0. Parameter names as in
    torchvision.
    """

    input_shape = (3, 520, 520)

    def __init__(self, network: MobileNetV3, classes: int, output_stride: int) -> None:
        super().__init__()
        check_positive("LRASPP", classes=classes)
        self.output_stride = output_stride
        blocks = blocks_of(network)
        # torchvision's weights are trained with the kernel that lost its stride spread out as well.
        dilate_(blocks, output_stride, early=True)
        self.backbone = Taps(blocks, (LOW, HIGH))
        channels = reach(blocks).channels
        self.classifier = _Head(channels[LOW], channels[HIGH], classes)
        initialize_(self.classifier)

    def forward(self, x: Tensor) -> Tensor:
        check_images("LRASPP", x, stride=self.output_stride)
        low, high = self.backbone(x)
        return F.interpolate(self.classifier(low, high), size=x.shape[-2:], mode="bilinear", align_corners=False)


class _Head(nn.Module):
    def __init__(self, low: int, high: int, classes: int, inside: int = 128) -> None:
        super().__init__()
        self.cbr = nn.Sequential(nn.Conv2d(high, inside, 1, bias=False), nn.BatchNorm2d(inside), nn.ReLU(inplace=True))
        self.scale = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(high, inside, 1, bias=False), nn.Sigmoid())
        self.low_classifier = nn.Conv2d(low, classes, 1)
        self.high_classifier = nn.Conv2d(inside, classes, 1)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        gated = self.cbr(high) * self.scale(high)
        gated = F.interpolate(gated, size=low.shape[-2:], mode="bilinear", align_corners=False)
        logits: Tensor = self.low_classifier(low) + self.high_classifier(gated)
        return logits


def lraspp_mobilenet_v3_large(width: float = 1.0, classes: int = 21, *, output_stride: int = 16) -> LRASPP:
    """LR-ASPP on MobileNetV3-Large; ``output_stride`` 8, 16 or 32. torchvision's weights are for 16, 21 classes."""
    return LRASPP(mobilenet_v3_large(width), classes, output_stride)
