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
from separable.models.causal_keywords import causal_keywords
from separable.models.csn import csn50, csn101, csn152
from separable.models.deeplab import (
    deeplabv3plus_mobilenet_v2,
    deeplabv3plus_mobilenet_v3_large,
    deeplabv3plus_resnet50,
    deeplabv3plus_xception,
)
from separable.models.ds_cnn import ds_cnn_large, ds_cnn_medium, ds_cnn_small
from separable.models.efficientnet import (
    efficientnet_b0,
    efficientnet_b1,
    efficientnet_b2,
    efficientnet_b3,
    efficientnet_b4,
    efficientnet_b5,
    efficientnet_b6,
    efficientnet_b7,
    efficientnet_lite0,
)
from separable.models.ghostnet import ghostnet
from separable.models.lraspp import lraspp_mobilenet_v3_large
from separable.models.mnasnet import mnasnet
from separable.models.mobilenet_v1 import mobilenet_v1
from separable.models.mobilenet_v2 import mobilenet_v2
from separable.models.mobilenet_v2_3d import mobilenet_v2_3d
from separable.models.mobilenet_v3 import (
    mobilenet_v3_large,
    mobilenet_v3_large_minimalistic,
    mobilenet_v3_small,
    mobilenet_v3_small_minimalistic,
)
from separable.models.quartznet import quartznet, quartznet_5x5, quartznet_10x5, quartznet_15x5
from separable.models.resnet import resnet18, resnet34, resnet50, resnet_small
from separable.models.ssdlite import ssdlite320_mobilenet_v2, ssdlite320_mobilenet_v3_large
from separable.models.text import separable_text
from separable.models.vgg import vgg16
from separable.models.video_resnet import r2plus1d_18, r3d_18, video_resnet_small
from separable.models.xception import xception

FUNCTIONS: tuple[Callable[..., nn.Module], ...] = (
    *(mobilenet_v1, mobilenet_v2),
    *(mobilenet_v3_large, mobilenet_v3_small, mobilenet_v3_large_minimalistic, mobilenet_v3_small_minimalistic),
    *(efficientnet_b0, efficientnet_b1, efficientnet_b2, efficientnet_b3),
    *(efficientnet_b4, efficientnet_b5, efficientnet_b6, efficientnet_b7, efficientnet_lite0),
    *(ghostnet, mnasnet, xception, resnet18, resnet34, resnet50, resnet_small, vgg16),
    *(ds_cnn_small, ds_cnn_medium, ds_cnn_large, causal_keywords),
    *(quartznet, quartznet_5x5, quartznet_10x5, quartznet_15x5, separable_text),
    *(r3d_18, r2plus1d_18, csn50, csn101, csn152, mobilenet_v2_3d, video_resnet_small),
    *(lraspp_mobilenet_v3_large, deeplabv3plus_xception, deeplabv3plus_resnet50),
    *(deeplabv3plus_mobilenet_v2, deeplabv3plus_mobilenet_v3_large),
    *(ssdlite320_mobilenet_v2, ssdlite320_mobilenet_v3_large),
)
NETWORKS: Mapping[str, Callable[..., nn.Module]] = MappingProxyType({f.__name__: f for f in FUNCTIONS})
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
    """An input for a network of this room, or for the one of this name, the same each time.

    Normal noise: (n, c, h, w) for images, (n, c, t, h, w) for clips, (n, features, frames) for sounds. For texts (n, w)
    of any symbols but the end. ``resolution`` is the last size, for images and clips h and w; that of the network's
    paper when not given.
    """
    if isinstance(model, str):
        with torch.device("meta"):
            model = build(model)
    shape = getattr(model, "input_shape", None)
    if shape is None:
        given, remedy = f"a {type(model).__name__} without input_shape", "Make an input of the model's own shape."
        raise ModelError("models.example", given=given, expected="a network of separable.models", remedy=remedy)
    sized = 2 if len(shape) > 2 else 1
    size = shape if resolution is None else (*shape[:-sized], *[resolution] * sized)
    generator = torch.Generator().manual_seed(0)
    symbols = getattr(model, "symbols", None)
    if symbols is not None:
        return torch.randint(1, symbols, (batch, *size), generator=generator)
    return torch.randn((batch, *size), generator=generator)


def _nearest(name: str) -> str:
    near = difflib.get_close_matches(name.lower().replace("-", ""), NAMES, n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(near)}?" if near else ""
