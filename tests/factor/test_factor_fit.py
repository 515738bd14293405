"""Fitting to data. In: random, poor and real data. Out: never worse, best where the best is known, always finite."""

import numpy as np
import pytest
import torch
from factor_cases import conv_specs, convolve, families_for, random_tensor, ranks_for, run_chain
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from separable.errors import DataError, ModelError, SpecError
from separable.factor import FAMILIES, Factors, Moments, compose, fit, fit_each, response_error
from separable.spec import ConvSpec

NAMES = list(FAMILIES)
SPEC = ConvSpec(6, 8, kernel=3, size=7, padding=1, stride=(1, 2))


def correlated(seed: int, count: int, spec: ConvSpec) -> Tensor:
    """Inputs as layers see them: neighbouring places and channels have much in common, nothing is negative."""
    mixed = torch.einsum(
        "nc...,cd->nd...", random_tensor(seed, count, spec.c_in, *spec.size), random_tensor(99, spec.c_in, spec.c_in)
    )
    for axis in range(2, mixed.dim()):
        mixed = mixed + mixed.roll(1, axis) + mixed.roll(2, axis)
    return mixed.relu()


def seen(x: Tensor, y: Tensor, spec: ConvSpec) -> Moments:
    moments = Moments(spec, positions=None)
    moments.update_(x, y)
    return moments


