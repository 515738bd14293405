"""Numbers to read. In: a number, or None where there is none. Out: three significant digits with a unit, or a dash."""

from __future__ import annotations

import re

NARROW = "\u202f"  # a narrow space that never breaks: it keeps a number and its unit together
ABSENT = "–"
PREFIXES = {-4: "p", -3: "n", -2: "µ", -1: "m", 0: "", 1: "k", 2: "M", 3: "G", 4: "T", 5: "P"}
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def amount(value: float | None, unit: str = "") -> str:
    """A number of things.

    >>> amount(568740352).replace(NARROW, " "), amount(512), amount(999_600).replace(NARROW, " ")
    ('569 M', '512', '1.00 M')
    """
    if isinstance(value, int) and abs(value) < 1000:
        return f"{value}{NARROW}{unit}".rstrip(NARROW)
    return _scaled(value, unit)


def several(count: int, noun: str) -> str:
    """
    >>> several(1, "thread"), several(2, "thread")
    ('1 thread', '2 threads')
    """
    return f"{count} {noun}{'s' * (count != 1)}"


def duration(seconds: float | None) -> str:
    """
    >>> duration(0.00412).replace(NARROW, " "), duration(0.0), duration(None)
    ('4.12 ms', '0', '–')
    """
    return _scaled(seconds, "s")


def ratio(value: float | None) -> str:
    """
    >>> ratio(3.1), ratio(12.34), ratio(0.0417), ratio(1234.0)
    ('3.10×', '12.3×', '0.042×', '1,234×')
    """
    if value is None:
        return ABSENT
    decimals = 0 if value >= 99.95 else 1 if value >= 9.995 else 2 if value >= 0.095 else 3
    return f"{value:,.{decimals}f}×"


def share(value: float | None) -> str:
    """A part of one, in percent.

    >>> share(0.9778).replace(NARROW, " "), share(1.0).replace(NARROW, " "), share(2.1e-7).replace(NARROW, " ")
    ('97.8 %', '100 %', '2.1·10⁻⁷')
    """
    if value is None:
        return ABSENT
    if value and abs(value) < 1e-5:
        return power(value)
    return f"{_digits(value * 100)}{NARROW}%"


def power(value: float) -> str:
    """Scientific notation, for what is too small for a percentage.

    >>> power(2.1e-7)
    '2.1·10⁻⁷'
    """
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}·10{str(int(exponent)).translate(SUPERSCRIPT)}"


def plain(value: float | None) -> str:
    """A number without a unit.

    >>> plain(0.03456), plain(27.0), plain(12345.0)
    ('0.0346', '27.0', '12,345')
    """
    return ABSENT if value is None else power(value) if value and abs(value) < 1e-4 else _digits(value)


def short(text: str) -> str:
    """A number's text without the zeros that end it, for the marks of an axis.

    >>> short("5.00 ms"), short("0.0100 %"), short("100 %")
    ('5 ms', '0.01 %', '100 %')
    """
    return re.sub(r"\.(?!\d)", "", re.sub(r"(\.\d*?)0+(?!\d)", r"\1", text))


def _digits(value: float) -> str:
    if value == 0:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


def _scaled(value: float | None, unit: str) -> str:
    if value is None:
        return ABSENT
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.2e}".split("e")
    group = min(max(int(exponent) // 3, min(PREFIXES)), max(PREFIXES))
    shift = int(exponent) - 3 * group
    number = f"{float(mantissa) * 10**shift:.{max(0, 2 - shift)}f}"
    return f"{number}{NARROW}{PREFIXES[group]}{unit}".rstrip(NARROW)
