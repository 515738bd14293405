"""What separable.plan.choose_plan promises: the best plan within the budget, or the best that can be reached."""

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from separable.errors import BudgetError
from separable.graph import Site
from separable.plan import Candidate, Plan, Price, Prices, SitePrices, Totals, choose_plan
from separable.plan.prices import total
from separable.spec import Budget, ConvSpec

SPEC = ConvSpec(8, 8, kernel=3, size=8, padding=1)


def price_of(rank: int, macs: int, error: float, measured_s: float | None = None, parameters: int = 1) -> Price:
    candidate = Candidate(family="spatial", rank=(rank,)) if rank else Candidate(family="keep")
    numbers = {"macs": macs, "parameters": parameters, "predicted_s": macs * 1e-9}
    return Price(candidate=candidate, **numbers, measured_s=measured_s, error=error)


def prices_of(*sites: list[Price], rest: Totals | None = None, sensitivities: tuple[float, ...] = ()) -> Prices:
    weights = sensitivities or (1.0,) * len(sites)
    entries = [
        SitePrices(site=site_named(f"conv{index}"), prices=tuple(prices), sensitivity=weight)
        for index, (prices, weight) in enumerate(zip(sites, weights, strict=True))
    ]
    has_times = all(price.measured_s is not None for prices in sites for price in prices)
    return Prices(sites=tuple(entries), rest=rest or Totals(measured_s=0.0 if has_times else None))


def site_named(name: str) -> Site:
    return Site(name=name, spec=SPEC, sizes=(SPEC.size,), batch=1, padding_mode="zeros", bias=True)


def ranks(plan: Plan) -> list[int]:
    return [sum(choice.candidate.rank) for choice in plan.choices]


def test_the_layer_that_errs_least_is_rewritten_first() -> None:
    prices = prices_of([price_of(0, 100, 0.0), price_of(1, 50, 0.2)], [price_of(0, 100, 0.0), price_of(1, 50, 0.1)])
    plan = choose_plan(prices, Budget(macs=0.75))
    assert ranks(plan) == [0, 1]
    assert (plan.before.macs, plan.after.macs, plan.after.error) == (200, 150, 0.1)


def test_errors_count_as_much_as_they_reach_the_output() -> None:
    sites = [price_of(0, 100, 0.0), price_of(1, 50, 0.2)], [price_of(0, 100, 0.0), price_of(1, 50, 0.1)]
    plan = choose_plan(prices_of(*sites, sensitivities=(1.0, 3.0)), Budget(macs=0.75))
    assert ranks(plan) == [1, 0]
    assert plan.after.error == pytest.approx(0.2)


def test_the_rest_of_the_model_counts_against_the_budget() -> None:
    site = [price_of(0, 100, 0.0), price_of(1, 60, 0.1), price_of(2, 10, 0.5)]
    rest = Totals(macs=100, measured_s=None)
    assert ranks(choose_plan(prices_of(site, rest=rest), Budget(macs=0.75))) == [2]
    assert ranks(choose_plan(prices_of(site, rest=rest), Budget(macs=160))) == [1]


def test_a_candidate_that_measured_no_faster_is_not_offered_under_a_latency_budget() -> None:
    site = [price_of(0, 100, 0.0, 1.0), price_of(1, 10, 0.0, 1.0), price_of(2, 90, 0.9, 0.4)]
    assert ranks(choose_plan(prices_of(site), Budget(latency=0.5))) == [2]
    same = [price_of(0, 100, 0.0, 1.0), price_of(1, 10, 0.0, 1.0)]
    both = prices_of(same, [price_of(0, 100, 0.0, 1.0), price_of(2, 90, 0.9, 0.4)])
    plan = choose_plan(both, Budget(latency=0.8))
    assert ranks(plan) == [0, 2]
    assert plan.choices[0].why == "nothing measured faster: spatial 1 took 100% of its time"
    assert ranks(choose_plan(both, Budget(macs=0.8))) == [1, 0]


def test_seconds_and_several_limits_hold_together() -> None:
    site = [
        price_of(0, 100, 0.0, 1.0, parameters=100),
        price_of(1, 50, 0.1, 0.9, parameters=20),
        price_of(2, 60, 0.2, 0.5, parameters=50),
        price_of(3, 40, 0.3, 0.5, parameters=40),
    ]
    plan = choose_plan(prices_of(site), Budget(latency_s=0.5, parameters=0.4))
    assert ranks(plan) == [3]


def test_an_error_budget_alone_makes_the_measured_time_least_or_the_macs() -> None:
    timed = [price_of(0, 100, 0.0, 1.0), price_of(1, 50, 0.1, 0.9), price_of(2, 60, 0.1, 0.5), price_of(3, 1, 0.3, 0.1)]
    assert ranks(choose_plan(prices_of(timed), Budget(error=0.2))) == [2]
    untimed = [price_of(0, 100, 0.0), price_of(1, 50, 0.1), price_of(2, 60, 0.1), price_of(3, 1, 0.3)]
    assert ranks(choose_plan(prices_of(untimed), Budget(error=0.2))) == [1]


def test_equal_errors_are_decided_by_macs_and_then_by_order() -> None:
    site = [price_of(0, 100, 0.0), price_of(1, 40, 0.1), price_of(2, 30, 0.1), price_of(3, 30, 0.1)]
    assert ranks(choose_plan(prices_of(site), Budget(macs=0.5))) == [2]


def test_without_measured_times_a_latency_budget_is_refused() -> None:
    with pytest.raises(BudgetError, match="timer"):
        choose_plan(prices_of([price_of(0, 100, 0.0), price_of(1, 50, 0.1)]), Budget(latency=0.5))


