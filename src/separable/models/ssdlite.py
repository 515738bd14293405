"""SSDLite, boxes around objects. In: a classifier's network, classes. Out: the detector, torchvision's names for V3."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from separable.errors import ModelError, SpecError
from separable.models.boxes import DefaultBoxes, decode
from separable.models.detections import Detections, DetectOptions, detect
from separable.models.images import check_images
from separable.models.mobilenet_v2 import InvertedResidual, mobilenet_v2
from separable.models.mobilenet_v3 import LARGE, LARGE_LAST, MobileNetV3
from separable.models.taps import Taps, blocks_of, check_stride, in_channels, reach
from separable.nn import InvertedResidual2d, initialize_
from separable.nn.conv_norm import ConvNorm
from separable.nn.geometry import check_positive

STRIDES = (16, 32)
EXTRAS = (512, 256, 256, 128)
# Howard et al. 2019, section 6.3: half the channels from the last stride on.
REDUCED = (*LARGE[:12], (5, 672, 80, True, True, 2), (5, 480, 80, True, True, 1), (5, 480, 80, True, True, 1))


class SSDLite(nn.Module):
    """Images (n, c, h, w) to offsets (n, a, 4) and logits (n, a, classes) for each of a default boxes; class 0 is none.

    Liu et al. 2016, with the separable heads and extra maps of Sandler et al. 2018, section 6.2. The maps are those at
    ``strides`` of the network, where an inverted residual takes the next stride its expanded map, and one more for
    each of ``extras``, its channels, at half the size. ``decode`` turns the answer into boxes. With ``separable``
    off, the 3×3 convolutions of heads and extras are dense (SSD).
    """

    def __init__(
        self,
        network: nn.Module,
        classes: int,
        *,
        strides: Sequence[int] = STRIDES,
        extras: Sequence[int] = EXTRAS,
        boxes: DefaultBoxes | None = None,
        separable: bool = True,
    ) -> None:
        super().__init__()
        check_positive("SSDLite", classes=classes)
        self.classes, self.boxes = classes, boxes or DefaultBoxes()
        blocks = blocks_of(network)
        self.in_channels = in_channels(blocks)
        self.input_shape = (self.in_channels, 320, 320)
        self.backbone = _Backbone(_segments(blocks, strides), extras, separable)
        self.stride = strides[-1]
        self.strides = (*strides, *(strides[-1] * 2**level for level in range(1, len(extras) + 1)))
        self.head = _Head(self.backbone.channels, classes, self.boxes.per_position, separable)
        initialize_(self.backbone.extra)
        initialize_(self.head)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        check_images("SSDLite", x, channels=self.in_channels, stride=self.stride)
        answer: tuple[Tensor, Tensor] = self.head(self.backbone(x))
        return answer

    def default_boxes(self, size: tuple[int, int]) -> Tensor:
        """The default boxes (a, 4) for images of (h, w), in pixels."""
        h, w = size
        maps = [(-(-h // stride), -(-w // stride)) for stride in self.strides]
        return self.boxes.on(maps) * torch.tensor([w, h, w, h])

    def decode(
        self, answer: tuple[Tensor, Tensor], size: tuple[int, int], options: DetectOptions | None = None
    ) -> list[Detections]:
        """What was found in each of n images of (h, w), from the answer of ``forward`` to them.

        Boxes are cut off at the image's edges. ``ModelError`` when the answer is one to images of another size.
        """
        offsets, logits = (tensor.float() for tensor in answer)
        defaults = self.default_boxes(size).to(offsets.device)
        if offsets.shape[1:] != defaults.shape:
            given = f"offsets {tuple(offsets.shape)}"
            expected = f"(n, {len(defaults)}, 4), for images of {size[0]}×{size[1]}"
            raise ModelError("SSDLite.decode", given=given, expected=expected, remedy="Give the size of the images.")
        h, w = size
        found = decode(offsets, defaults).clamp(min=0).minimum(defaults.new_tensor([w, h, w, h]))
        options = options or DetectOptions()
        return [detect(*image, options) for image in zip(found, F.softmax(logits, dim=-1), strict=True)]


class _Backbone(nn.Module):
    """The network's maps, and smaller ones made from the last of them."""

    def __init__(self, features: Taps, extras: Sequence[int], separable: bool) -> None:
        super().__init__()
        of_features = list(reach(nn.Sequential(*features)).channels.values())
        blocks = [_extra(*channels, separable) for channels in pairwise((of_features[-1], *extras))]
        self.features = features
        self.extra = Taps(nn.Sequential(*blocks), map(str, range(len(blocks))))
        self.channels = (*of_features, *extras)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.features(x)
        smaller: list[Tensor] = self.extra(maps[-1])
        return maps + smaller


class _Head(nn.Module):
    def __init__(self, channels: Sequence[int], classes: int, shapes: int, separable: bool) -> None:
        super().__init__()
        self.classification_head = _Predictions(channels, classes, shapes, separable)
        self.regression_head = _Predictions(channels, 4, shapes, separable)

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        return self.regression_head(maps), self.classification_head(maps)


class _Predictions(nn.Module):
    """``numbers`` numbers for each default box, from one small network a map."""

    def __init__(self, channels: Sequence[int], numbers: int, shapes: int, separable: bool) -> None:
        super().__init__()
        self.numbers = numbers
        self.module_list = nn.ModuleList(_prediction(c_in, shapes * numbers, separable) for c_in in channels)

    def forward(self, maps: list[Tensor]) -> Tensor:
        # (n, shapes · numbers, h, w) to (n, h · w · shapes, numbers).
        answers = [
            layer(x).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, self.numbers))
            for layer, x in zip(self.module_list, maps, strict=True)
        ]
        return torch.cat(answers, dim=1)


def ssdlite(network: nn.Module, classes: int = 91, **options: Any) -> SSDLite:
    """SSDLite on a copy of any network of this room, with its weights. ``options`` are those of the class."""
    return SSDLite(network, classes, **options)


def ssdlite320_mobilenet_v2(width: float = 1.0, classes: int = 91, *, separable: bool = True) -> SSDLite:
    """SSDLite for 320×320 images on MobileNetV2 with its channels times ``width``, those of the extra maps too."""
    return SSDLite(mobilenet_v2(width), classes, extras=_extras(width), separable=separable)


def ssdlite320_mobilenet_v3_large(width: float = 1.0, classes: int = 91, *, separable: bool = True) -> SSDLite:
    """SSDLite for 320×320 images on MobileNetV3-Large, its channels halved from stride 32 on, as in torchvision.

    Images are scaled to −1 to 1. torchvision's weights are for 91 classes, the background among them.
    """
    network = MobileNetV3(REDUCED, LARGE_LAST, width, classes, rule="torchvision")
    model = SSDLite(network, classes, extras=_extras(width), separable=separable)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps, module.momentum = 0.001, 0.03
    return model


def _extras(width: float) -> tuple[int, ...]:
    return tuple(max(16, int(channels * width)) for channels in EXTRAS)


def _segments(blocks: nn.Sequential, strides: Sequence[int]) -> Taps:
    """The blocks in as many sequences as there are strides, cut where the map that is wanted comes out.

    That is behind the expansion of the inverted residual that takes the next stride, or in front of any other block.
    """
    if not strides or list(strides) != sorted(set(strides)):
        raise SpecError("SSDLite.strides", given=tuple(strides), expected="one or more strides, each above the last")
    reached = reach(blocks)
    segments: list[nn.Module] = []
    current: list[nn.Module] = []
    wanted = list(strides)
    for stride in strides:
        check_stride("SSDLite.strides", stride, reached)
    for name, block in blocks.named_children():
        if len(wanted) > 1 and reached.leaving[name] > wanted[0]:
            expansion, block = _opened(block)
            segments.append(nn.Sequential(*current, *expansion))
            current, wanted = [], wanted[1:]
        if reached.leaving[name] <= strides[-1]:
            current.append(block)
    segments.append(nn.Sequential(*current))
    return Taps(nn.Sequential(*segments), map(str, range(len(segments))))


def _opened(block: nn.Module) -> tuple[list[nn.Module], nn.Module]:
    """An inverted residual's first 1×1, and the rest under its old names; nothing and the block, if it is none."""
    layers = block.block if isinstance(block, InvertedResidual2d) else None
    layers = block.conv if isinstance(block, InvertedResidual) else layers
    if not isinstance(layers, nn.Sequential) or next(layers[0].parameters()).shape[2:] != (1, 1):
        return [], block
    return [layers[0]], layers[1:]


def _extra(c_in: int, c_out: int, separable: bool) -> nn.Sequential:
    """1×1 to half of ``c_out`` channels, 3×3 with stride 2, 1×1; dense: the 3×3 gives ``c_out`` itself."""
    inside = c_out // 2
    reduce = ConvNorm(2, c_in, inside, activation=nn.ReLU6)
    if not separable:
        return nn.Sequential(reduce, ConvNorm(2, inside, c_out, 3, stride=2, activation=nn.ReLU6))
    depthwise = ConvNorm(2, inside, inside, 3, stride=2, groups=inside, activation=nn.ReLU6)
    return nn.Sequential(reduce, depthwise, ConvNorm(2, inside, c_out, activation=nn.ReLU6))


def _prediction(c_in: int, c_out: int, separable: bool) -> nn.Module:
    if not separable:
        return nn.Conv2d(c_in, c_out, 3, padding=1)
    depthwise = ConvNorm(2, c_in, c_in, 3, groups=c_in, activation=nn.ReLU6)
    return nn.Sequential(depthwise, nn.Conv2d(c_in, c_out, 1))
