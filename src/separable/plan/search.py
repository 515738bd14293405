"""The choice. In: prices and a budget. Out: the plan with the least error, or the best in reach."""

from __future__ import annotations

import math
from dataclasses import dataclass

from separable.errors import BudgetError
from separable.plan.knapsack import Limit, Values, pick_least, total_of
from separable.plan.plan import Choice, Plan
from separable.plan.prices import Price, Prices, SitePrices
from separable.spec import Budget


def choose_plan(prices: Prices, budget: Budget) -> Plan:
    """The candidate for each site that makes the summed error least within every limit of the budget.

    Each site's error counts by its sensitivity. A budget of ``error`` alone makes the measured time least, or the MACs
    where there are no times. Under a limit on latency a candidate that did not measure faster than the layer as it is
    is not offered. Of equally good plans the one with fewer MACs, then the earlier candidates. Same prices, same plan.

    ``BudgetError`` names the best that can be reached when the budget is out of reach, and is raised for a limit on
    latency where no times were measured.
    """
    limits = _limits(prices, budget)
    offered = [_offered(entry, budget) for entry in prices.sites]
    objective = _objective(prices, budget)
    picked = pick_least(objective, [limit.on_sites for limit in limits], offered, then=_values(prices, "macs"))
    if picked is None:
        raise _out_of_reach(prices, budget, limits, offered)
    choices = [_choice(entry, index, budget) for entry, index in zip(prices.sites, picked, strict=True)]
    return Plan(choices=tuple(choices), budget=budget, rest=prices.rest, samples=prices.samples, notes=prices.notes)


@dataclass(frozen=True, kw_only=True)
class _WholeLimit:
    """A limit on the whole model; ``unit`` is what the limit was given in: the original's amount, or 1."""

    name: str
    most: float
    rest: float
    unit: float
    values: Values

    @property
    def on_sites(self) -> Limit:
        return Limit(values=self.values, bound=self.most - self.rest)

    def least(self, offered: list[list[int]]) -> float:
        """The least that the whole model can come to when this is the only limit."""
        best = [min(options, key=values.__getitem__) for values, options in zip(self.values, offered, strict=True)]
        return self.rest + total_of(self.values, best)

    def at(self, amount: float) -> str:
        """An amount in the words of the budget, rounded up so that it can be asked for."""
        if self.name == "error" or self.unit != 1:
            share = math.ceil(amount / self.unit * 1e4) / 1e4
            return f"{self.name} {share:g}"
        return f"{self.name} {amount:.6g}" if self.name == "latency_s" else f"{self.name} {math.ceil(amount):,}"


def _limits(prices: Prices, budget: Budget) -> list[_WholeLimit]:
    limits = []
    for name, most in budget.to_json().items():
        field = "measured_s" if name in ("latency", "latency_s") else name
        if field == "measured_s" and not prices.is_measured:
            raise BudgetError(
                f"Budget.{name}",
                given="prices without measured times",
                expected="a time for every candidate",
                remedy="Hand price a timer, or set a limit on macs, parameters or error.",
            )
        original, rest = getattr(prices.original, field), getattr(prices.rest, field)
        unit = original if name in ("latency", "macs", "parameters") and most < 1 else 1
        limits.append(_WholeLimit(name=name, most=most * unit, rest=rest, unit=unit, values=_values(prices, field)))
    return limits


def _values(prices: Prices, field: str) -> Values:
    return [[_value(entry, price, field) for price in entry.prices] for entry in prices.sites]


def _value(entry: SitePrices, price: Price, field: str) -> float:
    value: float = getattr(price, field)
    return entry.sensitivity * value if field == "error" else value


def _objective(prices: Prices, budget: Budget) -> Values:
    if set(budget.to_json()) != {"error"}:
        return _values(prices, "error")
    return _values(prices, "measured_s" if prices.is_measured else "macs")


def _offered(entry: SitePrices, budget: Budget) -> list[int]:
    if budget.latency is None and budget.latency_s is None:
        return list(range(len(entry.prices)))
    return [index for index, price in enumerate(entry.prices) if index == 0 or _is_faster(price, entry.original)]


def _is_faster(price: Price, original: Price) -> bool:
    return price.measured_s is not None and original.measured_s is not None and price.measured_s < original.measured_s


def _out_of_reach(prices: Prices, budget: Budget, limits: list[_WholeLimit], offered: list[list[int]]) -> BudgetError:
    best = [limit.at(limit.least(offered)) for limit in limits if limit.least(offered) > limit.most]
    if not best:
        # Each limit can be kept alone: name the best of the first one while the others hold.
        first, *others = limits
        bounds = [limit.on_sites for limit in others]
        picked = pick_least(first.values, bounds, offered, then=_values(prices, "macs"))
        together = " with ".join(limit.name for limit in others)
        if picked is not None:
            best = [f"{first.at(first.rest + total_of(first.values, picked))} while {together} holds"]
    where = "choose_plan" if prices.sites else "choose_plan (the model has no convolution that can be rewritten)"
    expected = f"a budget within reach: the best is {' and '.join(best) or 'fewer limits at once'}"
    return BudgetError(where, given=str(budget), expected=expected, remedy="Raise the limit.")


def _choice(entry: SitePrices, index: int, budget: Budget) -> Choice:
    price = entry.prices[index]
    return Choice(
        name=entry.site.name,
        spec=entry.site.spec,
        calls=entry.site.calls,
        price=price,
        original=entry.original,
        sensitivity=entry.sensitivity,
        why=_why_kept(entry, budget) if index == 0 else _why_changed(price, entry.original),
    )


def _why_changed(price: Price, original: Price) -> str:
    gain = f"{original.macs / price.macs:.1f}× fewer MACs counted"
    if price.measured_s is None or original.measured_s is None:
        return gain
    return f"{gain}, {price.measured_s / original.measured_s:.0%} of the time measured"


def _why_kept(entry: SitePrices, budget: Budget) -> str:
    others = entry.prices[1:]
    if not others:
        return "no family writes it with fewer MACs"
    if len(_offered(entry, budget)) == 1:
        best = min(others, key=lambda price: price.measured_s or 0.0)
        share = (best.measured_s or 0.0) / (entry.original.measured_s or 1.0)
        return f"nothing measured faster: {best.candidate.label} took {share:.0%} of its time"
    return "the budget holds without it, at less error"
