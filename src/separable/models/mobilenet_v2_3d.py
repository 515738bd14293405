"""MobileNetV2 for videos. In: width, classes. Out: the network of Köpüklü et al. 2019, randomly initialised."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from separable.models.clips import check_clips
from separable.models.mobilenet_v2 import STAGES
from separable.nn import InvertedResidual3d, initialize_, make_divisible
from separable.nn.conv_norm import ConvNorm
from separable.nn.geometry import check_positive

STEM, LAST = 32, 1280
STRIDE = (16, 32, 32)
_relu6 = partial(nn.ReLU6, inplace=True)


class MobileNetV2For3d(nn.Module):
    """Clips (n, c, t, h, w) to logits (n, classes): MobileNetV2 with every kernel and stride taken along time too.

    Köpüklü et al. 2019 ("Resource efficient 3D convolutional neural networks"), section 3. The stem leaves time as it
    is and halves h and w; so does the first stage with a stride halve all three.
    """

    def __init__(self, width: float, classes: int, in_channels: int) -> None:
        super().__init__()
        check_positive("MobileNetV2For3d", classes=classes, in_channels=in_channels)
        self.input_shape = (in_channels, 16, 112, 112)
        channels, last = make_divisible(STEM * width), make_divisible(LAST * max(1.0, width))
        layers: list[nn.Module] = [ConvNorm(3, in_channels, channels, 3, stride=(1, 2, 2), activation=_relu6)]
        for expansion, wanted, repeats, first_stride in STAGES:
            for stride in (first_stride, *[1] * (repeats - 1)):
                c_in, channels = channels, make_divisible(wanted * width)
                block = InvertedResidual3d(c_in, channels, 3, stride, hidden=c_in * expansion, activation=_relu6)
                layers.append(block)
        layers.append(ConvNorm(3, channels, last, activation=_relu6))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool3d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, classes))
        initialize_(self)

    def forward(self, x: Tensor) -> Tensor:
        check_clips("MobileNetV2For3d", x, self.input_shape[0], STRIDE)
        logits: Tensor = self.classifier(self.pool(self.features(x)).flatten(1))
        return logits


def mobilenet_v2_3d(width: float = 1.0, classes: int = 600, in_channels: int = 3) -> MobileNetV2For3d:
    """MobileNetV2 in 3-D with its channels times ``width``, for 16 frames of 112×112."""
    return MobileNetV2For3d(width, classes, in_channels)
