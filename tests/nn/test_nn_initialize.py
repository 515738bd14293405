"""Initialisation: how the mean square of a signal fares through many layers, and what single weights become."""

import math

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from separable.errors import ModelError
from separable.nn import DepthwiseConv2d, DepthwiseSeparableConv2d, initialize_
from separable.nn.initialize import activation_gain

CHANNELS, BLOCKS = 192, 16


def growth(activation: object, pointwise_first: bool, ours: bool) -> float:
    """Mean square behind 16 separable layers (32 convolutions) over that in front; circular padding, so no borders."""
    torch.manual_seed(0)
    block = {"padding": 1, "padding_mode": "circular", "pointwise_first": pointwise_first, "activation": activation}
    stack = nn.Sequential(
        *(DepthwiseSeparableConv2d(CHANNELS, CHANNELS, 3, bias=False, **block) for _ in range(BLOCKS))
    )
    if ours:
        initialize_(stack)
    x = torch.randn(4, CHANNELS, 8, 8)
    with torch.no_grad():
        return float(stack(x).square().mean() / x.square().mean())


@pytest.mark.parametrize("pointwise_first", [False, True])
@pytest.mark.parametrize("activation", [None, nn.ReLU, (None, nn.ReLU), (nn.ReLU, None)], ids=str)
def test_a_signal_keeps_its_mean_square_within_a_factor_of_5_through_32_convolutions(
    activation: object, pointwise_first: bool
) -> None:
    assert 1 / 5 < growth(activation, pointwise_first, ours=True) < 5
    assert growth(activation, pointwise_first, ours=False) < 1e-12


def test_a_depthwise_filter_counts_its_own_taps_and_not_the_channels() -> None:
    layer = nn.Sequential(DepthwiseConv2d(512, 3), nn.ReLU())
    initialize_(layer)
    energy = layer[0].weight.square().sum(dim=(1, 2, 3))  # gain² = 2, nine taps
    torch.testing.assert_close(energy, torch.full((512,), 2.0))
    torch.testing.assert_close(layer[0].weight.sum(dim=(1, 2, 3)).square(), torch.full((512,), 2.0))
    assert torch.count_nonzero(layer[0].bias) == 0


@pytest.mark.parametrize(
    ("layer", "products"),
    [
        (nn.Conv2d(64, 256, 3), 64 * 9),
        (nn.Conv2d(64, 256, 3, groups=4), 16 * 9),
        (nn.Conv3d(64, 64, 1), 64),
        (nn.Linear(300, 200), 300),
        (nn.ConvTranspose2d(64, 128, 4, stride=2), 64 * 16 / 4),
    ],
)
def test_the_variance_of_a_weight_is_one_over_the_products_that_an_output_adds_up(
    layer: nn.Module, products: float
) -> None:
    initialize_(layer, generator=torch.Generator().manual_seed(0))
    count = layer.weight.numel()
    # The variance of n normal draws scatters by √(2/n); four times that.
    assert float(layer.weight.detach().var()) * products == pytest.approx(1, abs=4 * math.sqrt(2 / count))


@pytest.mark.parametrize(
    ("activation", "mean_square"),
    [
        (nn.ReLU(), 1 / 2),
        (nn.ReLU(inplace=True), 1 / 2),
        (nn.LeakyReLU(0.5), (1 + 0.25) / 2),
        (nn.Hardtanh(-50, 50), 1),
        # E[min(max(z, 0), 6)²]: what ReLU has, less the tail beyond 6 (about 1e-8).
        (nn.ReLU6(), 1 / 2),
    ],
    ids=str,
)
def test_the_gain_makes_up_for_what_the_activation_takes(activation: nn.Module, mean_square: float) -> None:
    assert activation_gain(activation) ** -2 == pytest.approx(mean_square, abs=1e-7)


def test_the_nearest_activation_behind_a_layer_counts_and_a_layer_without_one_has_gain_1() -> None:
    model = nn.Sequential(nn.Linear(400, 400), nn.BatchNorm1d(400), nn.ReLU(), nn.Hardtanh(), nn.Linear(400, 400))
    initialize_(model)
    assert float(model[0].weight.detach().var()) * 400 == pytest.approx(2, abs=0.1)
    assert float(model[4].weight.detach().var()) * 400 == pytest.approx(1, abs=0.05)


def test_norms_start_anew() -> None:
    norm = nn.BatchNorm2d(3)
    with torch.no_grad():
        norm.weight.fill_(5)
        norm.running_mean.fill_(7)
    initialize_(norm)
    assert (norm.weight.tolist(), norm.running_mean.tolist()) == ([1, 1, 1], [0, 0, 0])


def test_the_same_generator_gives_the_same_weights() -> None:
    layers = [nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)]
    for layer in layers:
        initialize_(layer, generator=torch.Generator().manual_seed(5))
    assert torch.equal(layers[0].weight, layers[1].weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_dtype_stays_finite_even_for_filters_of_one_tap(dtype: torch.dtype) -> None:
    layer = DepthwiseConv2d(8, 1, dtype=dtype)
    initialize_(layer)
    assert torch.equal(layer.weight.abs(), torch.ones_like(layer.weight))


def test_a_weight_computed_from_others_is_refused() -> None:
    with pytest.raises(ModelError, match="computed from others"):
        initialize_(weight_norm(nn.Conv2d(3, 4, 3)))
