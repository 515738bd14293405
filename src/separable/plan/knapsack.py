"""One option from each group, exactly. In: values by group and option, limits on sums. Out: the best pick, or none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

Values = Sequence[Sequence[float]]
INFEASIBLE = 2  # the status of scipy.optimize.milp
# The solver takes two sums for one when they differ by less than 1e-6. Sums of the objective are stretched so far that
# this no longer matters; sums under a limit are checked again exactly.
STRETCH = 1e6
TIE = 1e-6
ROUNDING = 1e-12  # of sums of some hundred numbers in double precision
TINY = float(np.finfo(float).tiny)


@dataclass(frozen=True, kw_only=True)
class Limit:
    """The sum of the values picked is at most ``bound``."""

    values: Values
    bound: float

    def holds(self, pick: Sequence[int]) -> bool:
        """Whether a pick keeps the limit, without a tolerance."""
        return total_of(self.values, pick) <= self.bound


def total_of(values: Values, pick: Sequence[int]) -> float:
    """The sum of the values picked; exact for whole numbers, rounded once for others."""
    picked = [options[index] for options, index in zip(values, pick, strict=True)]
    return sum(picked) if all(isinstance(value, int) for value in picked) else math.fsum(picked)


def pick_least(
    objective: Values, limits: Sequence[Limit], offered: Sequence[Sequence[int]], *, then: Values
) -> tuple[int, ...] | None:
    """For each group one of the ``offered`` options, so that the objective's sum is least and every limit holds.

    A multiple-choice knapsack, solved by branch and bound (HiGHS). Of the picks within a millionth of the least sum,
    one with the least sum of ``then``. Same input, same pick. None when no pick keeps the limits.
    """
    first = _solve(objective, limits, then, offered)
    if first is None:
        return None
    least = total_of(objective, first)
    tied = Limit(values=objective, bound=least + abs(least) * TIE)
    second = _solve(then, [*limits, tied], objective, offered)
    return second if second is not None and total_of(then, second) < total_of(then, first) else first


def _solve(
    objective: Values, limits: Sequence[Limit], then: Values, offered: Sequence[Sequence[int]]
) -> tuple[int, ...] | None:
    possible = [list(options) for options in offered]
    for limit in limits:
        possible = _possible(limit, possible)
        if not all(possible):
            return None
    groups = [
        _undominated(options, [values[group] for values in (objective, then, *(limit.values for limit in limits))])
        for group, options in enumerate(possible)
    ]
    if not groups:
        return () if all(limit.holds(()) for limit in limits) else None
    return _branch_and_bound(objective, limits, groups)


def _possible(limit: Limit, groups: list[list[int]]) -> list[list[int]]:
    """The options that keep the limit when every other group takes its least; rounding is on the side of the option."""
    slack = _slack(limit, groups) + ROUNDING * abs(limit.bound)
    return [
        [option for option in options if values[option] - min(values[o] for o in options) <= slack]
        for values, options in zip(limit.values, groups, strict=True)
    ]


def _slack(limit: Limit, groups: Sequence[Sequence[int]]) -> float:
    """What is left of the bound when every group takes its least."""
    least = [min(options, key=values.__getitem__) for values, options in zip(limit.values, groups, strict=True)]
    return limit.bound - total_of(limit.values, least)


def _undominated(options: Sequence[int], values: Sequence[Sequence[float]]) -> list[int]:
    """The options that no other one beats or equals in every value; of equals the earliest."""
    kept: list[int] = []
    for option in sorted(options, key=lambda o: ([value[o] for value in values], o)):
        if not any(all(value[other] <= value[option] for value in values) for other in kept):
            kept.append(option)
    return sorted(kept)


def _branch_and_bound(
    objective: Values, limits: Sequence[Limit], groups: Sequence[Sequence[int]]
) -> tuple[int, ...] | None:
    owner = [group for group, options in enumerate(groups) for _ in options]
    option = [index for options in groups for index in options]

    def row(values: Values) -> np.ndarray:
        """What each variable adds to the least of its group: small next to what the solver cannot see."""
        least = [min(values[group][index] for index in options) for group, options in enumerate(groups)]
        return np.array([values[g][o] - least[g] for g, o in zip(owner, option, strict=True)], dtype=float)

    one_each = np.zeros((len(groups), len(owner)))
    one_each[owner, range(len(owner))] = 1
    rows = [LinearConstraint(one_each, 1, 1)]
    for limit in limits:
        slack = max(_slack(limit, groups), ROUNDING * abs(limit.bound), TINY)
        rows.append(LinearConstraint(row(limit.values) / slack, -np.inf, 1))
    costs = row(objective)
    costs *= STRETCH / (costs.max() or 1)
    whole = np.ones(len(owner), dtype=int)
    while True:
        found = milp(costs, integrality=whole, bounds=Bounds(0, 1), constraints=rows, options={"mip_rel_gap": 0.0})
        if found.status == INFEASIBLE:
            return None
        if found.x is None:
            raise RuntimeError(f"scipy.optimize.milp: {found.message}")
        chosen = found.x > 0.5
        pick = tuple(option[index] for index in np.flatnonzero(chosen))
        if all(limit.holds(pick) for limit in limits):
            return pick
        # Over a limit by less than the solver can see: everything but this pick is still allowed.
        rows.append(LinearConstraint(chosen.astype(float), -np.inf, len(groups) - 1))
