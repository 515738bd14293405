"""Networks that scale up, with weights by chance. Out: a U-Net, super-resolution, a generator of pictures."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def unet() -> nn.Module:
    """Ronneberger et al. 2015, with batch norm, three steps down and up."""
    return UNet((32, 64, 128, 256))


def espcn() -> nn.Module:
    """Shi et al. 2016: three times as many pixels each way, from a pixel shuffle."""
    body = [nn.Conv2d(3, 64, 5, padding=2), nn.Tanh(), nn.Conv2d(64, 32, 3, padding=1), nn.Tanh()]
    return nn.Sequential(*body, nn.Conv2d(32, 27, 3, padding=1), nn.PixelShuffle(3))


def generator() -> nn.Module:
    """DCGAN's (Radford et al. 2016), for 64×64 pixels."""
    first = [nn.ConvTranspose2d(100, 512, 4, bias=False), nn.BatchNorm2d(512), nn.ReLU()]
    wider = [
        layer
        for a, b in pairwise((512, 256, 128, 64))
        for layer in (nn.ConvTranspose2d(a, b, 4, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
    ]
    return nn.Sequential(*first, *wider, nn.ConvTranspose2d(64, 3, 4, 2, 1, bias=False), nn.Tanh())


class UNet(nn.Module):
    """``widths`` from the finest map to the coarsest."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.down = nn.ModuleList(_twice(a, b) for a, b in pairwise((3, *widths)))
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, 2) for a, b in pairwise(widths))
        self.join = nn.ModuleList(_twice(2 * a, a) for a in widths[:-1])
        self.last = nn.Conv2d(widths[0], 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        finer: list[Tensor] = []
        for i, down in enumerate(self.down):
            x = down(F.max_pool2d(x, 2) if i else x)
            finer.append(x)
        for up, join, beside in reversed(list(zip(self.up, self.join, finer, strict=False))):
            x = join(torch.cat([beside, up(x)], 1))
        y: Tensor = self.last(x)
        return y


def _twice(c_in: int, c_out: int) -> nn.Module:
    layers = [
        layer
        for c in (c_in, c_out)
        for layer in (nn.Conv2d(c, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU())
    ]
    return nn.Sequential(*layers)
