"""The whole flow. In: a trained model, an example, data, a budget. Out: a separable model, and proof that it pays."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from separable.cost.clock import Comparison, measure, today
from separable.cost.clock import compare as compare_times
from separable.cost.counting import Example, count
from separable.cost.ledger import Ledger
from separable.cost.machine import Machine, this_machine
from separable.engine.timing import engine_timer, forward_on_engine, time_key
from separable.errors import BudgetError, ModelError, SeparableError
from separable.graph.compare import compare
from separable.graph.exporting import save_exported
from separable.graph.inference import evaluating, run
from separable.graph.sites import Sites
from separable.graph.trace import trace
from separable.plan.apply import rewrite
from separable.plan.plan import Plan
from separable.plan.prices import Prices
from separable.plan.pricing import price
from separable.plan.responses import Effort
from separable.plan.search import choose_plan
from separable.plan.timing import Timer
from separable.report.evidence import AFTER, BEFORE, Evidence
from separable.report.facts import Facts, Network
from separable.report.page import write_page
from separable.report.summary import summary
from separable.spec import Budget, TensorSpec
from separable.tune.batches import Batches, read_batches
from separable.tune.calibrate import Calibrated, calibrate
from separable.tune.distill import Distilled, check_precision, distill
from separable.tune.options import DistillOptions
from separable.tune.processes import told_by_first

Metric = Callable[[nn.Module], float]

HALF = Budget(latency=0.5)
ENGINES = ("eager", "separable")
# The layers' times, each measured alone, do not add up to the model's exactly: under a latency budget the plan is made
# again, so many times at most, by what the last one really took.
ATTEMPTS = 5
# Small steps: what was fitted is close to the original already, and large ones lead away from it.
GENTLE = DistillOptions(learning_rate=1e-4, batch_norms="kept")
# One sample of this many is kept from the fit and the training, to judge them by.
HELD_OUT = 5
# The model is timed again when it is finished, and two measurements differ by a few percent: a plan passes this far
# below the limit.
HEADROOM = 0.97


@dataclass(frozen=True, kw_only=True)
class ShrinkOptions:
    """How to recover the output: at most ``samples`` inputs are used; ``distill`` is None for no training.

    Distillation is saved to ``checkpoint`` and goes on from there when the file exists. ``also``: a further
    engine that the two models are timed on in the end.
    """

    samples: int = 512
    distill: DistillOptions | None = GENTLE
    checkpoint: str | Path | None = None
    progress: bool = True
    also: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Shrunk:
    """A separable model, the plan that made it, and what was counted, predicted and measured before and after."""

    model: nn.Module
    example: Example
    plan: Plan
    prices: Prices | None
    facts: Facts

    @property
    def before(self) -> Network:
        """The original: MACs, parameters, bytes, predicted and measured time."""
        return self.facts.before

    @property
    def after(self) -> Network:
        """The same of the finished model."""
        return self.facts.after

    def write_report(self, path: str | os.PathLike[str]) -> None:
        """Write everything on one HTML page; ``FileError`` where that cannot be."""
        write_page(self.facts, Path(path))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model as a .pt2 file, in evaluation mode; ``FileError`` where that cannot be."""
        save_exported(self.model, self.example, path)

    def to_json(self) -> dict[str, Any]:
        """The facts and the plan as plain values."""
        return {"facts": self.facts.to_json(), "plan": self.plan.to_json()}

    def __str__(self) -> str:
        return summary(self.facts)


