"""Random networks on the engine against PyTorch. In: layers drawn one behind another. Out: agreement everywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import build
from torch import Tensor, nn

from separable.engine import compile

Make = Callable[[Callable[..., Any], Tensor], Callable[[Tensor], Any]]
CONVOLUTIONS = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
TRANSPOSED = {3: nn.ConvTranspose1d, 4: nn.ConvTranspose2d, 5: nn.ConvTranspose3d}
NORMS = {3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
POOLS = {3: nn.MaxPool1d, 4: nn.MaxPool2d, 5: nn.MaxPool3d}
AVERAGES = {3: nn.AvgPool1d, 4: nn.AvgPool2d, 5: nn.AvgPool3d}


def convolution(pick: Callable[..., Any], x: Tensor) -> nn.Module:
    """Often with padding that is wider than the kernel reaches, and groups that fill no panel."""
    c, dims = x.shape[1], x.ndim - 2
    groups = pick(1, 1, c)
    kernel, pad = ([pick(1, 3, 2) for _ in range(dims)] for _ in range(2))
    mode = pick("zeros", "zeros", "reflect", "replicate", "circular")
    return CONVOLUTIONS[x.ndim](
        c, groups * pick(1, 2) if groups > 1 else pick(3, 13, 16), kernel, pick(1, 1, 2), pad, groups=groups,
        padding_mode=mode,
    )  # fmt: skip


def transposed(pick: Callable[..., Any], x: Tensor) -> nn.Module:
    return TRANSPOSED[x.ndim](x.shape[1], 5, pick(2, 3, 4), pick(1, 2), dilation=pick(1, 2), output_padding=0)


def norm(pick: Callable[..., Any], x: Tensor) -> nn.Module:
    c = x.shape[1]
    return pick(NORMS[x.ndim](c), nn.GroupNorm(c, c), nn.GroupNorm(1, c))


def pool(pick: Callable[..., Any], x: Tensor) -> nn.Module:
    return pick(POOLS[x.ndim](3, pick(1, 2), 1), AVERAGES[x.ndim](2, ceil_mode=pick(False, True)))


def act(pick: Callable[..., Any], _: Tensor) -> nn.Module:
    return pick(nn.ReLU(), nn.ReLU6(), nn.SiLU(), nn.Hardswish(), nn.GELU(), nn.Mish(), nn.Softplus(), nn.ELU())


def gate(pick: Callable[..., Any], x: Tensor) -> Callable[[Tensor], Tensor]:
    """By each channel, or each pixel; the gate is read by a padded layer too."""
    axes = pick([1], list(range(2, x.ndim)))
    layer = CONVOLUTIONS[x.ndim](1 if axes == [1] else x.shape[1], 2, 3, padding=1)
    return Gate(layer, axes)


class Gate(nn.Module):
    """A map times its own mean, joined to what a layer makes of that."""

    def __init__(self, layer: nn.Module, axes: list[int]) -> None:
        super().__init__()
        self.layer, self.axes = layer, axes

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(self.axes, keepdim=True)
        return torch.cat([x * mean, (x - mean) * self.layer(mean).mean(1, keepdim=True)], 1)


def seen(pick: Callable[..., Any], x: Tensor) -> Callable[[Tensor], Tensor]:
    """With its axes exchanged, or a part of it."""
    axis = pick(*range(1, x.ndim))
    half = max(x.shape[axis] // 2, 1)
    return pick(
        lambda y: y.transpose(1, axis),
        lambda y: y.split([half, y.shape[axis] - half], axis)[0],
        lambda y: y.flip(axis) + 1,
        lambda y: F.pad(y, (1, 0)),
        lambda y: y.softmax(axis),
    )


LAYERS: tuple[Make, ...] = (convolution, convolution, transposed, norm, pool, act, act, gate, seen)


class Drawn(nn.Module):
    """Layers, each behind one before it; sums of what has one shape."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[int, Callable[[Tensor], Any]]] = []
        self.layers = nn.ModuleList()

    def add(self, source: int, call: Callable[[Tensor], Any]) -> None:
        self.steps.append((source, call))
        self.layers.extend([call] if isinstance(call, nn.Module) else [])

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        values = [x]
        for source, call in self.steps:
            y = call(values[source])
            values.append(y + values[source] if y.shape == values[source].shape else y)
        return values[-1], values[len(values) // 2]


@st.composite
def networks(draw: st.DrawFn) -> tuple[nn.Module, Tensor]:
    """A network and an input; layers that do not fit what they are given are left out."""

    def pick(*options: Any) -> Any:
        return draw(st.sampled_from(options))

    dims = pick(2, 2, 1, 3)
    x = torch.zeros(pick(1, 2, 3), pick(1, 3, 8, 17), *(pick(1, 2, 5, 8) for _ in range(dims)))

    def make() -> nn.Module:
        model, values = Drawn(), [x]
        for _ in range(pick(2, 3, 4, 5)):
            source = pick(len(values) - 1, len(values) - 1, 0)
            try:
                call = pick(*LAYERS)(pick, values[source])
                after = call(values[source])
            except (RuntimeError, ValueError):
                continue
            if 0 < after.numel() < 20_000:
                model.add(source, call)
                values.append(after.detach())
        return model

    return build(make), x


@settings(max_examples=40, deadline=None)
@given(networks())
def test_a_random_network_gives_what_pytorch_gives(drawn: tuple[nn.Module, Tensor]) -> None:
    model, x = drawn
    program = compile(model, x, threads=2, measure=False)
    for given_one in (torch.randn_like(x), torch.randn(*x.shape, 2)[..., 0], torch.randn_like(x)):
        with torch.no_grad():
            for got, expected in zip(program(given_one), model(given_one), strict=True):
                assert got.shape == expected.shape
                assert (got - expected).abs().max() <= 1e-4 * expected.abs().max() + 1e-6, program.explain()
