"""What people do with a PyTorch module, done with every layer and network: train, export, compile, cast, copy, keep."""

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from separable import models
from separable import nn as snn
from separable.spec import ConvSpec

CHAIN = [ConvSpec(4, 3, kernel=(3, 1), size=8, padding=((0, 1), (0, 0))), ConvSpec(3, 4, kernel=(1, 3), size=(7, 8))]
LAYERS = {
    "depthwise": lambda: snn.DepthwiseConv2d(4, 3, padding=1, multiplier=2),
    "pointwise": lambda: snn.PointwiseConv2d(4, 6, groups=2),
    "separable": lambda: snn.DepthwiseSeparableConv2d(4, 6, 3, stride=2, norm=nn.BatchNorm2d, activation=nn.ReLU),
    "spatial": lambda: snn.SpatiallySeparableConv2d(4, 6, 3, norm=nn.BatchNorm2d, activation=nn.ReLU),
    "factorized": lambda: snn.FactorizedConv(
        ConvSpec(4, 4, kernel=3, size=8, padding=((0, 1), (0, 0))), CHAIN, family="spatial", rank=(3,)
    ),
}
NETWORKS = {
    "mobilenet_v1": lambda: models.mobilenet_v1(width=0.25, classes=5, shallow=True),
    "mobilenet_v2": lambda: models.mobilenet_v2(width=0.25, classes=5),
    "resnet18": lambda: models.resnet18(classes=5),
    "resnet_small": lambda: models.resnet_small(width=8, blocks=1, classes=5),
}
MODULES = {**LAYERS, **NETWORKS}


def module(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = MODULES[name]().eval()
    x = torch.randn(2, 4, 8, 8) if name in LAYERS else models.example(model, batch=2, resolution=32)
    return model, x


@pytest.mark.parametrize("name", MODULES)
def test_it_learns(name: str) -> None:
    model, x = module(name)
    model.train()
    target = torch.zeros_like(model(x))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), target)
        loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", MODULES)
def test_it_exports_for_any_batch(name: str) -> None:
    model, x = module(name)
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("n", min=2)},))
    more = torch.cat([x, x.flip(0), x])
    with torch.no_grad():
        torch.testing.assert_close(exported.module()(more), model(more))


@pytest.mark.parametrize("name", ["factorized", "resnet_small"])
def test_it_compiles_in_one_piece(name: str) -> None:
    model, x = module(name)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(x), model(x))


@pytest.mark.parametrize("name", MODULES)
def test_it_takes_channels_last(name: str) -> None:
    model, x = module(name)
    with torch.no_grad():
        expected = model(x)
        model = model.to(memory_format=torch.channels_last)
        torch.testing.assert_close(model(x.to(memory_format=torch.channels_last)), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", MODULES)
def test_it_takes_autocast_to_bfloat16(name: str) -> None:
    model, x = module(name)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        y = model(x)
    with torch.no_grad():
        exact = model(x)
    assert y.dtype == torch.bfloat16
    # bfloat16 keeps 8 bits: a relative error of 2⁻⁸ a layer, over the depth of the network.
    assert float((y.float() - exact).norm() / exact.norm()) < 0.1


@pytest.mark.parametrize("name", MODULES)
def test_copies_and_pickles_compute_the_same(name: str) -> None:
    model, x = module(name)
    with torch.no_grad():
        expected = model(x)
        assert torch.equal(copy.deepcopy(model)(x), expected)
        assert torch.equal(pickle.loads(pickle.dumps(model))(x), expected)


@pytest.mark.parametrize("name", MODULES)
def test_its_state_dict_loads_into_another_one_from_a_file_that_runs_no_code(name: str) -> None:
    model, x = module(name)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = MODULES[name]().eval()
    other.load_state_dict(torch.load(file, weights_only=True))
    with torch.no_grad():
        assert torch.equal(other(x), model(x))
