"""Layers out of operators. In: an aten operator, its tensors and numbers. Out: the nn module that does the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
CONV_TARGETS = (
    *(f"torch.ops.aten.conv{dims}d.{padding}" for dims in (1, 2, 3) for padding in ("default", "padding")),
    "torch.ops.aten.convolution.default",
)
LINEAR_TARGET = "torch.ops.aten.linear.default"
BATCH_NORM_TARGET = "torch.ops.aten.batch_norm.default"
BATCH_NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
# The arguments of each operator that become the layer's parameters and buffers.
STATE = {
    **dict.fromkeys((*CONV_TARGETS, LINEAR_TARGET), ("weight", "bias")),
    BATCH_NORM_TARGET: ("weight", "bias", "running_mean", "running_var"),
}
State = Mapping[str, Tensor | None]


def layer_of(target: str, state: State, numbers: Mapping[str, Any], axes: int) -> nn.Module | None:
    """The layer for an operator of ``STATE`` on an input of ``axes`` axes; None where PyTorch has no such layer.

    The layer holds the tensors of ``state`` themselves, not copies.
    """
    if target == BATCH_NORM_TARGET:
        return _batch_norm(state, numbers, axes)
    weight = state["weight"]
    if not isinstance(weight, nn.Parameter) or not isinstance(state["bias"], nn.Parameter | None):
        return None
    layer = _linear(weight, state["bias"]) if target == LINEAR_TARGET else _conv(weight, state["bias"], numbers)
    for name, tensor in state.items() if layer is not None else ():
        setattr(layer, name, tensor)
    return layer


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    return nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")


def _conv(weight: Tensor, bias: Tensor | None, numbers: Mapping[str, Any]) -> nn.Module | None:
    if numbers.get("transposed"):
        return None
    dims, groups, padding = weight.dim() - 2, numbers.get("groups", 1), numbers.get("padding", 0)
    options: dict[str, Any] = {
        "kernel_size": tuple(weight.shape[2:]),
        "stride": _each(numbers.get("stride", 1), dims),
        "padding": padding if isinstance(padding, str) else _each(padding, dims),
        "dilation": _each(numbers.get("dilation", 1), dims),
        "groups": groups,
        "bias": bias is not None,
    }
    return CONVS[dims - 1](weight.shape[1] * groups, weight.shape[0], device="meta", **options)


def _each(value: Any, dims: int) -> Any:
    """One number for each axis: an operator takes a single one for all."""
    values = [value] if isinstance(value, int) else value
    return tuple(values) if len(values) == dims else tuple(values) * dims


def _batch_norm(state: State, numbers: Mapping[str, Any], axes: int) -> nn.Module | None:
    mean, variance, weight = state["running_mean"], state["running_var"], state["weight"]
    is_affine = isinstance(weight, nn.Parameter) and isinstance(state["bias"], nn.Parameter)
    if mean is None or variance is None or not (is_affine or (weight is None and state["bias"] is None)):
        return None
    layer = BATCH_NORMS[axes](len(mean), eps=numbers["eps"], momentum=numbers["momentum"], affine=is_affine)
    for name, tensor in state.items():
        setattr(layer, name, tensor)
    return layer
