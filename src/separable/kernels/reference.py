"""What the kernels must compute, said in obvious NumPy. In: float64 arrays (c, h, w). Out: float64 arrays.

Slow on purpose: loops over taps and windows, no cleverness. The tests hold every kernel against these.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from separable.kernels.epilogue import Activation
from separable.spec import ConvSpec

Doubles = NDArray[np.float64]


def convolve(x: Doubles, weight: Doubles, bias: Doubles, spec: ConvSpec) -> Doubles:
    """A convolution of one image, with zeros around it; weight (c_out, c_in/g, k_h, k_w)."""
    padded = np.pad(x, ((0, 0), *spec.padding))
    h, w = spec.size_out
    per_in, per_out = spec.c_in // spec.groups, spec.c_out // spec.groups
    out = np.zeros((spec.c_out, h, w))
    for o in range(spec.c_out):
        first = o // per_out * per_in
        for ky in range(spec.kernel[0]):
            for kx in range(spec.kernel[1]):
                taps = _shifted(padded[first : first + per_in], ky, kx, spec)
                out[o] += np.tensordot(weight[o, :, ky, kx], taps, 1)
        out[o] += bias[o]
    return out


def pool(x: Doubles, spec: ConvSpec, kind: str, *, counts_padding: bool = True) -> Doubles:
    """The maximum or the average of each window; padding is never the maximum."""
    fill = -math.inf if kind == "max" else 0.0
    padded = np.pad(x, ((0, 0), *spec.padding), constant_values=fill)
    inside = np.pad(np.ones_like(x), ((0, 0), *spec.padding), constant_values=1.0 if counts_padding else 0.0)
    taps = [(ky, kx) for ky in range(spec.kernel[0]) for kx in range(spec.kernel[1])]
    windows = np.stack([_shifted(padded, ky, kx, spec) for ky, kx in taps])
    if kind == "max":
        return np.asarray(windows.max(0))
    counts = np.stack([_shifted(inside, ky, kx, spec) for ky, kx in taps]).sum(0)
    return np.asarray(windows.sum(0) / counts)


def activate(x: Doubles, activation: Activation) -> Doubles:
    """The activation of each element."""
    sigmoid = 1 / (1 + np.exp(-np.clip(x, -700, 700)))
    hard = np.clip(x / 6 + 0.5, 0, 1)
    erf = np.vectorize(math.erf, otypes=[np.float64])
    by_tanh = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    results: dict[str, Callable[[], Doubles]] = {
        "none": lambda: x,
        "relu": lambda: np.maximum(x, 0),
        "clamp": lambda: np.clip(x, activation.low, activation.high),
        "leaky": lambda: np.where(x < 0, activation.low * x, x),
        "hard_sigmoid": lambda: hard,
        "hard_swish": lambda: x * hard,
        "sigmoid": lambda: sigmoid,
        "silu": lambda: x * sigmoid,
        "tanh": lambda: np.asarray(np.tanh(x)),
        "gelu": lambda: x * 0.5 * (1 + erf(x / math.sqrt(2))),
        "gelu_tanh": lambda: 0.5 * x * (1 + by_tanh),
        "elu": lambda: np.where(x < 0, activation.low * np.expm1(x), activation.high * x),
        "mish": lambda: x * np.tanh(np.logaddexp(0, x)),
        "softplus": lambda: np.logaddexp(0, x),
        "log_sigmoid": lambda: -np.logaddexp(0, -x),
        "absolute": lambda: np.abs(x),
        "exp": lambda: np.exp(x),
    }
    return results[activation.kind]()


def _shifted(padded: Doubles, ky: int, kx: int, spec: ConvSpec) -> Doubles:
    """What tap (ky, kx) sees at each output."""
    (h, w), (s_h, s_w), (d_h, d_w) = spec.size_out, spec.stride, spec.dilation
    y, x = ky * d_h, kx * d_w
    return padded[:, y : y + (h - 1) * s_h + 1 : s_h, x : x + (w - 1) * s_w + 1 : s_w]
