"""Networks that once came out wrong, each as small as it gets. In: one structure. Out: what PyTorch gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_networks import build
from torch import Tensor, nn

from separable.engine import compile

INF, NAN = float("inf"), float("nan")


class Beside(nn.Module):
    """What is made of the input and of a layer's output."""

    def __init__(self, layer: nn.Module, call: Callable[[nn.Module, Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.call = layer, call

    def forward(self, x: Tensor) -> Any:
        return self.call(self.layer, x)


def gated(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    mean = x.mean((2, 3), keepdim=True)
    return x * mean, layer(mean)


def added_in_vain(layer: nn.Module, x: Tensor) -> Tensor:
    y = layer(x)
    y += 1
    return x


def pooled_twice(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    both: tuple[Tensor, Tensor] = F.max_pool2d(layer(x), 2, return_indices=True)
    return both


CORNERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "a gate that a padded layer reads": (lambda: Beside(nn.Conv2d(8, 3, 3, padding=1), gated), (2, 8, 4, 5)),
    "as many pixels in another shape": (lambda: nn.Conv2d(1, 3, (5, 3), padding=(5, 0)), (2, 1, 3, 3)),
    "a norm over volumes": (lambda: nn.Sequential(nn.Conv3d(2, 6, 1), nn.GroupNorm(3, 6)), (2, 2, 3, 4, 5)),
    "a norm of each volume": (lambda: nn.Sequential(nn.Conv3d(2, 6, 1), nn.InstanceNorm3d(6)), (1, 2, 3, 4, 5)),
    "a volume turned around": (lambda: Beside(nn.Conv3d(2, 6, 1), lambda f, x: f(x).flip(3)), (1, 2, 3, 4, 5)),
    "axes of a volume of one slice": (
        lambda: Beside(nn.Conv2d(3, 4, 1), lambda f, x: f(x) + x.unsqueeze(2).permute(0, 2, 1, 3, 4)[:, 0, :1]),
        (2, 3, 4, 5),
    ),
    "a part of columns": (lambda: Beside(nn.ReLU(), lambda f, x: f(x + 1).split([6, 2], 3)[1]), (2, 3, 8, 8)),
    "maxima and their places": (lambda: Beside(nn.ReLU(), pooled_twice), (2, 3, 8, 8)),
    "a change that nobody reads": (lambda: Beside(nn.Conv2d(3, 4, 1), added_in_vain), (2, 3, 4, 5)),
    "a volume without rows": (
        lambda: nn.Sequential(nn.Conv3d(2, 3, 1), nn.ConvTranspose3d(3, 2, (2, 1, 2), padding=(0, 1, 0))),
        (2, 2, 3, 2, 5),
    ),
    "a volume without slices": (
        lambda: Beside(nn.Conv3d(2, 3, 1), lambda f, x: f(x)[:, :, :0] * 2),
        (2, 2, 3, 4, 5),
    ),
}


@pytest.mark.parametrize("name", CORNERS)
def test_a_corner_is_turned_as_by_pytorch(name: str) -> None:
    make, shape = CORNERS[name]
    model, x = build(make), torch.randn(shape)
    with torch.no_grad():
        torch.testing.assert_close(compile(model, x, threads=1, measure=False)(x), model(x), rtol=2e-5, atol=2e-6)


def test_a_copy_that_a_call_needs_is_made() -> None:
    model, x = build(lambda: Beside(nn.GroupNorm(1, 2), lambda f, x: f(x[:, 4:7:2]))), torch.randn(3, 8, 9, 1)
    with torch.no_grad():
        torch.testing.assert_close(compile(model, x, measure=False)(x), model(x))


def test_calls_left_to_pytorch_take_inputs_of_any_strides() -> None:
    model, x = build(lambda: nn.GroupNorm(2, 4)), torch.randn(2, 4, 5, 6)
    program = compile(model, x, measure=False)
    with torch.no_grad():
        torch.testing.assert_close(program(x.transpose(2, 3).contiguous().transpose(2, 3)), model(x))


MISSING: dict[str, Callable[[], nn.Module]] = {
    "maxima of windows": lambda: nn.Sequential(nn.Conv2d(3, 9, 1, groups=3), nn.MaxPool2d(3, 1, 1)),
    "the larger of two": lambda: Beside(nn.Conv2d(3, 3, 1), lambda f, x: torch.maximum(f(x), f(x).flip(3))),
    "the smaller of two": lambda: Beside(nn.Conv2d(3, 3, 1), lambda f, x: torch.minimum(f(x), f(x).flip(3))),
    "maxima of channels": lambda: Beside(nn.Conv2d(3, 9, 1, groups=3), lambda f, x: f(x).amax(1, keepdim=True)),
    "phases without a tap": lambda: nn.ConvTranspose2d(3, 5, (2, 3), stride=(3, 1), dilation=(1, 2)),
    "phases between taps": lambda: nn.ConvTranspose2d(3, 5, 3, stride=2, dilation=2, padding=1),
}


@pytest.mark.parametrize("name", MISSING)
@pytest.mark.parametrize("number", [NAN, INF, -INF])
def test_what_is_no_number_stays_where_pytorch_has_it(name: str, number: float) -> None:
    model, x = build(MISSING[name]), torch.randn(2, 3, 6, 7)
    x[0, 1, 2, 3] = number
    with torch.no_grad():
        got, expected = compile(model, x, threads=1, measure=False)(x), model(x)
    assert torch.equal(got.isfinite(), expected.isfinite())


UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "square root": torch.sqrt,
    "one over": torch.reciprocal,
    "one over the root": torch.rsqrt,
    "logarithm": torch.log,
    "cube": lambda x: x**3,
    "soft shrink": F.softshrink,
    "hard shrink": F.hardshrink,
    "threshold": lambda x: F.threshold(x, 0.1, -0.2),
}


@pytest.mark.parametrize("name", UNARY)
def test_arithmetic_on_every_kind_of_number_is_that_of_pytorch(name: str) -> None:
    sizes = [0.0, 1e-40, 1e-30, 0.1, 0.5, 1.0, 2.0, 1e13, 1e30, 3e38, INF, NAN]
    x = torch.tensor([sign * size for size in sizes for sign in (1, -1)]).reshape(1, 1, 1, -1)
    model = Beside(nn.Conv2d(1, 1, 1, bias=False), lambda f, x: UNARY[name](f(x))).eval()
    nn.init.ones_(model.layer.weight)  # type: ignore[arg-type]
    program = compile(model, x, measure=False)
    assert "0 in PyTorch" in program.explain()
    with torch.no_grad():
        torch.testing.assert_close(program(x), model(x), rtol=1e-6, atol=0, equal_nan=True)


@pytest.mark.parametrize("layer", [nn.SiLU(), nn.Mish(), nn.GELU(), nn.GELU("tanh"), nn.Softplus(), nn.Tanh()], ids=str)
def test_activations_hold_from_the_least_number_to_the_greatest(layer: nn.Module) -> None:
    sizes = [1e-40, 1e-30, 1e-7, 0.2, 0.3, 5.0, 19.0, 21.0, 87.0, 90.0, 104.0, 1e4, 1e19, 1e30, 3e38]
    x = torch.tensor([sign * size for size in sizes for sign in (1, -1)]).reshape(1, 1, 1, -1)
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), layer).eval()
    nn.init.ones_(model[0].weight)  # type: ignore[arg-type]
    with torch.no_grad():
        got, expected = compile(model, x, measure=False)(x), model.double()(x.double()).float()
    torch.testing.assert_close(got, expected, rtol=2e-6, atol=3e-7)
