"""Depthwise, pointwise and depthwise-separable layers against slow loops and composed kernels, in float64."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from separable import nn as snn
from separable.errors import SpecError

CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
DEPTHWISE = {1: snn.DepthwiseConv1d, 2: snn.DepthwiseConv2d, 3: snn.DepthwiseConv3d}
POINTWISE = {1: snn.PointwiseConv1d, 2: snn.PointwiseConv2d, 3: snn.PointwiseConv3d}
SEPARABLE = {1: snn.DepthwiseSeparableConv1d, 2: snn.DepthwiseSeparableConv2d, 3: snn.DepthwiseSeparableConv3d}


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def test_depthwise_gives_each_channel_its_own_filters_as_a_slow_loop_does() -> None:
    layer = snn.DepthwiseConv2d(3, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), multiplier=2).double()
    x = noise(2, 3, 7, 6)
    padded = F.pad(x, (0, 0, 1, 1))
    expected = torch.zeros(2, 6, 4, 4, dtype=torch.float64)
    for n, c, m, i, j in product(range(2), range(3), range(2), range(4), range(4)):
        total = layer.bias[2 * c + m].item()
        for a, b in product(range(3), range(2)):
            total += padded[n, c, 2 * i + a, j + 2 * b].item() * layer.weight[2 * c + m, 0, a, b].item()
        expected[n, 2 * c + m, i, j] = total
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_pointwise_is_a_matrix_product_over_the_channels(dims: int) -> None:
    layer = POINTWISE[dims](4, 6, groups=2).double()
    x = noise(2, 4, *[5] * dims)
    matrix = torch.block_diag(layer.weight[:3].flatten(1), layer.weight[3:].flatten(1))
    expected = torch.einsum("oc,nc...->no...", matrix, x) + layer.bias.reshape(-1, *[1] * dims)
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    dims=st.integers(1, 3), c_in=st.integers(1, 4), c_out=st.integers(1, 4), kernel=st.integers(1, 3),
    stride=st.integers(1, 2), padding=st.integers(0, 2), dilation=st.integers(1, 2), multiplier=st.integers(1, 3),
    pointwise_first=st.booleans(),
)  # fmt: skip
def test_a_linear_separable_layer_is_the_convolution_with_the_summed_products_of_its_halves(
    dims: int, c_in: int, c_out: int, kernel: int, stride: int, padding: int, dilation: int, multiplier: int,
    pointwise_first: bool,
) -> None:  # fmt: skip
    layer = SEPARABLE[dims](
        c_in, c_out, kernel, stride, padding, dilation, multiplier=multiplier, pointwise_first=pointwise_first
    ).double()
    filters, mix = layer.depthwise.weight, layer.pointwise.weight.flatten(1)
    weight = torch.zeros(c_out, c_in, *[kernel] * dims, dtype=torch.float64)
    for o, c, t in product(range(c_out), range(c_in), range(multiplier)):
        if pointwise_first:
            weight[o, c] += filters[o, t] * mix[o * multiplier + t, c]
        else:
            weight[o, c] += filters[c * multiplier + t, 0] * mix[o, c * multiplier + t]
    last = layer.depthwise if pointwise_first else layer.pointwise
    x = noise(2, c_in, *[7] * dims)
    expected = CONVOLVE[dims](x, weight, last.bias, stride, padding, dilation)
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)


def test_norm_and_activation_follow_each_half_in_the_order_applied() -> None:
    layer = snn.DepthwiseSeparableConv2d(4, 6, 3, norm=nn.BatchNorm2d, activation=nn.ReLU)
    names = [
        "depthwise",
        "depthwise_norm",
        "depthwise_activation",
        "pointwise",
        "pointwise_norm",
        "pointwise_activation",
    ]
    assert [name for name, _ in layer.named_children()] == names
    mirrored = snn.DepthwiseSeparableConv2d(
        4, 6, 3, multiplier=2, pointwise_first=True, norm=(nn.BatchNorm2d, None), activation=(None, nn.ReLU)
    )
    assert [name for name, _ in mirrored.named_children()] == [
        "pointwise", "pointwise_norm", "depthwise", "depthwise_activation",
    ]  # fmt: skip
    assert mirrored.pointwise_norm.num_features == 12
    assert (mirrored.depthwise.in_channels, mirrored.depthwise.out_channels, mirrored.depthwise.groups) == (12, 6, 6)


@pytest.mark.parametrize(
    ("options", "biases"),
    [
        ({}, (False, True)),
        ({"activation": nn.ReLU}, (True, True)),
        ({"activation": (None, nn.ReLU)}, (False, True)),
        ({"norm": nn.BatchNorm2d, "activation": nn.ReLU}, (False, False)),
        ({"norm": (nn.BatchNorm2d, None)}, (False, True)),
        ({"bias": False, "activation": nn.ReLU}, (False, False)),
    ],
)
def test_a_bias_that_the_next_layer_would_take_in_is_left_out(
    options: dict[str, object], biases: tuple[bool, bool]
) -> None:
    layer = snn.DepthwiseSeparableConv2d(4, 6, 3, **options)
    assert (layer.depthwise.bias is not None, layer.pointwise.bias is not None) == biases


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: snn.PointwiseConv2d(6, 8, groups=4), r"in_channels \(=6\); expected a multiple of groups \(=4\)"),
        (lambda: snn.DepthwiseConv1d(0, 3), r"DepthwiseConv1d: got channels \(=0\); expected a positive integer"),
        (lambda: snn.DepthwiseConv2d(4, 3, multiplier=0), r"multiplier \(=0\)"),
        (lambda: snn.DepthwiseConv2d(4, (3, 3, 3)), r"kernel_size \(=\(3, 3, 3\)\); expected .* or 2 of them"),
        (lambda: snn.DepthwiseConv2d(4, 0), r"kernel_size \(=0\)"),
        (lambda: snn.DepthwiseConv2d(4, 3, padding=-1), r"padding \(=-1\); expected a whole number from 0 up"),
        (lambda: snn.DepthwiseConv2d(4, 3, stride=1.5), r"stride \(=1.5\)"),
        (lambda: snn.DepthwiseConv2d(4, 3, stride=2, padding="same"), r"padding \(='same'\) with stride \(=\(2, 2\)\)"),
        (lambda: snn.DepthwiseConv2d(4, 3, padding="full"), r"padding \(='full'\)"),
        (lambda: snn.DepthwiseConv2d(4, 3, padding_mode="mirror"), r"padding_mode \(='mirror'\); expected one"),
        (lambda: snn.DepthwiseSeparableConv3d(4, True, 3), r"DepthwiseSeparableConv3d: got out_channels \(=True\)"),
    ],
)  # fmt: skip
def test_arguments_that_make_no_layer_are_named(make: object, complaint: str) -> None:
    with pytest.raises(SpecError, match=complaint):
        make()


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_same_padding_keeps_the_size_in_every_mode(mode: str) -> None:
    layer = snn.DepthwiseSeparableConv2d(3, 5, (3, 5), padding="same", dilation=(3, 1), padding_mode=mode)
    assert layer(torch.zeros(1, 3, 9, 11)).shape == (1, 5, 9, 11)


def test_device_and_dtype_reach_every_part() -> None:
    layer = snn.DepthwiseSeparableConv2d(3, 5, 3, norm=nn.BatchNorm2d, device="meta", dtype=torch.float64)
    assert {(p.device.type, p.dtype) for p in layer.parameters()} == {("meta", torch.float64)}
