"""GhostNet. In: width, classes. Out: the network (Han et al. 2020, table 7), named as in timm but for the attention."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from separable.models.images import check_images
from separable.nn import GhostBottleneck2d, initialize_, make_divisible
from separable.nn.conv_norm import ConvNorm
from separable.nn.geometry import check_positive

# Stages of blocks (kernel, channels inside, channels out, squeezes, stride) at width 1.
STAGES = (
    ((3, 16, 16, False, 1),),
    ((3, 48, 24, False, 2),),
    ((3, 72, 24, False, 1),),
    ((5, 72, 40, True, 2),),
    ((5, 120, 40, True, 1),),
    ((3, 240, 80, False, 2),),
    (
        (3, 200, 80, False, 1),
        (3, 184, 80, False, 1),
        (3, 184, 80, False, 1),
        (3, 480, 112, True, 1),
        (3, 672, 112, True, 1),
    ),
    ((5, 672, 160, True, 2),),
    ((5, 960, 160, False, 1), (5, 960, 160, True, 1), (5, 960, 160, False, 1), (5, 960, 160, True, 1)),
)
STEM, BEFORE_LAST, LAST = 16, 960, 1280


class GhostNet(nn.Module):
    """Images (n, 3, h, w) to logits (n, classes)."""

    input_shape = (3, 224, 224)

    def __init__(self, width: float, classes: int) -> None:
        super().__init__()
        check_positive("GhostNet", classes=classes)

        def scaled(channels: int) -> int:
            return make_divisible(channels * width, 4)

        channels = scaled(STEM)
        self.conv_stem, self.bn1, self.act1 = ConvNorm(2, 3, channels, 3, stride=2, activation=_relu)
        stages: list[nn.Module] = []
        for rows in STAGES:
            blocks = []
            for kernel, inside, out, squeezes, stride in rows:
                hidden = scaled(inside)
                squeezed = make_divisible(hidden / 4, 4) if squeezes else 0
                options: dict[str, Any] = {"hidden": hidden, "squeezed": squeezed, "activation": _relu}
                blocks.append(GhostBottleneck2d(channels, scaled(out), kernel, stride, **options))
                channels = scaled(out)
            stages.append(nn.Sequential(*blocks))
        last = _NamedConvNorm(channels, scaled(BEFORE_LAST))
        self.blocks = nn.Sequential(*stages, nn.Sequential(last))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.conv_head = nn.Conv2d(scaled(BEFORE_LAST), LAST, 1)
        self.act2 = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(LAST, classes)
        initialize_(self)

    def forward(self, x: Tensor) -> Tensor:
        check_images("GhostNet", x)
        x = self.blocks(self.act1(self.bn1(self.conv_stem(x))))
        x = self.act2(self.conv_head(self.pool(x))).flatten(1)
        logits: Tensor = self.classifier(self.dropout(x))
        return logits


class _NamedConvNorm(nn.Module):
    """1×1, norm, ReLU under timm's names."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv, self.bn1, self.act = ConvNorm(2, c_in, c_out, activation=_relu)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.bn1(self.conv(x)))
        return y


def ghostnet(width: float = 1.0, classes: int = 1000) -> GhostNet:
    """GhostNet with its channels times ``width``; the last convolution keeps its 1280."""
    return GhostNet(width, classes)


def _relu() -> nn.Module:
    return nn.ReLU(inplace=True)
