"""What a detector's training minimises. In: default boxes, its answer, true boxes. Out: the loss."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from separable.errors import DataError
from separable.models.boxes import encode, iou


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
