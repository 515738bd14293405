"""Convolution over time that sees no future. In: channels, kernel. Out: layers, and a stream fed piece by piece."""

from __future__ import annotations

from collections import OrderedDict

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
        if past is not None and (past.shape[0] != x.shape[0] or past.dtype != x.dtype):
            given = f"a piece of batch {x.shape[0]} and dtype {x.dtype}"
            raise SpecError("CausalConv1d", given=given, expected=f"{past.shape[0]} and {past.dtype}, as before")
        known = F.pad(x, (self.memory, 0)) if past is None else torch.cat([past, x], dim=2)
        stride = self.stride[0]
        outputs = max(0, (known.shape[2] - self.memory - 1) // stride + 1)
        if outputs == 0:
            return x.new_empty((x.shape[0], self.out_channels, 0)), known
        y = super().forward(known[..., : (outputs - 1) * stride + self.memory + 1])
        return y, known[..., outputs * stride :]


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


class Stream:
    """A causal model fed with a signal in pieces: the outputs, joined, are those of the whole signal at once.

    ``stream(piece)`` takes (n, c, w) of any w and gives the outputs that it completes; the state is what each
    convolution still needs of the past. ``reset`` begins a new signal. The model is made of ``nn.Sequential``,
    ``CausalConv1d`` and layers that look at one moment only; ``ModelError`` at once for anything else, and for batch
    norm in training mode, whose statistics would be those of a piece.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers = _in_order("", model)
        self._past: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, piece: Tensor) -> Tensor:
        past = dict(self._past)
        for name, layer in self._layers:
            if isinstance(layer, CausalConv1d):
                piece, past[name] = layer.resume(piece, past.get(name))
            elif piece.shape[-1]:
                piece = layer(piece)
            elif isinstance(layer, nn.Conv1d):  # PyTorch refuses to convolve nothing.
                piece = piece.new_empty((piece.shape[0], layer.out_channels, 0))
        self._past = past
        return piece

    def reset(self) -> None:
        """Forget the past: the next piece is the beginning of a signal."""
        self._past.clear()


MOMENTARY = (*ACTIVATIONS, nn.Hardsigmoid, nn.Identity, _BatchNorm, nn.Dropout, nn.Dropout1d)


def _in_order(name: str, layer: nn.Module) -> list[tuple[str, nn.Module]]:
    if isinstance(layer, nn.Sequential):
        return [pair for child, part in layer.named_children() for pair in _in_order(f"{name}.{child}", part)]
    where = f"Stream: layer {name.lstrip('.')!r} ({type(layer).__name__})"
    is_momentary_conv = isinstance(layer, nn.Conv1d) and set(layer.kernel_size + layer.stride) == {1}
    if isinstance(layer, nn.Conv1d) and is_momentary_conv and layer.padding not in ((0,), "same", "valid"):
        is_momentary_conv = False
    if not isinstance(layer, (CausalConv1d, *MOMENTARY)) and not is_momentary_conv:
        given = "a layer that may look into the future"
        remedy = "Write convolutions as CausalConv1d, and everything in one nn.Sequential."
        raise ModelError(where, given=given, expected="a causal one", remedy=remedy)
    if layer.training and isinstance(layer, (_BatchNorm, nn.Dropout, nn.Dropout1d)):
        remedy = "Call model.eval() first."
        raise ModelError(where, given="training mode", expected="evaluation mode", remedy=remedy)
    return [(name, layer)]
