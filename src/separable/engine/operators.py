"""One call of ATen as one operator. In: a call with its arguments by name. Out: operator, inputs, activation, shape.

``READERS`` lists what the engine knows; everything else, and every known call with arguments that the engine has no
kernel for, raises ``UnsupportedError`` with the reason, and stays a call of PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from separable.engine.arithmetic import BINARY, UNARY
from separable.engine.reading import Map, Reading, Request, UnsupportedError, map_shape
from separable.engine.sampling import SAMPLERS, average, pieces
from separable.kernels.epilogue import Activation
from separable.runtime.network import (
    Activate,
    Affine,
    Convolve,
    Floats,
    Join,
    Mean,
    Normalise,
    NormaliseGroups,
    Pad,
    Part,
    Pooling,
    Reduce,
    Reorder,
    Slope,
    Softmax,
)
from separable.spec import ConvSpec

# Calls with several results of which networks that infer use the first
FIRST_OF_SEVERAL = frozenset(
    {
        "native_batch_norm",
        "_native_batch_norm_legit_no_training",
        "cudnn_batch_norm",
        "native_group_norm",
        "native_layer_norm",
        "max_pool2d_with_indices",
        "max_pool3d_with_indices",
        "adaptive_max_pool2d",
        "log_sigmoid_forward",
        "max",
    }
)


def read(name: str, request: Request) -> Reading:
    """The operator for a call of ``aten::name``."""
    reader = READERS.get(name)
    if reader is None:
        raise UnsupportedError(f"there is no native operator for aten.{name}")
    return reader(request)


def _convolution(request: Request) -> Reading:
    a, x = request.arguments, request.map("input")
    weight = request.array("weight")
    if weight is None or weight.ndim > 4:
        raise UnsupportedError("convolutions over volumes have no native operator")
    dims = weight.ndim - 2
    padding = a["padding"]
    spec = ConvSpec(
        weight.shape[1] * a["groups"],
        weight.shape[0],
        kernel=_two(weight.shape[2:], 1),
        size=x.shape[1:],
        stride=_two(_per_axis(a["stride"], dims), 1),
        padding=padding if isinstance(padding, str) else _two(_per_axis(padding, dims), 0),
        dilation=_two(_per_axis(a["dilation"], dims), 1),
        groups=a["groups"],
    )
    bias = request.array("bias")
    return Reading(
        inputs=(x.name,),
        operator=Convolve(
            spec=spec,
            weight=weight.reshape(*weight.shape[:2], *spec.kernel),
            bias=np.zeros(spec.c_out, np.float32) if bias is None else bias,
        ),
        shape=(spec.c_out, *spec.size_out),  # type: ignore[arg-type]
    )


def _linear(request: Request) -> Reading:
    """``addmm`` (bias, x, weight turned over) and ``mm`` without the bias; with channels last, at every pixel."""
    a = request.arguments
    x, turned = a.get("mat1", a["self"]), a["mat2"]
    bias = request.array("self") if "mat1" in a else None
    is_able = isinstance(x, Map) and (x.is_flattened or x.shape[1:] == (1, 1) or request.is_channels_last)
    if not isinstance(x, Map) or not isinstance(turned, Tensor) or not is_able:
        raise UnsupportedError("a matrix product of anything but channels and weights has no native operator")
    if (a.get("alpha", 1), a.get("beta", 1)) != (1, 1) or (bias is not None and bias.shape != turned.shape[1:]):
        raise UnsupportedError("a matrix product with factors has no native operator")
    c, h, w = x.shape
    kernel = (1, 1) if request.is_channels_last else (h, w)
    spec = ConvSpec(c, turned.shape[1], kernel=kernel, size=(h, w))
    weight = np.ascontiguousarray(turned.detach().t().cpu().float().numpy()).reshape(-1, c, *kernel)
    operator = Convolve(spec=spec, weight=weight, bias=np.zeros(spec.c_out, np.float32) if bias is None else bias)
    return Reading(inputs=(x.name,), operator=operator, shape=(spec.c_out, *spec.size_out))  # type: ignore[arg-type]


def _batch_norm(request: Request) -> Reading:
    x = request.map("input")
    if request.arguments.get("training"):
        if request.shape[0] > 1 or request.arguments["running_mean"] is not None:
            raise UnsupportedError("batch norm in training mode has no native operator")
        return _over_pixels(request, x.shape[0])
    mean, variance = request.array("running_mean"), request.array("running_var")
    if mean is None or variance is None:
        raise UnsupportedError("batch norm without running statistics has no native operator")
    weight, bias = request.array("weight"), request.array("bias")
    scale = (1 / np.sqrt(variance.astype(np.float64) + request.arguments["eps"])) * (1 if weight is None else weight)
    shift = (0 if bias is None else bias) - mean * scale
    affine = Affine(scale=scale.astype(np.float32), shift=np.asarray(shift, np.float32))
    return Reading(inputs=(x.name,), operator=affine, shape=x.shape)


def _group_norm(request: Request) -> Reading:
    return _over_pixels(request, request.arguments["group"])


def _over_pixels(request: Request, groups: int) -> Reading:
    """Groups of channels normalised over all pixels of an image."""
    x = request.map("input")
    scale, shift = _scale_and_shift(request, x.shape[0])
    norm = NormaliseGroups(scale=scale, shift=shift, eps=request.arguments["eps"], groups=groups)
    return Reading(inputs=(x.name,), operator=norm, shape=x.shape)


def _scale_and_shift(request: Request, channels: int) -> tuple[Floats, Floats]:
    weight, bias = request.array("weight"), request.array("bias")
    return (
        np.ones(channels, np.float32) if weight is None else weight,
        np.zeros(channels, np.float32) if bias is None else bias,
    )


def _layer_norm(request: Request) -> Reading:
    """Of a map whose channels came last; of the channels of one pixel."""
    x, a = request.map("input"), request.arguments
    if list(a["normalized_shape"]) != [x.shape[0]] or not (request.is_channels_last or x.rank == 2):
        raise UnsupportedError("layer norm over anything but the channels has no native operator")
    scale, shift = _scale_and_shift(request, x.shape[0])
    return Reading(inputs=(x.name,), operator=Normalise(scale=scale, shift=shift, eps=a["eps"]), shape=x.shape)


def _activation(choose: Callable[[Request], Activation]) -> Callable[[Request], Reading]:
    def reader(request: Request) -> Reading:
        x = request.map("self" if "self" in request.arguments else "input")
        return Reading(inputs=(x.name,), operator=Activate(), shape=x.shape, activation=choose(request))

    return reader


def _clamp(request: Request) -> Activation:
    low, high = (request.arguments.get(name, request.arguments.get(f"{name}_val")) for name in ("min", "max"))
    if any(isinstance(bound, Map) or (isinstance(bound, Tensor) and bound.numel() > 1) for bound in (low, high)):
        raise UnsupportedError("bounds that are maps have no native operator")
    return Activation(
        kind="clamp", low=-math.inf if low is None else float(low), high=math.inf if high is None else float(high)
    )


def _gelu(request: Request) -> Activation:
    return Activation(kind="gelu_tanh" if request.arguments["approximate"] == "tanh" else "gelu")


def _elu(request: Request) -> Activation:
    a = request.arguments
    if a["input_scale"] != 1:
        raise UnsupportedError("an ELU of a scaled map has no native operator")
    return Activation(kind="elu", low=float(a["alpha"] * a["scale"]), high=float(a["scale"]))


def _celu(request: Request) -> Activation:
    if request.arguments["alpha"] != 1:
        raise UnsupportedError("a CELU of another alpha than 1 has no native operator")
    return Activation(kind="elu", low=1.0, high=1.0)


def _softplus(request: Request) -> Activation:
    """From its threshold (20) on PyTorch returns what it was given, which is the same to the last digit."""
    if request.arguments["beta"] != 1 or request.arguments["threshold"] < 20:
        raise UnsupportedError("a softplus of another beta or threshold has no native operator")
    return Activation(kind="softplus")


def _prelu(request: Request) -> Reading:
    x, slope = request.map("self"), request.array("weight")
    if slope is None:
        raise UnsupportedError("a PReLU without slopes has no native operator")
    if slope.size == 1:
        leaky = Activation(kind="leaky", low=float(slope.item()))
        return Reading(inputs=(x.name,), operator=Activate(), shape=x.shape, activation=leaky)
    return Reading(inputs=(x.name,), operator=Slope(slope=slope.ravel()), shape=x.shape)


def _pool(kind: str) -> Callable[[Request], Reading]:
    def reader(request: Request) -> Reading:
        a, x = request.arguments, request.map("self")
        if a.get("divisor_override"):
            raise UnsupportedError("an average with another divisor has no native operator")
        dims = len(request.shape) - 2
        kernel = _two(_per_axis(a["kernel_size"], dims), 1)
        stride = _two(_per_axis(a["stride"] or a["kernel_size"], dims), 1)
        dilation = _two(_per_axis(a.get("dilation", 1), dims), 1)
        before = _two(_per_axis(a["padding"], dims), 0)
        shape = map_shape(request.shape)
        after = [
            max(p, (out - 1) * s + (k - 1) * d + 1 - size - p)
            for out, s, k, d, size, p in zip(shape[1:], stride, kernel, dilation, x.shape[1:], before, strict=True)
        ]
        if kind == "average" and list(before) != after:
            return average(request)
        spec = ConvSpec(
            x.shape[0],
            x.shape[0],
            kernel,
            x.shape[1:],
            stride,
            list(zip(before, after, strict=True)),
            dilation,
            x.shape[0],
        )
        pooling = Pooling(kind=kind, spec=spec, counts_padding=a.get("count_include_pad", True))
        return Reading(inputs=(x.name,), operator=pooling, shape=shape)

    return reader


def _adaptive_max(request: Request) -> Reading:
    x, shape = request.map("self"), map_shape(request.shape)
    if x.shape[1] % shape[1] or x.shape[2] % shape[2]:
        raise UnsupportedError("maxima over parts of several sizes have no native operator")
    kernel = (x.shape[1] // shape[1], x.shape[2] // shape[2])
    spec = ConvSpec(x.shape[0], x.shape[0], kernel=kernel, size=x.shape[1:], stride=kernel, groups=x.shape[0])
    return Reading(inputs=(x.name,), operator=Pooling(kind="max", spec=spec), shape=shape)


def _adaptive(request: Request) -> Reading:
    x, (c, h, w) = request.map("self"), map_shape(request.shape)
    if (h, w) == (1, 1):
        return Reading(inputs=(x.name,), operator=Mean(), shape=(c, 1, 1))
    if x.shape[1] % h or x.shape[2] % w:
        return average(request)
    kernel = (x.shape[1] // h, x.shape[2] // w)
    spec = ConvSpec(c, c, kernel=kernel, size=x.shape[1:], stride=kernel, groups=c)
    return Reading(inputs=(x.name,), operator=Pooling(kind="average", spec=spec), shape=(c, h, w))


def _reduced(kind: str) -> Callable[[Request], Reading]:
    """Over all pixels, or over the channels of each."""

    def reader(request: Request) -> Reading:
        x, dims = request.map("self"), request.arguments.get("dim")
        axes = sorted(d % x.rank for d in ([dims] if isinstance(dims, int) else dims or range(x.rank)))
        if axes == [1] and x.rank > 2:
            return Reading(inputs=(x.name,), operator=Reduce(kind=kind), shape=(1, *x.shape[1:]))
        if axes != list(range(2, x.rank)) or x.rank == 2:
            raise UnsupportedError(f"a {kind} over anything but all pixels or all channels has no native operator")
        whole = ConvSpec(x.shape[0], x.shape[0], kernel=x.shape[1:], size=x.shape[1:], groups=x.shape[0])
        operator = Mean() if kind == "mean" else Pooling(kind="max", spec=whole)
        return Reading(inputs=(x.name,), operator=operator, shape=(x.shape[0], 1, 1))

    return reader


def _softmax(*, is_log: bool) -> Callable[[Request], Reading]:
    def reader(request: Request) -> Reading:
        x = request.map("self")
        if request.arguments["dim"] % x.rank != 1:
            raise UnsupportedError("a softmax over anything but the channels has no native operator")
        return Reading(inputs=(x.name,), operator=Softmax(is_log=is_log), shape=x.shape)

    return reader


def _cat(request: Request) -> Reading:
    values, shape = request.arguments["tensors"], map_shape(request.shape)
    maps = [Request(arguments={"x": v}, shape=request.shape).map("x") for v in values]
    if request.arguments["dim"] % len(request.shape) != 1:
        raise UnsupportedError("joining along anything but the channels has no native operator")
    return Reading(inputs=tuple(m.name for m in maps), operator=Join(), shape=shape)


def _slice(request: Request) -> Reading:
    a, x = request.arguments, request.map("self")
    axis, first = a["dim"] % len(request.shape), a["start"] or 0
    if axis > 1:
        return pieces(request)
    if axis == 0 or a["step"] != 1:
        raise UnsupportedError("a slice along the batch, or of some channels, has no native operator")
    return Reading(inputs=(x.name,), operator=Part(first=_position(first, x.shape[0])), shape=map_shape(request.shape))


def _position(index: int, size: int) -> int:
    """As Python counts from behind."""
    return min(max(index + size if index < 0 else index, 0), size)


def _channel_shuffle(request: Request) -> Reading:
    x, groups = request.map("self" if "self" in request.arguments else "input"), request.arguments["groups"]
    order = np.arange(x.shape[0]).reshape(groups, -1).T.ravel()
    return Reading(inputs=(x.name,), operator=Reorder(order=order), shape=x.shape)


def _pad(request: Request) -> Reading:
    a, x = request.arguments, request.map("self")
    if max(a["pad"]) <= 0:
        return pieces(request)
    if a["value"] != 0 or min(a["pad"]) < 0:
        raise UnsupportedError("padding with anything but zeros has no native operator")
    pad = [*a["pad"], 0, 0, 0, 0]
    if len(a["pad"]) > 4 or (len(request.shape) == 3 and len(a["pad"]) > 2):
        raise UnsupportedError("padding of channels has no native operator")
    return Reading(
        inputs=(x.name,), operator=Pad(padding=((pad[2], pad[3]), (pad[0], pad[1]))), shape=map_shape(request.shape)
    )


def _per_axis(value: Any, dims: int) -> list[int]:
    entries = [value] * dims if isinstance(value, int) else list(value)
    return entries * dims if len(entries) == 1 else entries


def _two(entries: Sequence[int], missing: int) -> tuple[int, int]:
    """(height, width): a signal is a map of one row."""
    return (missing, entries[0]) if len(entries) == 1 else (entries[0], entries[1])


def _plain(kind: str) -> Callable[[Request], Reading]:
    return _activation(lambda _: Activation(kind=kind))


ACTIVATIONS: dict[str, Callable[[Request], Reading]] = {  # and what else is done to each number by itself
    **UNARY,
    "relu": _plain("relu"),
    "hardtanh": _activation(_clamp),
    "clamp": _activation(_clamp),
    "clamp_min": _activation(_clamp),
    "clamp_max": _activation(_clamp),
    "hardswish": _plain("hard_swish"),
    "hardsigmoid": _plain("hard_sigmoid"),
    "sigmoid": _plain("sigmoid"),
    "silu": _plain("silu"),
    "tanh": _plain("tanh"),
    "gelu": _activation(_gelu),
    "elu": _activation(_elu),
    "celu": _activation(_celu),
    "mish": _plain("mish"),
    "softplus": _activation(_softplus),
    "log_sigmoid_forward": _plain("log_sigmoid"),
    "abs": _plain("absolute"),
    "exp": _plain("exp"),
    "leaky_relu": _activation(lambda r: Activation(kind="leaky", low=float(r.arguments["negative_slope"]))),
}

READERS: dict[str, Callable[[Request], Reading]] = {
    "convolution": _convolution,
    "addmm": _linear,
    "mm": _linear,
    "native_batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "native_group_norm": _group_norm,
    "native_layer_norm": _layer_norm,
    **ACTIVATIONS,
    "max_pool2d_with_indices": _pool("max"),
    "avg_pool2d": _pool("average"),
    "_adaptive_avg_pool2d": _adaptive,
    "adaptive_max_pool2d": _adaptive_max,
    "mean": _reduced("mean"),
    "amax": _reduced("max"),
    "max": _reduced("max"),
    "_softmax": _softmax(is_log=False),
    "_log_softmax": _softmax(is_log=True),
    **BINARY,
    "_prelu_kernel": _prelu,
    "cat": _cat,
    "slice": _slice,
    "constant_pad_nd": _pad,
    "channel_shuffle": _channel_shuffle,
    "native_channel_shuffle": _channel_shuffle,
    **SAMPLERS,
}
