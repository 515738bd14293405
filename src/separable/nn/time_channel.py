"""Separable convolution of signals that end at different moments. In: channels, kernel. Out: layers that know where."""

from __future__ import annotations

from typing import overload

import torch
import torch.fx
from torch import Tensor, nn

from separable.errors import SpecError
from separable.nn.conv_norm import Activation, centred_padding
from separable.nn.depthwise import DepthwiseSeparableConv1d
from separable.nn.geometry import check_input, check_positive
from separable.nn.pointwise import PointwiseConv1d


class TimeChannelConv1d(nn.Module):
    """Depthwise convolution over (n, c, w), 1×1, batch norm, activation; padded so that only the stride changes w.

    Kriman et al. 2019 (QuartzNet), section 3.1: no norm between the halves. (k + c_out) · c_in MACs a position, and
    k · c_in · c_out with ``standard``, which makes it one ordinary convolution.

    ``lengths`` (n,) says where each signal ends. What lies behind is read as the zeros that an end is padded with, and
    batch norm takes no statistics there: how far a batch was padded changes nothing, in training neither. Of the output
    the first ``strided(lengths, stride)`` positions count; the others are without meaning.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        *,
        activation: Activation | None = nn.ReLU,
        standard: bool = False,
    ) -> None:
        super().__init__()
        check_positive(type(self).__name__, in_channels=in_channels, out_channels=out_channels)
        check_positive(type(self).__name__, kernel_size=kernel_size, stride=stride, dilation=dilation)
        self.in_channels, self.stride = in_channels, stride
        padding = centred_padding(type(self).__name__, (kernel_size,), (dilation,))[0]
        conv = nn.Conv1d if standard else DepthwiseSeparableConv1d
        self.conv = conv(in_channels, out_channels, kernel_size, stride, padding, dilation, bias=False)
        self.norm = nn.BatchNorm1d(out_channels)
        self.activation = nn.Identity() if activation is None else activation()

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        check_input(type(self).__name__, x, 1, self.in_channels)
        x = self.conv(x if lengths is None else x * length_mask(lengths, x.shape[2]))
        y: Tensor = self.activation(masked_norm(self.norm, x, strided(lengths, self.stride)))
        return y


class TimeChannelResidual1d(nn.Module):
    """``repeats`` time-channel separable convolutions over (n, c, w), added to a 1×1 convolution of the input.

    Kriman et al. 2019, figure 1: the 1×1 has a norm, and the last activation stands behind the sum. ``lengths`` and
    ``standard`` as in ``TimeChannelConv1d``; the first convolution has the stride.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        *,
        repeats: int,
        activation: Activation = nn.ReLU,
        standard: bool = False,
    ) -> None:
        super().__init__()
        check_positive(type(self).__name__, repeats=repeats)
        layers = []
        for index in range(repeats):
            last = index == repeats - 1
            layers.append(
                TimeChannelConv1d(
                    *(in_channels if index == 0 else out_channels, out_channels, kernel_size),
                    stride=stride if index == 0 else 1,
                    activation=None if last else activation,
                    standard=standard,
                )
            )
        self.layers = nn.ModuleList(layers)
        self.shortcut = PointwiseConv1d(in_channels, out_channels, stride, bias=False)
        self.shortcut_norm = nn.BatchNorm1d(out_channels)
        self.activation = activation()
        self.stride = stride

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        behind, y = strided(lengths, self.stride), x
        for index, layer in enumerate(self.layers):
            y = layer(y, lengths if index == 0 else behind)
        out: Tensor = self.activation(y + masked_norm(self.shortcut_norm, self.shortcut(x), behind))
        return out


def length_mask(lengths: Tensor, size: int) -> Tensor:
    """True at the first ``lengths`` (n,) of ``size`` positions, (n, 1, size).

    ``SpecError`` for lengths that are no whole numbers, or not one a signal.

    >>> length_mask(torch.tensor([1, 3]), 3).tolist()
    [[[True, False, False]], [[True, True, True]]]
    """
    if lengths.dim() != 1 or lengths.is_floating_point():
        given = f"{str(lengths.dtype).removeprefix('torch.')} of shape {tuple(lengths.shape)}"
        raise SpecError("length_mask", given=given, expected="whole numbers (n,), one for each signal")
    return (torch.arange(size, device=lengths.device) < lengths[:, None])[:, None]


# The mask depends on the size, so a traced network keeps it whole.
torch.fx.wrap("length_mask")


@overload
def strided(lengths: Tensor, stride: int) -> Tensor: ...
@overload
def strided(lengths: None, stride: int) -> None: ...
def strided(lengths: Tensor | None, stride: int) -> Tensor | None:
    """How long signals of these lengths are behind a layer of that stride."""
    return None if lengths is None else (lengths + stride - 1) // stride


def masked_mean(x: Tensor, lengths: Tensor | None) -> Tensor:
    """The mean (n, c) of x (n, c, w) over the first ``lengths`` positions; 0 for a signal of length 0."""
    if lengths is None:
        return x.mean(dim=2)
    return (x * length_mask(lengths, x.shape[2])).sum(dim=2) / lengths.clamp(min=1)[:, None]


def masked_peak(x: Tensor, lengths: Tensor) -> Tensor:
    """The largest (n, c) of x (n, c, w), which is nowhere below 0, over each signal's first ``lengths`` positions."""
    return (x * length_mask(lengths, x.shape[2])).amax(dim=2)


def masked_norm(norm: nn.Module, x: Tensor, lengths: Tensor | None) -> Tensor:
    """Batch norm of x (n, c, w); in training its statistics are those of each signal's first ``lengths`` positions.

    A ``norm`` that is none any more, because it was folded into the convolution before it, is called as it is.
    """
    if lengths is None or not norm.training or not isinstance(norm, nn.BatchNorm1d):
        y: Tensor = norm(x)
        return y
    mask, wide = length_mask(lengths, x.shape[2]), x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    count = mask.sum().clamp(min=1)
    mean = (wide * mask).sum(dim=(0, 2)) / count
    centred = wide - mean[:, None]
    variance = (centred.square() * mask).sum(dim=(0, 2)) / count
    _follow_(norm, mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
    y = centred * (variance + norm.eps).rsqrt()[:, None]
    return (y * norm.weight[:, None] + norm.bias[:, None]).to(x.dtype)


@torch.no_grad()
def _follow_(norm: nn.BatchNorm1d, mean: Tensor, variance: Tensor) -> None:
    """Let the running statistics follow, as PyTorch's batch norm does."""
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    norm.num_batches_tracked += 1
    share = 1 / norm.num_batches_tracked if norm.momentum is None else norm.momentum
    norm.running_mean += share * (mean - norm.running_mean)
    norm.running_var += share * (variance - norm.running_var)
