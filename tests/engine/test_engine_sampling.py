"""Resizing, cropping, padding with pixels, joining. In: a call between convolutions. Out: what PyTorch gives."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from small_networks import build
from torch import Tensor, nn

from separable.engine import compile
from separable.engine.lowered import Call

CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "nearest, twice": lambda x: F.interpolate(x, scale_factor=2),
    "nearest, to a size": lambda x: F.interpolate(x, size=(13, 5)),
    "nearest, by a factor": lambda x: F.interpolate(x, scale_factor=1.7),
    "nearest, exact": lambda x: F.interpolate(x, size=(5, 23), mode="nearest-exact"),
    "bilinear": lambda x: F.interpolate(x, size=(19, 31), mode="bilinear"),
    "bilinear, smaller": lambda x: F.interpolate(x, scale_factor=0.6, mode="bilinear"),
    "bilinear, by a factor that is kept": lambda x: F.interpolate(
        x, scale_factor=1.3, mode="bilinear", recompute_scale_factor=False
    ),
    "bilinear, corners aligned": lambda x: F.interpolate(x, size=(20, 1), mode="bilinear", align_corners=True),
    "bicubic": lambda x: F.interpolate(x, size=(14, 30), mode="bicubic"),
    "bicubic, corners aligned": lambda x: F.interpolate(x, size=(14, 30), mode="bicubic", align_corners=True),
    "reflected": lambda x: F.pad(x, (3, 1, 0, 2), mode="reflect"),
    "replicated": lambda x: F.pad(x, (0, 4, 2, 1), mode="replicate"),
    "cut by padding": lambda x: F.pad(x, (-1, -2, -3, 0)),
    "cut, every other": lambda x: x[:, :, 1:-2, ::2],
    "channels from the fifth on": lambda x: torch.cat([x[:, 5:], x[:, :5]], 1),
    "channels in three parts": lambda x: torch.cat(x.split([3, 9, 7], 1)[::-1], 1),
    "joined in the middle of a panel": lambda x: torch.cat([x[:, :3], x[:, 2:], x[:, :1], x[:, 4:6]], 1)[:, 2:21],
    "turned": lambda x: x.flip((2,)),
    "averages that overlap": lambda x: F.adaptive_avg_pool2d(x, (4, 7)),
    "averages that stick out": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
    "averages that stick out, padding not counted": lambda x: F.avg_pool2d(
        x, (2, 3), 2, (1, 0), ceil_mode=True, count_include_pad=False
    ),
    "spread": lambda x: x + x.mean((2, 3), keepdim=True).expand(-1, -1, 11, 16),
}


class Between(nn.Module):
    """19 channels on 11×16, then the call, then a padded convolution."""

    def __init__(self, call: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.call, self.last = nn.Conv2d(4, 19, 3, padding=1), call, nn.Conv2d(19, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.call(torch.sigmoid(self.first(x))))
        return y


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_signals_are_padded_at_both_ends(mode: str) -> None:
    model = nn.Sequential(nn.Conv1d(3, 19, 5), Apply(lambda x: F.pad(x, (3, 1), mode=mode)), nn.Conv1d(19, 5, 2)).eval()
    x = torch.randn(2, 3, 23)
    with torch.no_grad():
        torch.testing.assert_close(compile(model, x, threads=2, measure=False)(x), model(x))


class Apply(nn.Module):
    def __init__(self, call: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x)


@pytest.mark.parametrize("name", CALLS)
def test_a_call_runs_natively_and_gives_what_pytorch_gives(name: str) -> None:
    model, x = build(lambda: Between(CALLS[name])), torch.randn(2, 4, 11, 16)
    program = compile(model, x, threads=2, measure=False)
    with torch.no_grad():
        expected = model(x)
    assert (program(x) - expected).norm() <= 1e-5 * expected.norm()
    assert not [step for step in program.prepare(x).lowered.steps if isinstance(step, Call)]
