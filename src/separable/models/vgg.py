"""VGG. In: classes, batch norm. Out: the network (Simonyan, Zisserman 2015), parameter names as in torchvision."""

from __future__ import annotations

from torch import Tensor, nn

from separable.nn import initialize_
from separable.nn.geometry import check_positive

# Channels of the convolutions between two poolings (configuration D).
VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG(nn.Module):
    """Images (n, 3, h, w) to logits (n, classes)."""

    input_shape = (3, 224, 224)

    def __init__(self, stages: tuple[tuple[int, ...], ...], classes: int, batch_norm: bool) -> None:
        super().__init__()
        check_positive("VGG", classes=classes)
        layers: list[nn.Module] = []
        c_in = 3
        for stage in stages:
            for channels in stage:
                layers.append(nn.Conv2d(c_in, channels, 3, padding=1))
                layers += [nn.BatchNorm2d(channels)] if batch_norm else []
                layers.append(nn.ReLU(inplace=True))
                c_in = channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(
            *(nn.Linear(c_in * 7 * 7, 4096), nn.ReLU(inplace=True), nn.Dropout()),
            *(nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Dropout()),
            nn.Linear(4096, classes),
        )
        initialize_(self)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.avgpool(self.features(x)).flatten(1))
        return logits


def vgg16(classes: int = 1000, *, batch_norm: bool = False) -> VGG:
    """VGG-16 for 224×224 images; with ``batch_norm`` torchvision's ``vgg16_bn``."""
    return VGG(VGG16, classes, batch_norm)
