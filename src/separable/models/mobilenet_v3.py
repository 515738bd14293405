"""MobileNetV3. In: width and its rule, classes. Out: the networks (Howard et al. 2019), named as in torchvision."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from separable.errors import SpecError
from separable.models.images import check_images
from separable.nn import InvertedResidual2d, initialize_, make_divisible
from separable.nn.conv_norm import ConvNorm
from separable.nn.geometry import check_positive

# (kernel, channels inside, channels out, squeezes, hard swish instead of ReLU, stride) at width 1.
Row = tuple[int, int, int, bool, bool, int]
LARGE: tuple[Row, ...] = (
    (3, 16, 16, False, False, 1),
    (3, 64, 24, False, False, 2),
    (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2),
    (5, 120, 40, True, False, 1),
    (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2),
    (3, 200, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 480, 112, True, True, 1),
    (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2),
    (5, 960, 160, True, True, 1),
    (5, 960, 160, True, True, 1),
)
SMALL: tuple[Row, ...] = (
    (3, 16, 16, True, False, 2),
    (3, 72, 24, False, False, 2),
    (3, 88, 24, False, False, 1),
    (5, 96, 40, True, True, 2),
    (5, 240, 40, True, True, 1),
    (5, 240, 40, True, True, 1),
    (5, 120, 48, True, True, 1),
    (5, 144, 48, True, True, 1),
    (5, 288, 96, True, True, 2),
    (5, 576, 96, True, True, 1),
    (5, 576, 96, True, True, 1),
)
STEM = 16
LARGE_LAST, SMALL_LAST = 1280, 1024  # Channels between the two layers of the classifier.
RULES = ("torchvision", "tf")


class MobileNetV3(nn.Module):
    """Images (n, 3, h, w) to logits (n, classes).

    Two rules for a width other than 1 are in use and make different networks. ``"torchvision"`` scales the channels
    inside each block and those of the last layer, ``"tf"`` keeps the ratio of each block's inside to its input, and the
    last layer never has fewer channels than at width 1.
    """

    input_shape = (3, 224, 224)

    def __init__(
        self, rows: tuple[Row, ...], last: int, width: float, classes: int, *, rule: str, minimalistic: bool = False
    ) -> None:
        super().__init__()
        check_positive("MobileNetV3", classes=classes)
        if rule not in RULES:
            raise SpecError("MobileNetV3", given=f"rule (={rule!r})", expected=f"one of {', '.join(RULES)}")
        swish = _relu if minimalistic else partial(nn.Hardswish, inplace=True)
        before, channels = STEM, make_divisible(STEM * width)
        layers: list[nn.Module] = [ConvNorm(2, 3, channels, 3, stride=2, norm=_norm, activation=swish)]
        for row in rows:
            inside, out = row[1:3]
            hidden = make_divisible(inside * width if rule == "torchvision" else channels * inside / before)
            layers.append(_block(row, channels, hidden, make_divisible(out * width), minimalistic))
            before, channels = out, make_divisible(out * width)
        layers.append(ConvNorm(2, channels, 6 * channels, norm=_norm, activation=swish))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        last = make_divisible(last * (width if rule == "torchvision" else max(1.0, width)))
        self.classifier = nn.Sequential(
            nn.Linear(6 * channels, last), swish(), nn.Dropout(0.2), nn.Linear(last, classes)
        )
        initialize_(self)

    def forward(self, x: Tensor) -> Tensor:
        check_images("MobileNetV3", x)
        logits: Tensor = self.classifier(self.avgpool(self.features(x)).flatten(1))
        return logits


def mobilenet_v3_large(width: float = 1.0, classes: int = 1000, *, rule: str = "torchvision") -> MobileNetV3:
    """MobileNetV3-Large with its channels times ``width``, by the ``rule`` "torchvision" or "tf"."""
    return MobileNetV3(LARGE, LARGE_LAST, width, classes, rule=rule)


def mobilenet_v3_small(width: float = 1.0, classes: int = 1000, *, rule: str = "torchvision") -> MobileNetV3:
    """MobileNetV3-Small with its channels times ``width``, by the ``rule`` "torchvision" or "tf"."""
    return MobileNetV3(SMALL, SMALL_LAST, width, classes, rule=rule)


def mobilenet_v3_large_minimalistic(
    width: float = 1.0, classes: int = 1000, *, rule: str = "torchvision"
) -> MobileNetV3:
    """MobileNetV3-Large with 3×3 kernels and ReLU only, without attention."""
    return MobileNetV3(LARGE, LARGE_LAST, width, classes, rule=rule, minimalistic=True)


def mobilenet_v3_small_minimalistic(
    width: float = 1.0, classes: int = 1000, *, rule: str = "torchvision"
) -> MobileNetV3:
    """MobileNetV3-Small with 3×3 kernels and ReLU only, without attention."""
    return MobileNetV3(SMALL, SMALL_LAST, width, classes, rule=rule, minimalistic=True)


def _block(row: Row, c_in: int, hidden: int, c_out: int, minimalistic: bool) -> InvertedResidual2d:
    kernel, _, _, squeezes, swishes, stride = row
    return InvertedResidual2d(
        c_in,
        c_out,
        3 if minimalistic else kernel,
        stride,
        hidden=hidden,
        squeezed=make_divisible(hidden / 4) if squeezes and not minimalistic else 0,
        norm=_norm,
        activation=partial(nn.Hardswish, inplace=True) if swishes and not minimalistic else _relu,
        gate=nn.Hardsigmoid,
    )


def _norm(channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels, eps=0.001, momentum=0.01)


def _relu() -> nn.Module:
    return nn.ReLU(inplace=True)
