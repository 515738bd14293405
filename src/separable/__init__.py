"""Convolutional networks made separable, with the saving counted, predicted and measured."""

__version__ = "0.1.0"

from separable import filters, models, nn
from separable.cost import Cost, ModelCost, count
from separable.engine import Program, compile
from separable.errors import SeparableError, SeparableWarning
from separable.graph import Sites, trace
from separable.pipeline import ShrinkOptions, Shrunk, shrink
from separable.plan import Plan, Prices, choose_plan, price, rewrite
from separable.spec import Budget, ConvSpec
from separable.tune import (
    Calibrated,
    Distilled,
    DistillOptions,
    Trained,
    TrainOptions,
    calibrate,
    distill,
    read_batches,
    train,
)

__all__ = [
    "Budget",
    "Calibrated",
    "ConvSpec",
    "Cost",
    "DistillOptions",
    "Distilled",
    "ModelCost",
    "Plan",
    "Prices",
    "Program",
    "SeparableError",
    "SeparableWarning",
    "ShrinkOptions",
    "Shrunk",
    "Sites",
    "TrainOptions",
    "Trained",
    "calibrate",
    "choose_plan",
    "compile",
    "count",
    "distill",
    "filters",
    "models",
    "nn",
    "price",
    "read_batches",
    "rewrite",
    "shrink",
    "trace",
    "train",
]