def shrink(
    model: nn.Module,
    example: Example,
    data: Any = None,
    budget: Budget | Plan = HALF,
    *,
    engine: str = "eager",
    metrics: Mapping[str, Metric] | None = None,
    options: ShrinkOptions | None = None,
) -> Shrunk:
    """Rewrite a trained model with separable convolutions under a budget, recover its output, and prove the gain.

    ``example`` is an input as the model takes it; times are measured at its batch size. ``data`` are inputs without
    labels, in any form that ``read_batches`` takes; without them the weights alone are used, which loses far more of
    the output at the same cost. A ``Plan`` in the place of a budget is carried out as it is. ``metrics`` are functions
    of a model, reported before and after. ``engine`` is what runs the models that are timed: ``"eager"`` PyTorch, or
    ``"separable"``, this library's own for the CPU. The given model is not changed; the new one is in the same mode.

    Among several processes (``separable.tune.process_group``) the first one plans and measures, and all train.

    ``BudgetError`` names the best that can be reached, ``ModelError`` what cannot be rewritten, ``DataError`` what is
    wrong with the data.
    """
    options = options or ShrinkOptions()
    engines = [name for name in (engine, options.also) if name]
    _check(engines, model, data, options)
    fit, check = _data(data, example, options.samples)
    sites = trace(model, example)
    _require_sites(sites)
    reached = _measured(metrics or {}, model)
    machine = this_machine()
    plan, prices = told_by_first(lambda: _plan(model, example, sites, fit, budget, engine, options.progress))
    recovered = _recovered(model, rewrite(model, plan), fit, check, options)
    timings = told_by_first(lambda: [time_in_turns(model, recovered.model, example, engine=name) for name in engines])
    evidence = Evidence(
        model=_name(model),
        input=_shapes(example),
        batch=sites.sites[0].batch,
        engine=engine,
        sites=sites,
        plan=plan,
        prices=prices,
        after=count(recovered.model, example),
        timings=timings[0],
        elsewhere=dict(zip(engines[1:], timings[1:], strict=True)),
        machine=machine,
        calibrated=recovered.calibrated,
        distilled=recovered.distilled,
        agreement=compare(model, recovered.model, example if check is None else check),
        metrics={name: (reached[name], now) for name, now in _measured(metrics or {}, recovered.model).items()},
        inputs=0 if fit is None else fit.samples or 0,
        notes=(*plan.notes, *recovered.notes),
        warnings=_warnings(model, plan.budget, timings[0], fit),
        date=today(),
        seed=options.distill.seed if options.distill else None,
    )
    return Shrunk(model=recovered.model, example=example, plan=plan, prices=prices, facts=evidence.facts())


def time_in_turns(
    original: nn.Module, rewritten: nn.Module, example: Example, *, engine: str = "eager", max_s: float = 10.0
) -> Comparison:
    """One forward of each on the engine, in turns and in evaluation mode."""
    with evaluating(original, rewritten):
        models = {BEFORE: original, AFTER: rewritten}
        if engine == "separable":
            return compare_times({name: forward_on_engine(m, example) for name, m in models.items()}, max_s=max_s)
        return compare_times({name: partial(run, m, example) for name, m in models.items()}, max_s=max_s)


def eager_timer(ledger: Ledger, machine: Machine) -> Timer:
    """A timer for layers and models in eager PyTorch; convolutions that the ledger knows are not run again."""

    def seconds(layer: nn.Module, x: Tensor) -> float:
        key = time_key("eager", layer, x, machine)
        timing = None if key is None else ledger.get(key)
        if timing is None:
            with evaluating(layer):
                timing = measure(lambda: layer(x), min_s=0.03, max_s=1.0 if key is None else 0.15)
            if key is not None:
                ledger.put(key, timing)
        # Layers are timed at different moments, and whatever else ran at a moment only adds: the fastest sample is the
        # one that can be compared.
        return timing.min_s

    return seconds


def _check(engines: list[str], model: nn.Module, data: Any, options: ShrinkOptions) -> None:
    for name in engines:
        if name not in ENGINES:
            raise SeparableError("shrink(engine=...)", given=repr(name), expected=f"one of {', '.join(ENGINES)}")
    if data is not None and options.distill is not None:
        check_precision(model)


def _data(data: Any, example: Example, samples: int) -> tuple[Batches | None, Batches | None]:
    """The inputs to fit and train on, and those kept back to judge the result by; None where there are none."""
    if data is None:
        return None, None
    batches = read_batches(data, example, limit=samples).in_memory()
    rows = list(batches.rows or ())
    if len(rows) < HELD_OUT:
        return batches, None
    kept_back = rows[HELD_OUT - 1 :: HELD_OUT]
    return replace(batches, rows=sorted(set(rows) - set(kept_back))), replace(batches, rows=kept_back)


def _require_sites(sites: Sites) -> None:
    if not sites.sites:
        reasons = "; ".join(f"{entry.name}: {entry.reason}" for entry in sites.skipped)
        given = f"no convolution that can be rewritten ({reasons})" if reasons else "a model without convolutions"
        raise ModelError("shrink", given=given, expected="at least one plain convolution layer")


def _plan(
    model: nn.Module,
    example: Example,
    sites: Sites,
    data: Batches | None,
    budget: Budget | Plan,
    engine: str,
    progress: bool,
) -> tuple[Plan, Prices | None]:
    """The plan, made for a budget where none is given, and the prices that it was chosen by."""
    if isinstance(budget, Plan):
        return budget, None
    timer = (engine_timer if engine == "separable" else eager_timer)(Ledger(), this_machine())
    effort = Effort(only_faster=_has_latency(budget))
    prices = price(model, sites, example=example, timer=timer, data=data, effort=effort, progress=progress)
    return _planned(model, example, prices, budget, engine), prices


