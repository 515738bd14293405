"""A classifier's blocks for other tasks. In: a network, strides. Out: its maps at these strides, dilated if wanted."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from separable.errors import ModelError, SpecError
from separable.models.efficientnet import EfficientNet
from separable.models.ghostnet import GhostNet
from separable.models.mnasnet import MnasNet
from separable.models.mobilenet_v1 import MobileNetV1
from separable.models.mobilenet_v2 import MobileNetV2
from separable.models.mobilenet_v3 import MobileNetV3
from separable.models.resnet import ResNet
from separable.models.xception import Xception

SIDE = 128  # Of the image on which strides are read off; a multiple of every stride there is.
Sliding = nn.Conv2d | nn.MaxPool2d


class Taps(nn.Sequential):
    """Blocks one after the other; answers with the maps behind those named in ``taps``, in their order."""

    def __init__(self, blocks: nn.Sequential, taps: Iterable[str]) -> None:
        super().__init__(OrderedDict(blocks.named_children()))
        self.taps = tuple(taps)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = {}
        for name, block in self.named_children():
            x = block(x)
            if name in self.taps:
                maps[name] = x
        return [maps[name] for name in self.taps]


@dataclass(frozen=True, kw_only=True)
class Reach:
    """How a chain of blocks shrinks an image: strides as it enters each layer, as it leaves each block; channels there.

    A layer inside squeeze-and-excitation sees a single position, and its stride means nothing.
    """

    entering: Mapping[str, int]
    leaving: Mapping[str, int]
    channels: Mapping[str, int]


def blocks_of(network: nn.Module) -> nn.Sequential:
    """A copy of the convolutional blocks of a network of this room, or of a ``nn.Sequential``, under their names.

    ``ModelError`` for a network whose blocks are not known. Xception's stem, the only part without padding, is padded
    here, so that a map at stride s has ⌈h/s⌉·⌈w/s⌉ positions.
    """
    network = copy.deepcopy(network)
    match network:
        case nn.Sequential():
            return network
        case MobileNetV1() | MobileNetV2() | MobileNetV3() | EfficientNet():
            return network.features
        case MnasNet():
            return network.layers
        case ResNet():
            parts = [part for part in network.named_children() if part[0] not in ("avgpool", "fc")]
        case GhostNet():
            stem = [(name, getattr(network, name)) for name in ("conv_stem", "bn1", "act1")]
            parts = [*stem, *network.blocks.named_children()]
        case Xception():
            flows = (network.entry, network.middle, network.exit)
            parts = [part for flow in flows for part in flow.named_children()]
            for layer in network.entry.get_submodule("stem").children():
                if isinstance(layer, nn.Conv2d):
                    layer.padding = (1, 1)
        case _:
            given, expected = f"a {type(network).__name__}", "a network of separable.models with blocks in a row"
            raise ModelError("blocks_of", given=given, expected=expected, remedy="Give the blocks as an nn.Sequential.")
    return nn.Sequential(OrderedDict(parts))


def without_head(blocks: nn.Sequential) -> nn.Sequential:
    """The blocks without the last 1×1 convolution, if it stands alone: it only widens the map for the classifier."""
    names = [name for name, block in blocks.named_children() if any(isinstance(m, nn.Conv2d) for m in block.modules())]
    last = blocks.get_submodule(names[-1])
    if any(_reads_around(layer) for layer in last.modules()):
        return blocks
    children = list(blocks.named_children())
    return nn.Sequential(OrderedDict(children[: children.index((names[-1], last))]))


def reach(blocks: nn.Sequential) -> Reach:
    """Strides and channels along the blocks, found by running them on an image of zeros."""
    entering: dict[str, int] = {}
    leaving: dict[str, int] = {}
    channels: dict[str, int] = {}

    def enter(name: str, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        entering[name] = SIDE // inputs[0].shape[2]

    def leave(name: str, _: nn.Module, __: Any, output: Tensor) -> None:
        leaving[name], channels[name] = SIDE // output.shape[2], output.shape[1]

    layers = [(name, layer) for name, layer in blocks.named_modules() if isinstance(layer, Sliding)]
    hooks = [layer.register_forward_pre_hook(partial(enter, name)) for name, layer in layers]
    hooks += [block.register_forward_hook(partial(leave, name)) for name, block in blocks.named_children()]
    modes = {module: module.training for module in blocks.modules()}
    try:
        with torch.no_grad():
            blocks.eval()(next(blocks.parameters()).new_zeros(1, in_channels(blocks), SIDE, SIDE))
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    return Reach(entering=entering, leaving=leaving, channels=channels)


def in_channels(network: nn.Module) -> int:
    """The channels of the images that a network takes."""
    return next(layer.in_channels for layer in network.modules() if isinstance(layer, nn.Conv2d))


def dilate_(blocks: nn.Sequential, output_stride: int, *, early: bool = False) -> None:
    """Take the strides beyond ``output_stride`` out of the blocks; kernels behind them are spread out instead.

    The maps then hold, at every second (fourth, …) position, what they held before: exactly, but for
    squeeze-and-excitation, whose mean is one over more positions (Chen et al. 2018, section 3: "atrous"). ``early``
    spreads the kernel that lost its stride as well, as torchvision's MobileNetV3 does, which gives up that equality.
    """
    strides = reach(blocks)
    check_stride("output_stride", output_stride, strides)
    for name, layer in list(blocks.named_modules()):
        if not isinstance(layer, Sliding) or not (_reads_around(layer) or _first(layer.stride) > 1):
            continue
        before, stride = strides.entering[name], _first(layer.stride)
        left = min(stride, max(1, output_stride // before))
        spread = max(1, (before * stride if early else before) // output_stride) if _reads_around(layer) else 1
        if isinstance(layer, nn.Conv2d):
            layer.stride = (left, left)
            layer.padding = (_first(layer.padding) * spread,) * 2
            layer.dilation = (_first(layer.dilation) * spread,) * 2
        elif left < stride:
            blocks.set_submodule(name, _spread_pool(layer, left, spread))


def check_stride(where: str, stride: int, reached: Reach) -> None:
    """``SpecError`` unless some block leaves a map at that stride."""
    if stride not in reached.leaving.values():
        expected = f"one of {', '.join(map(str, sorted(set(reached.leaving.values()))))}"
        raise SpecError(where, given=f"a stride of {stride!r}", expected=expected)


def last_at(stride: int, reached: Reach) -> str:
    """The name of the last block that leaves a map at that stride."""
    check_stride("backbone", stride, reached)
    return [name for name, leaving in reached.leaving.items() if leaving == stride][-1]


def _spread_pool(pool: nn.MaxPool2d, stride: int, spread: int) -> nn.Sequential:
    """PyTorch refuses to pad a pooling by more than half its kernel, spread or not, so that the padding goes first."""
    padding = nn.ConstantPad2d(_first(pool.padding) * spread, float("-inf"))
    return nn.Sequential(padding, nn.MaxPool2d(pool.kernel_size, stride, dilation=spread))


def _reads_around(layer: nn.Module) -> bool:
    return isinstance(layer, Sliding) and _first(layer.kernel_size) > 1


def _first(value: int | str | tuple[int, ...]) -> int:
    """The entry of a square kernel's setting: all networks here have no others."""
    return int(value[0] if isinstance(value, tuple) else value)
