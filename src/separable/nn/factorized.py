"""A chain of small convolutions in the place of one. In: factors, bias, padding mode. Out: a plain PyTorch layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from separable.errors import ModelError, SpecError
from separable.factor.factors import Factor, Factors
from separable.spec import ConvSpec

Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d
CONVS: tuple[type[Conv], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
PADS: dict[str, tuple[type[nn.Module], ...]] = {
    "zeros": (nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d),
    "reflect": (nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d),
    "replicate": (nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d),
    "circular": (nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d),
}


class FactorizedConv(nn.Sequential):
    """The convolutions ``specs`` in a row, standing in for the one convolution ``spec``.

    The children are plain ``nn.Conv1d/2d/3d`` without bias, except the last, with a padding layer in front of a
    convolution whose padding differs before and behind. Channels, kernel size, stride, dilation and groups are those of
    the one convolution, for models that look at them. ``family`` and ``rank`` are those of ``Factors``. The
    input may have another size than ``spec.size``.
    """

    def __init__(
        self,
        spec: ConvSpec,
        specs: Sequence[ConvSpec],
        *,
        family: str,
        rank: tuple[int, ...],
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if padding_mode not in PADS:
            raise SpecError("FactorizedConv", given=f"padding_mode {padding_mode!r}", expected=f"one of {list(PADS)}")
        given = [(spec.c_in, spec.size), *((factor.c_out, factor.size_out) for factor in specs)]
        taken = [*((factor.c_in, factor.size) for factor in specs), (spec.c_out, spec.size_out)]
        if not specs or given != taken:
            raise SpecError("FactorizedConv", given=f"the chain {_chain(specs)}", expected=f"one that makes {spec}")
        layers: list[nn.Module] = []
        for index, factor in enumerate(specs):
            has_bias = bias and index == len(specs) - 1
            layers += _padded_conv(factor, padding_mode, has_bias, device, dtype)
        super().__init__(*layers)
        self.in_channels, self.out_channels, self.groups = spec.c_in, spec.c_out, spec.groups
        self.kernel_size, self.stride, self.dilation = spec.kernel, spec.stride, spec.dilation
        self.spec = spec
        self.specs = tuple(specs)
        self.family = family
        self.rank = rank
        self.padding_mode = padding_mode
        self.weight_error = 0.0

    @property
    def convs(self) -> tuple[Conv, ...]:
        """The convolutions, without the padding layers between them."""
        return tuple(layer for layer in self if isinstance(layer, CONVS))

    @property
    def bias(self) -> Tensor | None:
        """The bias (c_out), which the last convolution adds."""
        return self.convs[-1].bias

    def factors(self) -> Factors:
        """A copy of the weights as they are now; ``error`` is that of the factors last loaded, before any training."""
        weights = [conv.weight.detach().clone() for conv in self.convs]
        chain = tuple(Factor(weight=weight, spec=spec) for weight, spec in zip(weights, self.specs, strict=True))
        return Factors(family=self.family, rank=self.rank, spec=self.spec, factors=chain, error=self.weight_error)

    @torch.no_grad()
    def load_factors_(self, factors: Factors, bias: Tensor | None = None) -> None:
        """Take over weights and bias (c_out; None: zero) in this layer's dtype and device.

        ``SpecError`` when the chain has other shapes, or there is a bias and no place for it.
        """
        if factors.specs != self.specs:
            expected = f"the chain {_chain(self.specs)}"
            raise SpecError("FactorizedConv.load_factors_", given=_chain(factors.specs), expected=expected)
        if bias is not None and self.bias is None:
            remedy = "Build the layer with bias=True."
            raise SpecError("FactorizedConv.load_factors_", given="a bias", expected="none", remedy=remedy)
        for conv, factor in zip(self.convs, factors.factors, strict=True):
            conv.weight.copy_(factor.weight)
        if self.bias is not None:
            self.bias.copy_(torch.zeros_like(self.bias) if bias is None else bias)
        self.weight_error = factors.error

    def extra_repr(self) -> str:
        """Family and rank, and the convolution that was replaced."""
        return f"{self.family} rank {'×'.join(map(str, self.rank))} in the place of {self.spec}"


def from_factors(factors: Factors, *, bias: Tensor | None, padding_mode: str = "zeros") -> FactorizedConv:
    """The layer that computes with these factors, on their device and in their dtype; ``bias`` is (c_out) or None."""
    weight = factors.factors[0].weight
    layer = FactorizedConv(
        factors.spec,
        factors.specs,
        family=factors.family,
        rank=factors.rank,
        bias=bias is not None,
        padding_mode=padding_mode,
        device=weight.device,
        dtype=weight.dtype,
    )
    layer.load_factors_(factors, bias)
    return layer


def spec_of(conv: nn.Module, size: Sequence[int]) -> ConvSpec:
    """The shape of a convolution layer on an input of spatial ``size``; ``ModelError`` when it is not a plain one."""
    if not isinstance(conv, CONVS):
        raise ModelError("spec_of", given=f"a {type(conv).__name__}", expected="an nn.Conv1d, nn.Conv2d or nn.Conv3d")
    if is_lazy(conv.weight):
        raise ModelError(
            "spec_of",
            given="a lazy convolution that has seen no input",
            expected="known channels",
            remedy="Run the model once on an example first.",
        )
    return ConvSpec(
        conv.in_channels,
        conv.out_channels,
        kernel=conv.kernel_size,
        size=tuple(size),
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
        groups=conv.groups,
    )


def _padded_conv(
    spec: ConvSpec, mode: str, bias: bool, device: torch.device | str | None, dtype: torch.dtype | None
) -> list[nn.Module]:
    is_symmetric = all(before == behind for before, behind in spec.padding)
    is_padded = any(sum(pair) for pair in spec.padding)
    options: dict[str, Any] = {
        "kernel_size": spec.kernel,
        "stride": spec.stride,
        "padding": tuple(before if is_symmetric else 0 for before, _ in spec.padding),
        # Any other mode would copy the input even where there is nothing to pad.
        "padding_mode": mode if is_padded and is_symmetric else "zeros",
        "dilation": spec.dilation,
        "groups": spec.groups,
    }
    conv = CONVS[spec.dims - 1](spec.c_in, spec.c_out, bias=bias, device=device, dtype=dtype, **options)
    if is_symmetric:
        return [conv]
    # PyTorch lists the last axis first.
    pads = tuple(amount for pair in reversed(spec.padding) for amount in pair)
    return [PADS[mode][spec.dims - 1](pads), conv]


def _chain(specs: Sequence[ConvSpec]) -> str:
    return ", ".join(map(str, specs))
