"""What a layer's constructor was given, checked. In: kernel, stride, padding, dilation. Out: numbers for each axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from separable.errors import SpecError
from separable.spec import Ints

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """How a convolution slides, along each axis; ``padding`` is ``"same"`` or the amount on both sides."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    padding_mode: str

    def along(self, axis: int) -> Geometry:
        """The share of one axis: kernel 1, stride 1, no padding along the others."""

        def only(values: tuple[int, ...], other: int) -> tuple[int, ...]:
            return tuple(value if index == axis else other for index, value in enumerate(values))

        return Geometry(
            kernel=only(self.kernel, 1),
            stride=only(self.stride, 1),
            padding=self.padding if isinstance(self.padding, str) else only(self.padding, 0),
            dilation=only(self.dilation, 1),
            padding_mode=self.padding_mode,
        )

    def options(self) -> dict[str, Any]:
        """The arguments of these names of ``nn.Conv1d/2d/3d``."""
        is_padded = isinstance(self.padding, str) or any(self.padding)
        return {
            "kernel_size": self.kernel,
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            # Any other mode would copy the input even where there is nothing to pad.
            "padding_mode": self.padding_mode if is_padded else "zeros",
        }


def check_geometry(
    where: str,
    dims: int,
    kernel_size: Ints,
    stride: Ints,
    padding: Ints | str,
    dilation: Ints,
    padding_mode: str,
) -> Geometry:
    """The arguments of a layer with ``dims`` spatial axes; ``SpecError`` naming the one that is wrong."""
    strides = _per_axis(where, "stride", stride, dims)
    if padding_mode not in PADDING_MODES:
        raise SpecError(where, given=f"padding_mode (={padding_mode!r})", expected=f"one of {', '.join(PADDING_MODES)}")
    if isinstance(padding, str) and padding != "valid":
        if padding != "same" or set(strides) != {1}:
            given = f"padding (={padding!r}) with stride (={strides})"
            raise SpecError(where, given=given, expected="whole numbers, 'valid', or 'same' at stride 1")
        amounts: tuple[int, ...] | str = padding
    else:
        amounts = _per_axis(where, "padding", 0 if isinstance(padding, str) else padding, dims, least=0)
    return Geometry(
        kernel=_per_axis(where, "kernel_size", kernel_size, dims),
        stride=strides,
        padding=amounts,
        dilation=_per_axis(where, "dilation", dilation, dims),
        padding_mode=padding_mode,
    )


def check_positive(where: str, **values: int) -> None:
    """``SpecError`` unless each is a whole number from 1 up."""
    for name, value in values.items():
        if not _is_whole(value, 1):
            raise SpecError(where, given=f"{name} (={value!r})", expected="a positive integer")


def check_divisible(where: str, groups: int, **channels: int) -> None:
    """``SpecError`` unless every number of channels is a multiple of ``groups``."""
    check_positive(where, groups=groups, **channels)
    for name, value in channels.items():
        if value % groups:
            raise SpecError(where, given=f"{name} (={value})", expected=f"a multiple of groups (={groups})")


def _per_axis(where: str, name: str, value: Ints, dims: int, least: int = 1) -> tuple[int, ...]:
    entries = tuple(value) if isinstance(value, Sequence) else (value,) * dims
    if len(entries) != dims or not all(_is_whole(entry, least) for entry in entries):
        expected = f"a whole number from {least} up, or {dims} of them"
        raise SpecError(where, given=f"{name} (={value!r})", expected=expected)
    return entries


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
