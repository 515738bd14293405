"""Random weights under which signals neither fade nor explode. In: a module. Out: the same one, weights drawn anew."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.parametrize import is_parametrized

from separable.errors import ModelError

ACTIVATIONS = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.ELU,
    nn.CELU,
    nn.SELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Hardswish,
    nn.Hardtanh,
    nn.Tanh,
    nn.Sigmoid,
)


@torch.no_grad()
def initialize_(module: nn.Module, *, generator: torch.Generator | None = None) -> None:
    """Draw all weights of convolutions and linear layers so that signals keep their mean square from layer to layer.

    An output that adds up m products of inputs of mean square q with weights of variance v has mean square m·v·q, so
    v = gain²/m, where the gain makes up for the activation that follows (He et al. 2015). m is what one output really
    adds up, c_in/g · k²: that is k² alone in a depthwise layer. The activation is the one defined between a layer and
    the next; one that is only a function call in ``forward`` is not seen, and the gain is then 1. Biases become zero,
    norms scale 1 and shift 0. Branches that a network adds up add their mean squares. ``ModelError`` where a weight is
    computed from others (weight norm, parametrizations).
    """
    layers = [layer for _, layer in module.named_modules(remove_duplicate=False)]
    gain = 1.0
    for layer in reversed(layers):
        if isinstance(layer, ACTIVATIONS):
            gain = activation_gain(layer)
        elif isinstance(layer, _ConvNd | nn.Linear):
            _draw_(layer, gain, generator)
            gain = 1.0
        elif isinstance(layer, _BatchNorm | nn.GroupNorm | nn.LayerNorm):
            layer.reset_parameters()


def activation_gain(activation: nn.Module) -> float:
    """1/√E[f(z)²] for a standard normal z, which gives an output of mean square 1; for ReLU-like f at any scale of z.

    >>> round(activation_gain(nn.ReLU()) ** 2, 9)
    2.0
    """
    # Gauss–Hermite: exact for polynomials up to degree 127, and, by symmetry of the nodes, for ReLU.
    points, weights = np.polynomial.hermite_e.hermegauss(64)
    values = activation(torch.from_numpy(points)).square().numpy()
    return math.sqrt(weights.sum() / float(values @ weights))


def _draw_(layer: _ConvNd | nn.Linear, gain: float, generator: torch.Generator | None) -> None:
    if not isinstance(layer.weight, nn.Parameter) or is_parametrized(layer):
        given = f"a {type(layer).__name__} whose weight is computed from others"
        remedy = "Initialise before parametrizing."
        raise ModelError("initialize_", given=given, expected="weights that are parameters", remedy=remedy)
    layer.weight.normal_(0.0, gain / math.sqrt(_products(layer)), generator=generator)
    reads_one_channel = isinstance(layer, _ConvNd) and layer.weight.shape[1] == 1
    if reads_one_channel and not isinstance(layer, _ConvTransposeNd):
        _settle_(layer.weight, gain)
    if layer.bias is not None:
        layer.bias.zero_()


def _products(layer: _ConvNd | nn.Linear) -> float:
    """How many products one output adds up; at stride s the outputs of a transposed convolution share its taps."""
    if isinstance(layer, _ConvTransposeNd):
        return layer.in_channels / layer.groups * math.prod(layer.kernel_size) / math.prod(layer.stride)
    return math.prod(layer.weight.shape[1:])


def _settle_(filters: nn.Parameter, gain: float) -> None:
    """Give every filter (c_out, 1, *kernel) the squared sum and sum of squares, gain² both, that it has on average.

    Nine draws are too few for the average to hold, and over many layers the typical signal would fade. So noise and
    a constant, the two ends of what a ReLU lets through, both pass with the right mean square.
    """
    rows = filters.flatten(1).double()
    around = torch.nn.functional.normalize(rows - rows.mean(1, keepdim=True), dim=1)
    count = rows.shape[1]
    level = torch.where(rows.sum(1, keepdim=True) < 0, -1.0, 1.0) / count
    settled = gain * (around * math.sqrt(1 - 1 / count) + level)
    filters.copy_(settled.reshape(filters.shape))
