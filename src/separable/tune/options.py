"""How to distill. In: numbers. Out: a checked, frozen value with every default in one place."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from separable.errors import SeparableError

Augment = Callable[[Any, torch.Generator], Any]


@dataclass(frozen=True, kw_only=True)
class DistillOptions:
    """What distillation minimises, how, and for how long.

    ``outputs`` says what the model gives: ``"logits"`` (classes along axis 1), compared at ``temperature``, or
    ``"values"``, compared by relative squared error. ``feature_weight`` weighs the errors of the rewritten layers'
    outputs, ``label_weight`` the cross-entropy with the labels. The learning rate rises over ``warm_up`` of the steps
    (a share) and falls to zero along a cosine. ``weight_decay`` spares biases, norms and depthwise weights. ``clip`` is
    the largest norm of the gradient. ``augment`` takes a batch's inputs (a tensor, or a tuple of them for
    a model of several arguments) and a generator, and gives inputs of the same form.
    """

    steps: int = 300
    outputs: Literal["logits", "values"] = "logits"
    temperature: float = 4.0
    feature_weight: float = 1.0
    label_weight: float = 0.0
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    warm_up: float = 0.05
    weight_decay: float = 1e-2
    clip: float = 1.0
    checkpoint_every: int = 100
    seed: int = 0
    augment: Augment | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "checkpoint_every"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                self._refuse(name, "a whole number above 0")
        for name in ("temperature", "learning_rate", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                self._refuse(name, "a number above 0")
        for name in ("feature_weight", "label_weight", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                self._refuse(name, "a number from 0 up")
        if not 0 <= self.warm_up < 1:
            self._refuse("warm_up", "a share of the steps, from 0 to below 1")
        if self.outputs not in ("logits", "values"):
            self._refuse("outputs", "'logits' or 'values'")
        if self.optimizer not in ("adamw", "sgd"):
            self._refuse("optimizer", "'adamw' or 'sgd'")

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of a step, the first being 0.

        >>> [DistillOptions(steps=4, warm_up=0.5, learning_rate=1.0).learning_rate_at(step) for step in range(4)]
        [0.5, 1.0, 1.0, 0.5]
        """
        rising = round(self.warm_up * self.steps)
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        return self.learning_rate * (1 + math.cos(math.pi * (step - rising) / (self.steps - rising))) / 2

    def _refuse(self, name: str, expected: str) -> None:
        raise SeparableError(f"DistillOptions.{name}", given=getattr(self, name), expected=expected)
