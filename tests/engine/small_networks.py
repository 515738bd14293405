"""Small networks with every structure that the engine must know. Out: modules with statistics that are not trivial."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def layer(
    c_in: int, c_out: int, kernel: int = 1, stride: int = 1, groups: int = 1, act: type[nn.Module] | None = nn.ReLU
) -> nn.Sequential:
    convolution = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(c_out), *([act()] if act else []))


class Inverted(nn.Module):
    """MobileNetV2's block."""

    def __init__(self, c_in: int, c_out: int, stride: int, expand: int) -> None:
        super().__init__()
        wide = c_in * expand
        self.is_residual = stride == 1 and c_in == c_out
        self.expand = layer(c_in, wide, act=nn.ReLU6)
        self.depthwise = layer(wide, wide, 3, stride, wide, act=nn.ReLU6)
        self.project = layer(wide, c_out, act=None)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.is_residual else y


class Bottleneck(nn.Module):
    """ResNet-50's block, with the sum and the last ReLU in place."""

    def __init__(self, c_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(layer(c_in, width), layer(width, width, 3, stride), layer(width, 4 * width, act=None))
        self.beside = layer(c_in, 4 * width, 1, stride, act=None) if stride > 1 or c_in != 4 * width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        y += self.beside(x)
        return F.relu(y, inplace=True)


class Gated(nn.Module):
    """A squeeze-and-excitation block with hard functions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.before = layer(channels, channels, 5, groups=channels, act=nn.Hardswish)
        self.down, self.up = nn.Conv2d(channels, 8, 1), nn.Conv2d(8, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        gate = F.hardsigmoid(self.up(F.silu(self.down(F.adaptive_avg_pool2d(x, 1)))))
        return x * gate


class Branches(nn.Module):
    """Joins, parts, constants, several outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(16, 16, (3, 1), padding=(1, 0)), nn.Conv2d(16, 20, (1, 3), padding=(0, 1))
        self.scale = nn.Parameter(torch.randn(16, 1, 1))
        self.last = nn.Conv2d(16, 7, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        a, b = self.one(x), self.two(x)
        joined = torch.cat([a * self.scale, b], 1)
        first, _ = joined.split([16, 20], 1)
        y = self.last((first - 1) / 3 + x)
        return {"joined": joined, "classes": y.softmax(1), "mean": (1 - F.gelu(y)).mean((2, 3))}


class PreActivated(nn.Module):
    """A batch norm that no convolution in front can take, and an uneven pad."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(12), nn.Conv2d(12, 9, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.conv(F.pad(F.leaky_relu(self.norm(x), 0.2), (0, 1, 0, 1))))


class Cell(nn.Module):
    """As in NASNet: a separable layer, the maximum and the average around every pixel, of the input and of a sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.separable = nn.Sequential(
            nn.Conv2d(channels, channels, 5, padding=2, groups=channels), nn.Conv2d(channels, channels, 1)
        )
        self.again = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.separable(x) + F.max_pool2d(x, 3, 1, 1)
        return torch.cat([self.again(y), F.max_pool2d(y, 3, 1, 1), F.avg_pool2d(y, 3, 1, 1)], 1)


def mobile() -> nn.Module:
    blocks = [Inverted(16, 24, 2, 4), Inverted(24, 24, 1, 4), Inverted(24, 40, 2, 6)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(40, 10)]
    return nn.Sequential(layer(3, 16, 3, 2, act=nn.ReLU6), *blocks, *head)


def residual() -> nn.Module:
    stem = [layer(3, 16, 7, 2), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(
        *stem,
        Bottleneck(16, 8, 1),
        Bottleneck(32, 8, 1),
        Bottleneck(32, 16, 2),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 4 * 4, 5),
    )


def plain() -> nn.Module:
    stages = [nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(12, 20, 3, padding=1), nn.SiLU()]
    return nn.Sequential(
        *stages, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(320, 30), nn.ReLU(), nn.Dropout(), nn.Linear(30, 4)
    )


def multiplied() -> nn.Module:
    """What a depthwise factorisation gives: several filters a channel, then a pointwise layer."""
    pair = [nn.Conv2d(12, 36, 3, padding=1, groups=12), nn.Conv2d(36, 20, 1), nn.Tanh()]
    return nn.Sequential(*pair, nn.Conv2d(20, 40, 5, groups=20, dilation=2, padding=4, stride=2))


def grouped() -> nn.Module:
    first = [nn.Conv2d(32, 64, 3, padding=1, groups=4), nn.LeakyReLU(0.1), nn.Conv2d(64, 48, 3, groups=16)]
    pools = [nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.AvgPool2d(3, 2, 1, count_include_pad=False)]
    return nn.Sequential(*first, pools[0], nn.Conv2d(48, 48, 3, groups=6, padding=2), pools[1], nn.Sigmoid())


def signal() -> nn.Module:
    body = [
        nn.Conv1d(5, 16, 7, padding=3),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Conv1d(16, 16, 5, groups=16),
        nn.MaxPool1d(2),
    ]
    return nn.Sequential(*body, nn.Conv1d(16, 30, 1), nn.Flatten(), nn.Linear(30 * 22, 7))


def large() -> nn.Module:
    return nn.Sequential(nn.Conv2d(8, 8, 13, padding=6, groups=8), nn.Conv2d(8, 9, 31, padding=15))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "inverted residuals": (mobile, (1, 3, 45, 37)),
    "inverted residuals on a batch": (mobile, (5, 3, 32, 32)),
    "bottlenecks": (residual, (1, 3, 64, 64)),
    "bottlenecks on a batch": (residual, (3, 3, 57, 60)),
    "a plain network": (plain, (2, 3, 16, 24)),
    "a gate": (lambda: nn.Sequential(layer(3, 24, 3), Gated(24)), (2, 3, 13, 11)),
    "branches": (Branches, (2, 16, 9, 7)),
    "a cell": (lambda: Cell(13), (2, 13, 9, 12)),
    "a norm in front": (PreActivated, (2, 12, 15, 14)),
    "a multiplier": (multiplied, (2, 12, 19, 21)),
    "groups": (grouped, (2, 32, 23, 19)),
    "a signal": (signal, (4, 5, 48)),
    "large kernels": (large, (1, 8, 40, 33)),
}


def build(make: Callable[[], nn.Module]) -> nn.Module:
    """The network in inference mode, with statistics and weights that show every mistake."""
    torch.manual_seed(0)
    model = make().eval()
    for module in model.modules():
        if isinstance(module, nn.GroupNorm | nn.InstanceNorm2d) and module.affine:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            module.running_mean = torch.randn_like(module.bias) * 0.2
            module.running_var = torch.rand_like(module.bias) + 0.5
    return model
