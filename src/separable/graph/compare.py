"""How far two models agree. In: the models and inputs. Out: the relative squared error of the second one's outputs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from separable.errors import ModelError
from separable.graph.inference import Example, evaluating, examples, outputs, run


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How the outputs of another model differ from a model's, on the same inputs.

    ``error`` is ‖y − y'‖² / ‖y‖² over all outputs, ``max_abs`` the largest single difference. ``same_top1`` is the
    share of samples for which both put the same class first, None when the first output is not (n, classes).
    """

    error: float
    max_abs: float
    same_top1: float | None

    def to_json(self) -> dict[str, float | None]:
        """Plain numbers."""
        return asdict(self)

    def __str__(self) -> str:
        top1 = "" if self.same_top1 is None else f", the same class first for {self.same_top1:.1%}"
        return f"relative squared error {self.error:.3g}, largest difference {self.max_abs:.3g}{top1}"


def compare(model: nn.Module, other: nn.Module, inputs: Example | Iterable[Example]) -> Agreement:
    """Run both models in evaluation mode on one example or a series of them, and compare the outputs in float64.

    ``ModelError`` when the outputs have different shapes, are not finite, or there are none.
    """
    gone = energy = max_abs = 0.0
    samples = same = 0
    with evaluating(model, other):
        for example in examples(inputs):
            pairs = _pairs(outputs(run(model, example)), outputs(run(other, example)))
            for y, y_other in pairs:
                difference = y.double() - y_other.double()
                gone += float(difference.square().sum())
                energy += float(y.double().square().sum())
                max_abs = max(max_abs, float(difference.abs().max())) if difference.numel() else max_abs
            y, y_other = pairs[0]
            if y.dim() == 2 and y.shape[1] > 1:
                samples += len(y)
                same += int((y.argmax(1) == y_other.argmax(1)).sum())
    error = gone / energy if energy else float(gone > 0)
    return Agreement(error=error, max_abs=max_abs, same_top1=same / samples if samples else None)


def _pairs(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> list[tuple[Tensor, Tensor]]:
    shapes = [[tuple(tensor.shape) for tensor in side] for side in (ours, theirs)]
    if shapes[0] != shapes[1] or not ours:
        raise ModelError("compare", given=f"outputs {shapes[1]}", expected=f"outputs {shapes[0] or 'of numbers'}")
    for name, side in (("first", ours), ("second", theirs)):
        if not all(bool(torch.isfinite(tensor).all()) for tensor in side):
            given = f"outputs of the {name} model that are NaN or infinite"
            raise ModelError("compare", given=given, expected="finite outputs")
    return list(zip(ours, theirs, strict=True))
