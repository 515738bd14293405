"""Half precision against float64: how large the error of blocks and networks is, and that small updates survive."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from separable import models
from separable import nn as snn

BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "squeeze excitation": lambda: snn.SqueezeExcitation2d(8, 2),
    "attention": lambda: snn.AttentionSeparableConv2d(8, 8),
    "inverted residual": lambda: snn.InvertedResidual2d(8, 8),
    "mbconv": lambda: snn.MBConv2d(8, 8),
    "ghost": lambda: snn.GhostBottleneck2d(8, 8, hidden=12),
    "xception": lambda: snn.XceptionBlock2d(8, (8, 8)),
    "mixed kernels": lambda: snn.MixConv2d(8, (3, 5)),
    "large kernel": lambda: snn.LargeKernelDepthwiseConv2d(8, 7),
    "pyramid": lambda: snn.ASPP2d(8, 8, (1, 2), dropout=0.0),
    "deformable": lambda: snn.DeformableSeparableConv2d(8, 8, padding=1, modulated=True),
}
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mobilenet_v3": lambda: models.mobilenet_v3_small(width=0.25, classes=5),
    "ghostnet": lambda: models.ghostnet(width=0.25, classes=5),
}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA"))]


def error(model: nn.Module, x: Tensor, dtype: torch.dtype) -> float:
    """The relative error, root of the energy lost, of the model under autocast against itself in float64."""
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(x.double())
        with torch.autocast(x.device.type, dtype):
            y = model(x).double()
    return float((y - exact).norm() / exact.norm())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_under_autocast_is_a_few_roundings_of_bfloat16_away_from_float64(name: str, device: str) -> None:
    torch.manual_seed(0)
    model = BLOCKS[name]().eval().to(device)
    # bfloat16 rounds to 2⁻⁹; no block has more than a dozen operations in a row.
    assert error(model, torch.randn(2, 8, 12, 12, device=device), torch.bfloat16) < 12 * 2**-9


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_under_autocast_stays_close_to_float64(name: str, device: str) -> None:
    torch.manual_seed(0)
    model = NETWORKS[name]().eval().to(device)
    # Independent roundings of 2⁻⁹ over some 50 layers: √50 times one, with a margin of 3.
    assert error(model, models.example(model, batch=2, resolution=64).to(device), torch.bfloat16) < 3 * 50**0.5 * 2**-9


def test_the_means_of_squeeze_excitation_are_summed_in_more_than_bfloat16() -> None:
    # 4096 ones and a bit: a sum kept in bfloat16 would stop at 256, where adding 1 is lost in rounding.
    layer = snn.SqueezeExcitation2d(1, 1)
    means = layer.avgpool(torch.full((1, 1, 64, 64), 1.0078125, dtype=torch.bfloat16))
    assert means.item() == 1.0078125


def test_deformable_taps_keep_the_precision_of_their_positions_under_bfloat16() -> None:
    # Element 301 has no neighbour in bfloat16: it counts in twos from 256 on.
    x = torch.arange(320.0).remainder(7).reshape(1, 1, 1, 320).bfloat16()
    y = snn.deformable_depthwise_conv2d(x, torch.zeros(1, 2, 1, 320).bfloat16(), torch.ones(1, 1, 1, 1).bfloat16())
    assert torch.equal(y, x)


def steps(weight: nn.Parameter, run: Callable[[], Tensor], count: int) -> Tensor:
    """How far plain gradient descent with tiny steps moves the weight."""
    before = weight.detach().clone()
    optimizer = torch.optim.SGD([weight], lr=1e-4)
    for _ in range(count):
        optimizer.zero_grad()
        run().backward()
        optimizer.step()
    return weight.detach() - before


def test_depthwise_weights_trained_under_autocast_do_not_lose_small_updates() -> None:
    x = torch.ones(1, 4, 5, 5)
    moved = {}
    for name in ("float32", "autocast", "bfloat16"):
        layer = snn.DepthwiseConv2d(4, 3, bias=False)
        nn.init.ones_(layer.weight)
        data = x
        if name == "bfloat16":
            layer, data = layer.bfloat16(), x.bfloat16()

        def run(layer: nn.Module = layer, data: Tensor = data, halves: bool = name == "autocast") -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=halves):
                return layer(data).float().mean()

        moved[name] = steps(layer.weight, run, count=20)
    # Twenty roundings of a weight of 1 to 2⁻²⁴ are 0.24 % of this at most. Each update is 1e-4 · 1/4 (the
    # gradient of the mean of 4 channels), far below bfloat16's 2⁻⁹ around 1.
    torch.testing.assert_close(moved["float32"], torch.full((4, 1, 3, 3), -20 * 1e-4 / 4), rtol=3e-3, atol=0)
    torch.testing.assert_close(moved["autocast"], moved["float32"], rtol=1e-2, atol=0)
    # Which is why the weights themselves must not be kept in half precision.
    assert torch.count_nonzero(moved["bfloat16"]) == 0
