"""ResNet. In: classes, depth, width. Out: the networks (He et al. 2016), parameter names as in torchvision."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from separable.nn import initialize_
from separable.nn.geometry import check_positive


class BasicBlock(nn.Module):
    """Two 3×3 convolutions, added to the input."""

    expansion = 1

    def __init__(self, c_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _shortcut(c_in, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        out: Tensor = self.relu(y + shortcut)
        return out


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 to four times the channels, added to the input. The 3×3 has the stride ("v1.5")."""

    expansion = 4

    def __init__(self, c_in: int, channels: int, stride: int) -> None:
        super().__init__()
        c_out = channels * self.expansion
        self.conv1 = nn.Conv2d(c_in, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, c_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(c_out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(c_in, c_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        out: Tensor = self.relu(y + shortcut)
        return out


Block = type[BasicBlock] | type[Bottleneck]


class ResNet(nn.Module):
    """Images (n, c, h, w) to logits (n, classes). The stem is a 7×7 and a pooling, or one 3×3 for small images."""

    def __init__(
        self,
        block: Block,
        depths: Sequence[int],
        widths: Sequence[int],
        *,
        classes: int,
        in_channels: int = 3,
        small_images: bool = False,
    ) -> None:
        super().__init__()
        check_positive("ResNet", classes=classes, in_channels=in_channels)
        self.input_shape = (in_channels, 32, 32) if small_images else (in_channels, 224, 224)
        kernel, stride = (3, 1) if small_images else (7, 2)
        self.conv1 = nn.Conv2d(in_channels, widths[0], kernel, stride, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small_images else nn.MaxPool2d(3, stride=2, padding=1)
        channels = widths[0]
        for index, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            stage = _stage(block, channels, width, depth, stride=1 if index == 0 else 2)
            self.add_module(f"layer{index + 1}", stage)
            channels = width * block.expansion
        self.stages = len(depths)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, classes)
        initialize_(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for index in range(self.stages):
            x = getattr(self, f"layer{index + 1}")(x)
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def resnet18(classes: int = 1000) -> ResNet:
    """ResNet-18 for 224×224 images."""
    return ResNet(BasicBlock, (2, 2, 2, 2), WIDTHS, classes=classes)


def resnet34(classes: int = 1000) -> ResNet:
    """ResNet-34 for 224×224 images."""
    return ResNet(BasicBlock, (3, 4, 6, 3), WIDTHS, classes=classes)


def resnet50(classes: int = 1000) -> ResNet:
    """ResNet-50 for 224×224 images."""
    return ResNet(Bottleneck, (3, 4, 6, 3), WIDTHS, classes=classes)


def resnet_small(width: int = 16, blocks: int = 3, classes: int = 10, in_channels: int = 1) -> ResNet:
    """ResNet for 32×32 images: three stages of ``blocks`` blocks, ``width`` channels in the first, doubling.

    He et al. 2016, section 4.2 (``blocks=3`` is their ResNet-20), with 1×1 convolutions where a shortcut changes shape.
    """
    check_positive("resnet_small", width=width, blocks=blocks)
    widths = (width, 2 * width, 4 * width)
    return ResNet(BasicBlock, (blocks,) * 3, widths, classes=classes, in_channels=in_channels, small_images=True)


WIDTHS = (64, 128, 256, 512)


def _stage(block: Block, c_in: int, channels: int, depth: int, stride: int) -> nn.Sequential:
    first = block(c_in, channels, stride)
    rest = [block(channels * block.expansion, channels, stride=1) for _ in range(depth - 1)]
    return nn.Sequential(first, *rest)


def _shortcut(c_in: int, c_out: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and c_in == c_out:
        return None
    return nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))
