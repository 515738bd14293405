"""Training a model, or making a rewritten one answer as the original does. In: models, data. Out: a better model."""

from separable.tune.batch import Batch
from separable.tune.batches import Batches, read_batches
from separable.tune.boxes import BoxLoss, BoxScore, average_precision, pad_boxes
from separable.tune.calibrate import Calibrated, LayerFit, calibrate
from separable.tune.classify import accuracy, cross_entropy
from separable.tune.data_files import class_names, load_data
from separable.tune.distill import Distilled, Loss, distill
from separable.tune.masks import MaskScore, confusion, mask_loss, mean_iou
from separable.tune.optimizer import parameter_groups
from separable.tune.options import DistillOptions, TrainOptions
from separable.tune.processes import is_first, process_group
from separable.tune.train import Trained, train

__all__ = [
    "Batch",
    "Batches",
    "BoxLoss",
    "BoxScore",
    "Calibrated",
    "DistillOptions",
    "Distilled",
    "LayerFit",
    "Loss",
    "MaskScore",
    "TrainOptions",
    "Trained",
    "accuracy",
    "average_precision",
    "calibrate",
    "class_names",
    "confusion",
    "cross_entropy",
    "distill",
    "is_first",
    "load_data",
    "mask_loss",
    "mean_iou",
    "pad_boxes",
    "parameter_groups",
    "process_group",
    "read_batches",
    "train",
]
