"""The piece that all blocks are made of. In: channels, kernel, norm, activation. Out: convolution, norm, activation."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from separable.errors import SpecError
from separable.nn.factorized import CONVS
from separable.nn.geometry import check_divisible, check_geometry
from separable.spec import Ints

Norm = Callable[[int], nn.Module]
Activation = Callable[[], nn.Module]
BATCH_NORMS: tuple[Norm, ...] = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class ConvNorm(nn.Sequential):
    """``0``: a convolution without bias, ``1``: its norm (batch norm when None), ``2``: the activation, if any.

    Padded by dilation · (k − 1) / 2 on each side, so that only the stride changes the size. ``SpecError`` naming
    ``where`` for an even kernel, which has no such padding.
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints = 1,
        *,
        stride: Ints = 1,
        dilation: Ints = 1,
        groups: int = 1,
        norm: Norm | None = None,
        activation: Activation | None = None,
        where: str = "ConvNorm",
    ) -> None:
        check_divisible(where, groups, in_channels=in_channels, out_channels=out_channels)
        geometry = check_geometry(where, dims, kernel_size, stride, 0, dilation, "zeros")
        padding = centred_padding(where, geometry.kernel, geometry.dilation)
        options = {**geometry.options(), "padding": padding, "groups": groups}
        conv = CONVS[dims - 1](in_channels, out_channels, bias=False, **options)
        layers: list[nn.Module] = [conv, (norm or BATCH_NORMS[dims - 1])(out_channels)]
        super().__init__(*layers, *([] if activation is None else [activation()]))


def centred_padding(where: str, kernel: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[int, ...]:
    """The padding on each side that keeps the size at stride 1; ``SpecError`` for an even kernel."""
    if any(k % 2 == 0 for k in kernel):
        raise SpecError(
            where,
            given=f"the even kernel_size {kernel}",
            expected="an odd one, which has a middle",
            remedy="For an even kernel put a SamePad layer before a convolution without padding.",
        )
    return tuple(d * (k - 1) // 2 for k, d in zip(kernel, dilation, strict=True))
