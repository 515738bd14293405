"""ResNet for videos. In: the kind of convolution, classes. Out: R3D and R(2+1)D, parameter names as in torchvision."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

from torch import Tensor, nn

from separable.errors import SpecError
from separable.models.clips import check_clips
from separable.nn import DepthwiseSeparableConv3d, SpaceTimeSeparableConv3d, initialize_
from separable.nn.geometry import check_positive

# (channels in, channels out, stride, channels between space and time) to a 3×3×3 convolution, or what stands for it.
Convolution = Callable[[int, int, int, int], nn.Module]


class BasicBlock(nn.Module):
    """Two 3×3×3 convolutions, each in the form asked for, added to the input."""

    def __init__(self, convolution: Convolution, c_in: int, channels: int, stride: int) -> None:
        super().__init__()
        # Both convolutions of a block take the number that goes with the weights of the first, as in torchvision.
        middle = 27 * c_in * channels // (9 * c_in + 3 * channels)
        self.conv1 = nn.Sequential(
            convolution(c_in, channels, stride, middle), nn.BatchNorm3d(channels), nn.ReLU(inplace=True)
        )
        self.conv2 = nn.Sequential(convolution(channels, channels, 1, middle), nn.BatchNorm3d(channels))
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride > 1 or c_in != channels:
            conv = nn.Conv3d(c_in, channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm3d(channels))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y: Tensor = self.relu(self.conv2(self.conv1(x)) + shortcut)
        return y


class VideoResNet(nn.Module):
    """Clips (n, c, t, h, w) to logits (n, classes): a stem, and stages of which each after the first halves t, h, w.

    Tran et al. 2018 ("A closer look at spatiotemporal convolutions"), section 3.
    """

    def __init__(
        self,
        stem: nn.Sequential,
        convolution: Convolution,
        blocks: int,
        widths: Sequence[int],
        *,
        classes: int,
        input_shape: tuple[int, int, int, int],
    ) -> None:
        super().__init__()
        check_positive("VideoResNet", blocks=blocks, classes=classes)
        self.input_shape = input_shape
        t, h, w = next(conv.stride for conv in stem.modules() if isinstance(conv, nn.Conv3d))
        halvings = len(widths) - 1
        self.least = (t << halvings, h << halvings, w << halvings)
        self.stem = stem
        channels = widths[0]
        for index, width in enumerate(widths):
            stage = []
            for block in range(blocks):
                stride = 2 if index > 0 and block == 0 else 1
                stage.append(BasicBlock(convolution, channels, width, stride))
                channels = width
            self.add_module(f"layer{index + 1}", nn.Sequential(*stage))
        self.stages = len(widths)
        self.avgpool = nn.AdaptiveAvgPool3d(1)
        self.fc = nn.Linear(channels, classes)
        initialize_(self)

    def forward(self, x: Tensor) -> Tensor:
        check_clips("VideoResNet", x, self.input_shape[0], self.least)
        x = self.stem(x)
        for index in range(self.stages):
            x = getattr(self, f"layer{index + 1}")(x)
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def r3d_18(classes: int = 400) -> VideoResNet:
    """ResNet-18 of standard 3×3×3 convolutions, for 16 frames of 112×112: what R(2+1)D is compared with."""
    stem = nn.Sequential(
        nn.Conv3d(3, 64, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False), nn.BatchNorm3d(64), nn.ReLU(inplace=True)
    )
    return VideoResNet(stem, _standard, 2, WIDTHS, classes=classes, input_shape=CLIP)


def r2plus1d_18(classes: int = 400) -> VideoResNet:
    """ResNet-18 of (2+1)D convolutions, for 16 frames of 112×112."""
    space_time = SpaceTimeSeparableConv3d(
        *(3, 64, (3, 7, 7), (1, 2, 2), (1, 3, 3)), bias=False, middle=45, activation=_relu
    )
    stem = nn.Sequential(*space_time.children(), nn.BatchNorm3d(64), nn.ReLU(inplace=True))
    return VideoResNet(stem, _space_time, 2, WIDTHS, classes=classes, input_shape=CLIP)


def video_resnet_small(
    width: int = 16,
    blocks: int = 1,
    classes: int = 10,
    in_channels: int = 1,
    *,
    convolution: str = "depthwise",
    clip: tuple[int, int, int] = (8, 32, 32),
) -> VideoResNet:
    """A ResNet for small clips: three stages of ``blocks`` blocks, ``width`` channels in the first, doubling.

    ``convolution`` is "depthwise" (a depthwise 3×3×3 and a 1×1×1, 27 + c_out MACs for each position and channel in
    instead of 27 · c_out), "space_time" ((2+1)D) or "standard". ``clip`` is the shape of ``models.example``.
    """
    check_positive("video_resnet_small", width=width, in_channels=in_channels)
    if convolution not in CONVOLUTIONS:
        expected = f"one of {', '.join(CONVOLUTIONS)}"
        raise SpecError("video_resnet_small", given=f"convolution (={convolution!r})", expected=expected)
    stem = nn.Sequential(
        nn.Conv3d(in_channels, width, 3, padding=1, bias=False), nn.BatchNorm3d(width), nn.ReLU(inplace=True)
    )
    widths = (width, 2 * width, 4 * width)
    shape = (in_channels, *clip)
    return VideoResNet(stem, CONVOLUTIONS[convolution], blocks, widths, classes=classes, input_shape=shape)


CLIP = (3, 16, 112, 112)
WIDTHS = (64, 128, 256, 512)
_relu = partial(nn.ReLU, inplace=True)


def _standard(c_in: int, c_out: int, stride: int, _: int) -> nn.Module:
    return nn.Conv3d(c_in, c_out, 3, stride, padding=1, bias=False)


def _depthwise(c_in: int, c_out: int, stride: int, _: int) -> nn.Module:
    return DepthwiseSeparableConv3d(c_in, c_out, 3, stride, padding=1, bias=False)


def _space_time(c_in: int, c_out: int, stride: int, middle: int) -> nn.Module:
    """Its four layers under the names 0 to 3, as in torchvision."""
    conv = SpaceTimeSeparableConv3d(c_in, c_out, 3, stride, 1, bias=False, middle=middle, activation=_relu)
    return nn.Sequential(*conv.children())


CONVOLUTIONS: Mapping[str, Convolution] = MappingProxyType(
    {"depthwise": _depthwise, "space_time": _space_time, "standard": _standard}
)
