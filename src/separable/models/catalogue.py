"""The reference networks by name. In: a name and options. Out: the network, or an example input for it."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from separable.errors import ModelError
from separable.models.mobilenet_v1 import mobilenet_v1
from separable.models.mobilenet_v2 import mobilenet_v2
from separable.models.resnet import resnet18, resnet34, resnet50, resnet_small
from separable.models.vgg import vgg16

NETWORKS: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {
        function.__name__: function
        for function in (mobilenet_v1, mobilenet_v2, resnet18, resnet34, resnet50, resnet_small, vgg16)
    }
)
NAMES = tuple(NETWORKS)


def build(name: str, **options: Any) -> nn.Module:
    """The network of this name; ``ModelError`` offering the nearest names when there is none, or no such option."""
    if name not in NETWORKS:
        raise ModelError("models.build", given=repr(name), expected=f"one of {', '.join(NAMES)}", remedy=_nearest(name))
    known = tuple(inspect.signature(NETWORKS[name]).parameters)
    for option in options:
        if option not in known:
            expected = f"one of {', '.join(known)}"
            raise ModelError(f"models.build({name!r})", given=f"option {option!r}", expected=expected)
    return NETWORKS[name](**options)


def example(model: str | nn.Module, *, batch: int = 1, resolution: int | None = None) -> Tensor:
    """An input (n, c, h, w) for a network of this room, or for the one of this name: normal noise, each time the same.

    ``resolution`` is h and w; that of the network's paper when not given.
    """
    if isinstance(model, str):
        with torch.device("meta"):
            model = build(model)
    shape = getattr(model, "input_shape", None)
    if shape is None:
        given, remedy = f"a {type(model).__name__} without input_shape", "Make an input of the model's own shape."
        raise ModelError("models.example", given=given, expected="a network of separable.models", remedy=remedy)
    channels, *size = shape
    size = size if resolution is None else [resolution] * len(size)
    return torch.randn((batch, channels, *size), generator=torch.Generator().manual_seed(0))


def _nearest(name: str) -> str:
    near = difflib.get_close_matches(name.lower().replace("-", ""), NAMES, n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(near)}?" if near else ""
