"""What is done to a result while it is still in registers. In: an activation and vectors. Out: vectors.

Exponentials are computed here, in float32, to a relative 2e-7 (Cephes' polynomial, Moshier 1989): a library call from
vector code would cost more than the convolution.
"""

from __future__ import annotations

from dataclasses import dataclass

from separable.errors import SeparableError
from separable.kernels.ir import Function, Value, constant


@dataclass(frozen=True, kw_only=True)
class Activation:
    """``kind`` is one of ``KINDS``; ``low`` and ``high`` bound a clamp, ``low`` is the slope of a leaky ReLU.

    An ELU is multiplied by ``low`` below zero and by ``high`` above.
    """

    kind: str = "none"
    low: float = 0.0
    high: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SeparableError("Activation.kind", given=repr(self.kind), expected=f"one of {sorted(KINDS)}")

    def __str__(self) -> str:
        both = f"({self.low:g}, {self.high:g})"
        given = {"clamp": both, "elu": both, "leaky": f"({self.low:g})"}
        return self.kind + given.get(self.kind, "")


def activate(f: Function, activation: Activation, x: Value) -> Value:
    """The activation of every lane."""
    n = x.lanes
    if activation.kind == "clamp":
        low, high = constant(activation.low, n), constant(activation.high, n)
        return f.smaller(high, f.greater(low, x))
    if activation.kind == "leaky":
        return f.where_negative(x, f.float("fmul", x, constant(activation.low, n)), x)
    if activation.kind == "elu":
        below = f.float("fmul", _expm1(f, x), constant(activation.low, n))
        return f.where_negative(x, below, f.float("fmul", x, constant(activation.high, n)))
    return KINDS[activation.kind](f, x)


def exponential(f: Function, x: Value) -> Value:
    """2ⁿ·e^r with |r| ≤ ln 2 / 2; clamped to ±87 so that 2ⁿ is a normal number."""
    n = x.lanes
    kind = x.type
    whole = "i32" if n == 1 else f"<{n} x i32>"
    x = f.smaller(constant(87.0, n), f.greater(constant(-87.0, n), x))
    suffix = f"v{n}f32" if n > 1 else "f32"
    k = f.call(f"llvm.rint.{suffix}", kind, [f.float("fmul", x, constant(1.4426950408889634, n))])
    r = f.fma(k, constant(-0.693359375, n), x)
    r = f.fma(k, constant(2.12194440e-4, n), r)
    coefficients = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5)
    p = _horner(f, r, coefficients)
    p = f.fma(f.float("fmul", p, r), r, f.float("fadd", r, constant(1.0, n)))
    bits = f.add(f.convert("fptosi", k, whole), _whole(127, n))
    power = f.raw(f"shl {whole} {f.operand(bits, whole).name}, {_whole(23, n).name}", whole)
    return f.float("fmul", p, f.convert("bitcast", power, kind))


def logarithm(f: Function, x: Value) -> Value:
    """ln m + k·ln 2 with m from √½ to √2 (Cephes' polynomial); of what is below zero, not a number."""
    n, whole = x.lanes, "i32" if x.lanes == 1 else f"<{x.lanes} x i32>"
    least, scale = constant(2.0**-126, n), constant(2.0**23, n)
    is_tiny = ("olt", x, least)  # too small to have all its digits
    bits = f.convert("bitcast", f.where(*is_tiny, f.float("fmul", x, scale), x), whole)
    above = f.raw(f"sub {whole} {bits.name}, {_whole(0x3F3504F3, n).name}", whole)  # than √½
    k = f.raw(f"ashr {whole} {above.name}, {_whole(23, n).name}", whole)
    moved = f.raw(f"shl {whole} {k.name}, {_whole(23, n).name}", whole)
    m = f.convert("bitcast", f.raw(f"sub {whole} {bits.name}, {moved.name}", whole), x.type)
    power = f.convert("sitofp", k, x.type)
    power = f.where(*is_tiny, f.float("fsub", power, constant(23.0, n)), power)
    r = f.float("fsub", m, constant(1.0, n))
    coefficients = (
        7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1,
        2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
    )  # fmt: skip
    square = f.float("fmul", r, r)
    y = f.fma(
        power, constant(-2.12194440e-4, n), f.float("fmul", f.float("fmul", square, r), _horner(f, r, coefficients))
    )
    y = f.fma(square, constant(-0.5, n), y)
    y = f.fma(power, constant(0.693359375, n), f.float("fadd", r, y))
    zero, most = constant(0.0, n), constant(float("inf"), n)
    edge = f.where("oeq", x, zero, constant(float("-inf"), n), constant(float("nan"), n))
    return f.where("ogt", x, zero, f.where("oeq", x, most, x, y), edge)


def _none(_: Function, x: Value) -> Value:
    return x


def _relu(f: Function, x: Value) -> Value:
    return f.greater(constant(0.0, x.lanes), x)


def _hard_sigmoid(f: Function, x: Value) -> Value:
    n = x.lanes
    shifted = f.fma(x, constant(1 / 6, n), constant(0.5, n))
    return f.smaller(constant(1.0, n), f.greater(constant(0.0, n), shifted))


def _hard_swish(f: Function, x: Value) -> Value:
    return f.float("fmul", x, _hard_sigmoid(f, x))


def _sigmoid(f: Function, x: Value) -> Value:
    n = x.lanes
    e = exponential(f, f.float("fsub", constant(0.0, n), x))
    return f.float("fdiv", constant(1.0, n), f.float("fadd", constant(1.0, n), e))


