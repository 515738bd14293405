"""Rounding of channel numbers against values worked out by hand."""

import pytest

from separable.errors import SpecError
from separable.nn import make_divisible


@pytest.mark.parametrize(
    ("value", "divisor", "expected"),
    [
        (32 * 1.4, 8, 48),  # 44.8: 40 is nearer, 40 < 0.9 · 44.8 is not; int(48.8) // 8 = 6
        (16 * 0.75, 8, 16),  # 12: half rounds up
        (11, 8, 16),  # 8 is nearest, but less than 0.9 · 11
        (24 * 1.3, 8, 32),
        (1280, 8, 1280),
        (1, 8, 8),
        (5, 1, 5),
        (10, 4, 12),
    ],
)
def test_the_result_is_the_nearest_multiple_that_loses_less_than_a_tenth(
    value: float, divisor: int, expected: int
) -> None:
    assert make_divisible(value, divisor) == expected


def test_the_minimum_holds() -> None:
    assert make_divisible(3, 8, minimum=16) == 16


@pytest.mark.parametrize(("value", "divisor"), [(0, 8), (-3, 8), (float("inf"), 8), (float("nan"), 8), (8, 0)])
def test_what_is_no_number_of_channels_is_refused(value: float, divisor: int) -> None:
    with pytest.raises(SpecError, match="positive numbers"):
        make_divisible(value, divisor)
