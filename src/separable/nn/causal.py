"""Convolution over time that sees no future. In: channels, kernel. Out: layers, and a stream fed piece by piece."""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from separable.errors import ModelError, SpecError
from separable.nn.conv_norm import Activation, Norm
from separable.nn.geometry import check_divisible, check_geometry, check_input
from separable.nn.initialize import ACTIVATIONS
from separable.nn.pointwise import PointwiseConv1d


class CausalConv1d(nn.Conv1d):
    """Convolution over (n, c, w) with all its padding, (k − 1) · d zeros, before the signal.

    Output t depends on inputs up to t · stride only; there are ⌈w / stride⌉ outputs.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        check_divisible("CausalConv1d", groups, in_channels=in_channels, out_channels=out_channels)
        check_geometry("CausalConv1d", 1, kernel_size, stride, 0, dilation, "zeros")
        super().__init__(in_channels, out_channels, kernel_size, stride, dilation=dilation, groups=groups, bias=bias)

    @property
    def memory(self) -> int:
        """How many inputs before the present one an output depends on."""
        return (self.kernel_size[0] - 1) * self.dilation[0]

    def forward(self, x: Tensor) -> Tensor:
        check_input("CausalConv1d", x, 1, self.in_channels)
        return super().forward(F.pad(x, (self.memory, 0)))

    def resume(self, x: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """The outputs that piece x completes, none (n, c_out, 0) if it is too short, and the inputs to keep.

        ``past`` is what the piece before gave to keep, None at the beginning.
        """
        check_input("CausalConv1d", x, 1, self.in_channels)
        known = F.pad(x, (self.memory, 0)) if past is None else joined("CausalConv1d", x, past)
        stride = self.stride[0]
        outputs = max(0, (known.shape[2] - self.memory - 1) // stride + 1)
        if outputs == 0:
            return x.new_empty((x.shape[0], self.out_channels, 0)), known
        y = super().forward(known[..., : (outputs - 1) * stride + self.memory + 1])
        return y, known[..., outputs * stride :]


def joined(where: str, x: Tensor, past: Tensor | None) -> Tensor:
    """Piece x behind what was kept of the pieces before it; ``SpecError`` where it is no continuation of them."""
    if past is None:
        return x
    if past.shape[0] != x.shape[0] or past.dtype != x.dtype:
        given = f"a piece of batch {x.shape[0]} and dtype {x.dtype}"
        raise SpecError(where, given=given, expected=f"{past.shape[0]} and {past.dtype}, as before")
    return torch.cat([past, x], dim=-1)


class CausalSeparableConv1d(nn.Sequential):
    """Depthwise-separable convolution over (n, c, w) that sees no future.

    ``norm`` and ``activation`` follow each half. A bias that a norm or the next convolution would take in is left out.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        bias: bool = True,
        *,
        norm: Norm | None = None,
        activation: Activation | None = None,
    ) -> None:
        sliding = (kernel_size, stride, dilation)
        biases = (bias and norm is None and activation is not None, bias and norm is None)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["depthwise"] = CausalConv1d(in_channels, in_channels, *sliding, groups=in_channels, bias=biases[0])
        layers |= _behind("depthwise", in_channels, norm, activation)
        layers["pointwise"] = PointwiseConv1d(in_channels, out_channels, bias=biases[1])
        layers |= _behind("pointwise", out_channels, norm, activation)
        super().__init__(layers)


def _behind(name: str, channels: int, norm: Norm | None, activation: Activation | None) -> dict[str, nn.Module]:
    layers = {} if norm is None else {f"{name}_norm": norm(channels)}
    return layers if activation is None else {**layers, f"{name}_activation": activation()}


class CausalResidual(nn.Sequential):
    """Causal layers over (n, c, w) whose output is added to their input; their convolutions have stride 1."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        for name, layer in self.named_modules():
            if isinstance(layer, nn.Conv1d) and layer.stride != (1,):
                raise SpecError(f"CausalResidual: layer {name!r}", given=f"stride {layer.stride[0]}", expected="1")

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for layer in self:
            y = layer(y)
        return x + y


@runtime_checkable
class Resumable(Protocol):
    """A layer that takes a signal in pieces, given what it kept of the pieces before (None at the beginning)."""

    def resume(self, x: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """The outputs that piece x completes, and what to keep."""


class Stream:
    """A causal model fed with a signal in pieces: the outputs, joined, are those of the whole signal at once.

    ``stream(piece)`` takes (n, c, w) of any w, or samples (n, w) where ``LogMel`` comes first, and gives the outputs
    that it completes; the state is what each layer still needs of the past. ``reset`` begins a new signal. The model is
    made of ``nn.Sequential``, ``CausalResidual``, ``CausalConv1d``, ``LogMel`` and layers that look at one moment only;
    ``ModelError`` at once for anything else, and for batch norm in training mode, whose statistics would be those of a
    piece.
    """

    def __init__(self, model: nn.Module) -> None:
        _check("", model)
        self._model = model
        self._past: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, piece: Tensor) -> Tensor:
        past = dict(self._past)
        piece = _advanced("", self._model, piece, past)
        self._past = past
        return piece

    def reset(self) -> None:
        """Forget the past: the next piece is the beginning of a signal."""
        self._past.clear()


MOMENTARY = (*ACTIVATIONS, nn.Hardsigmoid, nn.Identity, _BatchNorm, nn.Dropout, nn.Dropout1d)
CHAINS = (nn.Sequential.forward, CausalResidual.forward)


def _advanced(name: str, layer: nn.Module, piece: Tensor, past: dict[str, Tensor]) -> Tensor:
    """What the layer makes of the piece; ``past``, by name, is replaced by what to keep."""
    if isinstance(layer, nn.Sequential):
        y = piece
        for child, part in layer.named_children():
            y = _advanced(f"{name}.{child}", part, y, past)
        return piece + y if isinstance(layer, CausalResidual) else y
    if isinstance(layer, Resumable):
        piece, past[name] = layer.resume(piece, past.get(name))
    elif piece.shape[-1]:
        piece = layer(piece)
    elif isinstance(layer, nn.Conv1d):  # PyTorch refuses to convolve nothing.
        piece = piece.new_empty((piece.shape[0], layer.out_channels, 0))
    return piece


def _check(name: str, layer: nn.Module) -> None:
    if isinstance(layer, nn.Sequential) and type(layer).forward in CHAINS:
        for child, part in layer.named_children():
            _check(f"{name}.{child}", part)
        return
    where = f"Stream: layer {name.lstrip('.')!r} ({type(layer).__name__})"
    is_momentary_conv = isinstance(layer, nn.Conv1d) and set(layer.kernel_size + layer.stride) == {1}
    if isinstance(layer, nn.Conv1d) and is_momentary_conv and layer.padding not in ((0,), "same", "valid"):
        is_momentary_conv = False
    if not isinstance(layer, (Resumable, *MOMENTARY)) and not is_momentary_conv:
        given = "a layer that may look into the future"
        remedy = "Write convolutions as CausalConv1d, and everything in nn.Sequential and CausalResidual."
        raise ModelError(where, given=given, expected="a causal one", remedy=remedy)
    if layer.training and isinstance(layer, (_BatchNorm, nn.Dropout, nn.Dropout1d)):
        remedy = "Call model.eval() first."
        raise ModelError(where, given="training mode", expected="evaluation mode", remedy=remedy)