def _silu(f: Function, x: Value) -> Value:
    """x/(1 + e⁻ˣ), which is nothing from −88 down, where e⁻ˣ overflows."""
    n = x.lanes
    x = f.greater(constant(-88.0, n), x)
    e = exponential(f, f.float("fsub", constant(0.0, n), x))
    return f.float("fdiv", x, f.float("fadd", constant(1.0, n), e))


def _tanh(f: Function, x: Value) -> Value:
    """1 − 2/(e²ˣ + 1); near 0, where that cancels, x·(1 − x²/3 + 2x⁴/15)."""
    n = x.lanes
    e = exponential(f, f.float("fadd", x, x))
    far = f.fma(
        constant(-2.0, n), f.float("fdiv", constant(1.0, n), f.float("fadd", e, constant(1.0, n))), constant(1.0, n)
    )
    square = f.float("fmul", x, x)
    series = _horner(f, square, (-17 / 315, 2 / 15, -1 / 3, 1.0))
    near = f.float("fmul", x, series)
    size = f.float("fsub", square, constant(0.04, n))
    return f.where_negative(size, near, far)


def _gelu(f: Function, x: Value) -> Value:
    """x·Φ(x) with erf of Abramowitz and Stegun 7.1.26 (absolute error 1.5e-7)."""
    n = x.lanes
    scaled = f.float("fmul", x, constant(0.5**0.5, n))
    size = f.where_negative(scaled, f.float("fsub", constant(0.0, n), scaled), scaled)
    t = f.float("fdiv", constant(1.0, n), f.fma(size, constant(0.3275911, n), constant(1.0, n)))
    poly = _horner(f, t, (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592, 0.0))
    tail = f.float("fmul", poly, exponential(f, f.float("fsub", constant(0.0, n), f.float("fmul", size, size))))
    positive = f.float("fsub", constant(2.0, n), tail)
    cumulative = f.where_negative(x, tail, positive)
    return f.float("fmul", f.float("fmul", x, constant(0.5, n)), cumulative)


def _gelu_tanh(f: Function, x: Value) -> Value:
    n = x.lanes
    cube = f.float("fmul", f.float("fmul", x, x), x)
    inner = f.float("fmul", constant((2 / 3.141592653589793) ** 0.5, n), f.fma(cube, constant(0.044715, n), x))
    return f.float("fmul", f.float("fmul", x, constant(0.5, n)), f.float("fadd", constant(1.0, n), _tanh(f, inner)))


def _mish(f: Function, x: Value) -> Value:
    """x·tanh(ln(1 + eˣ)) = x·n/(n + 2) with n = eˣ·(eˣ + 2), which is 1 to the last digit from 20 on."""
    n = x.lanes
    x = f.greater(constant(-88.0, n), x)  # and nothing from there down
    e = exponential(f, f.smaller(constant(20.0, n), x))
    part = f.float("fmul", e, f.float("fadd", e, constant(2.0, n)))
    return f.float("fmul", x, f.float("fdiv", part, f.float("fadd", part, constant(2.0, n))))


def _softplus(f: Function, x: Value) -> Value:
    """max(x, 0) + ln(1 + u) with u = e^−|x|; ln(1 + u) = 2·artanh(u/(2 + u)), whose series ends at z¹⁵ ≤ 3⁻¹⁵."""
    n = x.lanes
    u = exponential(f, f.smaller(x, f.float("fsub", constant(0.0, n), x)))
    z = f.float("fdiv", u, f.float("fadd", u, constant(2.0, n)))
    series = _horner(f, f.float("fmul", z, z), tuple(2 / k for k in range(15, 0, -2)))
    return f.fma(z, series, _relu(f, x))


def _log_sigmoid(f: Function, x: Value) -> Value:
    zero = constant(0.0, x.lanes)
    return f.float("fsub", zero, _softplus(f, f.float("fsub", zero, x)))


def _absolute(f: Function, x: Value) -> Value:
    return f.greater(x, f.float("fsub", constant(0.0, x.lanes), x))


def _whole_exp(f: Function, x: Value) -> Value:
    """(e^x/2)², which overflows and vanishes where eˣ does."""
    root = exponential(f, f.float("fmul", x, constant(0.5, x.lanes)))
    return f.float("fmul", root, root)


def _expm1(f: Function, x: Value) -> Value:
    """eˣ − 1; near 0, where that cancels, Taylor's series."""
    n = x.lanes
    far = f.float("fsub", exponential(f, x), constant(1.0, n))
    near = f.float("fmul", x, _horner(f, x, (1 / 720, 1 / 120, 1 / 24, 1 / 6, 1 / 2, 1.0)))
    return f.where_negative(f.float("fsub", _absolute(f, x), constant(0.25, n)), near, far)


def _whole(number: int, lanes: int) -> Value:
    return Value(str(number), "i32") if lanes == 1 else Value(f"splat (i32 {number})", f"<{lanes} x i32>")


def _horner(f: Function, x: Value, coefficients: tuple[float, ...]) -> Value:
    result = constant(coefficients[0], x.lanes)
    for coefficient in coefficients[1:]:
        result = f.fma(result, x, constant(coefficient, x.lanes))
    return result


KINDS = {
    "none": _none,
    "relu": _relu,
    "clamp": _none,
    "leaky": _none,
    "elu": _none,
    "hard_sigmoid": _hard_sigmoid,
    "hard_swish": _hard_swish,
    "sigmoid": _sigmoid,
    "silu": _silu,
    "tanh": _tanh,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "mish": _mish,
    "softplus": _softplus,
    "log_sigmoid": _log_sigmoid,
    "absolute": _absolute,
    "exp": _whole_exp,
}
NONE = Activation()
