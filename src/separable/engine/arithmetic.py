"""Arithmetic on maps. In: a call of ATen with maps, numbers, constants. Out: one operator, or why there is none."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from separable.engine.reading import Map, Reading, Request, UnsupportedError, map_shape
from separable.kernels.epilogue import Activation
from separable.runtime.network import Activate, Affine, Combine, Floats


def _negative(request: Request) -> Reading:
    x = request.map("self")
    one = np.ones(x.shape[0], np.float32)
    return Reading(inputs=(x.name,), operator=Affine(scale=-one, shift=0 * one), shape=x.shape)


def _unary(operation: str, *names: str) -> Callable[[Request], Reading]:
    """One of the operations on one map; its constants are the arguments of these names."""

    def reader(request: Request) -> Reading:
        x, constants = request.map("self"), tuple(float(request.arguments[name]) for name in names)
        return Reading(inputs=(x.name,), operator=Combine(operation=operation, constants=constants), shape=x.shape)

    return reader


def _power(request: Request) -> Reading:
    exponent = request.arguments["exponent"]
    if not isinstance(exponent, int | float):
        raise UnsupportedError("a power that is a map has no native operator")
    if exponent == 2:
        x = request.map("self")
        return Reading(inputs=(x.name, x.name), operator=Combine(operation="multiply"), shape=x.shape)
    roots = {0.5: "sqrt", -0.5: "reciprocal sqrt", -1: "reciprocal"}
    if exponent not in (*roots, 3, 4):
        raise UnsupportedError(f"the power of {exponent} has no native operator")
    return (_unary(roots[exponent]) if exponent in roots else _unary("power", "exponent"))(request)


def _combine(operation: str) -> Callable[[Request], Reading]:
    def reader(request: Request) -> Reading:
        a, b = request.arguments["self"], request.arguments["other"]
        if request.arguments.get("alpha", 1) != 1 or request.arguments.get("rounding_mode"):
            raise UnsupportedError("a sum with a factor, or a rounded quotient, has no native operator")
        if not (isinstance(a, Map) and isinstance(b, Map)):
            return _with_constant(operation, request)
        x, y = request.map("self"), request.map("other")
        shape = map_shape(request.shape)
        if x.rank != y.rank:
            raise UnsupportedError(f"tensors of {x.rank} and {y.rank} axes have no native operator")
        for one in (x, y):
            if one.shape not in (shape, (shape[0], 1, 1), (1, *shape[1:])):
                raise UnsupportedError(f"maps of {x.shape} and {y.shape} have no native operator")
        if x.shape != shape and operation in ("subtract", "divide"):
            raise UnsupportedError("a vector less a map, or over one, has no native operator")
        inputs = (x.name, y.name) if x.shape == shape else (y.name, x.name)
        if shape not in (x.shape, y.shape):
            raise UnsupportedError(f"maps of {x.shape} and {y.shape} have no native operator")
        return Reading(inputs=inputs, operator=Combine(operation=operation), shape=shape)

    return reader


def _with_constant(operation: str, request: Request) -> Reading:
    """A map with a number, or with one constant for each channel."""
    a, b = request.arguments["self"], request.arguments["other"]
    is_swapped = not isinstance(a, Map)
    x = request.map("other" if is_swapped else "self")
    values = _per_channel(a if is_swapped else b, x.shape[0], len(request.shape))
    one, zero = np.ones(x.shape[0], np.float32), np.zeros(x.shape[0], np.float32)
    if is_swapped and operation == "divide":
        raise UnsupportedError("a constant over a map has no native operator")
    if operation in ("maximum", "minimum"):
        return _bounded(operation, values, x, request)
    if is_swapped and operation == "subtract":
        affine = Affine(scale=-one, shift=values)
    else:
        affine = {
            "add": lambda: Affine(scale=one, shift=values),
            "subtract": lambda: Affine(scale=one, shift=-values),
            "multiply": lambda: Affine(scale=values, shift=zero),
            "divide": lambda: Affine(scale=(1 / values.astype(np.float64)).astype(np.float32), shift=zero),
        }[operation]()
    if map_shape(request.shape) != x.shape:
        raise UnsupportedError("it spreads a map over a larger constant")
    return Reading(inputs=(x.name,), operator=affine, shape=x.shape)


def _bounded(operation: str, values: Floats, x: Map, request: Request) -> Reading:
    if not (values == values[:1]).all() or map_shape(request.shape) != x.shape:
        raise UnsupportedError(f"the {operation} of a map and several constants has no native operator")
    low, high = (values[0], math.inf) if operation == "maximum" else (-math.inf, values[0])
    clamp = Activation(kind="clamp", low=float(low), high=float(high))
    return Reading(inputs=(x.name,), operator=Activate(), shape=x.shape, activation=clamp)


def _per_channel(value: Any, channels: int, rank: int) -> Floats:
    if isinstance(value, int | float):
        return np.full(channels, value, np.float32)
    if not isinstance(value, Tensor):
        raise UnsupportedError("its operands have no native operator")
    shape = (1,) * (rank - value.ndim) + tuple(value.shape)
    if value.ndim > rank or any(n != 1 for i, n in enumerate(shape) if i != 1) or shape[1] not in (1, channels):
        raise UnsupportedError(f"a constant of {tuple(value.shape)} has no native operator")
    return np.broadcast_to(value.detach().cpu().float().numpy().reshape(-1), (channels,)).astype(np.float32)


def _reversed_subtract(request: Request) -> Reading:
    swapped = {"self": request.arguments["other"], "other": request.arguments["self"]}
    return _combine("subtract")(replace(request, arguments={**request.arguments, **swapped}))


UNARY: dict[str, Callable[[Request], Reading]] = {
    "neg": _negative,
    "sqrt": _unary("sqrt"),
    "rsqrt": _unary("reciprocal sqrt"),
    "reciprocal": _unary("reciprocal"),
    "log": _unary("log"),
    "pow": _power,
    "threshold": _unary("threshold", "threshold", "value"),
    "softshrink": _unary("soft shrink", "lambd"),
    "hardshrink": _unary("hard shrink", "lambd"),
}
BINARY: dict[str, Callable[[Request], Reading]] = {
    "add": _combine("add"),
    "sub": _combine("subtract"),
    "rsub": _reversed_subtract,
    "mul": _combine("multiply"),
    "div": _combine("divide"),
    "maximum": _combine("maximum"),
    "minimum": _combine("minimum"),
}