def test_a_budget_out_of_reach_names_the_best_that_can_be_reached() -> None:
    prices = prices_of([price_of(0, 100, 0.0), price_of(1, 50, 0.2)], rest=Totals(macs=33, measured_s=None))
    with pytest.raises(BudgetError, match=r"the best is macs 0\.6241$|the best is macs 0\.6241\.") as caught:
        choose_plan(prices, Budget(macs=0.5))
    share = float(re.search(r"macs (0\.\d+)", caught.value.expected)[1])  # type: ignore[index]
    assert ranks(choose_plan(prices, Budget(macs=share))) == [1]
    with pytest.raises(BudgetError, match="the best is macs 83"):
        choose_plan(prices, Budget(macs=82))
    assert ranks(choose_plan(prices, Budget(macs=83))) == [1]


def test_limits_that_can_only_be_kept_one_by_one_are_named() -> None:
    prices = prices_of([price_of(0, 100, 0.0), price_of(1, 50, 0.2)])
    with pytest.raises(BudgetError, match=r"the best is macs 1 while error holds"):
        choose_plan(prices, Budget(macs=0.5, error=0.1))


def test_a_model_without_convolutions_can_only_be_kept() -> None:
    prices = prices_of(rest=Totals(macs=100, measured_s=None))
    with pytest.raises(BudgetError, match="no convolution that can be rewritten"):
        choose_plan(prices, Budget(macs=0.5))
    assert choose_plan(prices, Budget(error=0.5)).choices == ()


def test_the_reasons_say_what_was_gained_and_how_it_is_known() -> None:
    timed = prices_of([price_of(0, 100, 0.0, 1.0), price_of(1, 50, 0.1, 0.4)])
    assert choose_plan(timed, Budget(latency=0.5)).choices[0].why == "2.0× fewer MACs counted, 40% of the time measured"
    kept = choose_plan(timed, Budget(error=0.01)).choices[0]
    assert kept.why == "the budget holds without it, at less error"
    alone = prices_of([price_of(0, 100, 0.0)], [price_of(0, 100, 0.0), price_of(1, 50, 0.1)])
    assert choose_plan(alone, Budget(macs=0.9)).choices[0].why == "no family writes it with fewer MACs"


@st.composite
def problems(draw: st.DrawFn) -> tuple[Prices, Budget]:
    sites = []
    for _ in range(draw(st.integers(1, 4))):
        keep = price_of(0, draw(st.integers(50, 100)), 0.0, draw(st.floats(0.5, 1)), draw(st.integers(50, 100)))
        others = [
            price_of(
                rank,
                draw(st.integers(1, keep.macs)),
                draw(st.floats(0.001, 1)),
                draw(st.floats(0.1, 1.5)),
                draw(st.integers(1, 120)),
            )
            for rank in range(1, draw(st.integers(1, 5)))
        ]
        sites.append([keep, *others])
    sensitivities = tuple(draw(st.lists(st.floats(0.1, 3), min_size=len(sites), max_size=len(sites))))
    rest = Totals(macs=draw(st.integers(0, 50)), parameters=draw(st.integers(0, 50)), measured_s=draw(st.floats(0, 1)))
    names = draw(st.sets(st.sampled_from(["latency", "macs", "parameters", "error"]), min_size=1))
    # Odd fractions, so that no sum meets a limit exactly and rounding decides nothing.
    limits = {name: draw(st.integers(200, 950)) / 1000 + 1e-7 / 3 for name in sorted(names)}
    return prices_of(*sites, rest=rest, sensitivities=sensitivities), Budget(**limits)


def possible(prices: Prices, budget: Budget) -> list[tuple[float, float]]:
    """Error and seconds of every plan within the budget, one by one."""
    original, found = prices.original, []
    limits = [(getattr(budget, name), name) for name in ("latency", "macs", "parameters")]
    for picked in itertools.product(*(entry.prices for entry in prices.sites)):
        pairs = list(zip(prices.sites, picked, strict=True))
        if budget.latency is not None and any(
            price.candidate.rank and price.measured_s >= entry.original.measured_s  # type: ignore[operator]
            for entry, price in pairs
        ):
            continue
        parts = [prices.rest, *(Totals.of(price, entry.sensitivity) for entry, price in pairs)]
        whole = total(parts)
        shares = {"latency": (whole.measured_s or 0.0) / (original.measured_s or 1.0)}
        shares |= {name: getattr(whole, name) / getattr(original, name) for name in ("macs", "parameters")}
        within = all(limit is None or shares[name] <= limit for limit, name in limits)
        if within and whole.error <= (budget.error or 1e9):
            found.append((whole.error, whole.measured_s or 0.0))
    return found


@settings(max_examples=100, deadline=None)
@given(problems())
def test_trying_every_plan_finds_none_better(problem: tuple[Prices, Budget]) -> None:
    prices, budget = problem
    plans = possible(prices, budget)
    if not plans:
        with pytest.raises(BudgetError, match="the best is"):
            choose_plan(prices, budget)
        return
    after = choose_plan(prices, budget).after
    column = 1 if set(budget.to_json()) == {"error"} else 0
    found = (after.error, after.measured_s or 0.0)[column]
    assert found <= min(plan[column] for plan in plans) * (1 + 1e-5) + 1e-9


def test_the_same_prices_give_the_same_plan() -> None:
    prices = prices_of(*[[price_of(0, 100, 0.0), price_of(1, 50, 0.1), price_of(2, 25, 0.3)]] * 12)
    assert choose_plan(prices, Budget(macs=0.6)) == choose_plan(prices, Budget(macs=0.6))
