"""The layer in the place of a convolution. In: the convolution, factors of it. Out: a layer like it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from separable.errors import ModelError
from separable.factor.factors import Factors
from separable.nn.factorized import Conv, FactorizedConv, from_factors

LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


def stand_in(conv: Conv, factors: Factors, bias: Tensor | None = None) -> FactorizedConv:
    """The layer of these factors; its bias (c_out) is the given one, the convolution's, or zero, and is always there.

    It is where the convolution is, in its mode, and its weights train where the convolution's do.
    """
    weight, own = conv.weight, conv.bias
    if bias is None:
        bias = weight.new_zeros(conv.out_channels) if own is None else own.detach()
    layer = from_factors(factors, bias=bias.to(weight), padding_mode=conv.padding_mode).train(conv.training)
    for part in layer.convs:
        part.weight.requires_grad_(weight.requires_grad)
    if layer.bias is not None:
        layer.bias.requires_grad_(weight.requires_grad if own is None else own.requires_grad)
    return layer


def is_channels_last(model: nn.Module) -> bool:
    """Whether the model computes with channels in the last place in memory, as its weights tell."""
    return any(
        tensor.dim() in LAYOUTS
        and not tensor.is_contiguous()
        and tensor.is_contiguous(memory_format=LAYOUTS[tensor.dim()])
        for tensor in model.parameters()
    )


def laid_out(layer: nn.Module, channels_last: bool) -> nn.Module:
    """The same layer, its weights with channels last where that is asked for and there are axes for it."""
    if channels_last:
        for tensor in layer.parameters():
            if tensor.dim() in LAYOUTS:
                tensor.data = tensor.data.contiguous(memory_format=LAYOUTS[tensor.dim()])
    return layer


def check_finite(model: nn.Module) -> None:
    """``ModelError`` names the first parameter that is not finite or has no numbers, or the first buffer with NaN."""
    for name, tensor in model.named_parameters():
        if tensor.is_meta:
            raise ModelError(name, given="a tensor on the meta device", expected="weights with numbers")
        if not bool(torch.isfinite(tensor).all()):
            raise ModelError(name, given="NaN or infinite numbers", expected="finite weights", remedy=REMEDY)
    for name, buffer in model.named_buffers():
        if bool(torch.isnan(buffer).any()):
            raise ModelError(name, given="NaN", expected="numbers", remedy=REMEDY)


REMEDY = "Load a checkpoint of before the training diverged."