def small(name: str, spec: ConvSpec, weight: Tensor) -> Factors:
    """A factorisation of about a third of the full rank."""
    family = FAMILIES[name]
    return family.factorize(weight, spec, tuple(max(1, r // 3) for r in family.ranks(spec)))


@settings(max_examples=60, deadline=None)
@given(spec=conv_specs(), data=st.data(), seed=st.integers(0, 2**16), count=st.integers(1, 5))
def test_on_the_data_seen_it_is_never_worse_than_what_came_in(
    spec: ConvSpec, data: st.DataObject, seed: int, count: int
) -> None:
    families = families_for(spec)
    assume(families)
    family = data.draw(st.sampled_from(families))
    weight, x = random_tensor(seed, *spec.weight_shape), correlated(seed + 1, count, spec)
    # The wanted outputs are of other inputs: what a layer gets after those before it were rewritten.
    y = convolve(x + 0.1 * random_tensor(seed + 2, *x.shape), weight, spec)
    moments = seen(x, y, spec)
    factors = family.factorize(weight, spec, data.draw(ranks_for(family, spec)))
    fitted = fit(factors, moments)
    assert fitted.error <= response_error(factors.dense(), moments) + 1e-12
    assert fitted.error == pytest.approx(response_error(fitted.factors.dense(), moments), abs=1e-9)
    assert (fitted.factors.specs, fitted.factors.rank) == (factors.specs, factors.rank)
    assert all(bool(factor.weight.isfinite().all()) for factor in fitted.factors.factors)


@pytest.mark.parametrize("name", NAMES)
def test_the_layer_with_the_fitted_weights_and_bias_makes_the_error_given(name: str) -> None:
    weight, x = random_tensor(0, *SPEC.weight_shape), correlated(1, 20, SPEC)
    y = convolve(x, weight, SPEC) + torch.arange(8.0).reshape(8, 1, 1)
    fitted = fit(small(name, SPEC, weight), seen(x, y, SPEC))
    left = y - run_chain(x, fitted.factors) - fitted.bias.reshape(8, 1, 1)
    energy = (y - y.mean((0, 2, 3), keepdim=True)).square().sum()
    assert float(left.square().sum() / energy) == pytest.approx(fitted.error, rel=1e-9)
    torch.testing.assert_close(left.mean((0, 2, 3)), torch.zeros(8, dtype=torch.float64), atol=1e-9, rtol=0)


def test_channel_is_the_analytic_optimum_reduced_rank_regression() -> None:
    weight, x = random_tensor(0, *SPEC.weight_shape), correlated(1, 20, SPEC)
    y = convolve(x, weight, SPEC) + random_tensor(2, 20, 8, *SPEC.size_out)
    rows = nn.functional.unfold(x, 3, padding=1, stride=(1, 2)).transpose(1, 2).reshape(-1, 54).numpy()
    wanted = y.flatten(2).transpose(1, 2).reshape(-1, 8).numpy()
    rows, wanted = rows - rows.mean(0), wanted - wanted.mean(0)
    best = rows @ np.linalg.lstsq(rows, wanted, rcond=None)[0]
    for rank in (1, 3, 6, 8):
        # Of all rank-r answers the nearest to y: the regression's, projected on its r strongest directions.
        strongest = np.linalg.svd(best, full_matrices=False)[2][:rank]
        optimum = np.square(wanted - best @ strongest.T @ strongest).sum() / np.square(wanted).sum()
        factors = FAMILIES["channel"].factorize(weight, SPEC, (rank,))
        assert fit(factors, seen(x, y, SPEC), ridge=1e-12).error == pytest.approx(optimum, rel=1e-6)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "channel"])
def test_the_other_families_come_as_near_as_a_general_optimiser(name: str) -> None:
    weight, x = random_tensor(3, *SPEC.weight_shape), correlated(4, 20, SPEC)
    moments = seen(x, convolve(x, weight, SPEC), SPEC)
    factors = small(name, SPEC, weight)
    found = fit(factors, moments, sweeps=60, ridge=1e-9).error
    assert found <= 1.05 * _by_gradients(factors, moments)


def _by_gradients(factors: Factors, moments: Moments) -> float:
    weights = [factor.weight.clone().requires_grad_() for factor in factors.factors]
    optimiser = torch.optim.LBFGS(weights, max_iter=400, history_size=30, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        rows = compose(weights, [spec.groups for spec in factors.specs]).flatten(1)
        lost = moments.energy[0] + ((rows @ moments.inputs[0] - 2 * moments.cross[0]) * rows).sum()
        (lost / moments.energy[0]).backward()
        return lost / moments.energy[0]

    optimiser.step(loss)
    return float(loss().detach())


@pytest.mark.parametrize("name", NAMES)
def test_more_sweeps_only_lower_the_error(name: str) -> None:
    weight, x = random_tensor(5, *SPEC.weight_shape), correlated(6, 20, SPEC)
    moments, factors = seen(x, convolve(x, weight, SPEC), SPEC), small(name, SPEC, weight)
    errors = [fit(factors, moments, sweeps=sweeps, ridge=1e-9).error for sweeps in (0, 1, 2, 4, 16)]
    assert max(np.diff(errors)) < 1e-9


@pytest.mark.parametrize("name", NAMES)
def test_at_full_rank_the_wanted_weight_itself_is_found_whatever_came_in(name: str) -> None:
    family = FAMILIES[name]
    weight, x = random_tensor(7, *SPEC.weight_shape), correlated(8, 40, SPEC)
    moments = seen(x, convolve(x, weight, SPEC), SPEC)
    start = family.factorize(random_tensor(9, *SPEC.weight_shape), SPEC, family.ranks(SPEC))
    fitted = fit(start, moments, ridge=1e-9)
    assert fitted.error < 1e-6
    torch.testing.assert_close(fitted.factors.dense(), weight, rtol=0, atol=1e-2)


@pytest.mark.parametrize("name", NAMES)
def test_directions_that_the_data_never_show_keep_the_weights_that_came_in(name: str) -> None:
    family = FAMILIES[name]
    before, after = random_tensor(10, *SPEC.weight_shape), random_tensor(11, *SPEC.weight_shape)
    x = correlated(12, 40, SPEC)
    x[:, 4:] = 0.0
    factors = family.factorize(before, SPEC, family.ranks(SPEC))
    dense = fit(factors, seen(x, convolve(x, after, SPEC), SPEC), ridge=1e-6, sweeps=20).factors.dense()
    torch.testing.assert_close(dense[:, :4], after[:, :4], rtol=0, atol=0.05)
    torch.testing.assert_close(dense[:, 4:], before[:, 4:], rtol=0, atol=0.05)


@pytest.mark.parametrize("name", NAMES)
def test_fewer_patches_than_unknowns_and_dead_channels_do_not_blow_the_weights_up(name: str) -> None:
    weight = random_tensor(13, *SPEC.weight_shape)
    x = correlated(14, 1, SPEC)
    x[:, 2:4] = 0.0
    x[:, 5] = x[:, 4]
    y = convolve(x, weight, SPEC) + 0.1 * random_tensor(15, 1, 8, *SPEC.size_out)
    factors, moments = small(name, SPEC, weight), seen(x, y, SPEC)
    assert moments.count < 54
    fitted = fit(factors, moments)
    assert fitted.error < response_error(factors.dense(), moments)
    assert float(fitted.factors.dense().norm()) < 2 * float(weight.norm())
    assert max(float(factor.weight.abs().max()) for factor in fitted.factors.factors) < 100


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("data", ["constant inputs", "constant outputs", "one patch", "zero weights", "all zero"])
def test_data_that_say_nothing_give_finite_weights_and_the_right_mean(name: str, data: str) -> None:
    spec = ConvSpec(6, 8, kernel=3, size=(4, 4), groups=2)
    weight = random_tensor(0, *spec.weight_shape)
    x, y = correlated(1, 3, spec), random_tensor(2, 3, 8, 2, 2)
    if data == "one patch":
        spec = spec.at((3, 3))
        x, y = x[:1, :, :3, :3], y[:1, :, :1, :1]
    x = torch.ones_like(x) if data == "constant inputs" else x * (data != "all zero")
    y = torch.ones_like(y) if data == "constant outputs" else y * (data != "all zero")
    factors = small(name, spec, weight * (data not in ("zero weights", "all zero")))
    fitted = fit(factors, seen(x, y, spec))
    assert 0.0 <= fitted.error <= response_error(factors.dense(), seen(x, y, spec)) + 1e-12
    got = run_chain(x, fitted.factors) + fitted.bias.reshape(8, 1, 1)
    torch.testing.assert_close(got.mean((0, 2, 3)), y.mean((0, 2, 3)))


def test_several_fitted_together_are_what_each_is_alone() -> None:
    weight, x = random_tensor(0, *SPEC.weight_shape), correlated(1, 10, SPEC)
    moments = seen(x, convolve(x, weight, SPEC), SPEC)
    several = [small(name, SPEC, weight) for name in NAMES]
    for factors, fitted in zip(several, fit_each(several, moments), strict=True):
        alone = fit(factors, moments)
        assert alone.error == fitted.error
        assert torch.equal(alone.bias, fitted.bias)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", NAMES)
def test_narrow_factors_stay_narrow_and_the_error_is_that_of_the_rounded_ones(name: str, dtype: torch.dtype) -> None:
    weight, x = random_tensor(0, *SPEC.weight_shape).to(dtype), correlated(1, 20, SPEC)
    moments = seen(x, convolve(x, weight.double(), SPEC), SPEC)
    factors = small(name, SPEC, weight)
    fitted = fit(factors, moments)
    assert {factor.weight.dtype for factor in fitted.factors.factors} | {fitted.bias.dtype} == {dtype}

    def measured(factors: Factors) -> float:
        weights = [factor.weight.double() for factor in factors.factors]
        return response_error(compose(weights, [spec.groups for spec in factors.specs]), moments)

    assert fitted.error == pytest.approx(measured(fitted.factors), rel=1e-9)
    assert fitted.error < measured(factors)


def test_what_does_not_belong_together_is_refused() -> None:
    factors = small("spatial", SPEC, random_tensor(0, *SPEC.weight_shape))
    with pytest.raises(SpecError, match="fit"):
        fit(factors, Moments(ConvSpec(6, 8, kernel=5, size=7)))
    with pytest.raises(DataError, match="no data"):
        fit(factors, Moments(SPEC))
    factors.factors[0].weight[0] = float("nan")
    with pytest.raises(ModelError, match="NaN"):
        fit(factors, seen(correlated(1, 2, SPEC), random_tensor(2, 2, 8, *SPEC.size_out), SPEC))


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Sequential, Tensor]:
    """A small network trained on scanned digits, and the images that it was not trained on."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, labels = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 24, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(24, 24, 3, padding=1, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(24 * 16, 10),
        )
        optimiser = torch.optim.Adam(net.parameters(), 3e-3)
        for step in range(120):
            batch = slice(64 * step % 960, 64 * step % 960 + 64)
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(images[batch]), labels[batch]).backward()
            optimiser.step()
        assert float((net(images[1000:]).argmax(1) == labels[1000:]).float().mean()) > 0.85
    return net.requires_grad_(False), images[1000:]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layer", [2, 4])
def test_on_images_of_a_trained_network_that_the_fit_never_saw_it_is_clearly_better(
    trained: tuple[nn.Sequential, Tensor], layer: int, name: str
) -> None:
    net, images = trained
    x = net[:layer](images)
    conv = net[layer]
    spec = ConvSpec(conv.in_channels, conv.out_channels, 3, (8, 8), stride=conv.stride, padding=1)
    known, unknown = seen(x[:200], conv(x[:200]), spec), seen(x[200:], conv(x[200:]), spec)
    factors = small(name, spec, conv.weight)
    fitted = fit(factors, known)
    before, after = response_error(factors.dense(), unknown), response_error(fitted.factors.dense(), unknown)
    assert after < 0.7 * before
    assert after < 1.5 * fitted.error
