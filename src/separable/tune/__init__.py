"""Making a rewritten model answer as the original does. In: both models and data. Out: a better rewritten model."""

from separable.tune.batch import Batch
from separable.tune.batches import Batches, read_batches
from separable.tune.calibrate import Calibrated, LayerFit, calibrate
from separable.tune.data_files import load_data
from separable.tune.distill import Distilled, Loss, distill
from separable.tune.options import DistillOptions
from separable.tune.processes import is_first, process_group

__all__ = [
    "Batch",
    "Batches",
    "Calibrated",
    "DistillOptions",
    "Distilled",
    "LayerFit",
    "Loss",
    "calibrate",
    "distill",
    "is_first",
    "load_data",
    "process_group",
    "read_batches",
]
