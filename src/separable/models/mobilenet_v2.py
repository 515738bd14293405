"""MobileNetV2. In: width, classes. Out: the network (Sandler et al. 2018), parameter names as in torchvision."""

from __future__ import annotations

from torch import Tensor, nn

from separable.nn import initialize_, make_divisible
from separable.nn.geometry import check_positive

# (expansion, channels out, repeats, stride of the first) at width 1.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class MobileNetV2(nn.Module):
    """Images (n, 3, h, w) to logits (n, classes)."""

    input_shape = (3, 224, 224)

    def __init__(self, width: float, classes: int) -> None:
        super().__init__()
        check_positive("MobileNetV2", classes=classes)
        channels, last = make_divisible(32 * width), make_divisible(1280 * max(1.0, width))
        layers: list[nn.Module] = [_conv_norm_relu6(3, channels, kernel=3, stride=2)]
        for expansion, wanted, repeats, first_stride in STAGES:
            for stride in (first_stride, *[1] * (repeats - 1)):
                c_in, channels = channels, make_divisible(wanted * width)
                layers.append(InvertedResidual(c_in, channels, stride, expansion))
        layers.append(_conv_norm_relu6(channels, last, kernel=1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, classes))
        initialize_(self)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(nn.functional.adaptive_avg_pool2d(self.features(x), 1).flatten(1))
        return logits


class InvertedResidual(nn.Module):
    """1×1 to ``expansion`` times the channels, depthwise 3×3, 1×1 without activation; added to the input if it fits."""

    def __init__(self, c_in: int, c_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = c_in * expansion
        expand = [_conv_norm_relu6(c_in, hidden, kernel=1)] if expansion > 1 else []
        self.conv = nn.Sequential(
            *expand,
            _conv_norm_relu6(hidden, hidden, kernel=3, stride=stride, groups=hidden),
            nn.Conv2d(hidden, c_out, 1, bias=False),
            nn.BatchNorm2d(c_out),
        )
        self.is_residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.is_residual else y


def mobilenet_v2(width: float = 1.0, classes: int = 1000) -> MobileNetV2:
    """MobileNetV2 with its channels times ``width``; the last convolution never has fewer than 1280."""
    return MobileNetV2(width, classes)


def _conv_norm_relu6(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out), nn.ReLU6(inplace=True))
