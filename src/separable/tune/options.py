"""How to train and to distill. In: numbers. Out: checked, frozen values with every default in one place."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from separable.errors import SeparableError
from separable.tune.optimizer import Optimizer

Augment = Callable[[Any, torch.Generator], Any]


@dataclass(frozen=True, kw_only=True)
class DistillOptions:
    """What distillation minimises, how, and for how long.

    ``outputs`` says what the model gives: ``"logits"`` (classes along axis 1), compared at ``temperature``, or
    ``"values"``, compared by relative squared error, as is an output without axis 1. ``feature_weight`` weighs the
    errors of the rewritten layers' outputs, ``label_weight`` the cross-entropy with the labels. The learning rate rises
    over ``warm_up`` of the steps (a share) and falls to zero along a cosine. Batch norms use the statistics of the
    ``"batch"``, which are taken anew at the end, or those that they ``"kept"``: with small steps from a fitted model
    that ends closer to the teacher, with large ones further away. ``weight_decay`` spares biases, norms and depthwise
    weights. ``clip`` is the largest norm of the gradient. ``augment`` takes a batch's inputs (a tensor, or a tuple of
    them for a model of several arguments) and a generator, and gives inputs of the same form.
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
    batch_norms: Literal["batch", "kept"] = "batch"
    checkpoint_every: int = 100
    seed: int = 0
    augment: Augment | None = None

    def __post_init__(self) -> None:
        _check_numbers(
            self,
            counts=("steps", "checkpoint_every"),
            positive=("temperature", "learning_rate", "clip"),
            not_negative=("feature_weight", "label_weight", "weight_decay"),
            shares=("warm_up",),
        )
        _check_choices(self, outputs=("logits", "values"), optimizer=("adamw", "sgd"))

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of a step, the first being 0.

        >>> [DistillOptions(steps=4, warm_up=0.5, learning_rate=1.0).learning_rate_at(step) for step in range(4)]
        [0.5, 1.0, 1.0, 0.5]
        """
        return self.learning_rate * _warm_up_and_cosine(step, self.steps, self.warm_up)


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How to train, and for how long.

    The learning rate rises over ``warm_up`` of the steps (a share) and falls to zero along a cosine, or stays.
    ``weight_decay`` spares what ``parameter_groups`` names; it is decoupled in AdamW, part of the gradient elsewhere.
    ``label_smoothing`` is that of the built-in cross-entropy. ``average_decay`` is that of the exponential moving
    average of the weights, which becomes the trained model; 0 takes the weights as they are. ``re_estimate`` takes the
    statistics of batch norms anew at the end. ``clip`` is the largest norm of the gradient, and may be infinite.
    ``precision`` is that of the arithmetic, under autocast; weights stay float32. A checkpoint is due every so many
    steps.
    """

    epochs: int = 10
    optimizer: Optimizer = "adamw"
    learning_rate: float = 3e-3
    schedule: Literal["cosine", "constant"] = "cosine"
    warm_up: float = 0.1
    weight_decay: float = 0.05
    label_smoothing: float = 0.0
    average_decay: float = 0.99
    re_estimate: bool = True
    clip: float = 1.0
    precision: Literal["float32", "bfloat16"] = "float32"
    checkpoint_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        _check_numbers(
            self,
            counts=("epochs", "checkpoint_every"),
            positive=("learning_rate",),
            not_negative=("weight_decay",),
            shares=("warm_up", "label_smoothing", "average_decay"),
        )
        if not self.clip > 0:
            _refuse(self, "clip", "a number above 0")
        _check_choices(
            self,
            optimizer=("adamw", "sgd", "rmsprop"),
            schedule=("cosine", "constant"),
            precision=("float32", "bfloat16"),
        )

    def learning_rate_at(self, step: int, steps: int) -> float:
        """The learning rate of a step, the first being 0, of so many.

        >>> options = TrainOptions(warm_up=0.5, learning_rate=1.0, schedule="constant")
        >>> [options.learning_rate_at(step, 4) for step in range(4)]
        [0.5, 1.0, 1.0, 1.0]
        """
        if self.schedule == "constant" and step >= round(self.warm_up * steps):
            return self.learning_rate
        return self.learning_rate * _warm_up_and_cosine(step, steps, self.warm_up)


Options = DistillOptions | TrainOptions


def _warm_up_and_cosine(step: int, steps: int, warm_up: float) -> float:
    """The share of the highest learning rate that a step has."""
    rising = round(warm_up * steps)
    if step < rising:
        return (step + 1) / rising
    return (1 + math.cos(math.pi * (step - rising) / (steps - rising))) / 2


def _check_numbers(
    options: Options,
    *,
    counts: Sequence[str],
    positive: Sequence[str],
    not_negative: Sequence[str],
    shares: Sequence[str],
) -> None:
    for name in counts:
        if not isinstance(getattr(options, name), int) or getattr(options, name) < 1:
            _refuse(options, name, "a whole number above 0")
    for name in positive:
        if not 0 < getattr(options, name) < math.inf:
            _refuse(options, name, "a number above 0")
    for name in not_negative:
        if not 0 <= getattr(options, name) < math.inf:
            _refuse(options, name, "a number from 0 up")
    for name in shares:
        if not 0 <= getattr(options, name) < 1:
            _refuse(options, name, "a share, from 0 to below 1")


def _check_choices(options: Options, **choices: Sequence[str]) -> None:
    for name, known in choices.items():
        if getattr(options, name) not in known:
            _refuse(options, name, f"one of {', '.join(map(repr, known))}")


def _refuse(options: Options, name: str, expected: str) -> None:
    raise SeparableError(f"{type(options).__name__}.{name}", given=getattr(options, name), expected=expected)
