"""Layers and blocks in plain PyTorch, one word a family. In: channels, kernels, factors. Out: modules that train."""

from separable.nn.atrous import ASPP1d, ASPP2d, ASPP3d
from separable.nn.batch_norm import fold_batch_norm
from separable.nn.branches import (
    AsymmetricConv2d,
    LargeKernelDepthwiseConv1d,
    LargeKernelDepthwiseConv2d,
    LargeKernelDepthwiseConv3d,
    fold_branches,
)
from separable.nn.causal import CausalConv1d, CausalResidual, CausalSeparableConv1d, Stream
from separable.nn.deformable import DeformableDepthwiseConv2d, DeformableSeparableConv2d, deformable_depthwise_conv2d
from separable.nn.depthwise import (
    DepthwiseConv1d,
    DepthwiseConv2d,
    DepthwiseConv3d,
    DepthwiseSeparableConv1d,
    DepthwiseSeparableConv2d,
    DepthwiseSeparableConv3d,
)
from separable.nn.factorized import FactorizedConv, from_factors, spec_of
from separable.nn.ghost import (
    GhostBottleneck1d,
    GhostBottleneck2d,
    GhostBottleneck3d,
    GhostConv1d,
    GhostConv2d,
    GhostConv3d,
)
from separable.nn.initialize import initialize_
from separable.nn.inverted_residual import (
    FusedMBConv1d,
    FusedMBConv2d,
    FusedMBConv3d,
    InvertedResidual1d,
    InvertedResidual2d,
    InvertedResidual3d,
    MBConv1d,
    MBConv2d,
    MBConv3d,
)
from separable.nn.mixed_kernels import MixConv1d, MixConv2d, MixConv3d
from separable.nn.pointwise import PointwiseConv1d, PointwiseConv2d, PointwiseConv3d
from separable.nn.same import SamePad1d, SamePad2d, SamePad3d
from separable.nn.spatial import SpatiallySeparableConv2d, SpatiallySeparableConv3d
from separable.nn.spectrogram import Cepstrum, LogMel
from separable.nn.squeeze_excitation import (
    AttentionSeparableConv1d,
    AttentionSeparableConv2d,
    AttentionSeparableConv3d,
    SqueezeExcitation1d,
    SqueezeExcitation2d,
    SqueezeExcitation3d,
)
from separable.nn.stochastic_depth import StochasticDepth
from separable.nn.time_channel import TimeChannelConv1d, TimeChannelResidual1d, length_mask
from separable.nn.volumes import ChannelSeparatedBottleneck3d, SpaceTimeSeparableConv3d
from separable.nn.width import make_divisible
from separable.nn.xception import (
    XceptionBlock1d,
    XceptionBlock2d,
    XceptionBlock3d,
    XceptionEntryFlow1d,
    XceptionEntryFlow2d,
    XceptionEntryFlow3d,
    XceptionExitFlow1d,
    XceptionExitFlow2d,
    XceptionExitFlow3d,
    XceptionMiddleFlow1d,
    XceptionMiddleFlow2d,
    XceptionMiddleFlow3d,
)

__all__ = [
    "ASPP1d",
    "ASPP2d",
    "ASPP3d",
    "AsymmetricConv2d",
    "AttentionSeparableConv1d",
    "AttentionSeparableConv2d",
    "AttentionSeparableConv3d",
    "CausalConv1d",
    "CausalResidual",
    "CausalSeparableConv1d",
    "Cepstrum",
    "ChannelSeparatedBottleneck3d",
    "DeformableDepthwiseConv2d",
    "DeformableSeparableConv2d",
    "DepthwiseConv1d",
    "DepthwiseConv2d",
    "DepthwiseConv3d",
    "DepthwiseSeparableConv1d",
    "DepthwiseSeparableConv2d",
    "DepthwiseSeparableConv3d",
    "FactorizedConv",
    "FusedMBConv1d",
    "FusedMBConv2d",
    "FusedMBConv3d",
    "GhostBottleneck1d",
    "GhostBottleneck2d",
    "GhostBottleneck3d",
    "GhostConv1d",
    "GhostConv2d",
    "GhostConv3d",
    "InvertedResidual1d",
    "InvertedResidual2d",
    "InvertedResidual3d",
    "LargeKernelDepthwiseConv1d",
    "LargeKernelDepthwiseConv2d",
    "LargeKernelDepthwiseConv3d",
    "LogMel",
    "MBConv1d",
    "MBConv2d",
    "MBConv3d",
    "MixConv1d",
    "MixConv2d",
    "MixConv3d",
    "PointwiseConv1d",
    "PointwiseConv2d",
    "PointwiseConv3d",
    "SamePad1d",
    "SamePad2d",
    "SamePad3d",
    "SpaceTimeSeparableConv3d",
    "SpatiallySeparableConv2d",
    "SpatiallySeparableConv3d",
    "SqueezeExcitation1d",
    "SqueezeExcitation2d",
    "SqueezeExcitation3d",
    "StochasticDepth",
    "Stream",
    "TimeChannelConv1d",
    "TimeChannelResidual1d",
    "XceptionBlock1d",
    "XceptionBlock2d",
    "XceptionBlock3d",
    "XceptionEntryFlow1d",
    "XceptionEntryFlow2d",
    "XceptionEntryFlow3d",
    "XceptionExitFlow1d",
    "XceptionExitFlow2d",
    "XceptionExitFlow3d",
    "XceptionMiddleFlow1d",
    "XceptionMiddleFlow2d",
    "XceptionMiddleFlow3d",
    "deformable_depthwise_conv2d",
    "fold_batch_norm",
    "fold_branches",
    "from_factors",
    "initialize_",
    "length_mask",
    "make_divisible",
    "spec_of",
]
