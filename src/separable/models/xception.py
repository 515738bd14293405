"""Xception. In: classes. Out: the network (Chollet 2017, figure 5), randomly initialised."""

from __future__ import annotations

from torch import Tensor, nn

from separable.models.images import check_images
from separable.nn import XceptionEntryFlow2d, XceptionExitFlow2d, XceptionMiddleFlow2d, initialize_
from separable.nn.geometry import check_positive


class Xception(nn.Module):
    """Images (n, 3, h, w) to logits (n, classes).

    ``from_timm`` has the map from timm's parameter names. Keras' ``block1_conv1, 2`` are ``entry.stem``, ``block2…4``
    ``entry.block1…3``, ``block5…12`` ``middle.0…7``, ``block13`` ``exit.block``, ``block14_sepconv1, 2``
    ``exit.separable1, 2`` and ``predictions`` ``fc``; its kernels have the channels last, (h, w, c_in, c_out).
    Poolings and shortcuts are padded alike on both sides, as in the PyTorch ports; TensorFlow pads only behind where
    the size is even.
    """

    input_shape = (3, 299, 299)

    def __init__(self, classes: int) -> None:
        super().__init__()
        check_positive("Xception", classes=classes)
        self.entry = XceptionEntryFlow2d()
        self.middle = XceptionMiddleFlow2d()
        self.exit = XceptionExitFlow2d()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2048, classes)
        initialize_(self)

    def forward(self, x: Tensor) -> Tensor:
        check_images("Xception", x)
        logits: Tensor = self.fc(self.pool(self.exit(self.middle(self.entry(x)))).flatten(1))
        return logits


def xception(classes: int = 1000) -> Xception:
    """Xception for 299×299 images."""
    return Xception(classes)
