"""The nouns that every room uses. In: plain numbers. Out: checked, frozen, hashable values (standard library only)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from separable.errors import BudgetError, SpecError

Ints = int | Sequence[int]
Padding = int | str | Sequence[int] | Sequence[Sequence[int]]


@dataclass(frozen=True, init=False)
class ConvSpec:
    """The shape of one convolution: everything that decides its cost, nothing that does not.

    A bare integer means the same number along every axis; the number of axes comes from whichever argument is a
    sequence, and is 2 when none is. ``padding`` is kept as (before, after) pairs; ``"same"`` means what PyTorch means
    by it: stride 1 only, and the odd element goes behind.

    >>> stem = ConvSpec(3, 32, kernel=3, size=224, stride=2, padding=1)
    >>> stem.size_out, stem.weight_shape
    ((112, 112), (32, 3, 3, 3))
    >>> ConvSpec(8, 8, kernel=(5,), size=(100,), padding="same", groups=8).kind
    'depthwise'
    """

    c_in: int
    c_out: int
    kernel: tuple[int, ...]
    size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: Ints,
        size: Ints,
        stride: Ints = 1,
        padding: Padding = 0,
        dilation: Ints = 1,
        groups: int = 1,
    ) -> None:
        dims = _axes(kernel=kernel, size=size, stride=stride, padding=padding, dilation=dilation)
        put = object.__setattr__
        put(self, "c_in", _positive("c_in", c_in))
        put(self, "c_out", _positive("c_out", c_out))
        put(self, "kernel", _per_axis("kernel", kernel, dims))
        put(self, "size", _per_axis("size", size, dims))
        put(self, "stride", _per_axis("stride", stride, dims))
        put(self, "dilation", _per_axis("dilation", dilation, dims))
        put(self, "groups", _positive("groups", groups))
        put(self, "padding", self._pairs(padding))
        self._check()

    @property
    def dims(self) -> int:
        """1, 2 or 3: the number of spatial axes."""
        return len(self.kernel)

    @property
    def size_out(self) -> tuple[int, ...]:
        """Output size along each spatial axis."""
        return tuple(
            (size + sum(pad) - dilation * (k - 1) - 1) // stride + 1
            for size, pad, dilation, k, stride in zip(
                self.size, self.padding, self.dilation, self.kernel, self.stride, strict=True
            )
        )

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """(c_out, c_in / groups, *kernel), as PyTorch stores a convolution's weight."""
        return (self.c_out, self.c_in // self.groups, *self.kernel)

    @property
    def weights(self) -> int:
        """Number of weights, bias not counted."""
        return math.prod(self.weight_shape)

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image, zeros in the padding included, bias not counted.

        >>> ConvSpec(3, 256, kernel=5, size=12).macs
        1228800
        """
        return self.weights * math.prod(self.size_out)

    @property
    def kind(self) -> str:
        """``depthwise``, ``pointwise``, ``grouped`` or ``dense``."""
        if self.groups > 1:
            return "depthwise" if self.groups == self.c_in else "grouped"
        return "pointwise" if set(self.kernel) == {1} else "dense"

    def at(self, size: Sequence[int]) -> ConvSpec:
        """The same convolution on an input of another size."""
        return ConvSpec(**{**self.to_json(), "size": tuple(size)})

    def to_json(self) -> dict[str, Any]:
        """Plain lists and integers; ``ConvSpec(**spec.to_json())`` gives the value back."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}

    def __str__(self) -> str:
        kernel, size = _by(self.kernel), _by(self.size)
        parts = [f"{self.c_in}→{self.c_out}", kernel, f"on {size}"]
        if set(self.stride) != {1}:
            parts.append(f"stride {_by(self.stride)}")
        if set(self.dilation) != {1}:
            parts.append(f"dilation {_by(self.dilation)}")
        if self.groups > 1:
            parts.append(f"groups {self.groups}")
        return " ".join(parts)

    def _pairs(self, padding: Padding) -> tuple[tuple[int, int], ...]:
        if isinstance(padding, str):
            if padding == "valid":
                return ((0, 0),) * self.dims
            if padding != "same" or set(self.stride) != {1}:
                raise SpecError(
                    "ConvSpec.padding",
                    given=f"{padding!r} with stride {self.stride}",
                    expected="an integer, one per axis, (before, after) pairs, 'valid', or 'same' at stride 1",
                )
            total = [dilation * (k - 1) for dilation, k in zip(self.dilation, self.kernel, strict=True)]
            return tuple((t // 2, t - t // 2) for t in total)
        entries: list[int | Sequence[int]] = [padding] * self.dims if isinstance(padding, int) else list(padding)
        pairs = tuple(_pair(entry) for entry in entries)
        if len(pairs) != self.dims:
            raise SpecError("ConvSpec.padding", given=padding, expected=f"one entry for each of {self.dims} axes")
        return pairs

    def _check(self) -> None:
        for name in ("c_in", "c_out"):
            channels = getattr(self, name)
            if channels % self.groups:
                raise SpecError(f"ConvSpec.{name}", given=channels, expected=f"a multiple of groups (={self.groups})")
        if min(self.size_out) < 1:
            raise SpecError(
                "ConvSpec.size",
                given=_by(self.size),
                expected=f"room for a kernel of {_by(self.kernel)} at dilation {_by(self.dilation)} "
                f"and padding {self.padding}",
                remedy="Use a larger input or more padding.",
            )


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """Shape (batch first) and dtype of a tensor; ``bytes`` is what it occupies."""

    shape: tuple[int, ...]
    dtype: str = "float32"

    @property
    def bytes(self) -> int:
        """Size in bytes.

        >>> TensorSpec(shape=(1, 3, 224, 224)).bytes
        602112
        """
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


ITEM_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "int64": 8, "int32": 4, "int8": 1, "uint8": 1}


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What the finished model may cost. At least one limit; several hold together.

    ``latency`` is a share of the original's, ``latency_s`` is in seconds; ``macs`` and ``parameters`` are shares of the
    original's when below 1 and absolute numbers otherwise. ``error`` is the largest relative squared error of the
    output, summed over the layers as the plan predicts it.

    >>> str(Budget(latency=0.5))
    'latency ≤ 50 % of the original'
    """

    latency: float | None = None
    latency_s: float | None = None
    macs: float | None = None
    parameters: float | None = None
    error: float | None = None

    def __post_init__(self) -> None:
        if all(getattr(self, field.name) is None for field in fields(self)):
            raise BudgetError("Budget", given="no limit", expected="at least one of latency, macs, parameters, error")
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                self._check(field.name, value)

    def to_json(self) -> dict[str, float]:
        """The limits that are set; ``Budget(**budget.to_json())`` gives the value back."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}

    def __str__(self) -> str:
        return ", ".join(_limit(name, value) for name, value in self.to_json().items())

    def _check(self, name: str, value: float) -> None:
        share = "a share of the original, above 0 and below 1"
        expected = {
            "latency": share,
            "latency_s": "seconds, above 0",
            "macs": f"{share}, or a whole number of MACs above 1",
            "parameters": f"{share}, or a whole number of parameters above 1",
            "error": "a relative squared error, above 0 and below 1",
        }[name]
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        is_share = is_number and 0 < value < 1
        is_amount = is_number and (
            (name == "latency_s" and value > 0) or (name in WHOLE and value > 1 and value % 1 == 0)
        )
        if not (is_share or is_amount):
            raise BudgetError(f"Budget.{name}", given=value, expected=expected)


WHOLE = ("macs", "parameters")


def _limit(name: str, value: float) -> str:
    if name == "error":
        return f"error ≤ {value:g}"
    if name == "latency_s":
        return f"latency ≤ {value * 1e3:g} ms"
    return f"{name} ≤ {value * 100:g} % of the original" if value < 1 else f"{name} ≤ {int(value):,}"


def _axes(**arguments: Ints | Padding) -> int:
    lengths = {name: len(value) for name, value in arguments.items() if not isinstance(value, int | str)}
    if len(set(lengths.values())) > 1:
        raise SpecError("ConvSpec", given=lengths, expected="the same number of axes everywhere")
    dims = next(iter(lengths.values()), 2)
    if dims not in (1, 2, 3):
        raise SpecError("ConvSpec", given=f"{dims} axes", expected="1, 2 or 3 spatial axes")
    return dims


def _per_axis(name: str, value: Ints, dims: int) -> tuple[int, ...]:
    entries = [value] * dims if isinstance(value, int) else list(value)
    return tuple(_positive(name, entry) for entry in entries)


def _positive(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SpecError(f"ConvSpec.{name}", given=repr(value), expected="a positive integer")
    return value


def _pair(entry: int | Sequence[int]) -> tuple[int, int]:
    pair = (entry, entry) if isinstance(entry, int) else tuple(entry)
    if len(pair) != 2 or any(isinstance(p, bool) or not isinstance(p, int) or p < 0 for p in pair):
        raise SpecError("ConvSpec.padding", given=entry, expected="whole numbers from 0 up, or (before, after) pairs")
    return pair


def _plain(value: Any) -> Any:
    return [_plain(entry) for entry in value] if isinstance(value, tuple) else value


def _by(numbers: tuple[int, ...]) -> str:
    return "×".join(map(str, numbers))
