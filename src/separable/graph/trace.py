"""Finds a model's convolutions. In: a model and an example input. Out: the sites to rewrite, and the rest."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.parametrize import is_parametrized

from separable.cost.counting import Example, count
from separable.cost.values import LayerCost
from separable.errors import ModelError
from separable.graph.sites import Site, Sites, Skipped
from separable.nn.factorized import CONVS, Conv, FactorizedConv
from separable.nn.spatial import SpatiallySeparableConv2d, SpatiallySeparableConv3d

SEPARATED = (FactorizedConv, SpatiallySeparableConv2d, SpatiallySeparableConv3d)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def trace(model: nn.Module, example: Example) -> Sites:
    """Run the model on the example without arithmetic and list its convolutions; the model is left as it was.

    A site is a plain ``nn.Conv1d/2d/3d`` that holds its weight alone. Raises what ``count`` raises.
    """
    cost = count(model, example)
    sites: list[Site] = []
    skipped: list[Skipped] = []
    for layer in cost.layers:
        if not _is_convolution(model, layer):
            continue
        reason = _reason(model, layer)
        if reason is None:
            sites.append(_site(conv_at(model, layer.name), layer))
        else:
            skipped.append(Skipped(name=layer.name or "(model)", reason=reason))
    return Sites(sites=tuple(sites), skipped=tuple(skipped), cost=cost)


def conv_at(model: nn.Module, name: str) -> Conv:
    """The convolution layer of that name; ``ModelError`` when there is none."""
    module = dict(model.named_modules(remove_duplicate=False)).get(name)
    if not isinstance(module, CONVS):
        raise ModelError(name, given=f"a {type(module).__name__}", expected="a convolution layer")
    return module


def _is_convolution(model: nn.Module, layer: LayerCost) -> bool:
    is_layer = ":" not in layer.name and isinstance(model.get_submodule(layer.module), _ConvNd)
    return is_layer or bool(layer.specs) or layer.kind == "transposed"


def why_not(model: nn.Module, name: str) -> str | None:
    """Why the layer of that name cannot be rewritten, as far as shows without running it; None when it can."""
    module = model.get_submodule(name)
    if not isinstance(module, CONVS):
        return "transposed" if isinstance(module, _ConvTransposeNd) else "no convolution layer"
    if any(isinstance(parent, SEPARATED) for parent in _parents(model, name)):
        return "part of a layer that is separable already"
    if is_parametrized(module) or set(module._parameters) != {"weight", "bias"}:
        return "its weight is computed, by a parametrization, weight norm or pruning"
    if not _is_plain(module):
        return f"{type(module).__name__} has a forward of its own"
    if any(getattr(module, hooks) for hooks in HOOKS):
        return "it carries hooks, which would not see the same layer any more"
    holders = Counter(id(p) for held in model.modules() for p in held._parameters.values())
    if any(holders[id(p)] > 1 for p in module.parameters()):
        return "another layer shares its weight or bias"
    return None


def _reason(model: nn.Module, layer: LayerCost) -> str | None:
    if ":" in layer.name or not isinstance(model.get_submodule(layer.name), _ConvNd):
        return "a function call, not a layer: its weight may change from call to call"
    reason = why_not(model, layer.name)
    if reason is not None:
        return reason
    if not layer.calls:
        return "never run on this example"
    if layer.cost.macs != layer.batch * sum(spec.macs for spec in layer.specs):
        return "run with another batch size in each call"
    return "depthwise, which is separable already" if layer.kind == "depthwise" else None


def _parents(model: nn.Module, name: str) -> list[nn.Module]:
    parts = name.split(".")
    return [model.get_submodule(".".join(parts[:depth])) for depth in range(len(parts))]


def _is_plain(module: Conv) -> bool:
    plain: Any = next(conv for conv in CONVS if isinstance(module, conv))
    kind: Any = type(module)
    own = {"forward", "_conv_forward"} & set(vars(module))
    return not own and kind.forward is plain.forward and kind._conv_forward is plain._conv_forward


def _site(module: Conv, layer: LayerCost) -> Site:
    weight, bias = module.weight, module.bias
    return Site(
        name=layer.name,
        spec=layer.specs[0],
        sizes=tuple(spec.size for spec in layer.specs),
        batch=layer.batch,
        padding_mode=module.padding_mode,
        bias=bias is not None,
        weights_train=weight.requires_grad,
        bias_trains=weight.requires_grad if bias is None else bias.requires_grad,
    )
