"""What a network for masks is trained on and judged by. In: its answers and true masks. Out: the loss, mean IoU."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from separable.errors import DataError

IGNORED = 255  # The label of pixels that count neither way, as in Pascal VOC.


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


def mask_loss(logits: Tensor, masks: Tensor, *, weights: Tensor | None = None) -> Tensor:
    """The mean cross-entropy of logits (n, classes, h, w) with masks (n, h, w), pixels of 255 left out, in float32.

    ``weights`` (classes,) weighs the pixels of each class in that mean. ``DataError`` where no pixel is left, or a
    pixel is of no class.
    """
    if logits.dim() != 4 or (logits.shape[0], *logits.shape[2:]) != tuple(masks.shape):
        given = f"logits {tuple(logits.shape)} and masks {tuple(masks.shape)}"
        raise DataError("mask_loss", given=given, expected="(n, classes, h, w) and (n, h, w)")
    counted = masks[masks != IGNORED]
    if not counted.numel() or int(counted.min()) < 0 or int(counted.max()) >= logits.shape[1]:
        given = f"classes {int(counted.min())} to {int(counted.max())}" if counted.numel() else "no pixel that counts"
        raise DataError("mask_loss", given=given, expected=f"0 to {logits.shape[1] - 1}, or {IGNORED}")
    weights = None if weights is None else weights.to(logits.device, torch.float32)
    return F.cross_entropy(logits.float(), masks.long(), weights, ignore_index=IGNORED)


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
