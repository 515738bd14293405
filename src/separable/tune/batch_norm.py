"""Statistics of batch norms. In: a model and batches. Out: the model, its running means and variances taken anew."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from separable.graph.inference import evaluating
from separable.tune.batch import Batch


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """The batch norms that keep running statistics; not the synchronised ones, which only a GPU can train."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    return [norm for norm in norms if norm.running_mean is not None and not isinstance(norm, nn.SyncBatchNorm)]


def re_estimate_(model: nn.Module, batches: Iterable[Batch]) -> None:
    """Set the running statistics to the plain average over the batches, all else (dropout too) as in evaluation.

    A last batch that is smaller than the others is left out: it would weigh as much as a full one. Of a single sample
    no statistics are taken.
    """
    norms = batch_norms(model)
    momenta = [norm.momentum for norm in norms]
    reading = iter(batches)
    first = next(reading)
    if first.samples == 1:
        return
    with evaluating(model):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a cumulative average
            norm.train()
        for batch in chain([first], reading):
            if batch.samples == first.samples:
                batch.through(model)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
