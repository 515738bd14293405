"""Volumes on the engine against PyTorch. In: small 3-D networks. Out: agreement, with nothing left to PyTorch."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from small_networks import build
from torch import Tensor, nn

from separable.engine import compile


class Gate(nn.Module):
    """A channel gate over a volume."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv3d(10, 4, 1), nn.Conv3d(4, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = F.adaptive_avg_pool3d(x, 1)
        return x * torch.sigmoid(self.up(F.relu(self.down(gate))))


class Sum(nn.Module):
    """A residual block whose first half is a convolution over the depth alone."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm = nn.Conv3d(10, 10, (3, 1, 1), padding=(1, 0, 0)), nn.BatchNorm3d(10)
        self.two = nn.Conv3d(10, 10, (1, 3, 3), padding=(0, 1, 1), bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.two(F.relu(self.norm(self.one(x)), inplace=True)))


class Joined(nn.Module):
    """Branches over a volume joined by channel."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv3d(10, 3, 1), nn.Conv3d(10, 7, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.two(x)], 1)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "dense": lambda: nn.Sequential(nn.Conv3d(10, 6, 3, padding=1), nn.BatchNorm3d(6), nn.ReLU6()),
    "strided, dilated": lambda: nn.Conv3d(10, 6, (3, 3, 2), stride=(2, 1, 2), padding=(2, 1, 0), dilation=(2, 1, 1)),
    "depthwise": lambda: nn.Sequential(nn.Conv3d(10, 10, 3, 2, 1, groups=10, bias=False), nn.BatchNorm3d(10)),
    "grouped": lambda: nn.Conv3d(10, 20, 3, padding=1, groups=5),
    "a sum": Sum,
    "a gate": Gate,
    "joined": Joined,
    "transposed": lambda: nn.ConvTranspose3d(10, 6, 2, 2),
    "transposed, grouped": lambda: nn.ConvTranspose3d(10, 4, (3, 2, 3), (1, 2, 2), (1, 0, 1), groups=2, bias=False),
    "maxima": lambda: nn.MaxPool3d(3, 2, 1),
    "averages": lambda: nn.AvgPool3d((2, 3, 2)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_on_volumes_runs_natively_and_gives_what_pytorch_gives(name: str) -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Conv3d(3, 10, (1, 3, 3), padding=(0, 1, 1)), LAYERS[name]())

    model, x = build(make), torch.randn(2, 3, 6, 9, 11)
    program = compile(model, x, threads=1, measure=False)
    with torch.no_grad():
        expected = model(x)
    assert (program(x) - expected).norm() <= 1e-5 * expected.norm()
    assert not program.prepare(x).lowered.calls


def test_a_video_becomes_classes() -> None:
    body = [nn.Conv3d(3, 8, 3, 2, 1), nn.BatchNorm3d(8), nn.ReLU(inplace=True), nn.AdaptiveAvgPool3d(1)]
    model, x = build(lambda: nn.Sequential(*body, nn.Flatten(), nn.Linear(8, 5))), torch.randn(3, 3, 5, 8, 8)
    program = compile(model, x, threads=2, measure=False)
    with torch.no_grad():
        torch.testing.assert_close(program(x), model(x), rtol=1e-4, atol=1e-5)
    assert not program.prepare(x).lowered.calls
