"""Layers and blocks in plain PyTorch, one word a family. In: channels, kernels, factors. Out: modules that train."""

from separable.nn.batch_norm import fold_batch_norm
from separable.nn.depthwise import (
    DepthwiseConv1d,
    DepthwiseConv2d,
    DepthwiseConv3d,
    DepthwiseSeparableConv1d,
    DepthwiseSeparableConv2d,
    DepthwiseSeparableConv3d,
)
from separable.nn.factorized import FactorizedConv, from_factors, spec_of
from separable.nn.initialize import initialize_
from separable.nn.pointwise import PointwiseConv1d, PointwiseConv2d, PointwiseConv3d
from separable.nn.spatial import SpatiallySeparableConv2d, SpatiallySeparableConv3d
from separable.nn.width import make_divisible

__all__ = [
    "DepthwiseConv1d",
    "DepthwiseConv2d",
    "DepthwiseConv3d",
    "DepthwiseSeparableConv1d",
    "DepthwiseSeparableConv2d",
    "DepthwiseSeparableConv3d",
    "FactorizedConv",
    "PointwiseConv1d",
    "PointwiseConv2d",
    "PointwiseConv3d",
    "SpatiallySeparableConv2d",
    "SpatiallySeparableConv3d",
    "fold_batch_norm",
    "from_factors",
    "initialize_",
    "make_divisible",
    "spec_of",
]
