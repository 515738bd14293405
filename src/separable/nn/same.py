"""Padding that keeps ⌈size / stride⌉ positions. In: kernel, stride, convention. Out: a layer to put in front."""

from __future__ import annotations

from typing import ClassVar

import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from separable.errors import SpecError
from separable.nn.geometry import check_geometry
from separable.spec import Ints

CONVENTIONS = ("fixed", "tensorflow")


class _SamePad(nn.Module):
    """Zeros around the input, so that a convolution without padding behind it gives ⌈size / stride⌉ positions.

    Two conventions are in use. They differ where the stride is not 1:

    - ``"fixed"``: ⌊d · (k − 1) / 2⌋ before and the rest behind, whatever the size: what PyTorch does at stride 1, and
      its networks at every stride.
    - ``"tensorflow"``: no more than the size needs, the odd element behind. Also Keras', and ONNX's ``SAME_UPPER``.

    At size 8, k = 3, stride 2 they pad (1, 1) and (0, 1): the taps fall on other elements, and weights trained with
    one are wrong with the other.
    """

    dims: ClassVar[int]

    def __init__(self, kernel_size: Ints, stride: Ints = 1, dilation: Ints = 1, *, convention: str) -> None:
        super().__init__()
        where = type(self).__name__
        if convention not in CONVENTIONS:
            expected = f"one of {', '.join(CONVENTIONS)}"
            raise SpecError(where, given=f"convention (={convention!r})", expected=expected)
        geometry = check_geometry(where, self.dims, kernel_size, stride, 0, dilation, "zeros")
        self.reach = tuple(d * (k - 1) for k, d in zip(geometry.kernel, geometry.dilation, strict=True))
        self.stride = geometry.stride
        self.convention = convention

    def forward(self, x: Tensor) -> Tensor:
        return _padded(x, self.reach, self.stride, self.convention)

    def extra_repr(self) -> str:
        """How far the kernel reaches, the stride and the convention."""
        return f"reach={self.reach}, stride={self.stride}, convention={self.convention!r}"


class SamePad1d(_SamePad):
    """Padding of (n, c, w)."""

    dims = 1


class SamePad2d(_SamePad):
    """Padding of (n, c, h, w)."""

    dims = 2


class SamePad3d(_SamePad):
    """Padding of (n, c, d, h, w)."""

    dims = 3


def _padded(x: Tensor, reach: tuple[int, ...], stride: tuple[int, ...], convention: str) -> Tensor:
    if x.dim() != len(reach) + 2:
        axes = ", ".join("dhw"[-len(reach) :])
        raise SpecError("SamePad", given=f"an input of shape {tuple(x.shape)}", expected=f"(n, c, {axes})")
    amounts: list[int] = []
    # PyTorch lists the last axis first.
    for size, total, step in reversed(list(zip(x.shape[2:], reach, stride, strict=True))):
        if convention == "tensorflow":
            total = max(0, (-(-size // step) - 1) * step + total + 1 - size)
        amounts += [total // 2, total - total // 2]
    return F.pad(x, amounts)


# The amounts depend on the size, so a traced network keeps it whole.
torch.fx.wrap("_padded")
