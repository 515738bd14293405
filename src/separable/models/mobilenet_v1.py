"""MobileNetV1. In: width, classes, variant. Out: the network (Howard et al. 2017, table 1), randomly initialised."""

from __future__ import annotations

from torch import Tensor, nn

from separable.nn import DepthwiseSeparableConv2d, initialize_, make_divisible
from separable.nn.geometry import check_positive

# (channels out, stride) of each block at width 1.
BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
# The shallow variant of the paper's table 5 leaves out the five blocks at 14×14×512.
SHALLOW = (*BLOCKS[:6], *BLOCKS[11:])


class MobileNetV1(nn.Module):
    """Images (n, 3, h, w) to logits (n, classes). Stride 1 in the last block, where the paper's table misprints 2."""

    input_shape = (3, 224, 224)

    def __init__(self, width: float, classes: int, shallow: bool, standard: bool) -> None:
        super().__init__()
        check_positive("MobileNetV1", classes=classes)
        channels = make_divisible(32 * width)
        layers: list[nn.Module] = [_standard_block(3, channels, stride=2)]
        for wanted, stride in SHALLOW if shallow else BLOCKS:
            c_in, channels = channels, make_divisible(wanted * width)
            block = _standard_block if standard else _separable_block
            layers.append(block(c_in, channels, stride))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.001)
        self.classifier = nn.Linear(channels, classes)
        initialize_(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.features(x)).flatten(1)
        logits: Tensor = self.classifier(self.dropout(x))
        return logits


def mobilenet_v1(
    width: float = 1.0, classes: int = 1000, *, shallow: bool = False, standard: bool = False
) -> MobileNetV1:
    """MobileNetV1 with its channels times ``width``.

    ``shallow`` leaves out the five blocks at 14×14; ``standard`` writes every block as one standard 3×3 convolution.
    """
    return MobileNetV1(width, classes, shallow, standard)


def _standard_block(c_in: int, c_out: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out), nn.ReLU(inplace=True))


def _separable_block(c_in: int, c_out: int, stride: int) -> nn.Sequential:
    return DepthwiseSeparableConv2d(
        c_in, c_out, kernel_size=3, stride=stride, padding=1, norm=nn.BatchNorm2d, activation=_relu
    )


def _relu() -> nn.Module:
    return nn.ReLU(inplace=True)
