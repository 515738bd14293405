"""Every family. In: convolutions of every shape, random weights. Out: exact at full rank, honest and best below it."""

import pytest
import torch
from factor_cases import (
    conv_specs,
    convolve,
    dropped,
    each_rank,
    families_for,
    random_tensor,
    ranks_for,
    relative_error,
    run_chain,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from separable.errors import ModelError, SpecError
from separable.factor import FAMILIES, compose
from separable.spec import ConvSpec

SEEDS = st.integers(0, 2**16)
NAMES = list(FAMILIES)


@settings(max_examples=120, deadline=None)
@given(spec=conv_specs(), seed=SEEDS)
def test_at_full_rank_the_chain_computes_what_the_convolution_does(spec: ConvSpec, seed: int) -> None:
    weight, x = random_tensor(seed, *spec.weight_shape), random_tensor(seed + 1, 2, spec.c_in, *spec.size)
    wanted = convolve(x, weight, spec)
    for family in families_for(spec):
        factors = family.factorize(weight, spec, family.ranks(spec))
        assert factors.error < 1e-14
        torch.testing.assert_close(run_chain(x, factors), wanted, rtol=0, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(spec=conv_specs(), seed=SEEDS)
def test_in_float32_it_does_so_to_what_the_lengths_of_the_sums_allow(spec: ConvSpec, seed: int) -> None:
    weight = random_tensor(seed, *spec.weight_shape).float()
    x = random_tensor(seed + 1, 2, spec.c_in, *spec.size).float()
    wanted = convolve(x.double(), weight.double(), spec)
    for family in families_for(spec):
        factors = family.factorize(weight, spec, family.ranks(spec))
        sizes, length = x.double().abs(), 1
        for factor in factors.factors:
            sizes = convolve(sizes, factor.weight.double().abs(), factor.spec)
            length += factor.weight[0].numel() + 1  # the products of one output, and the rounding of the weight
        error = (run_chain(x, factors).double() - wanted).abs()
        assert bool((error <= length * torch.finfo(torch.float32).eps * sizes + 1e-30).all())


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("name", NAMES)
def test_other_paddings_stay_exact_because_each_axis_is_padded_where_it_is_convolved(name: str, mode: str) -> None:
    spec = ConvSpec(4, 6, kernel=(3, 5), size=(8, 9), stride=(2, 1), padding=[(1, 2), (3, 0)], groups=2)
    weight, x = random_tensor(0, *spec.weight_shape), random_tensor(1, 2, 4, 8, 9)
    factors = FAMILIES[name].factorize(weight, spec, FAMILIES[name].ranks(spec))
    torch.testing.assert_close(run_chain(x, factors, mode), convolve(x, weight, spec, mode), rtol=0, atol=1e-9)


@settings(max_examples=150, deadline=None)
@given(spec=conv_specs(), data=st.data(), seed=SEEDS)
def test_the_error_given_is_the_error_measured(spec: ConvSpec, data: st.DataObject, seed: int) -> None:
    families = families_for(spec)
    assume(families)
    family = data.draw(st.sampled_from(families))
    weight = random_tensor(seed, *spec.weight_shape)
    factors = family.factorize(weight, spec, data.draw(ranks_for(family, spec)))
    assert factors.error == pytest.approx(relative_error(weight, factors.dense()), rel=1e-9, abs=1e-13)


@settings(max_examples=60, deadline=None)
@given(spec=conv_specs(channels=3), seed=SEEDS)
def test_the_error_never_grows_with_the_rank(spec: ConvSpec, seed: int) -> None:
    weight = random_tensor(seed, *spec.weight_shape)
    for family in families_for(spec):
        ranks = [rank for rank in each_rank(family.ranks(spec)) if _is_possible(family.name, rank, spec)]
        errors = {f.rank: f.error for f in family.factorize_each(weight, spec, ranks)}
        for rank, error in errors.items():
            for at in range(len(rank)):
                above = errors.get((*rank[:at], rank[at] + 1, *rank[at + 1 :]), 0.0)
                assert above <= error + 1e-12, (family.name, rank, at)


def _is_possible(name: str, rank: tuple[int, ...], spec: ConvSpec) -> bool:
    return name != "spatial" or len(rank) == 1 or rank[1] <= rank[0] * spec.kernel[1]


@settings(max_examples=60, deadline=None)
@given(spec=conv_specs(), data=st.data(), seed=SEEDS)
def test_one_decomposition_serves_every_rank(spec: ConvSpec, data: st.DataObject, seed: int) -> None:
    families = families_for(spec)
    assume(families)
    family = data.draw(st.sampled_from(families))
    weight, ranks = random_tensor(seed, *spec.weight_shape), [data.draw(ranks_for(family, spec)) for _ in range(2)]
    for rank, together in zip(ranks, family.factorize_each(weight, spec, ranks), strict=True):
        alone = family.factorize(weight, spec, rank)
        assert (together.rank, together.error, together.specs) == (alone.rank, alone.error, alone.specs)
        assert all(torch.equal(a.weight, b.weight) for a, b in zip(together.factors, alone.factors, strict=True))


SHAPE = ConvSpec(6, 8, kernel=(3, 2), size=9, groups=2)


def _by_group(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    weight = random_tensor(seed, *SHAPE.weight_shape)
    return weight, weight.reshape(2, 4, 3, 3, 2)


@pytest.mark.parametrize("rank", [1, 2, 3, 5])
def test_no_other_weights_of_the_form_come_closer_than_those_of_spatial(rank: int) -> None:
    weight, groups = _by_group(rank)
    best = dropped(groups.permute(0, 2, 3, 1, 4).reshape(2, 9, 8), rank)
    error = FAMILIES["spatial"].factorize(weight, SHAPE, (rank,)).error
    assert error * float(weight.square().sum()) == pytest.approx(best, rel=1e-10)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_no_other_weights_of_the_form_come_closer_than_those_of_channel(rank: int) -> None:
    weight, groups = _by_group(rank)
    best = dropped(groups.reshape(2, 4, 18), rank)
    error = FAMILIES["channel"].factorize(weight, SHAPE, (rank,)).error
    assert error * float(weight.square().sum()) == pytest.approx(best, rel=1e-10)


@pytest.mark.parametrize("terms", [1, 2])
def test_no_other_weights_of_the_form_come_closer_than_those_of_depthwise(terms: int) -> None:
    weight, groups = _by_group(terms)
    by_input = dropped(groups.permute(0, 2, 1, 3, 4).reshape(6, 4, 6), terms)
    by_output = dropped(groups.reshape(8, 3, 6), terms)
    for name, best in (("depthwise", by_input), ("depthwise_last", by_output)):
        error = FAMILIES[name].factorize(weight, SHAPE, (terms,)).error
        assert error * float(weight.square().sum()) == pytest.approx(best, rel=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_aside_from_the_best_weights_only_loses(name: str) -> None:
    weight, _ = _by_group(7)
    family = FAMILIES[name]
    factors = family.factorize(weight, SHAPE, tuple(max(1, r // 2) for r in family.ranks(SHAPE)))
    for seed in range(20):
        moved = [f.weight + 0.01 * random_tensor(seed, *f.weight.shape) for f in factors.factors]
        other = compose(moved, [spec.groups for spec in factors.specs])
        assert relative_error(weight, other) > factors.error


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, data=st.data())
def test_in_three_passes_the_error_is_at_most_twice_the_best(seed: int, data: st.DataObject) -> None:
    spec = ConvSpec(2, 3, kernel=(2, 3, 2), size=6)
    rank = data.draw(ranks_for(FAMILIES["spatial"], spec))
    weight = random_tensor(seed, *spec.weight_shape)
    train = weight.movedim(0, -1)
    cuts = [dropped(train.reshape(4, 18), rank[0]), dropped(train.reshape(12, 6), rank[1])]
    lost = FAMILIES["spatial"].factorize(weight, spec, rank).error * float(weight.square().sum())
    # No train of these ranks can do better than either cut alone, and this one does no worse than both together.
    assert max(cuts) - 1e-9 <= lost <= sum(cuts) + 1e-9


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, data=st.data())
def test_of_tucker_the_error_is_at_most_twice_the_best(seed: int, data: st.DataObject) -> None:
    spec = ConvSpec(4, 5, kernel=(2, 3), size=6)
    rank = data.draw(ranks_for(FAMILIES["tucker"], spec))
    weight = random_tensor(seed, *spec.weight_shape)
    cuts = [dropped(weight.transpose(0, 1).reshape(4, 30), rank[0]), dropped(weight.reshape(5, 24), rank[1])]
    lost = FAMILIES["tucker"].factorize(weight, spec, rank).error * float(weight.square().sum())
    assert max(cuts) - 1e-9 <= lost <= sum(cuts) + 1e-9


def test_groups_are_factorized_each_on_its_own() -> None:
    spec, single = ConvSpec(6, 4, kernel=3, size=8, groups=2), ConvSpec(3, 2, kernel=3, size=8)
    weight = random_tensor(0, *spec.weight_shape)
    for name, family in FAMILIES.items():
        rank = tuple(max(1, r // 2) for r in family.ranks(spec))
        halves = [family.factorize(half, single, rank).dense() for half in weight.split(2)]
        torch.testing.assert_close(family.factorize(weight, spec, rank).dense(), torch.cat(halves), msg=name)


def test_spatial_costs_what_the_closed_form_says_with_the_full_width_before_the_second_pass() -> None:
    spec = ConvSpec(64, 128, kernel=3, size=56, stride=2, padding=1)
    first, second = FAMILIES["spatial"].specs(spec, (64,))
    assert first.macs == 64 * 64 * 3 * 28 * 56
    assert second.macs == 64 * 128 * 3 * 28 * 28
    assert (first.macs + second.macs, spec.macs) == (38_535_168, 57_802_752)
    assert (first.kernel, first.stride, first.padding) == ((3, 1), (2, 1), ((1, 1), (0, 0)))
    assert (second.kernel, second.stride, second.padding) == ((1, 3), (1, 2), ((0, 0), (1, 1)))


@settings(max_examples=60, deadline=None)
@given(spec=conv_specs(), data=st.data())
def test_spatial_and_depthwise_cost_their_closed_forms_everywhere(spec: ConvSpec, data: st.DataObject) -> None:
    if spec.dims == 2 and min(spec.kernel) > 1:
        (r,) = data.draw(ranks_for(FAMILIES["spatial"], spec))
        (k_h, k_w), (h_out, w_out), w_in = spec.kernel, spec.size_out, spec.size[1]
        macs = sum(part.macs for part in FAMILIES["spatial"].specs(spec, (r,)))
        assert macs == r * spec.c_in * k_h * h_out * w_in + r * spec.c_out * k_w * h_out * w_out
    if FAMILIES["depthwise"].refuses(spec) is None:
        (t,) = data.draw(ranks_for(FAMILIES["depthwise"], spec))
        taps, places = spec.weights // spec.c_out // (spec.c_in // spec.groups), spec.macs // spec.weights
        macs = sum(part.macs for part in FAMILIES["depthwise"].specs(spec, (t,)))
        assert macs == t * places * (spec.c_in * taps + spec.c_in * spec.c_out // spec.groups)


def test_the_3x3_of_512_channels_costs_what_the_worked_example_says() -> None:
    spec = ConvSpec(512, 512, kernel=3, size=14, padding=1)
    assert spec.macs == 462_422_016
    assert sum(part.macs for part in FAMILIES["spatial"].specs(spec, (256,))) == 154_140_672
    assert sum(part.macs for part in FAMILIES["depthwise"].specs(spec, (4,))) == 209_133_568
    assert sum(part.macs for part in FAMILIES["depthwise"].specs(spec, (1,))) == 52_283_392


def test_the_chains_have_the_forms_that_their_families_are_named_after() -> None:
    spec = ConvSpec(6, 8, kernel=3, size=10, stride=2, padding=1, groups=2)
    forms = {
        name: [
            (p.c_out, p.kernel, p.stride, p.groups) for p in family.specs(spec, tuple(2 for _ in family.ranks(spec)))
        ]
        for name, family in FAMILIES.items()
    }
    one = ((1, 1), (1, 1))
    assert forms == {
        "spatial": [(4, (3, 1), (2, 1), 2), (8, (1, 3), (1, 2), 2)],
        "depthwise": [(12, (3, 3), (2, 2), 6), (8, *one, 2)],
        "depthwise_last": [(16, *one, 2), (8, (3, 3), (2, 2), 8)],
        "channel": [(4, (3, 3), (2, 2), 2), (8, *one, 2)],
        "tucker": [(4, *one, 2), (4, (3, 3), (2, 2), 2), (8, *one, 2)],
    }


def test_a_kernel_with_one_tap_along_an_axis_is_split_along_the_others() -> None:
    spec = ConvSpec(4, 4, kernel=(1, 3, 5), size=9, stride=2, padding=[(1, 0), (1, 1), (2, 2)])
    first, second = FAMILIES["spatial"].specs(spec, (6,))
    assert (first.kernel, first.stride, first.padding) == ((1, 3, 1), (2, 2, 1), ((1, 0), (1, 1), (0, 0)))
    assert (second.kernel, second.stride) == ((1, 1, 5), (1, 1, 2))


REFUSED = {
    "spatial": [ConvSpec(4, 4, kernel=(5,), size=9), ConvSpec(4, 4, kernel=(3, 1), size=9), ConvSpec(4, 4, 1, 9)],
    "depthwise": [ConvSpec(4, 4, 1, 9), ConvSpec(4, 8, 3, 9, groups=4)],
    "depthwise_last": [ConvSpec(4, 4, 1, 9), ConvSpec(4, 8, 3, 9, groups=4)],
    "channel": [ConvSpec(4, 4, 3, 9, groups=4), ConvSpec(8, 1, 3, 9)],
    "tucker": [ConvSpec(4, 4, 1, 9), ConvSpec(4, 4, 3, 9, groups=4), ConvSpec(8, 4, 3, 9, groups=4)],
}


@pytest.mark.parametrize("name", NAMES)
def test_a_family_refuses_where_it_makes_no_sense_and_says_why(name: str) -> None:
    family = FAMILIES[name]
    for spec in REFUSED[name]:
        reason = family.refuses(spec)
        assert reason is not None
        with pytest.raises(SpecError, match=reason.replace(".", r"\.")):
            family.factorize(torch.zeros(spec.weight_shape), spec, (1,))
    assert family.refuses(ConvSpec(4, 4, 3, 9)) is None


@pytest.mark.parametrize("name", NAMES)
def test_a_rank_that_is_none_is_refused_with_the_ranks_there_are(name: str) -> None:
    spec = ConvSpec(4, 5, kernel=3, size=9)
    full = FAMILIES[name].ranks(spec)
    for rank in ((0, *full[1:]), (full[0] + 1, *full[1:]), (*full, 1), (), (1.0, *full[1:]), (True, *full[1:])):
        with pytest.raises(SpecError, match="whole number") as caught:
            FAMILIES[name].specs(spec, rank)
        assert str(full) in str(caught.value)


def test_more_channels_after_a_pass_than_can_come_out_of_it_are_refused() -> None:
    spec = ConvSpec(4, 4, kernel=(3, 2, 3), size=9)
    with pytest.raises(SpecError, match="at most 2 × 2"):
        FAMILIES["spatial"].specs(spec, (2, 5))


@pytest.mark.parametrize("name", NAMES)
def test_weights_of_zeros_have_no_error_and_give_zeros(name: str) -> None:
    spec = ConvSpec(4, 5, kernel=3, size=9)
    factors = FAMILIES[name].factorize(
        torch.zeros(spec.weight_shape), spec, tuple(1 for _ in FAMILIES[name].ranks(spec))
    )
    assert factors.error == 0.0
    assert torch.equal(factors.dense(), torch.zeros(spec.weight_shape))


def test_weights_without_numbers_are_refused() -> None:
    spec = ConvSpec(4, 5, kernel=3, size=9)
    broken = torch.ones(spec.weight_shape)
    broken[0, 0, 0, 0], broken[1, 0, 0, 0] = float("nan"), float("inf")
    for weight, complaint in (
        (broken, "2 of 180 entries NaN or infinite"),
        (torch.ones(spec.weight_shape, device="meta"), "meta tensor"),
        (torch.ones(spec.weight_shape, dtype=torch.int64), "int64"),
        (torch.ones(spec.weight_shape, dtype=torch.complex64), "complex64"),
    ):
        with pytest.raises(ModelError, match=complaint):
            FAMILIES["spatial"].factorize(weight, spec, (3,))
    with pytest.raises(SpecError, match=r"\(5, 4, 3, 3\)"):
        FAMILIES["spatial"].factorize(torch.ones(5, 4, 3, 2), spec, (3,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", NAMES)
def test_narrow_weights_are_worked_in_float64_and_given_back_narrow(name: str, dtype: torch.dtype) -> None:
    spec = ConvSpec(16, 16, kernel=3, size=9)
    weight = (random_tensor(0, *spec.weight_shape) * 1e-3).to(dtype).requires_grad_()
    factors = FAMILIES[name].factorize(weight, spec, FAMILIES[name].ranks(spec))
    assert {factor.weight.dtype for factor in factors.factors} == {dtype}
    assert not any(factor.weight.requires_grad for factor in factors.factors)
    # Each of at most three factors is rounded once.
    dense = compose([f.weight.double() for f in factors.factors], [s.groups for s in factors.specs])
    assert relative_error(weight.detach().double(), dense) < (4 * torch.finfo(dtype).eps) ** 2


def test_the_same_weight_gives_the_same_bytes() -> None:
    spec = ConvSpec(8, 8, kernel=3, size=9)
    weight = random_tensor(0, *spec.weight_shape)
    for family in FAMILIES.values():
        rank = tuple(max(1, r // 2) for r in family.ranks(spec))
        one, other = (family.factorize(weight.clone(), spec, rank) for _ in range(2))
        assert all(torch.equal(a.weight, b.weight) for a, b in zip(one.factors, other.factors, strict=True))
