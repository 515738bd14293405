"""MnasNet-B1. In: width, classes. Out: the network (Tan et al. 2019), parameter names as in torchvision."""

from __future__ import annotations

from torch import Tensor, nn

from separable.models.images import check_images
from separable.nn import initialize_, make_divisible
from separable.nn.geometry import check_positive

# (kernel, expansion, channels out, repeats, stride of the first) at width 1.
STAGES = ((3, 3, 24, 3, 2), (5, 3, 40, 3, 2), (5, 6, 80, 3, 2), (3, 6, 96, 2, 1), (5, 6, 192, 4, 2), (3, 6, 320, 1, 1))
LAST = 1280


class MnasNet(nn.Module):
    """Images (n, 3, h, w) to logits (n, classes)."""

    input_shape = (3, 224, 224)

    def __init__(self, width: float, classes: int) -> None:
        super().__init__()
        check_positive("MnasNet", classes=classes)
        stem, channels = make_divisible(32 * width), make_divisible(16 * width)
        layers = [
            *_conv_norm_relu(3, stem, kernel=3, stride=2),
            *_conv_norm_relu(stem, stem, kernel=3, groups=stem),
            *_conv_norm_relu(stem, channels)[:2],
        ]
        for kernel, expansion, wanted, repeats, first_stride in STAGES:
            blocks = []
            for stride in (first_stride, *[1] * (repeats - 1)):
                c_in, channels = channels, make_divisible(wanted * width)
                blocks.append(_Block(c_in, channels, kernel, stride, expansion))
            layers.append(nn.Sequential(*blocks))
        self.layers = nn.Sequential(*layers, *_conv_norm_relu(channels, LAST))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(LAST, classes))
        initialize_(self)

    def forward(self, x: Tensor) -> Tensor:
        check_images("MnasNet", x)
        logits: Tensor = self.classifier(self.layers(x).mean((2, 3)))
        return logits


class _Block(nn.Module):
    """The inverted residual under torchvision's names for this network: eight layers in one row."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = c_in * expansion
        self.layers = nn.Sequential(
            *_conv_norm_relu(c_in, hidden),
            *_conv_norm_relu(hidden, hidden, kernel, stride, groups=hidden),
            *_conv_norm_relu(hidden, c_out)[:2],
        )
        self.is_residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.is_residual else y


def mnasnet(width: float = 1.0, classes: int = 1000) -> MnasNet:
    """MnasNet-B1 with its channels times ``width``; the last convolution keeps its 1280."""
    return MnasNet(width, classes)


def _conv_norm_relu(c_in: int, c_out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    # The paper's momentum of 0.9997 is TensorFlow's; PyTorch counts from the other end.
    return [conv, nn.BatchNorm2d(c_out, momentum=1 - 0.9997), nn.ReLU(inplace=True)]
