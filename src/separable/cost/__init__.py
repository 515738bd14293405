"""What convolutions and models cost: counted from shapes, predicted for a machine, measured by a clock, and kept."""

from separable.cost.clock import Comparison, Timing, compare, measure, this_software, today
from separable.cost.count import Example, count
from separable.cost.ledger import Ledger
from separable.cost.machine import Machine, cache_folder, this_machine
from separable.cost.roofline import ModelPrediction, Prediction, predict, predict_model
from separable.cost.table import draw_table
from separable.cost.values import Cost, LayerCost, ModelCost

__all__ = [
    "Comparison",
    "Cost",
    "Example",
    "LayerCost",
    "Ledger",
    "Machine",
    "ModelCost",
    "ModelPrediction",
    "Prediction",
    "Timing",
    "cache_folder",
    "compare",
    "count",
    "draw_table",
    "measure",
    "predict",
    "predict_model",
    "this_machine",
    "this_software",
    "today",
]
