"""What a classifier is trained on and judged by. In: its answers and labels. Out: the loss, the share that is right."""

from __future__ import annotations

from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor, nn

from separable.errors import DataError
from separable.graph.inference import evaluating, run
from separable.tune.batch import Batch


def cross_entropy(outputs: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """The mean over samples and places of −Σ q log p, for logits (n, classes, ...) and whole-number labels (n, ...).

    q is 1 − s + s/classes for the label and s/classes for all others, with s the ``label_smoothing`` (Szegedy et al.
    2016, section 7). ``DataError`` for shapes that do not fit, and for labels that are no class.
    """
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
        given = f"a {type(outputs).__name__} and a {type(targets).__name__}"
        raise DataError("cross_entropy", given=given, expected="two tensors", remedy="Give a loss of your own.")
    if outputs.dim() < 2 or (outputs.shape[0], *outputs.shape[2:]) != tuple(targets.shape):
        given = f"outputs {list(outputs.shape)} and labels {list(targets.shape)}"
        raise DataError("cross_entropy", given=given, expected="(n, classes, ...) and (n, ...)")
    if targets.is_floating_point() or targets.is_complex():
        raise DataError("labels", given=str(targets.dtype).removeprefix("torch."), expected="whole numbers")
    wrong = targets[(targets < 0) | (targets >= outputs.shape[1])]
    if wrong.numel():
        expected = f"0 to {outputs.shape[1] - 1}, one for each of the model's {outputs.shape[1]} classes"
        raise DataError("labels", given=int(wrong[0]), expected=expected)
    return F.cross_entropy(outputs, targets.long(), label_smoothing=label_smoothing)


def accuracy(model: nn.Module, batches: Iterable[Batch]) -> float:
    """The share of the labels (n, ...) that are the largest of the model's outputs (n, classes, ...)."""
    right = count = 0
    with evaluating(model):
        for batch in batches:
            if not isinstance(batch.labels, Tensor):
                raise DataError("accuracy", given="inputs alone", expected="labels in every batch")
            found = run(model, batch).argmax(1).cpu() == batch.labels.cpu()
            right, count = right + int(found.sum()), count + found.numel()
    return right / count
