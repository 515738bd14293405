"""Batch norm folded into the layer before it. In: a model in evaluation mode. Out: a new model, the same function."""

from __future__ import annotations

import copy
from collections import Counter
from functools import reduce

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils import parametrize

from separable.errors import ModelError
from separable.nn.initialize import ACTIVATIONS

# Each kind of layer with the batch norm that reads its output's axes as channels and positions.
NORMS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: nn.BatchNorm1d,
    nn.Conv2d: nn.BatchNorm2d,
    nn.Conv3d: nn.BatchNorm3d,
    nn.ConvTranspose1d: nn.BatchNorm1d,
    nn.ConvTranspose2d: nn.BatchNorm2d,
    nn.ConvTranspose3d: nn.BatchNorm3d,
    nn.Linear: nn.BatchNorm1d,
}
SAME_SHAPE = (*ACTIVATIONS, nn.Linear, nn.BatchNorm1d, nn.Dropout, nn.Identity)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """A copy in which each batch norm that follows a convolution or linear layer has become part of its weights.

    Exact up to rounding to the weights' dtype. ``torch.fx`` traces the forward, and a norm is folded only where the
    trace proves that it is all that reads the layer's output, that each of the two runs once, and that nothing else
    reads their parameters. What is shared, hooked, parametrized or without running statistics stays as it is, and so
    does a norm after a linear layer unless the trace shows the input flattened to (n, features): with more axes
    ``BatchNorm1d`` takes another one for the channels. Inputs of convolutions are taken to have a batch axis.
    ``ModelError`` when a batch norm is in training mode, or the forward cannot be traced.
    """
    folded = copy.deepcopy(model)
    kinds = {type(module) for module in folded.modules()}
    norms = [module for module in folded.modules() if isinstance(module, _BatchNorm)]
    if any(norm.training for norm in norms):
        given, expected = "a batch norm in training mode", "a model in evaluation mode"
        raise ModelError("fold_batch_norm", given=given, expected=expected, remedy="Call model.eval() first.")
    if norms and any(issubclass(kind, tuple(NORMS)) for kind in kinds):
        for layer, norm in _pairs(folded):
            _fold_(layer, norm)
            _replace_(folded, norm, nn.Identity())
    return folded


class _Tracer(fx.Tracer):
    """Stops at the layers that matter here, whatever file their class is from, and sees buffers being read."""

    proxy_buffer_attributes = True

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, (*NORMS, _BatchNorm)) or super().is_leaf_module(m, module_qualified_name)


def _pairs(model: nn.Module) -> list[tuple[_ConvNd | nn.Linear, _BatchNorm]]:
    """The layers that may be folded, each with its batch norm."""
    graph = _trace(model)
    modules = {node: model.get_submodule(str(node.target)) for node in graph.nodes if node.op == "call_module"}
    runs = Counter(modules.values())
    owners = Counter(id(tensor) for module in model.modules() for tensor in _own_tensors(module))
    read = {id(_attribute(model, str(node.target))) for node in graph.nodes if node.op == "get_attr"}
    pairs: list[tuple[_ConvNd | nn.Linear, _BatchNorm]] = []
    for node, norm in modules.items():
        source = node.args[0] if len(node.args) == 1 and not node.kwargs else None
        if not isinstance(source, fx.Node) or source not in modules or len(source.users) > 1:
            continue
        layer = modules[source]
        tensors = {id(tensor) for module in (layer, norm) for tensor in _own_tensors(module)}
        is_private = runs[layer] == runs[norm] == 1 and all(owners[t] == 1 for t in tensors) and not tensors & read
        if not is_private or not isinstance(layer, _ConvNd | nn.Linear) or not isinstance(norm, _BatchNorm):
            continue
        if _is_foldable(layer, norm) and (isinstance(layer, _ConvNd) or _is_flat(source, modules)):
            pairs.append((layer, norm))
    return pairs


def _trace(model: nn.Module) -> fx.Graph:
    try:
        return _Tracer().trace(model)
    except Exception as error:
        raise ModelError(
            "fold_batch_norm",
            given=f"a forward that torch.fx cannot trace ({error})",
            expected="one without branches on what its tensors hold",
            remedy="Fold the parts of the model that can be traced, one by one.",
        ) from error


def _own_tensors(module: nn.Module) -> list[Tensor]:
    tensors = [*module._parameters.values(), *module._buffers.values()]
    return [tensor for tensor in tensors if tensor is not None]


def _attribute(model: nn.Module, path: str) -> object:
    return reduce(getattr, path.split("."), model)


def _is_foldable(layer: _ConvNd | nn.Linear, norm: _BatchNorm) -> bool:
    kind = next(kind for kind in NORMS if isinstance(layer, kind))
    channels = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    is_plain = _runs(layer, kind) and _runs(norm, _BatchNorm) and isinstance(norm, NORMS[kind])
    return is_plain and norm.running_mean is not None and norm.num_features == channels


def _runs(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether calling the module does what a ``kind`` does, and nothing besides."""
    is_watched = any(getattr(module, hooks) for hooks in HOOKS)
    same = [
        getattr(getattr(module, name), "__func__", None) is getattr(kind, name)
        for name in ("forward", "_conv_forward")
        if hasattr(kind, name)
    ]
    return all(same) and not is_watched and not parametrize.is_parametrized(module)


def _is_flat(node: fx.Node, modules: dict[fx.Node, nn.Module]) -> bool:
    """Whether the trace shows that the node's input has two axes, (n, features)."""
    source = node.args[0]
    if not isinstance(source, fx.Node):
        return False
    if source in modules:
        module = modules[source]
        is_flatten = isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1)
        return is_flatten or (isinstance(module, SAME_SHAPE) and _is_flat(source, modules))
    if source.target in (torch.flatten, "flatten"):
        return source.args[1:] == (1,) and not source.kwargs
    return source.target in ("view", "reshape") and len(source.args) == 3


@torch.no_grad()
def _fold_(layer: _ConvNd | nn.Linear, norm: _BatchNorm) -> None:
    """y = γ · (Wx + b − μ) / √(σ² + ε) + β: γ / √(σ² + ε) goes into W and the rest into b, worked out in float64."""
    like, trains, axes = layer.weight, layer.weight.requires_grad, layer.weight.dim()

    def float64(tensor: Tensor | None, default: float) -> Tensor:
        empty = torch.full((norm.num_features,), default, dtype=torch.float64, device=like.device)
        return empty if tensor is None else tensor.double()

    scale = float64(norm.weight, 1.0) / torch.sqrt(float64(norm.running_var, 1.0) + norm.eps)
    bias = (float64(layer.bias, 0.0) - float64(norm.running_mean, 0.0)) * scale + float64(norm.bias, 0.0)
    if isinstance(layer, _ConvTransposeNd):  # (c_in, c_out/g, *kernel): each group's inputs with its own outputs
        by_group = scale.reshape(layer.groups, 1, -1, *[1] * (axes - 2))
        weight = (like.double().reshape(layer.groups, -1, *like.shape[1:]) * by_group).reshape(like.shape)
    else:
        weight = like.double() * scale.reshape(-1, *[1] * (axes - 1))
    layer.weight = nn.Parameter(weight.to(like.dtype), requires_grad=trains)
    layer.bias = nn.Parameter(bias.to(like.dtype), requires_grad=trains)


def _replace_(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for parent in model.modules():
        for name, child in list(parent._modules.items()):
            if child is old:
                setattr(parent, name, new)
