"""Reference networks, one family a file. In: a name, width, classes. Out: networks as published, weights random."""

from separable.models.catalogue import NAMES, build, example
from separable.models.mobilenet_v1 import mobilenet_v1
from separable.models.mobilenet_v2 import mobilenet_v2
from separable.models.resnet import resnet18, resnet34, resnet50, resnet_small
from separable.models.vgg import vgg16

__all__ = [
    "NAMES",
    "build",
    "example",
    "mobilenet_v1",
    "mobilenet_v2",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet_small",
    "vgg16",
]
