"""Calls between two convolutions. In: activations, arithmetic, attention. Out: what PyTorch gives, natively."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from small_networks import build
from torch import Tensor, nn

from separable.engine import compile

Call = Callable[[Tensor], Tensor]


class Between(nn.Module):
    """Channels that fill no panel, the call, and a layer that would show what stands behind them."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.first, self.call = nn.Conv2d(3, 13, 3, padding=1), call
        self.last = nn.Sequential(nn.Conv2d(13, 26, 3, padding=1, groups=13), nn.Conv2d(26, 5, 1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.call(self.first(x)))
        return y


class Function(nn.Module):
    """A layer without weights."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x)


def cbam(x: Tensor) -> Tensor:
    """Woo et al. 2018, with a mean for its convolution."""
    x = x * torch.sigmoid(F.adaptive_avg_pool2d(x, 1) + F.adaptive_max_pool2d(x, 1))
    both = torch.cat([x.max(1)[0].unsqueeze(1), x.mean(1).unsqueeze(1)], 1)
    return x * torch.sigmoid(both.mean(1, keepdim=True))


NATIVE: dict[str, Call] = {
    "elu": lambda x: F.elu(x, 0.7),
    "selu": F.selu,
    "celu": F.celu,
    "softplus": F.softplus,
    "mish": F.mish,
    "log sigmoid": F.logsigmoid,
    "absolute": torch.abs,
    "exponential": lambda x: torch.exp(3 * x),
    "negative": torch.neg,
    "square": lambda x: x**2,
    "one slope": nn.PReLU(),
    "slopes": nn.PReLU(13),
    "quotient": lambda x: x / (1 + x * x),
    "least and greatest": lambda x: torch.minimum(torch.maximum(x, x.flip(3)), 0.5 * x + 0.2),
    "gated": lambda x: F.glu(torch.cat([x, x.flip(2)], 1), 1),
    "softmax": lambda x: x.softmax(1),
    "weighed": lambda x: x * x.mean((2, 3), keepdim=True).softmax(1),
    "gate for each pixel": lambda x: x * torch.sigmoid(x.mean(1, keepdim=True)) - x.amax(1, keepdim=True),
    "greatest pixel": lambda x: x + x.amax((2, 3), keepdim=True),
    "greatest pixels": lambda x: F.interpolate(F.adaptive_max_pool2d(x, (3, 2)), scale_factor=2),
    "channels and pixels": cbam,
    "square root": lambda x: torch.sqrt(x.abs()),
    "logarithm": lambda x: torch.log(x.abs() + 0.01),
    "one over": lambda x: 1 / (2 + x * x) + (1 + x * x) ** -1,
    "one over the root": lambda x: torch.rsqrt(1 + x * x) - (1 + x * x) ** -0.5,
    "cube and more": lambda x: x**3 - x**4 + x.abs() ** 0.5,
    "thresholds": lambda x: F.threshold(x, 0.1, -0.2) + F.softshrink(x, 0.3) * F.hardshrink(x, 0.4),
    "what softens": lambda x: F.softsign(x) + F.tanhshrink(x),
    "bounds": lambda x: x.clamp_max(0.4) * x.clamp(min=-0.3) - x.clamp(-0.1, 0.1),
    "constants": lambda x: torch.maximum(x, torch.tensor(-0.25)) + torch.minimum(x, torch.tensor(0.5)),
    "logarithm of the softmax": lambda x: x.log_softmax(1),
    "sums": lambda x: x * torch.sigmoid(x.sum((2, 3), keepdim=True)) + x.sum(1, keepdim=True),
    "variances": lambda x: x / (x.var(1, keepdim=True) + 1) + x.std((2, 3), keepdim=True, unbiased=False),
    "normalised channels": lambda x: F.normalize(x, dim=1),
    "normalised by their size": lambda x: x * torch.rsqrt((x * x).mean(1, keepdim=True) + 1e-6),
    "moved around": lambda x: x.roll(2, 3) + x.roll((1, -1), (2, 3)) + x.roll(1, 1) + x.flip(1),
    "one channel for all": lambda x: x * x[:, :1].expand(x.shape),
}
BESIDE: dict[str, Call] = {
    "celu of another alpha": lambda x: F.celu(x, 0.5),
    "softplus of another beta": lambda x: F.softplus(x, 2.0),
    "another power": lambda x: x.abs() ** 1.7,
    "several constants": lambda x: torch.maximum(x, torch.linspace(-1, 1, 13).reshape(-1, 1, 1)),
    "bounds that are maps": lambda x: x.clamp(max=x.flip(3)),
    "moved to another image": lambda x: x.roll(1, 0),
    "moved twice": lambda x: x.roll((1, 1), (2, 2)),
    "a rounded quotient": lambda x: torch.div(x, 0.3, rounding_mode="floor"),
    "a difference with a factor": lambda x: torch.rsub(x, 1, alpha=2),
    "powers that are maps": lambda x: x.abs() ** torch.tensor([1.0, 2.0, 3.0, 0.5] * 2),
    "softmax over rows": lambda x: x.softmax(2),
    "uneven maxima": lambda x: F.adaptive_max_pool2d(x, (4, 3)),
    "greatest of a row": lambda x: x - x.amax(3, keepdim=True),
    "a median": lambda x: x - x.median(1, keepdim=True)[0],
}


@pytest.mark.parametrize("name", NATIVE)
@pytest.mark.parametrize("batch", [1, 3])
def test_a_call_runs_natively(name: str, batch: int) -> None:
    call = NATIVE[name]
    model = build(lambda: Between(call))
    for layer in model.modules():
        if isinstance(layer, nn.PReLU):
            nn.init.normal_(layer.weight)
    x = torch.randn(batch, 3, 6, 8)
    program = compile(model, x, threads=2, measure=False)
    assert "PyTorch  " not in program.explain(), program.explain()
    with torch.no_grad():
        torch.testing.assert_close(program(x), model(x), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", BESIDE)
def test_what_has_no_kernel_is_left_to_pytorch_and_named(name: str) -> None:
    call = BESIDE[name]
    model, x = build(lambda: Between(call)), torch.randn(2, 3, 6, 8)
    program = compile(model, x, threads=1, measure=False)
    assert "PyTorch  " in program.explain()
    with torch.no_grad():
        torch.testing.assert_close(program(x), model(x), rtol=1e-5, atol=1e-6)


REDUCED: dict[str, Call] = {
    "means of channels": lambda x: x.mean(1),
    "the greatest of channels": lambda x: x.amax(1) * 2,
    "the greatest of channels, by name": lambda x: x.max(1)[0].unsqueeze(1) * x,
    "of everything": lambda x: x / x.max() + x.mean(),
    "of two axes": lambda x: x - x.amax(sorted({2, x.ndim - 1}), keepdim=True),
    "of the third axis from behind": lambda x: x * x.softmax(-3 % x.ndim),
    "of a row": lambda x: x.mean(-1) + x.amax(-1),
}


@pytest.mark.parametrize("name", REDUCED)
@pytest.mark.parametrize("dims", [1, 2, 3], ids=["signals", "images", "volumes"])
def test_every_axis_is_reduced_as_by_pytorch(name: str, dims: int) -> None:
    layer = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims]
    call = REDUCED[name]
    model = build(lambda: nn.Sequential(layer(3, 13, 3), Function(call)))
    x = torch.randn((2, 3, 6, 7, 8)[: dims + 2])
    with torch.no_grad():
        torch.testing.assert_close(compile(model, x, threads=1, measure=False)(x), model(x), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("dims", [1, 2], ids=["vectors", "signals"])
def test_a_softmax_ends_a_classifier(dims: int) -> None:
    shape = (4, 6, 9)[: dims + 1]
    layer = nn.Linear(6, 11) if dims == 1 else nn.Conv1d(6, 11, 3)
    model, x = build(lambda: nn.Sequential(layer, nn.Softmax(1))), 5 * torch.randn(shape)
    program = compile(model, x, threads=1, measure=False)
    assert "0 in PyTorch" in program.explain()
    with torch.no_grad():
        torch.testing.assert_close(program(x), model(x), rtol=2e-5, atol=1e-6)


class Exponential(nn.Conv2d):
    """Of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.exp(super().forward(x))


def test_exponentials_overflow_where_those_of_pytorch_do() -> None:
    x = torch.tensor([-104.0, -90.0, -1.0, 0.0, 80.0, 88.5, 89.0]).reshape(1, 1, 1, 7)
    model = Exponential(1, 1, 1, bias=False).eval()
    nn.init.ones_(model.weight)
    torch.testing.assert_close(compile(model, x, measure=False)(x), x.exp(), rtol=3e-6, atol=1e-38)
