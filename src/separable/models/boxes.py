"""Boxes as tensors (…, 4) of x1, y1, x2, y2. In: boxes, offsets, scores. Out: overlaps, offsets, what to keep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from separable.errors import SpecError

# What an offset is multiplied by, so that its parts have about unit deviation (Liu et al. 2016's code): centre, size.
CENTRE, SIZE = 10.0, 5.0
LARGEST = math.log(1000 / 16)  # Of a size's logarithm, against overflow (Girshick et al.'s Detectron).


@dataclass(frozen=True, kw_only=True)
class DefaultBoxes:
    """The boxes that a detector starts from, at every position of every map (Liu et al. 2016, section 2.2).

    The sizes grow from map to map in even steps from the first to the second entry of ``scales``, shares of the image.
    Each position has a square of that size, one of the geometric mean of it and the next, and two oblongs of its area
    for each of ``ratios``; the centres are those of the map's cells. Order: maps, rows, columns, shapes.

    >>> boxes = DefaultBoxes(scales=(0.2, 0.8), ratios=(4,)).on([(1, 1), (1, 1)])
    >>> [[round(side, 2) for side in box] for box in boxes[[0, 2]].tolist()]  # 0.2 × 0.2, and 0.4 × 0.1
    [[0.4, 0.4, 0.6, 0.6], [0.3, 0.45, 0.7, 0.55]]
    """

    scales: tuple[float, float] = (0.2, 0.95)
    ratios: tuple[float, ...] = (2.0, 3.0)

    def __post_init__(self) -> None:
        if not 0 < self.scales[0] <= self.scales[1] <= 1:
            expected = "shares of the image, the smaller first"
            raise SpecError("DefaultBoxes", given=f"scales (={self.scales})", expected=expected)
        if not all(ratio > 1 for ratio in self.ratios):
            raise SpecError("DefaultBoxes", given=f"ratios (={self.ratios})", expected="numbers above 1")

    @property
    def per_position(self) -> int:
        """Boxes at each position of a map."""
        return 2 + 2 * len(self.ratios)

    def on(self, maps: Sequence[tuple[int, int]]) -> Tensor:
        """The boxes (a, 4), as shares of width and height, for maps of these (h, w); sides of at most 1."""
        first, last = self.scales
        sizes = [first + (last - first) * level / max(1, len(maps) - 1) for level in range(len(maps))] + [1.0]
        return torch.cat([self._of_map(h, w, *sizes[level : level + 2]) for level, (h, w) in enumerate(maps)])

    def _of_map(self, h: int, w: int, size: float, following: float) -> Tensor:
        shapes = [(size, size), (math.sqrt(size * following),) * 2]
        for ratio in self.ratios:
            long, short = size * math.sqrt(ratio), size / math.sqrt(ratio)
            shapes += [(long, short), (short, long)]
        y, x = torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij")
        centres = torch.stack([x, y], dim=-1).reshape(-1, 1, 2)
        half = torch.tensor(shapes).clamp(max=1.0) / 2
        return torch.cat([centres - half, centres + half], dim=-1).reshape(-1, 4)


def iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of boxes (…, n, 4) with others (…, m, 4), as (…, n, m); 0 where both are empty.

    >>> float(iou(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[1.0, 0.0, 3.0, 2.0]])))  # 2 of 6
    0.3333333432674408
    """
    ours, theirs = boxes.unsqueeze(-2), others.unsqueeze(-3)

    def overlap(axis: int) -> Tensor:
        end = torch.minimum(ours[..., 2 + axis], theirs[..., 2 + axis])
        return (end - torch.maximum(ours[..., axis], theirs[..., axis])).clamp(min=0)

    shared = overlap(0) * overlap(1)
    union = _area(ours) + _area(theirs) - shared
    return shared / union.clamp(min=torch.finfo(union.dtype).tiny)


def encode(boxes: Tensor, defaults: Tensor) -> Tensor:
    """The offsets (…, 4) that turn ``defaults`` into ``boxes``: shifts of the centre in widths and heights, and the
    logarithms of the change of both, times 10 and 5 (Girshick et al. 2014, appendix C; the factors are Liu's)."""
    (centre, size), (from_centre, from_size) = _centred(boxes), _centred(defaults)
    return torch.cat([CENTRE * (centre - from_centre) / from_size, SIZE * torch.log(size / from_size)], dim=-1)


def decode(offsets: Tensor, defaults: Tensor) -> Tensor:
    """The boxes (…, 4) that ``offsets`` turn ``defaults`` into; sides grow to at most 62.5 times their size."""
    from_centre, from_size = _centred(defaults)
    centre = from_centre + offsets[..., :2] / CENTRE * from_size
    half = from_size * torch.exp((offsets[..., 2:] / SIZE).clamp(max=LARGEST)) / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def nms(boxes: Tensor, scores: Tensor, overlap: float) -> Tensor:
    """Which of boxes (…, k, 4) with scores (…, k) to keep, as (…, k) of bool: greedy non-maximum suppression.

    From the best score down, a box goes when one that is kept has an ``iou`` with it above ``overlap``. Sets along the
    leading axes do not see each other. Memory grows with k².
    """
    order = scores.argsort(dim=-1, descending=True, stable=True)
    ranked = boxes.gather(-2, order.unsqueeze(-1).expand_as(boxes))
    # [i, j]: i would take j out, were it kept.
    rivals = torch.triu(iou(ranked, ranked) > overlap, diagonal=1)
    # A box stays if no better one that stays takes it out. Each round settles at least the first box in doubt, and
    # where nothing changes any more that is true of all: the answer of the loop over boxes, in a few rounds.
    stays = torch.ones_like(order, dtype=torch.bool)
    while True:
        next_stays = ~(rivals & stays.unsqueeze(-1)).any(dim=-2)
        if torch.equal(next_stays, stays):
            return torch.empty_like(stays).scatter_(-1, order, stays)
        stays = next_stays


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def _centred(boxes: Tensor) -> tuple[Tensor, Tensor]:
    size = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + size / 2, size
