"""From what the stages found to what the report says. In: plans, prices, timings, costs. Out: facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from separable.cost.clock import Comparison, Timing
from separable.cost.machine import Machine
from separable.cost.roofline import predict_model
from separable.cost.values import ModelCost
from separable.graph.compare import Agreement
from separable.graph.sites import Sites
from separable.plan.plan import Choice, Plan
from separable.plan.prices import Price, Prices
from separable.report.facts import Distillation, Elsewhere, Facts, Latency, Layer, Metric, Network, Option, Skipped
from separable.report.facts import Machine as MachineFacts
from separable.tune.calibrate import Calibrated
from separable.tune.distill import Distilled

BEFORE, AFTER = "original", "rewritten"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that one run of the pipeline found out; ``timings`` compares ``"original"`` and ``"rewritten"``.

    ``elsewhere`` does so on other engines. ``prices``, ``calibrated``, ``distilled`` and ``agreement`` are None for a
    stage that did not run.
    """

    model: str
    input: str
    batch: int
    engine: str
    sites: Sites
    plan: Plan
    after: ModelCost
    timings: Comparison
    elsewhere: Mapping[str, Comparison]
    machine: Machine
    prices: Prices | None = None
    calibrated: Calibrated | None = None
    distilled: Distilled | None = None
    agreement: Agreement | None = None
    metrics: Mapping[str, tuple[float, float]]
    inputs: int = 0
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    date: str = ""
    seed: int | None = None

    def facts(self) -> Facts:
        """The same as plain values, to show and to keep."""
        timing = self.timings.timings[AFTER]
        return Facts(
            model=self.model,
            input=self.input,
            batch=self.batch,
            threads=timing.threads,
            engine=self.engine,
            before=self._network(self.sites.cost, self.timings.timings[BEFORE]),
            after=self._network(self.after, timing),
            elsewhere=tuple(
                Elsewhere(
                    engine=name,
                    before=_latency(found.timings[BEFORE]),
                    after=_latency(found.timings[AFTER]),
                    verdict=found.verdict(AFTER, BEFORE),
                )
                for name, found in self.elsewhere.items()
            ),
            machine=_machine(self.machine),
            layers=tuple(self._layer(choice) for choice in self.plan.choices),
            skipped=tuple(Skipped(name=entry.name, reason=entry.reason) for entry in self.sites.skipped),
            unknown=self.sites.cost.unknown,
            verdict=self.timings.verdict(AFTER, BEFORE),
            output_error=self.agreement.error if self.agreement else None,
            planned_error=self.plan.after.error,
            same_top1=self.agreement.same_top1 if self.agreement else None,
            metrics=tuple(_metric(name, values) for name, values in self.metrics.items()),
            budget=self.plan.budget,
            distillation=_distillation(self.distilled),
            inputs=self.inputs,
            notes=self.notes,
            warnings=self.warnings,
            versions=dict(timing.versions),
            date=self.date,
            seed=self.seed,
        )

    def _network(self, cost: ModelCost, timing: Timing) -> Network:
        total = cost.total
        return Network(
            macs=total.macs,
            parameters=total.parameters,
            weight_bytes=total.weight_bytes,
            predicted_s=predict_model(cost, self.machine).seconds,
            measured=_latency(timing),
        )

    def _layer(self, choice: Choice) -> Layer:
        priced = {entry.site.name: entry.prices for entry in self.prices.sites} if self.prices else {}
        fits = {fit.name: fit for fit in self.calibrated.layers} if self.calibrated else {}
        fit = fits.get(choice.name)
        return Layer(
            name=choice.name,
            spec=str(choice.spec),
            calls=choice.calls,
            before=_option(choice.original),
            after=_option(choice.price),
            why=choice.why,
            options=tuple(map(_option, priced.get(choice.name, ()))),
            sensitivity=choice.sensitivity if self.plan.samples else None,
            fit_error_before=fit.error_before if fit else None,
            fit_error_after=fit.error_after if fit else None,
        )


def _latency(timing: Timing) -> Latency:
    return Latency(median_s=timing.median_s, spread_s=timing.spread_s, samples_s=timing.samples)


def _option(price: Price) -> Option:
    return Option(
        family=price.candidate.family,
        rank=price.candidate.rank,
        macs=price.macs,
        parameters=price.parameters,
        predicted_s=price.predicted_s,
        measured_s=price.measured_s,
        error=price.error,
    )


def _metric(name: str, values: tuple[float, float]) -> Metric:
    before, after = values
    return Metric(name=name, before=before, after=after, is_share=min(values) >= 0 and max(values) <= 1)


def _distillation(distilled: Distilled | None) -> Distillation | None:
    if distilled is None:
        return None
    losses = tuple(loss.total for loss in distilled.history)
    return Distillation(steps=tuple(range(1, len(losses) + 1)), losses=losses)


def _machine(machine: Machine) -> MachineFacts:
    return MachineFacts(
        name=machine.name,
        cores=machine.cores,
        instruction_sets=machine.instruction_sets,
        fma_per_s=machine.fma_per_s,
        bytes_per_s=machine.bytes_per_s,
    )
