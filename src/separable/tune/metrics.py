"""How right masks and boxes are. In: what was predicted and what is true. Out: mean IoU, average precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from separable.errors import DataError
from separable.models.boxes import iou
from separable.models.detections import Detections

IGNORED = 255  # The label of pixels that count neither way, as in Pascal VOC.
OVERLAPS = tuple(0.5 + 0.05 * step for step in range(10))
RECALLS = 101
MOST = 100  # Detections an image that count, the best.


@dataclass(frozen=True, kw_only=True)
class MaskScore:
    """Intersection over union of each class, None for one that is neither predicted nor true, and their mean;
    ``accuracy`` is the share of pixels with the right class."""

    mean: float
    classes: tuple[float | None, ...]
    accuracy: float

    def __str__(self) -> str:
        each = ", ".join("absent" if value is None else f"{value:.1%}" for value in self.classes)
        return f"mean IoU {self.mean:.1%} ({each}), {self.accuracy:.1%} of the pixels right"


@dataclass(frozen=True, kw_only=True)
class BoxScore:
    """Average precision over all classes with true boxes: the mean over overlaps of 0.5 to 0.95, and that at 0.5
    alone; ``classes`` has the former for each label."""

    mean: float
    at_half: float
    classes: dict[int, float]

    def __str__(self) -> str:
        each = ", ".join(f"class {label}: {value:.1%}" for label, value in self.classes.items())
        return f"AP {self.mean:.1%}, at IoU 0.5 {self.at_half:.1%} ({each})"


def confusion(predicted: Tensor, truth: Tensor, classes: int) -> Tensor:
    """How many pixels of each true class (rows) were taken for which (columns): (classes, classes) of int64.

    Both masks are integers of one shape; true pixels of 255 are left out. The tables of several batches add up.
    """
    if predicted.shape != truth.shape:
        given = f"{tuple(predicted.shape)} and {tuple(truth.shape)}"
        raise DataError("confusion", given=given, expected="predicted and true masks of one shape")
    counted = truth != IGNORED
    pairs = torch.stack([truth[counted].long(), predicted[counted].long()])
    if pairs.numel() and not 0 <= int(pairs.min()) <= int(pairs.max()) < classes:
        given = f"classes {int(pairs.min())} to {int(pairs.max())}"
        raise DataError("confusion", given=given, expected=f"0 to {classes - 1}, or {IGNORED} in the true masks")
    return torch.bincount(pairs[0] * classes + pairs[1], minlength=classes**2).reshape(classes, classes)


def mean_iou(table: Tensor) -> MaskScore:
    """The scores that a table of ``confusion`` holds.

    >>> print(mean_iou(torch.tensor([[6, 1, 0], [1, 2, 0], [0, 0, 0]])))
    mean IoU 62.5% (75.0%, 50.0%, absent), 80.0% of the pixels right
    """
    right = table.diagonal().double()
    either = table.sum(0).double() + table.sum(1).double() - right
    if not either.sum():
        raise DataError("mean_iou", given="no pixels", expected="a table of at least one")
    shares = [float(r / e) if e else None for r, e in zip(right, either, strict=True)]
    present = [share for share in shares if share is not None]
    return MaskScore(mean=sum(present) / len(present), classes=tuple(shares), accuracy=float(right.sum() / table.sum()))


def average_precision(found: Sequence[Detections], truth: Sequence[tuple[Tensor, Tensor]]) -> BoxScore:
    """How right the detections of each image are, given its true boxes (k, 4) and labels (k,): as COCO counts.

    A detection, best first, is right if it overlaps a true box of its class that no better one has taken; it takes the
    one that it overlaps most. Average precision is the mean, over 101 recalls from 0 to 1, of the best precision
    at that recall or above. At most 100 detections an image count.
    """
    if len(found) != len(truth):
        raise DataError("average_precision", given=f"{len(found)} and {len(truth)} images", expected="as many of both")
    labels = sorted({int(label) for _, labels in truth for label in labels})
    if not labels:
        raise DataError("average_precision", given="no true boxes", expected="at least one")
    by_label = {label: _precision(found, truth, label) for label in labels}
    values = torch.stack(list(by_label.values()))
    return BoxScore(
        mean=float(values.mean()),
        at_half=float(values[:, 0].mean()),
        classes={label: float(value.mean()) for label, value in by_label.items()},
    )


def _precision(found: Sequence[Detections], truth: Sequence[tuple[Tensor, Tensor]], label: int) -> Tensor:
    """The average precision of one class at each of ``OVERLAPS``."""
    scores, rights, wanted = [], [], 0
    for detections, (boxes, labels) in zip(found, truth, strict=True):
        best = detections.scores.argsort(descending=True, stable=True)[:MOST]
        mine = best[detections.labels[best] == label]
        targets = boxes[labels == label]
        scores.append(detections.scores[mine].double())
        rights.append(_rights(iou(detections.boxes[mine].double(), targets.double())))
        wanted += len(targets)
    order = torch.cat(scores).argsort(descending=True, stable=True)
    right = torch.cat(rights)[order].double().cumsum(0)
    precision = right / torch.arange(1, len(right) + 1, dtype=torch.float64).unsqueeze(1)
    # The best precision at this recall or any above it.
    envelope = precision.flip(0).cummax(0).values.flip(0) if len(right) else precision
    envelope = torch.cat([envelope, torch.zeros(1, len(OVERLAPS), dtype=torch.float64)])
    # A recall of 7 of 10 is one of 0.7, however the two are rounded.
    recalls = torch.linspace(0, 1, RECALLS, dtype=torch.float64) - 1e-9
    reached = torch.stack([torch.searchsorted(column.contiguous(), recalls) for column in (right / wanted).T])
    return envelope.gather(0, reached.T).mean(0)


def _rights(overlaps: Tensor) -> Tensor:
    """Which of k detections, best first, are right at each of ``OVERLAPS``; ``overlaps`` (k, m) with the true boxes."""
    least = torch.tensor(OVERLAPS, dtype=torch.float64).unsqueeze(1)
    right = torch.zeros(len(overlaps), len(OVERLAPS), dtype=torch.bool)
    free = torch.ones(len(OVERLAPS), overlaps.shape[1], dtype=torch.bool)
    if overlaps.shape[1]:
        for index, row in enumerate(overlaps):
            most, at = torch.where(free, row, -1.0).max(dim=1, keepdim=True)
            hit = most >= least
            right[index] = hit.squeeze(1)
            free.scatter_(1, at, free.gather(1, at) & ~hit)
    return right
