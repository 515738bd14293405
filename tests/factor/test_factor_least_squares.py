"""Alternating least squares. In: random chains and moments. Out: the true loss, lower after every sweep."""

import torch
from factor_cases import conv_specs, families_for, random_tensor, ranks_for
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from separable.factor import Family, compose
from separable.factor.least_squares import Inputs, Part, Problem, sweep
from separable.spec import ConvSpec


def random_problem(seed: int, spec: ConvSpec, count: int) -> tuple[Problem, Tensor, Tensor]:
    """A problem, and the inputs (g, n, d) and outputs (g, n, o) that it is about."""
    x = random_tensor(seed, spec.groups, count, spec.weights // spec.c_out)
    y = random_tensor(seed + 1, spec.groups, count, spec.c_out // spec.groups)
    problem = Problem(inputs=Inputs(x.mT @ x), cross=y.mT @ x, energy=float(y.square().sum()))
    return problem, x, y


def random_chain(seed: int, family: Family, spec: ConvSpec, rank: tuple[int, ...]) -> list[Part]:
    chain = family.specs(spec, rank)
    return [(random_tensor(seed + at, *part.weight_shape).flatten(2), part.groups) for at, part in enumerate(chain)]


def multiplied(chain: list[Part], spec: ConvSpec) -> Tensor:
    weights, groups = [weight for weight, _ in chain], [count for _, count in chain]
    return compose(weights, groups).reshape(spec.groups, spec.c_out // spec.groups, -1)


@settings(max_examples=80, deadline=None)
@given(spec=conv_specs(), data=st.data(), seed=st.integers(0, 2**16))
def test_the_loss_of_a_chain_is_the_sum_of_squares_that_it_leaves(
    spec: ConvSpec, data: st.DataObject, seed: int
) -> None:
    problem, x, y = random_problem(seed, spec, 12)
    for family in families_for(spec):
        chain = random_chain(seed + 2, family, spec, data.draw(ranks_for(family, spec)))
        left = y - x @ multiplied(chain, spec).mT
        torch.testing.assert_close(problem.loss(chain), float(left.square().sum()), rtol=1e-9, atol=1e-9)


@settings(max_examples=80, deadline=None)
@given(spec=conv_specs(), data=st.data(), seed=st.integers(0, 2**16), count=st.integers(1, 60))
def test_no_sweep_raises_the_loss_and_each_says_what_it_left(
    spec: ConvSpec, data: st.DataObject, seed: int, count: int
) -> None:
    problem, _, _ = random_problem(seed, spec, count)
    for family in families_for(spec):
        chain = random_chain(seed + 2, family, spec, data.draw(ranks_for(family, spec)))
        loss, scale = problem.loss(chain), problem.loss(chain) + problem.energy
        for _ in range(3):
            chain, lower = sweep(chain, problem)
            assert lower <= loss + 1e-9 * scale
            torch.testing.assert_close(lower, problem.loss(chain), rtol=1e-9, atol=1e-9 * scale)
            loss = lower


@settings(max_examples=15, deadline=None)
@given(spec=conv_specs(), data=st.data(), seed=st.integers(0, 2**16))
def test_after_a_sweep_the_last_factor_cannot_be_bettered(spec: ConvSpec, data: st.DataObject, seed: int) -> None:
    problem, x, y = random_problem(seed, spec, 200)
    for family in families_for(spec):
        chain, loss = sweep(random_chain(seed + 2, family, spec, data.draw(ranks_for(family, spec))), problem)

        def answers(last: Tensor, chain: list[Part] = chain) -> Tensor:
            return (x @ multiplied([*chain[:-1], (last, chain[-1][1])], spec).mT).flatten()

        # The answers are linear in the last factor: here is their matrix, and LAPACK's best.
        matrix = torch.autograd.functional.jacobian(answers, chain[-1][0]).reshape(y.numel(), -1)
        best = torch.linalg.lstsq(matrix, y.reshape(-1, 1), driver="gelsd").solution
        # What the floor of the inverse costs where the data hardly show a direction.
        assert loss <= float((y.reshape(-1, 1) - matrix @ best).square().sum()) + 1e-3 * problem.energy


def test_a_factor_that_carries_nothing_harms_nobody() -> None:
    problem, _, _ = random_problem(0, ConvSpec(3, 4, kernel=3, size=5), 30)
    nothing: list[Part] = [
        (torch.zeros(2, 3, 3, dtype=torch.float64), 1),
        (torch.zeros(4, 2, 3, dtype=torch.float64), 1),
    ]
    chain, loss = sweep(nothing, problem)
    assert loss == problem.energy
    assert all(not weight.any() for weight, _ in chain)
