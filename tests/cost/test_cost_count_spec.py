"""In: shapes of single convolutions. Out: that ``count(spec)`` equals counting by hand and by a loop."""

import itertools
import math

from hypothesis import given, settings
from hypothesis import strategies as st

from separable.cost import Cost, count
from separable.errors import SpecError
from separable.spec import ConvSpec


def test_a_convolution_costs_its_weights_its_multiplications_and_its_traffic() -> None:
    cost = count(ConvSpec(3, 4, kernel=3, size=5))
    assert cost == Cost(macs=4 * 9 * 3 * 9, parameters=108, weight_bytes=432, activation_bytes=4 * (3 * 25 + 4 * 9))


def test_macs_a_byte_divides_by_weights_and_activations_together() -> None:
    assert Cost(macs=30, parameters=1, weight_bytes=4, activation_bytes=6).macs_per_byte == 3.0
    assert Cost().macs_per_byte == 0.0


def test_costs_add_up_field_by_field_and_go_to_json_and_back() -> None:
    a = Cost(macs=1, parameters=2, weight_bytes=3, activation_bytes=4)
    b = Cost(macs=10, parameters=20, weight_bytes=30, activation_bytes=40)
    assert a + b == Cost(macs=11, parameters=22, weight_bytes=33, activation_bytes=44)
    assert sum((a, b), Cost()) == a + b
    assert Cost(**a.to_json()) == a


def test_the_worked_examples_of_the_literature() -> None:
    assert count(ConvSpec(3, 4, kernel=3, size=5)).parameters == 108
    assert count(ConvSpec(3, 3, kernel=3, size=5, groups=3)).parameters == 27
    assert count(ConvSpec(3, 4, kernel=1, size=3)).parameters == 12
    assert count(ConvSpec(128, 256, kernel=3, size=224, padding=1)).macs == 14_797_504_512
    narrow = [ConvSpec(384, 384, kernel=3, size=14, padding=1, groups=384), ConvSpec(384, 384, kernel=1, size=14)]
    assert sum(count(spec).macs for spec in narrow) == 29_578_752
    assert sum(count(spec).parameters for spec in narrow) == 150_912


def test_a_spatial_pair_pays_for_the_input_width_in_its_first_half() -> None:
    # 3×3, 64 → 128 on 56×56 at stride 2, rank 64: the first half makes 28 rows of 56 columns, the second 28 of 28.
    first = ConvSpec(64, 64, kernel=(3, 1), size=(56, 56), stride=(2, 1), padding=((1, 1), (0, 0)))
    second = ConvSpec(64, 128, kernel=(1, 3), size=(28, 56), stride=(1, 2), padding=((0, 0), (1, 1)))
    assert count(first).macs == 64 * 64 * 3 * 28 * 56
    assert count(second).macs == 64 * 128 * 3 * 28 * 28
    assert (count(first) + count(second)).macs == 38_535_168
    assert count(ConvSpec(64, 128, kernel=3, size=56, stride=2, padding=1)).macs == 57_802_752


axis = st.tuples(
    st.integers(1, 4), st.integers(1, 7), st.integers(1, 3), st.integers(0, 2), st.integers(0, 2), st.integers(1, 2)
)


@settings(max_examples=60, deadline=None)
@given(st.lists(axis, min_size=1, max_size=3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_macs_equal_a_loop_over_every_product(axes: list[tuple[int, ...]], groups: int, c_in: int, c_out: int) -> None:
    kernel, size, stride, before, after, dilation = zip(*axes, strict=True)
    try:
        spec = ConvSpec(
            c_in * groups,
            c_out * groups,
            kernel=kernel,
            size=size,
            stride=stride,
            padding=tuple(zip(before, after, strict=True)),
            dilation=dilation,
            groups=groups,
        )
    except SpecError:
        return
    products = 1
    for k, n, s, b, a, d in zip(kernel, size, stride, before, after, dilation, strict=True):
        starts = [start for start in range(-b, n + a, s) if start + d * (k - 1) < n + a]
        products *= len(list(itertools.product(starts, range(k))))
    assert count(spec).macs == products * c_in * c_out * groups
    assert count(spec).weight_bytes == 4 * groups * c_in * c_out * math.prod(kernel)
