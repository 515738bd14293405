"""Rows of tiles and filters as values at points (Toom and Cook, 1963). In: vectors. Out: code for vectors.

A row of m pixels and one of 3 weights are the coefficients of polynomials; their product is known from its values at
m + 2 points: 0, pairs ±p, and infinity. The same steps transposed filter a row of m + 2 pixels to m (Winograd 1980).

With ±√2 and ±√½ the error of m = 4 is a quarter of that with the usual ±1 and ±2, because no power of a point is large.
That the squares multiply to 1 spares multiplications.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from separable.kernels.ir import Function, Value, constant

SQUARES = {2: (1.0,), 4: (2.0, 0.5)}  # of the points between 0 and infinity, by the pixels of a row


def filter_values(width: int) -> NDArray[np.float64]:
    """(points, 3): a row of a filter to its values, each over the divisor that interpolation asks for.

    >>> filter_values(2)
    array([[-1. ,  0. ,  0. ],
           [ 0.5,  0.5,  0.5],
           [ 0.5, -0.5,  0.5],
           [ 0. ,  0. ,  1. ]])
    """
    squares = SQUARES[width]
    rows = [[1 / _zero_at(squares)[0], 0.0, 0.0]]
    for square in squares:
        divisor = 2 * square * float(np.prod([square - other for other in squares if other != square]))
        rows += [[1 / divisor, point / divisor, square / divisor] for point in (square**0.5, -(square**0.5))]
    return np.array([*rows, [0.0, 0.0, 1.0]])


def input_values(f: Function, pixels: Sequence[Value]) -> list[Value]:
    """A row of a tile of the input to its values, in the order of the filter's."""
    squares = SQUARES[len(pixels) - 2]
    at_all = _zero_at(squares)
    values = [_sum(f, at_all, pixels[::2])]
    for square in squares:
        others = _zero_at([other for other in squares if other != square])
        even, odd = _sum(f, others, pixels[2::2]), _sum(f, others, pixels[1:-1:2])
        values += [_sum(f, (point, 1.0), (odd, even)) for point in (square**0.5, -(square**0.5))]
    return [*values, _sum(f, at_all, pixels[1::2])]


def output_pixels(f: Function, products: Sequence[Value]) -> list[Value]:
    """Products of values, summed over the input channels, to a row of pixels: pixel i is Σ product · pointⁱ."""
    width = len(products) - 2
    pairs = list(zip(products[1:-1:2], products[2:-1:2], strict=True))
    even, odd = ([f.float(how, a, b) for a, b in pairs] for how in ("fadd", "fsub"))
    pixels = []
    for i in range(width):
        factors, terms = [square ** (i / 2) for square in SQUARES[width]], [*(odd if i % 2 else even)]
        for at_end, product in ((0, products[0]), (width - 1, products[-1])):
            if i == at_end:
                factors, terms = [*factors, 1.0], [*terms, product]
        pixels.append(_sum(f, factors, terms))
    return pixels


def _zero_at(squares: Sequence[float]) -> list[float]:
    """Coefficients of Π (z − square) from z⁰ up; the last is 1.

    >>> _zero_at([2.0, 0.5])
    [1.0, -2.5, 1.0]
    """
    return [float(c) for c in np.atleast_1d(np.poly(squares))[::-1]]


def _sum(f: Function, factors: Sequence[float], values: Sequence[Value]) -> Value:
    """Σ factor · value."""
    lanes = values[-1].lanes
    total = values[-1] if factors[-1] == 1 else f.float("fmul", values[-1], constant(factors[-1], lanes))
    for factor, value in zip(factors[-2::-1], values[-2::-1], strict=True):
        if abs(factor) == 1:
            total = f.float("fadd" if factor > 0 else "fsub", total, value)
        else:
            total = f.fma(value, constant(factor, lanes), total)
    return total