def _planned(model: nn.Module, example: Example, prices: Prices, budget: Budget, engine: str) -> Plan:
    """The plan whose model keeps the budget, its time measured against the original's."""
    plan = choose_plan(prices, budget)
    if not _has_latency(budget):
        return plan
    best = math.inf
    for _ in range(ATTEMPTS):
        timings = time_in_turns(model, rewrite(model, plan), example, engine=engine, max_s=3.0)
        wanted, reached = _wanted_share(budget, timings), timings.ratio(AFTER, BEFORE)
        if reached <= wanted * HEADROOM:
            return replace(plan, budget=budget)
        best = min(best, reached)
        share = (plan.after.measured_s or 0.0) / (plan.before.measured_s or 1.0) * wanted / reached * HEADROOM
        try:
            plan = choose_plan(prices, replace(budget, latency=share, latency_s=None))
        except BudgetError:
            break
    expected = f"a latency that this model reaches on this machine: the best measured is {best:.2f} of the original's"
    raise BudgetError("shrink", given=str(budget), expected=expected, remedy="Raise the limit.")


def _has_latency(budget: Budget) -> bool:
    return budget.latency is not None or budget.latency_s is not None


def _wanted_share(budget: Budget, timings: Comparison) -> float:
    """The limit on latency as a share of the original's."""
    in_seconds = None if budget.latency_s is None else budget.latency_s / timings.timings[BEFORE].median_s
    return min(share for share in (budget.latency, in_seconds) if share is not None)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Recovered:
    """A rewritten model after what data could do for it."""

    model: nn.Module
    calibrated: Calibrated | None = None
    distilled: Distilled | None = None
    notes: tuple[str, ...] = ()


def _recovered(
    model: nn.Module, rewritten: nn.Module, fit: Batches | None, check: Batches | None, options: ShrinkOptions
) -> _Recovered:
    """Fitted, then trained; the training is kept where it brought the output closer on the inputs held back."""
    if fit is None:
        return _Recovered(model=rewritten)
    calibrated = calibrate(model, rewritten, fit, samples=options.samples, progress=options.progress)
    if options.distill is None:
        return _Recovered(model=calibrated.model, calibrated=calibrated)
    student = calibrated.model
    distilled = distill(
        model, student, fit, options=options.distill, checkpoint=options.checkpoint, progress=options.progress
    )
    judge = fit if check is None else check
    before, after = (compare(model, each, judge).error for each in (student, distilled.model))
    where = "on the inputs it saw" if check is None else f"on {check.samples} inputs held back"
    note = f"Distillation brought the output error from {before:.3g} to {after:.3g} {where}"
    if after < before:
        return _Recovered(model=distilled.model, calibrated=calibrated, distilled=distilled, notes=(f"{note}.",))
    return _Recovered(model=student, calibrated=calibrated, notes=(f"{note}, and was left out.",))


def _measured(metrics: Mapping[str, Metric], model: nn.Module) -> dict[str, float]:
    with evaluating(model):
        found = {name: metric(model) for name, metric in metrics.items()}
    for name, number in found.items():
        try:
            found[name] = float(number)
        except (TypeError, ValueError) as error:
            raise SeparableError(f"metric {name!r}", given=repr(number), expected="a number") from error
    return found


def _warnings(model: nn.Module, budget: Budget, timings: Comparison, fit: Batches | None) -> tuple[str, ...]:
    found = []
    if fit is None:
        found.append("No data was given: the weights alone were used. A few hundred unlabelled inputs lose far less.")
    if _has_latency(budget):
        wanted = _wanted_share(budget, timings)
        reached = timings.timings[AFTER].median_s / timings.timings[BEFORE].median_s
        if reached > wanted:
            found.append(
                f"The finished model took {reached:.1%} of the original's time at last; {wanted:.1%} was asked."
            )
    if timings.verdict(AFTER, BEFORE) != "faster":
        found.append("The finished model did not measure faster than the original.")
    if model.training:
        found.append("The model was in training mode; everything was measured in evaluation mode.")
    return tuple(found)


def _name(model: nn.Module) -> str:
    return type(model).__name__


def _shapes(example: Example) -> str:
    """The example's tensors, to read."""
    tensors = [leaf for leaf in tree_leaves(example) if isinstance(leaf, Tensor)]
    return ", ".join(
        str(TensorSpec(shape=tuple(tensor.shape), dtype=str(tensor.dtype).removeprefix("torch."))) for tensor in tensors
    )
