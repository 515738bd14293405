"""Waves under a bell. In: a frequency and a direction. Out: a complex kernel of one term, or of few."""

from __future__ import annotations

import math

import numpy as np

from separable.errors import SpecError
from separable.filters.split import split
from separable.filters.terms import Terms, outer

# A product of bells that is skewed by less than this is no skew but rounding.
SKEW = 1e-14


def gabor(
    frequency: float,
    theta: float = 0.0,
    *,
    bandwidth: float = 1.0,
    sigma: tuple[float, float] | None = None,
    stds: float = 3.0,
    offset: float = 0.0,
    tolerance: float = 1e-8,
) -> Terms:
    """A complex wave of ``frequency`` cycles a pixel along the angle ``theta``, under a Gaussian.

    As skimage.filters.gabor_kernel. ``theta`` is in radians, from the second axis towards the first. ``sigma`` is the
    deviation along and across the wave; unless given it follows from ``bandwidth``, in octaves. A bell that is round,
    or lies along the axes, is one term at every angle; a skewed one is split into as few as leave at most
    ``tolerance`` of the kernel's energy (relative, squared). The kernel is correlated; scikit-image convolves, which
    is ``flip=True``.

    >>> gabor(0.25, bandwidth=3, stds=1).dense().real.round(3)
    array([[0.   , 0.1  , 0.   ],
           [0.   , 0.171, 0.   ],
           [0.   , 0.1  , 0.   ]])
    """
    along, across = sigma if sigma is not None else (_sigma(frequency, bandwidth),) * 2
    for name, value in {"frequency": frequency, "sigma": min(along, across), "stds": stds}.items():
        if not (math.isfinite(value) and value > 0):
            raise SpecError(name, given=value, expected="a number above 0")
    cos, sin = math.cos(theta), math.sin(theta)
    y = _reach(stds * max(abs(across * cos), abs(along * sin)))
    x = _reach(stds * max(abs(along * cos), abs(across * sin)))
    weight = 1 / (2 * math.pi * along * across)
    column = np.exp(-0.5 * y**2 * (sin**2 / along**2 + cos**2 / across**2) + 2j * np.pi * frequency * sin * y)
    row = np.exp(
        -0.5 * x**2 * (cos**2 / along**2 + sin**2 / across**2) + 2j * np.pi * frequency * cos * x + 1j * offset
    )
    skew = np.outer(y, x) * (sin * cos * (1 / along**2 - 1 / across**2))
    if np.abs(skew).max() < SKEW:
        return outer(weight * column, row)
    return split(weight * np.outer(column, row) * np.exp(-skew), tolerance)


def _sigma(frequency: float, bandwidth: float) -> float:
    """The deviation at which the response falls to a half ``bandwidth`` octaves apart (J. G. Daugman 1985)."""
    if not (math.isfinite(bandwidth) and bandwidth > 0 and frequency > 0):
        raise SpecError("gabor", given=f"{frequency} and {bandwidth}", expected="a frequency and a bandwidth above 0")
    return math.sqrt(math.log(2) / 2) / math.pi * (2**bandwidth + 1) / (2**bandwidth - 1) / frequency


def _reach(length: float) -> np.ndarray:
    reach = math.ceil(max(length, 1))
    return np.arange(-reach, reach + 1)
