"""Fitting to data. In: the original, the rewritten model, unlabelled batches. Out: a rewritten model that is closer."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from separable.errors import ModelError
from separable.factor.fit import Moments, fit, response_error
from separable.graph.compare import compare
from separable.graph.inference import evaluating
from separable.nn.factorized import FactorizedConv
from separable.progress import Tell, told
from separable.tune.batch_norm import batch_norms, re_estimate_
from separable.tune.batches import Batches
from separable.tune.listen import Heard, counterparts, heard, rewritten_layers


@dataclass(frozen=True, kw_only=True)
class LayerFit:
    """How far a rewritten layer's output is from the original's, before and after it was fitted.

    Relative squared errors of the centred output, on what the layers before it, already fitted, feed in.
    """

    name: str
    error_before: float
    error_after: float


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """A calibrated model and what it gained.

    ``output_error_*`` are relative squared errors of the model's output on the samples used, ‖ŷ − y‖² / ‖y‖². ``kept``
    says what was changed: the layers, the layers and the batch norms, or nothing where neither came closer.
    ``not_run`` names rewritten layers that no forward reached; they are as they were.
    """

    model: nn.Module
    layers: tuple[LayerFit, ...]
    not_run: tuple[str, ...]
    kept: str
    samples: int
    output_error_before: float
    output_error_after: float

    def __str__(self) -> str:
        width = max([len(layer.name) for layer in self.layers] + [6])
        rows = [f"{layer.name:<{width}}  {layer.error_before:9.2e}  {layer.error_after:9.2e}" for layer in self.layers]
        rows.append(f"{'output':<{width}}  {self.output_error_before:9.2e}  {self.output_error_after:9.2e}")
        head = [f"calibrated on {self.samples} samples; kept: {self.kept}", f"{'error':<{width}}     before      after"]
        tail = [f"not run: {', '.join(self.not_run)}"] if self.not_run else []
        return "\n".join(head + rows + tail)


def calibrate(
    original: nn.Module,
    rewritten: nn.Module,
    batches: Batches,
    *,
    samples: int = 512,
    sweeps: int = 4,
    progress: Tell = True,
) -> Calibrated:
    """Fit every ``FactorizedConv`` to the outputs of the original layer, in the order of the network.

    Each is fitted on what the already fitted layers before it feed in (asymmetric: Zhang et al. 2015, section 3.3).
    Then the statistics of the batch norms are taken anew. Of these two steps those are kept after which the model's
    output is closest, so that the result is never worse on the samples seen. At most ``samples`` are used, and kept in
    memory; ``sweeps`` are those of the alternating least squares. Neither model is changed; both compute as in
    evaluation.
    """
    few = batches.limited(samples).in_memory()
    fitted = copy.deepcopy(rewritten)
    with evaluating(original, fitted):
        layers = _fit_layers_(original, fitted, few, sweeps, progress)
    models = {"nothing": copy.deepcopy(rewritten), "layers": fitted}
    if batch_norms(fitted):
        models["layers and batch norms"] = copy.deepcopy(fitted)
        re_estimate_(models["layers and batch norms"], few)
    errors = {name: compare(original, model, few).error for name, model in models.items()}
    kept = min(errors, key=errors.__getitem__)
    reached = {layer.name for layer in layers}
    return Calibrated(
        model=models[kept],
        layers=layers,
        not_run=tuple(name for name in rewritten_layers(rewritten) if name not in reached),
        kept=kept,
        samples=few.samples or 0,
        output_error_before=errors["nothing"],
        output_error_after=errors[kept],
    )


def _fit_layers_(
    original: nn.Module, model: nn.Module, batches: Batches, sweeps: int, progress: Tell
) -> tuple[LayerFit, ...]:
    calls = _calls(model, batches)
    sites = counterparts(original, calls)
    layers = rewritten_layers(model)
    fits = []
    with told(progress, "calibrating", len(calls)) as tell:
        for name, count in calls.items():
            layer = layers[name]
            moments = Moments(layer.spec, padding_mode=layer.padding_mode)
            for batch in batches:
                with heard({name: layer}, inputs=True, calls=count) as fed:
                    batch.through(model)
                with heard({name: sites[name]}, calls=count) as wanted:
                    batch.through(original)
                for x, y in _paired(name, fed, wanted):
                    moments.update_(x, y)
            fits.append(_fit_(name, layer, moments, sweeps))
            tell(len(fits))
    return tuple(fits)


def _calls(model: nn.Module, batches: Batches) -> dict[str, int]:
    """How often one forward calls each rewritten layer, in the order of the first calls."""
    with heard(rewritten_layers(model)) as seen:
        next(iter(batches)).rows(slice(1)).through(model)
    return {name: len(answers) for name, answers in seen.items()}


def _paired(name: str, fed: Heard, wanted: Heard) -> Iterator[tuple[Tensor, Tensor]]:
    inputs, answers = fed.get(name, []), wanted.get(name, [])
    if len(inputs) != len(answers):
        expected = f"{len(answers)} in each forward, as in the original"
        raise ModelError(name, given=f"{len(inputs)} calls", expected=expected)
    return zip(inputs, answers, strict=True)


def _fit_(name: str, layer: FactorizedConv, moments: Moments, sweeps: int) -> LayerFit:
    factors = layer.factors()
    before = response_error(factors.dense(), moments)
    found = fit(factors, moments, sweeps=sweeps)
    layer.load_factors_(found.factors, found.bias)
    return LayerFit(name=name, error_before=before, error_after=found.error)
