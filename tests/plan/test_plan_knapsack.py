"""What separable.plan.knapsack promises: the best pick of all, proved against trying every one."""

import itertools
import math

from hypothesis import given, settings
from hypothesis import strategies as st

from separable.plan.knapsack import TIE, Limit, pick_least, total_of

ERRORS = st.one_of(st.just(0.0), st.floats(1e-9, 1.0), st.sampled_from([0.125, 0.25, 0.5]))
WHOLE = st.integers(0, 1_000_000)
SECONDS = st.floats(1e-6, 1e-2)


@st.composite
def knapsacks(draw: st.DrawFn) -> tuple[list[list[float]], list[Limit], list[list[float]]]:
    sizes = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))

    def values(of: st.SearchStrategy[float]) -> list[list[float]]:
        return [draw(st.lists(of, min_size=size, max_size=size)) for size in sizes]

    objective, then, costs = values(ERRORS), values(WHOLE), [values(WHOLE), values(SECONDS)]
    limits = []
    for cost in costs[: draw(st.integers(0, 2))]:
        # Bounds that some pick meets exactly are the hardest.
        pick = [draw(st.integers(0, size - 1)) for size in sizes]
        limits.append(Limit(values=cost, bound=total_of(cost, pick) - draw(st.sampled_from([0, 0, 1e-7, 1]))))
    return objective, limits, then


@settings(max_examples=150, deadline=None)
@given(knapsacks())
def test_no_pick_is_better_than_the_one_found(
    problem: tuple[list[list[float]], list[Limit], list[list[float]]],
) -> None:
    objective, limits, then = problem
    offered = [range(len(options)) for options in objective]
    picks = [p for p in itertools.product(*offered) if all(limit.holds(p) for limit in limits)]
    found = pick_least(objective, limits, offered, then=then)
    if not picks:
        assert found is None
        return
    assert found in picks
    least = min(total_of(objective, pick) for pick in picks)
    worst = max(max(options) for options in objective)
    # The solver's own resolution of the objective is 1e-6 on values stretched to a million.
    assert total_of(objective, found) <= least * (1 + 3 * TIE) + 3e-12 * worst
    ties = [pick for pick in picks if total_of(objective, pick) == least]
    assert total_of(then, found) <= min(total_of(then, pick) for pick in ties)


def test_a_sum_over_the_limit_by_less_than_the_solver_sees_is_not_picked() -> None:
    # 1,000,000,001 is over by a billionth; the solver alone would take it for equal.
    limit = Limit(values=[[1_000_000_001, 999_999_999]], bound=1_000_000_000)
    assert pick_least([[0.0, 1.0]], [limit], [[0, 1]], then=[[0, 0]]) == (1,)


def test_of_equal_options_the_one_with_fewer_macs_and_then_the_earlier_is_picked() -> None:
    assert pick_least([[0.5, 0.5, 0.5]], [], [[0, 1, 2]], then=[[7, 3, 3]]) == (1,)


def test_an_option_that_is_not_offered_is_not_picked() -> None:
    assert pick_least([[0.0, 1.0, 2.0]], [], [[1, 2]], then=[[0, 0, 0]]) == (1,)


def test_without_groups_there_is_one_pick_or_none() -> None:
    assert pick_least([], [Limit(values=[], bound=0.0)], [], then=[]) == ()
    assert pick_least([], [Limit(values=[], bound=-1.0)], [], then=[]) is None


def test_forty_groups_of_thirty_options_are_solved_within_a_hair_of_the_relaxed_bound() -> None:
    # Options i cost 30 - i and err i²: at a mean of 15 the best is i = 15 everywhere, by convexity.
    groups = 40
    costs = [[30.0 - i for i in range(30)]] * groups
    errors = [[float(i * i) for i in range(30)]] * groups
    pick = pick_least(errors, [Limit(values=costs, bound=15.0 * groups)], [range(30)] * groups, then=costs)
    assert pick == (15,) * groups
    assert math.isclose(total_of(errors, pick), 225.0 * groups)


def test_limits_far_below_the_largest_values_do_not_hide_from_the_solver() -> None:
    # Twenty groups: an option of 1 (never possible), one of 2e-9 (at most one of them) and one of 0.
    values = [[1.0, 2e-9, 0.0]] * 20
    objective = [[0.0, 1.0, 2.0]] * 20
    pick = pick_least(objective, [Limit(values=values, bound=3e-9)], [range(3)] * 20, then=[[0, 0, 0]] * 20)
    assert pick is not None
    assert sorted(pick) == [1] + [2] * 19


def test_limits_out_of_reach_by_a_hair_are_out_of_reach() -> None:
    values = [[1.0, 2.0]] * 20
    assert pick_least(values, [Limit(values=values, bound=20 - 1e-9)], [range(2)] * 20, then=values) is None
    assert pick_least(values, [Limit(values=values, bound=20)], [range(2)] * 20, then=values) == (0,) * 20
