"""Chains of convolutions as values. In: small weights, chains that do not fit. Out: the product, refusals, balance."""

import pytest
import torch
from factor_cases import conv_specs, convolve, families_for, random_tensor, ranks_for, run_chain
from hypothesis import given, settings
from hypothesis import strategies as st

from separable.errors import SpecError
from separable.factor import FAMILIES, Factor, Factors, compose
from separable.factor.family import balance
from separable.spec import ConvSpec


def test_a_column_then_a_row_compose_to_their_outer_product() -> None:
    column = torch.tensor([1.0, 2.0, 1.0]).reshape(1, 1, 3, 1)
    row = torch.tensor([-1.0, 0.0, 1.0]).reshape(1, 1, 1, 3)
    sobel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    assert torch.equal(compose([column, row], [1, 1])[0, 0], sobel)


@settings(max_examples=80, deadline=None)
@given(spec=conv_specs(), data=st.data(), seed=st.integers(0, 2**16))
def test_the_composed_weight_computes_what_the_chain_does(spec: ConvSpec, data: st.DataObject, seed: int) -> None:
    x = random_tensor(seed, 2, spec.c_in, *spec.size)
    for family in families_for(spec):
        chain = family.specs(spec, data.draw(ranks_for(family, spec)))
        parts = [
            Factor(weight=random_tensor(seed + at, *part.weight_shape), spec=part) for at, part in enumerate(chain)
        ]
        factors = Factors(family=family.name, rank=(1,), spec=spec, factors=tuple(parts), error=0.0)
        torch.testing.assert_close(convolve(x, factors.dense(), spec), run_chain(x, factors), rtol=1e-12, atol=1e-12)


def test_composing_can_be_differentiated() -> None:
    weights = [random_tensor(0, 4, 1, 3, 3).requires_grad_(), random_tensor(1, 2, 2, 1, 1).requires_grad_()]
    assert torch.autograd.gradcheck(lambda a, b: compose([a, b], [4, 2]), weights)


@settings(max_examples=40, deadline=None)
@given(spec=conv_specs(), data=st.data(), seed=st.integers(0, 2**16))
def test_balancing_changes_no_bit_of_the_product_and_levels_the_strengths(
    spec: ConvSpec, data: st.DataObject, seed: int
) -> None:
    for family in families_for(spec):
        chain = family.specs(spec, data.draw(ranks_for(family, spec)))
        groups = [part.groups for part in chain]
        weights = [random_tensor(seed + at, *part.weight_shape) * 10.0**at for at, part in enumerate(chain)]
        balanced = balance(weights, groups)
        assert torch.equal(compose(balanced, groups), compose(weights, groups))
        if len(chain) == 2:
            before = balanced[0].flatten(1).norm(dim=1)
            # Channel by channel the second factor is as strong as the first, to the nearest power of two.
            behind = balanced[1].reshape(groups[1], -1, balanced[1].shape[1], balanced[1][0, 0].numel())
            ratio = (before / behind.square().sum(dim=(1, 3)).sqrt().flatten())[before > 0]
            assert bool(((ratio > 0.49) & (ratio < 2.05)).all())


def test_balancing_leaves_channels_that_carry_nothing_alone() -> None:
    weights = [torch.tensor([[0.0], [4.0]]).reshape(2, 1, 1), torch.tensor([[3.0, 0.0]]).reshape(1, 2, 1)]
    assert all(torch.equal(a, b) for a, b in zip(balance(weights, [1, 1]), weights, strict=True))


def _factor(c_in: int, c_out: int, kernel: tuple[int, int], size: tuple[int, int] = (8, 8)) -> Factor:
    spec = ConvSpec(c_in, c_out, kernel=kernel, size=size)
    return Factor(weight=torch.zeros(spec.weight_shape), spec=spec)


@pytest.mark.parametrize(
    "chain",
    [
        pytest.param([_factor(2, 3, (3, 1)), _factor(4, 2, (1, 3), (6, 8))], id="channels do not meet"),
        pytest.param([_factor(2, 3, (3, 1)), _factor(3, 2, (1, 3), (8, 8))], id="sizes do not meet"),
        pytest.param([_factor(2, 3, (3, 3)), _factor(3, 2, (1, 3), (6, 6))], id="an axis twice"),
        pytest.param([_factor(2, 3, (1, 3)), _factor(3, 2, (3, 1), (8, 6))], id="axes out of order"),
        pytest.param([_factor(2, 3, (3, 1)), _factor(3, 5, (1, 3), (6, 8))], id="other outputs"),
        pytest.param([_factor(2, 2, (3, 1))], id="another size of the output"),
    ],
)
def test_a_chain_that_cannot_stand_in_is_refused(chain: list[Factor]) -> None:
    with pytest.raises(SpecError, match=r"Factors\.factors"):
        Factors(family="spatial", rank=(3,), spec=ConvSpec(2, 2, 3, 8), factors=tuple(chain), error=0.0)


def test_a_weight_of_another_shape_than_its_spec_is_refused() -> None:
    with pytest.raises(SpecError, match=r"\(3, 2, 3, 1\)"):
        Factor(weight=torch.zeros(3, 2, 1, 3), spec=ConvSpec(2, 3, kernel=(3, 1), size=8))


def test_factors_print_what_they_are() -> None:
    spec = ConvSpec(2, 4, kernel=3, size=8)
    factors = FAMILIES["spatial"].factorize(torch.zeros(spec.weight_shape), spec, (3,))
    assert str(factors) == "spatial 3 of 2→4 3×3 on 8×8: 2→3 3×1 on 8×8 then 3→4 1×3 on 6×8; error 0"
