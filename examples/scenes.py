"""Drawn scenes to learn from. In: how many, their size, a seed. Out: images of overlapping shapes, masks, boxes."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

SHAPES = ("disc", "cross", "triangle", "square")  # Classes from 1 up; the background is class 0.
VISIBLE = 0.4  # Of a shape less of which is to be seen there is no box.


@dataclass(frozen=True, kw_only=True, eq=False)
class Scenes:
    """Images (n, 3, s, s) from −1 to 1, masks (n, s, s) of classes, and for each image boxes (k, 4) and labels (k,)."""

    images: Tensor
    masks: Tensor
    objects: tuple[tuple[Tensor, Tensor], ...]

    def __len__(self) -> int:
        return len(self.images)


def draw(count: int, *, size: int = 64, shapes: int = len(SHAPES), seed: int = 0) -> Scenes:
    """Two to five shapes of the first ``shapes`` kinds over a greyish, uneven ground, shaded and with noise.

    Their colours, places, sizes and angles say nothing about their kind.
    """
    drawn = [_scene(np.random.default_rng((seed, index)), size, shapes) for index in range(count)]
    images, masks, objects = zip(*drawn, strict=True)
    return Scenes(
        images=torch.from_numpy(np.stack(images)), masks=torch.from_numpy(np.stack(masks)), objects=tuple(objects)
    )


def _scene(random: np.random.Generator, size: int, shapes: int) -> tuple[np.ndarray, np.ndarray, tuple[Tensor, Tensor]]:
    image = _ground(random, size)
    owner = np.zeros((size, size), dtype=np.int64)  # Which shape is on top, from 1.
    kinds, areas = [], []
    for number in range(1, int(random.integers(2, 6)) + 1):
        kind = int(random.integers(shapes))
        radius = size * random.uniform(0.1, 0.24)
        inside, light = _shape(random, kind, radius, size)
        colour = np.array(colorsys.hsv_to_rgb(random.random(), random.uniform(0.45, 1.0), random.uniform(0.45, 1.0)))
        image = np.where(inside, colour[:, None, None] * light, image)
        owner[inside] = number
        kinds.append(kind + 1)
        areas.append(int(inside.sum()))
    image = image + random.normal(0, 0.06, image.shape)
    masks = np.array([0, *kinds])[owner]
    return (2 * image.clip(0, 1) - 1).astype(np.float32), masks, _boxes(owner, kinds, areas)


def _ground(random: np.random.Generator, size: int) -> np.ndarray:
    """Grey with a tinge, lighter and darker in large patches."""
    coarse = random.uniform(-0.2, 0.2, (1, 5, 5))
    at = np.linspace(0, 3.999, size)
    low, share = at.astype(int), at % 1
    rows = coarse[:, low] * (1 - share)[None, :, None] + coarse[:, low + 1] * share[None, :, None]
    patches = rows[:, :, low] * (1 - share) + rows[:, :, low + 1] * share
    return random.uniform(0.3, 0.7) + random.uniform(-0.08, 0.08, (3, 1, 1)) + patches


def _shape(random: np.random.Generator, kind: int, radius: float, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the shape is, and how light it is there: one side is in the shade."""
    y, x = np.mgrid[:size, :size] + 0.5
    x, y = (axis - random.uniform(0.15 * size, 0.85 * size) for axis in (x, y))
    angle, sun = random.uniform(0, 2 * np.pi, 2)
    u = (np.cos(angle) * x + np.sin(angle) * y) / radius
    v = (np.cos(angle) * y - np.sin(angle) * x) / radius
    inside = (
        u**2 + v**2 < 0.9,
        (np.minimum(abs(u), abs(v)) < 0.3) & (np.maximum(abs(u), abs(v)) < 0.95),
        (v > -0.5) & (3**0.5 * abs(u) + v < 1.0),
        np.maximum(abs(u), abs(v)) < 0.8,
    )[kind]
    return inside, 0.8 + 0.25 * (np.cos(sun) * x + np.sin(sun) * y) / radius


def _boxes(owner: np.ndarray, kinds: list[int], areas: list[int]) -> tuple[Tensor, Tensor]:
    """Boxes around what is to be seen of each shape."""
    boxes, labels = [], []
    for number, (kind, area) in enumerate(zip(kinds, areas, strict=True), start=1):
        rows, columns = np.nonzero(owner == number)
        if len(rows) > VISIBLE * area:
            boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            labels.append(kind)
    return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.tensor(labels, dtype=torch.int64)
