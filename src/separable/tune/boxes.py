"""What a detector is trained on and judged by. In: its answers, true boxes. Out: the loss, average precision."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from separable.errors import DataError
from separable.models.boxes import encode, iou
from separable.models.detections import Detections

OVERLAPS = tuple(0.5 + 0.05 * step for step in range(10))
RECALLS = 101
MOST = 100  # Detections an image that count, the best.


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


def pad_boxes(images: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """True boxes (k, 4) in pixels and labels (k,) from 1 up of each of n images, in one tensor (n, most, 5).

    A row is x1, y1, x2, y2, label; rows of zeros, label 0, fill up what an image has fewer of. ``DataError`` for a box
    without area, or a label below 1.
    """
    rows = []
    for boxes, labels in images:
        if boxes.shape != (len(labels), 4):
            given = f"boxes {tuple(boxes.shape)} and {len(labels)} labels"
            raise DataError("pad_boxes", given=given, expected="boxes (k, 4) and k labels")
        empty = (boxes[:, 2:] <= boxes[:, :2]).any(dim=1) | (labels < 1)
        if empty.any():
            given = f"{boxes[empty][0].tolist()}, label {labels[empty][0].item()}"
            raise DataError("pad_boxes", given=given, expected="x1 < x2, y1 < y2 and a label from 1 up")
        rows.append(torch.cat([boxes.float(), labels.float().unsqueeze(1)], dim=1))
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def match(truth: Tensor, defaults: Tensor, least: float = 0.5) -> tuple[Tensor, Tensor]:
    """For n images, the true box (n, a, 4) that each default box stands for, and its label (n, a), 0 for none.

    A default box stands for the true box that it overlaps most, where that is an ``iou`` of ``least`` or more; and
    each true box has at least the default box that overlaps it most (Liu et al. 2016, section 2.2). Where two want the
    same one, the one that overlaps it more has it.
    """
    boxes, labels = truth[..., :4], truth[..., 4].long()
    overlaps = iou(boxes, defaults)
    is_best = F.one_hot(overlaps.argmax(dim=-1), len(defaults)) * (labels > 0).unsqueeze(-1)
    # Above 1 for a true box's own: whatever else overlaps the default box, it belongs to that one.
    strength, index = (overlaps + 2 * is_best).max(dim=1)
    matched = boxes.gather(1, index.unsqueeze(-1).expand(-1, -1, 4))
    return matched, torch.where(strength >= least, labels.gather(1, index), 0)


class BoxLoss:
    """The loss of answers (n, a, 4) and (n, a, classes) against the true boxes of ``pad_boxes``.

    Smooth L1 of the offsets of the default boxes that stand for an object, plus the cross-entropy of these and of the
    ``negatives`` times as many others that look most like objects in the same image; summed, and divided by
    the number of those that stand for an object (Liu et al. 2016, equations 1 to 3). Worked out in float32.
    """

    def __init__(self, defaults: Tensor, *, least: float = 0.5, negatives: float = 3.0) -> None:
        self.defaults = defaults
        self.least = least
        self.negatives = negatives

    def __call__(self, answer: tuple[Tensor, Tensor], truth: Tensor) -> Tensor:
        offsets, logits = (tensor.float() for tensor in answer)
        defaults = self.defaults.to(offsets.device)
        if offsets.shape[1:] != defaults.shape or truth.dim() != 3 or truth.shape[2] != 5:
            given = f"offsets {tuple(offsets.shape)} and true boxes {tuple(truth.shape)}"
            raise DataError("BoxLoss", given=given, expected=f"(n, {len(defaults)}, 4) and (n, most, 5)")
        if not truth.shape[1]:
            truth = truth.new_zeros(len(truth), 1, 5)
        matched, labels = match(truth.to(offsets.device), defaults, self.least)
        is_object = labels > 0
        wanted = encode(matched[is_object], defaults.expand_as(matched)[is_object])
        of_boxes = F.smooth_l1_loss(offsets[is_object], wanted, reduction="sum")
        of_classes = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        hardest = of_classes.detach().masked_fill(is_object, -1.0).argsort(dim=1, descending=True).argsort(dim=1)
        is_hard = hardest < self.negatives * is_object.sum(dim=1, keepdim=True)
        of_classes = of_classes[is_object | is_hard].sum()
        return (of_boxes + of_classes) / is_object.sum().clamp(min=1)


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
