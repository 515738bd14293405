"""Channel-separated networks for videos. In: depth, interaction, classes. Out: the networks of Tran et al. 2019."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from separable.models.clips import check_clips
from separable.nn import ChannelSeparatedBottleneck3d, initialize_
from separable.nn.geometry import check_positive

WIDTHS = (64, 128, 256, 512)
EXPANSION = 4
STRIDE = (8, 32, 32)


class CSN(nn.Module):
    """Clips (n, 3, t, h, w) to logits (n, classes): a ResNet of bottlenecks in which only 1×1×1 mix channels.

    Tran et al. 2019, table 1 and section 3.4: ``"preserved"`` is ip-CSN, ``"reduced"`` ir-CSN. The norm between the two
    halves of ip-CSN's middle is that of the authors' code.
    """

    input_shape = (3, 32, 224, 224)

    def __init__(self, depths: Sequence[int], interaction: str, classes: int) -> None:
        super().__init__()
        check_positive("CSN", classes=classes)
        conv = nn.Conv3d(3, WIDTHS[0], (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False)
        pool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
        self.stem = nn.Sequential(conv, nn.BatchNorm3d(WIDTHS[0]), nn.ReLU(), pool)
        channels = WIDTHS[0]
        stages = []
        for index, (depth, width) in enumerate(zip(depths, WIDTHS, strict=True)):
            blocks = []
            for block in range(depth):
                stride = 2 if index > 0 and block == 0 else 1
                blocks.append(
                    ChannelSeparatedBottleneck3d(
                        channels, EXPANSION * width, stride=stride, hidden=width, interaction=interaction
                    )
                )
                channels = EXPANSION * width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool3d(1)
        self.fc = nn.Linear(channels, classes)
        initialize_(self)

    def forward(self, x: Tensor) -> Tensor:
        check_clips("CSN", x, 3, STRIDE)
        logits: Tensor = self.fc(self.pool(self.stages(self.stem(x))).flatten(1))
        return logits


def csn50(classes: int = 400, *, interaction: str = "preserved") -> CSN:
    """ip-CSN-50, or ir-CSN-50 with ``interaction="reduced"``."""
    return CSN((3, 4, 6, 3), interaction, classes)


def csn101(classes: int = 400, *, interaction: str = "preserved") -> CSN:
    """ip-CSN-101, or ir-CSN-101 with ``interaction="reduced"``."""
    return CSN((3, 4, 23, 3), interaction, classes)


def csn152(classes: int = 400, *, interaction: str = "preserved") -> CSN:
    """ip-CSN-152, or ir-CSN-152 with ``interaction="reduced"``."""
    return CSN((3, 8, 36, 3), interaction, classes)
