"""Channels of a wider or narrower network. In: a wanted number. Out: a multiple that suits the hardware."""

from separable.errors import SpecError


def make_divisible(value: float, divisor: int = 8, minimum: int | None = None) -> int:
    """The multiple of ``divisor`` nearest to ``value``, but at least ``minimum`` and at least 0.9 · ``value``.

    Half rounds up. ``minimum`` is ``divisor`` when not given. The rule of MobileNetV2's code (Sandler et al. 2018).

    >>> make_divisible(24 * 0.75), make_divisible(32 * 0.35), make_divisible(3)
    (24, 16, 8)
    """
    if divisor < 1 or not 0 < value < float("inf"):
        raise SpecError("make_divisible", given=f"{value} and divisor (={divisor})", expected="positive numbers")
    rounded = max(divisor if minimum is None else minimum, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded
