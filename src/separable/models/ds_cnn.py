"""DS-CNN. In: size, classes. Out: the keyword spotters of Zhang et al. 2017 ("Hello Edge"), randomly initialised."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from separable.models.signals import check_frames
from separable.nn import DepthwiseSeparableConv2d, SamePad2d, initialize_
from separable.nn.geometry import check_positive

FEATURES, FRAMES = 10, 49
KERNEL = (4, 10)


@dataclass(frozen=True, kw_only=True)
class Size:
    """``channels`` in every layer, (frequency, time) strides of the first two, and the number of separable blocks."""

    channels: int
    strides: tuple[tuple[int, int], tuple[int, int]]
    blocks: int


SMALL = Size(channels=64, strides=((2, 2), (1, 1)), blocks=4)
MEDIUM = Size(channels=172, strides=((1, 2), (2, 2)), blocks=4)
LARGE = Size(channels=276, strides=((1, 2), (2, 2)), blocks=5)


class DSCNN(nn.Module):
    """Features (n, features, frames) to logits (n, classes): a 4×10 convolution, then separable 3×3 ones.

    The sizes are those that the paper's code trains with. One second of sound is 49 frames of 40 ms every 20 ms, each
    10 cepstra: ``nn.LogMel(16_000, window=640, hop=320)`` and ``nn.Cepstrum(40, 10)``. Kernels are (frequency, time).
    Padded as TensorFlow pads; global average pooling, so any number of frames will do.
    """

    def __init__(self, size: Size, classes: int, features: int, standard: bool) -> None:
        super().__init__()
        check_positive("DSCNN", classes=classes, features=features)
        self.input_shape = (features, FRAMES)
        first, second = size.strides
        layers: list[nn.Module] = [_first(size.channels, first)]
        block = _standard_block if standard else _separable_block
        layers += [block(size.channels, second if index == 0 else (1, 1)) for index in range(size.blocks)]
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(size.channels, classes)
        initialize_(self)

    def forward(self, x: Tensor) -> Tensor:
        check_frames("DSCNN", x, self.input_shape[0])
        logits: Tensor = self.classifier(self.pool(self.features(x.unsqueeze(1))).flatten(1))
        return logits


def ds_cnn_small(classes: int = 12, features: int = FEATURES, *, standard: bool = False) -> DSCNN:
    """DS-CNN-S; ``standard`` writes every separable block as one standard 3×3 convolution."""
    return DSCNN(SMALL, classes, features, standard)


def ds_cnn_medium(classes: int = 12, features: int = FEATURES, *, standard: bool = False) -> DSCNN:
    """DS-CNN-M; ``standard`` writes every separable block as one standard 3×3 convolution."""
    return DSCNN(MEDIUM, classes, features, standard)


def ds_cnn_large(classes: int = 12, features: int = FEATURES, *, standard: bool = False) -> DSCNN:
    """DS-CNN-L; ``standard`` writes every separable block as one standard 3×3 convolution."""
    return DSCNN(LARGE, classes, features, standard)


def _first(channels: int, stride: tuple[int, int]) -> nn.Sequential:
    conv = nn.Conv2d(1, channels, KERNEL, stride, bias=False)
    return nn.Sequential(SamePad2d(KERNEL, stride, convention="tensorflow"), conv, nn.BatchNorm2d(channels), nn.ReLU())


def _separable_block(channels: int, stride: tuple[int, int]) -> nn.Sequential:
    conv = DepthwiseSeparableConv2d(channels, channels, 3, stride, norm=nn.BatchNorm2d, activation=nn.ReLU)
    return nn.Sequential(SamePad2d(3, stride, convention="tensorflow"), conv)


def _standard_block(channels: int, stride: tuple[int, int]) -> nn.Sequential:
    conv = nn.Conv2d(channels, channels, 3, stride, bias=False)
    return nn.Sequential(SamePad2d(3, stride, convention="tensorflow"), conv, nn.BatchNorm2d(channels), nn.ReLU())
