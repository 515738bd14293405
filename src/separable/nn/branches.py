"""Parallel convolutions that become one after training. In: channels, kernel. Out: layers, and models without them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from separable.errors import ModelError, SpecError
from separable.nn.conv_norm import BATCH_NORMS, Norm, centred_padding
from separable.nn.factorized import CONVS, Conv
from separable.nn.geometry import check_divisible, check_geometry, check_input
from separable.spec import Ints


class _Branches(nn.Module):
    """Convolutions of one input, each with its norm, added up; ``fold`` gives the one that they amount to."""

    dims: ClassVar[int]

    def __init__(
        self,
        channels: tuple[int, int],
        kernels: Mapping[str, tuple[int, ...]],
        stride: Ints,
        groups: int,
        norm: Norm | None,
    ) -> None:
        super().__init__()
        where = type(self).__name__
        self.channels = channels
        self.branches = nn.ModuleDict()
        for name, kernel in kernels.items():
            geometry = check_geometry(where, self.dims, kernel, stride, 0, 1, "zeros")
            padding = centred_padding(where, geometry.kernel, geometry.dilation)
            options: dict[str, Any] = {**geometry.options(), "padding": padding, "groups": groups, "bias": False}
            conv = CONVS[self.dims - 1](*channels, **options)
            self.branches[name] = nn.Sequential(conv, (norm or BATCH_NORMS[self.dims - 1])(channels[1]))

    def forward(self, x: Tensor) -> Tensor:
        check_input(type(self).__name__, x, self.dims, self.channels[0])
        first, *rest = self.branches.values()
        y: Tensor = first(x)
        for branch in rest:
            y = y + branch(x)
        return y

    @torch.no_grad()
    def fold(self) -> Conv:
        """A convolution with bias that computes what this layer does in evaluation; exact up to rounding of the dtype.

        ``ModelError`` in training mode, or where a norm is not a batch norm with running statistics.
        """
        where = f"{type(self).__name__}.fold"
        if self.training:
            remedy = "Call model.eval() first."
            raise ModelError(where, given="training mode", expected="evaluation mode", remedy=remedy)
        convs: list[Conv] = [branch[0] for branch in self.branches.values()]  # type: ignore[index]
        largest = max(convs, key=lambda conv: conv.weight.numel())
        weight = torch.zeros_like(largest.weight, dtype=torch.float64)
        bias = torch.zeros(self.channels[1], dtype=torch.float64, device=weight.device)
        for conv, branch in zip(convs, self.branches.values(), strict=True):
            scale, shift = _affine(where, branch[1])  # type: ignore[index]
            pads = [(k - small) // 2 for k, small in zip(weight.shape[2:], conv.weight.shape[2:], strict=True)]
            scaled = conv.weight.double() * scale.reshape(-1, *[1] * (weight.dim() - 1))
            weight += F.pad(scaled, [pad for pad in reversed(pads) for _ in range(2)])
            bias += shift if conv.bias is None else shift + scale * conv.bias.double()
        folded: Conv = copy.deepcopy(largest)
        folded.weight.copy_(weight)
        folded.bias = nn.Parameter(bias.to(folded.weight.dtype))
        return folded.train(self.training)


def _affine(where: str, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """The factor and the summand that a batch norm is in evaluation, in float64; 1 and 0 once it has been folded."""
    if isinstance(norm, nn.Identity):
        return torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    if not isinstance(norm, _BatchNorm) or norm.running_mean is None or norm.running_var is None:
        given, expected = f"the norm {norm}", "a batch norm with running statistics"
        raise ModelError(where, given=given, expected=expected)
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.affine:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    return scale, shift + norm.bias.double() if norm.affine else shift


class _LargeKernelDepthwiseConv(_Branches):
    """A depthwise convolution with a large kernel (7 to 31), and a small one beside it to train by.

    Ding et al. 2022 (RepLKNet), section 3: the small kernel catches what is close, which large ones are slow to learn.
    Each has its batch norm; ``fold`` adds the small kernel to the middle of the large. c · k² MACs a position then.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int = 31,
        stride: Ints = 1,
        *,
        small_kernel: int = 5,
        norm: Norm | None = None,
    ) -> None:
        where = type(self).__name__
        check_divisible(where, 1, channels=channels)
        if not (isinstance(kernel_size, int) and 7 <= kernel_size <= 31 and kernel_size % 2):
            raise SpecError(where, given=f"kernel_size (={kernel_size!r})", expected="an odd number from 7 to 31")
        if not (isinstance(small_kernel, int) and 1 <= small_kernel < kernel_size and small_kernel % 2):
            expected = f"an odd number below kernel_size (={kernel_size})"
            raise SpecError(where, given=f"small_kernel (={small_kernel!r})", expected=expected)
        kernels = {"large": (kernel_size,) * self.dims, "small": (small_kernel,) * self.dims}
        super().__init__((channels, channels), kernels, stride, channels, norm)


class LargeKernelDepthwiseConv1d(_LargeKernelDepthwiseConv):
    """Depthwise convolution with a large kernel over (n, c, w)."""

    dims = 1


class LargeKernelDepthwiseConv2d(_LargeKernelDepthwiseConv):
    """Depthwise convolution with a large kernel over (n, c, h, w)."""

    dims = 2


class LargeKernelDepthwiseConv3d(_LargeKernelDepthwiseConv):
    """Depthwise convolution with a large kernel over (n, c, d, h, w)."""

    dims = 3


class AsymmetricConv2d(_Branches):
    """k×k, k×1 and 1×k convolutions over (n, c, h, w), each with its norm, added up; ``fold`` makes them one k×k.

    Ding et al. 2019 (ACNet): the cross in the middle of a kernel is what carries most, so it gets weights of its own.
    Costs (k² + 2k) · c_in/g · c_out MACs a position in training, and k² · c_in/g · c_out folded.
    """

    dims = 2

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: Ints = 1,
        groups: int = 1,
        *,
        norm: Norm | None = None,
    ) -> None:
        check_divisible("AsymmetricConv2d", groups, in_channels=in_channels, out_channels=out_channels)
        kernels = {"square": (kernel_size, kernel_size), "vertical": (kernel_size, 1), "horizontal": (1, kernel_size)}
        super().__init__((in_channels, out_channels), kernels, stride, groups, norm)


def fold_branches(model: nn.Module) -> nn.Module:
    """A copy in which each layer of parallel branches is the one convolution that it amounts to in evaluation."""
    folded = copy.deepcopy(model)
    if isinstance(folded, _Branches):
        return folded.fold()
    for parent in list(folded.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _Branches):
                setattr(parent, name, child.fold())
    return folded
