"""Convolutions done one axis at a time. In: the arguments of nn.Conv, a rank. Out: layers of two or three passes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import nn

from separable.errors import SpecError
from separable.nn.factorized import CONVS
from separable.nn.geometry import check_divisible, check_geometry
from separable.spec import Ints


class _SpatiallySeparableConv(nn.Sequential):
    """One convolution along each axis: takes the arguments of the ``nn.Conv`` that it stands in for.

    ``rank`` is the number of channels between two passes, one number for all gaps or one a gap; ``out_channels`` when
    not given. ``norm`` (called with the channels) and ``activation`` stand between the passes; without them the layer
    is linear, and has a bias on the last pass only.
    """

    axes: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Ints | str = 0,
        dilation: Ints = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        rank: Ints | None = None,
        norm: Callable[[int], nn.Module] | None = None,
        activation: Callable[[], nn.Module] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        where, dims = type(self).__name__, len(self.axes)
        geometry = check_geometry(where, dims, kernel_size, stride, padding, dilation, padding_mode)
        channels = (in_channels, *_ranks(where, out_channels if rank is None else rank, dims - 1), out_channels)
        check_divisible(where, groups, in_channels=in_channels, out_channels=out_channels)
        for between in channels[1:-1]:
            check_divisible(where, groups, rank=between)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for axis, name in enumerate(self.axes):
            is_last = axis == dims - 1
            has_bias = bias and (is_last or (norm is None and activation is not None))
            options = {**geometry.along(axis).options(), "groups": groups, "device": device, "dtype": dtype}
            layers[name] = CONVS[dims - 1](channels[axis], channels[axis + 1], bias=has_bias, **options)
            if norm is not None and not is_last:
                layers[f"{name}_norm"] = norm(channels[axis + 1]).to(device=device, dtype=dtype)
            if activation is not None and not is_last:
                layers[f"{name}_activation"] = activation()
        super().__init__(layers)


class SpatiallySeparableConv2d(_SpatiallySeparableConv):
    """Spatially separable convolution over (n, c, h, w): k_h×1, then 1×k_w.

    >>> layer = SpatiallySeparableConv2d(1, 1, kernel_size=3, bias=False)
    >>> [tuple(weight.shape) for weight in layer.parameters()]
    [(1, 1, 3, 1), (1, 1, 1, 3)]
    """

    axes = ("height", "width")


class SpatiallySeparableConv3d(_SpatiallySeparableConv):
    """Spatially separable convolution over (n, c, d, h, w): k_d×1×1, then 1×k_h×1, then 1×1×k_w."""

    axes = ("depth", "height", "width")


def _ranks(where: str, rank: Ints, gaps: int) -> tuple[int, ...]:
    ranks = tuple(rank) if isinstance(rank, Sequence) else (rank,) * gaps
    if len(ranks) != gaps:
        raise SpecError(where, given=f"rank (={rank})", expected=f"one number, or {gaps}: one a gap between passes")
    return ranks
