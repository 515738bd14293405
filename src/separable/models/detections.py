"""What a detector found. In: scores and boxes for every default box. Out: the detections of each image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from separable.errors import SpecError
from separable.models.boxes import nms

SHOWN = 10  # Detections that are printed.


@dataclass(frozen=True, kw_only=True, eq=False)
class Detections:
    """Objects in an image, best first: boxes (k, 4) as (x1, y1, x2, y2) in pixels, scores (k,), labels (k,) from 1."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.scores)

    def __str__(self) -> str:
        rows = zip(*(column[:SHOWN].tolist() for column in self._columns()), strict=True)
        lines = [
            f"class {label}, {score:.0%}, x {x1:.1f} to {x2:.1f}, y {y1:.1f} to {y2:.1f}"
            for (x1, y1, x2, y2), score, label in rows
        ]
        more = [f"and {len(self) - SHOWN} more"] if len(self) > SHOWN else []
        return "\n".join([*lines, *more]) or "nothing found"

    def above(self, score: float) -> Detections:
        """Those of at least that score."""
        boxes, scores, labels = (column[self.scores >= score] for column in self._columns())
        return Detections(boxes=boxes, scores=scores, labels=labels)

    def _columns(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.boxes, self.scores, self.labels


@dataclass(frozen=True, kw_only=True)
class DetectOptions:
    """Which boxes count as found: for each class the best ``candidates`` of at least ``score``, none of which overlaps
    a better one by more than ``overlap``, and the best ``most`` of all classes. torchvision's numbers for SSDLite."""

    score: float = 0.001
    overlap: float = 0.55
    candidates: int = 300
    most: int = 300

    def __post_init__(self) -> None:
        for name in ("score", "overlap"):
            if not 0 <= getattr(self, name) <= 1:
                raise SpecError(f"DetectOptions.{name}", given=getattr(self, name), expected="from 0 to 1")
        for name in ("candidates", "most"):
            if getattr(self, name) < 1:
                raise SpecError(f"DetectOptions.{name}", given=getattr(self, name), expected="from 1 up")


def detect(boxes: Tensor, probabilities: Tensor, options: DetectOptions) -> Detections:
    """The objects of one image, from boxes (a, 4) and, for each, the probabilities (a, classes), background first."""
    scores, chosen = probabilities[:, 1:].T.topk(min(options.candidates, len(boxes)))
    candidates = boxes[chosen]
    # What scores too little goes before it can take another box out: it is worse than all that stay.
    kept = (scores >= options.score) & nms(candidates, scores, options.overlap)
    labels = torch.arange(1, probabilities.shape[1], device=boxes.device).unsqueeze(1).expand_as(scores)[kept]
    order = scores[kept].argsort(descending=True, stable=True)[: options.most]
    return Detections(boxes=candidates[kept][order], scores=scores[kept][order], labels=labels[order])
