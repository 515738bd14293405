"""EfficientNet. In: a scaling, classes. Out: B0 to B7 (Tan, Le 2019) and Lite0, parameter names as in torchvision."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from separable.errors import SpecError
from separable.models.images import check_images
from separable.nn import MBConv2d, initialize_, make_divisible
from separable.nn.conv_norm import ConvNorm, Norm
from separable.nn.geometry import check_positive

# (expansion, kernel, stride of the first, channels out, repeats) at width and depth 1.
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
STEM = 32
DROP = 0.2  # Stochastic depth: from 0 in the first block, in even steps, towards this behind the last.


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """By how much a network is wider and deeper than its baseline, and the height and width of its images."""

    width: float = 1.0
    depth: float = 1.0
    resolution: int = 224

    def __post_init__(self) -> None:
        if not (0 < self.width < math.inf and 0 < self.depth < math.inf):
            given = f"width {self.width} and depth {self.depth}"
            raise SpecError("Scaling", given=given, expected="positive numbers")
        check_positive("Scaling", resolution=self.resolution)

    def channels(self, baseline: int) -> int:
        """A layer's channels: ``width`` times the baseline's, rounded to a multiple of 8."""
        return make_divisible(baseline * self.width)

    def repeats(self, baseline: int) -> int:
        """A stage's blocks: ``depth`` times the baseline's, rounded up."""
        return math.ceil(baseline * self.depth)

    def __str__(self) -> str:
        return f"width ×{self.width:g}, depth ×{self.depth:g}, {self.resolution}×{self.resolution} images"


def compound_scaling(
    phi: float,
    *,
    depth: float = 1.2,
    width: float = 1.1,
    resolution: float = 1.15,
    baseline: int = 224,
) -> Scaling:
    """One step of cost for depth, width and resolution together: each to the power ``phi`` (Tan, Le 2019, equation 3).

    MACs grow as (depth · width² · resolution²)^phi, which is close to 2^phi for the paper's coefficients, the defaults.
    The published B1 to B7 are rounded by hand from there: ``SCALINGS`` has them.

    >>> print(compound_scaling(1))
    width ×1.1, depth ×1.2, 258×258 images
    >>> round(1.2 * 1.1**2 * 1.15**2, 2)
    1.92
    """
    return Scaling(width=width**phi, depth=depth**phi, resolution=round(baseline * resolution**phi))


SCALINGS = {
    "efficientnet_b0": Scaling(),
    "efficientnet_b1": Scaling(width=1.0, depth=1.1, resolution=240),
    "efficientnet_b2": Scaling(width=1.1, depth=1.2, resolution=260),
    "efficientnet_b3": Scaling(width=1.2, depth=1.4, resolution=300),
    "efficientnet_b4": Scaling(width=1.4, depth=1.8, resolution=380),
    "efficientnet_b5": Scaling(width=1.6, depth=2.2, resolution=456),
    "efficientnet_b6": Scaling(width=1.8, depth=2.6, resolution=528),
    "efficientnet_b7": Scaling(width=2.0, depth=3.1, resolution=600),
}


class EfficientNet(nn.Module):
    """Images (n, 3, h, w) to logits (n, classes). ``lite`` has ReLU6 and no attention."""

    def __init__(
        self, scaling: Scaling, classes: int, *, dropout: float = 0.2, norm: Norm = nn.BatchNorm2d, lite: bool = False
    ) -> None:
        super().__init__()
        check_positive("EfficientNet", classes=classes)
        self.input_shape = (3, scaling.resolution, scaling.resolution)
        activation = partial(nn.ReLU6 if lite else nn.SiLU, inplace=True)
        rest: dict[str, Any] = {"norm": norm, "activation": activation}
        channels = scaling.channels(STEM)
        layers: list[nn.Module] = [ConvNorm(2, 3, channels, 3, stride=2, **rest)]
        blocks, total = 0, sum(scaling.repeats(stage[-1]) for stage in STAGES)
        for expansion, kernel, first_stride, out, repeats in STAGES:
            stage: list[nn.Module] = []
            for stride in (first_stride, *[1] * (scaling.repeats(repeats) - 1)):
                c_in, channels = channels, scaling.channels(out)
                options: dict[str, Any] = {
                    "expansion": expansion,
                    "squeeze": 0 if lite else 0.25,
                    "drop": DROP * blocks / total,
                }
                stage.append(MBConv2d(c_in, channels, kernel, stride, **options, **rest))
                blocks += 1
            layers.append(nn.Sequential(*stage))
        layers.append(ConvNorm(2, channels, 4 * channels, **rest))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(4 * channels, classes))
        initialize_(self)

    def forward(self, x: Tensor) -> Tensor:
        check_images("EfficientNet", x)
        logits: Tensor = self.classifier(self.avgpool(self.features(x)).flatten(1))
        return logits


def efficientnet(scaling: Scaling, classes: int = 1000, *, dropout: float = 0.2) -> EfficientNet:
    """EfficientNet of any size, such as ``efficientnet(compound_scaling(1.5))``."""
    return EfficientNet(scaling, classes, dropout=dropout)


def efficientnet_b0(classes: int = 1000) -> EfficientNet:
    """EfficientNet-B0 for 224×224 images."""
    return EfficientNet(SCALINGS["efficientnet_b0"], classes)


def efficientnet_b1(classes: int = 1000) -> EfficientNet:
    """EfficientNet-B1 for 240×240 images."""
    return EfficientNet(SCALINGS["efficientnet_b1"], classes)


def efficientnet_b2(classes: int = 1000) -> EfficientNet:
    """EfficientNet-B2 for 260×260 images."""
    return EfficientNet(SCALINGS["efficientnet_b2"], classes, dropout=0.3)


def efficientnet_b3(classes: int = 1000) -> EfficientNet:
    """EfficientNet-B3 for 300×300 images."""
    return EfficientNet(SCALINGS["efficientnet_b3"], classes, dropout=0.3)


def efficientnet_b4(classes: int = 1000) -> EfficientNet:
    """EfficientNet-B4 for 380×380 images."""
    return EfficientNet(SCALINGS["efficientnet_b4"], classes, dropout=0.4)


def efficientnet_b5(classes: int = 1000) -> EfficientNet:
    """EfficientNet-B5 for 456×456 images."""
    return EfficientNet(SCALINGS["efficientnet_b5"], classes, dropout=0.4, norm=_tensorflows_norm)


def efficientnet_b6(classes: int = 1000) -> EfficientNet:
    """EfficientNet-B6 for 528×528 images."""
    return EfficientNet(SCALINGS["efficientnet_b6"], classes, dropout=0.5, norm=_tensorflows_norm)


def efficientnet_b7(classes: int = 1000) -> EfficientNet:
    """EfficientNet-B7 for 600×600 images."""
    return EfficientNet(SCALINGS["efficientnet_b7"], classes, dropout=0.5, norm=_tensorflows_norm)


def efficientnet_lite0(classes: int = 1000) -> EfficientNet:
    """EfficientNet-Lite0 for 224×224 images: B0 without attention and with ReLU6, for integer arithmetic."""
    return EfficientNet(Scaling(), classes, lite=True)


def _tensorflows_norm(channels: int) -> nn.Module:
    """With TensorFlow's constants, where torchvision's weights come from there (B5 to B7)."""
    return nn.BatchNorm2d(channels, eps=0.001, momentum=0.01)
