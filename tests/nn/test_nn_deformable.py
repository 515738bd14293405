"""Deformable depthwise convolution against a slow float64 loop, its gradients against differences, and its borders."""

import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from separable import nn as snn
from separable.cost import count
from separable.errors import SpecError


def noise(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def at(image: Tensor, row: float, column: float) -> float:
    """The image (h, w) at a position between its elements, zero outside."""
    total, (top, left) = 0.0, (math.floor(row), math.floor(column))
    for y, z in product((top, top + 1), (left, left + 1)):
        if 0 <= y < image.shape[0] and 0 <= z < image.shape[1]:
            total += image[y, z].item() * (1 - abs(row - y)) * (1 - abs(column - z))
    return total


def slow(x: Tensor, offset: Tensor, weight: Tensor, geometry: tuple[int, int, int], mask: Tensor | None) -> Tensor:
    stride, padding, dilation = geometry
    n, c, (k_h, k_w), m = x.shape[0], x.shape[1], weight.shape[2:], weight.shape[0] // x.shape[1]
    y = torch.zeros(n, c * m, *offset.shape[2:], dtype=torch.float64)
    for b, o, i, j in product(*map(range, y.shape)):
        for a, e in product(range(k_h), range(k_w)):
            tap = a * k_w + e
            row = i * stride - padding + a * dilation + offset[b, 2 * tap, i, j].item()
            column = j * stride - padding + e * dilation + offset[b, 2 * tap + 1, i, j].item()
            factor = 1.0 if mask is None else mask[b, tap, i, j].item()
            y[b, o, i, j] += weight[o, 0, a, e].item() * factor * at(x[b, o // m], row, column)
    return y


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("geometry", [(1, 0, 1), (2, 1, 1), (1, 2, 2)], ids=str)
def test_it_computes_what_a_slow_loop_does(geometry: tuple[int, int, int], modulated: bool) -> None:
    stride, padding, dilation = geometry
    x, weight = noise(2, 2, 6, 5), noise(4, 1, 3, 2)
    size = F.conv2d(x[:, :1], weight[:1], None, stride, padding, dilation).shape[2:]
    offset, mask = 2 * noise(2, 12, *size, seed=4), noise(2, 6, *size, seed=5).sigmoid() if modulated else None
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    y = snn.deformable_depthwise_conv2d(x, offset, weight, mask=mask, **options)
    torch.testing.assert_close(y, slow(x, offset, weight, geometry, mask), rtol=1e-12, atol=1e-12)


def test_its_gradients_are_right_in_every_argument() -> None:
    given = [noise(1, 2, 4, 4), 1.5 * noise(1, 8, 3, 3, seed=4), noise(2, 1, 2, 2), noise(2), noise(1, 4, 3, 3, seed=5)]

    def run(x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
        return snn.deformable_depthwise_conv2d(x, offset, weight, bias, mask=mask)

    # No offset is near a whole number, where the function has a corner.
    assert float((given[1] - given[1].round()).abs().min()) > 1e-4
    assert torch.autograd.gradcheck(run, [tensor.requires_grad_() for tensor in given])


def test_at_a_whole_offset_the_gradient_is_the_step_to_the_next_element() -> None:
    x = torch.tensor([[[[1.0, 5.0, 7.0]]]])
    offset = torch.zeros(1, 2, 1, 3, requires_grad=True)
    snn.deformable_depthwise_conv2d(x, offset, torch.ones(1, 1, 1, 1)).sum().backward()
    assert offset.grad[0, 1, 0].tolist() == [4.0, 2.0, -7.0]


@pytest.mark.parametrize("modulated", [False, True])
def test_a_new_layer_is_the_plain_convolution_exactly(modulated: bool) -> None:
    layer = snn.DeformableDepthwiseConv2d(3, (3, 5), 2, (1, 2), multiplier=2, modulated=modulated)
    layer = layer.double()
    expected = F.conv2d(noise(2, 3, 7, 8), layer.weight, layer.bias, 2, (1, 2), groups=3)
    torch.testing.assert_close(layer(noise(2, 3, 7, 8)), expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("move", "value"),
    [(0.0, 1.0), (0.75, 0.25), (1.0, 0.0), (-0.5, 0.5), (1e6, 0.0), (-1e30, 0.0), (math.inf, 0.0), (-math.inf, 0.0)],
)
def test_offsets_out_of_range_read_zeros(move: float, value: float) -> None:
    offset = torch.tensor([move, 0.0]).reshape(1, 2, 1, 1).expand(1, 2, 1, 4).clone()
    y = snn.deformable_depthwise_conv2d(torch.ones(1, 1, 1, 4), offset, torch.ones(1, 1, 1, 1))
    assert y.flatten().tolist() == [value] * 4


def test_an_offset_that_is_no_number_gives_none() -> None:
    offset = torch.zeros(1, 2, 1, 3)
    offset[0, 1, 0, 1] = math.nan
    y = snn.deformable_depthwise_conv2d(torch.ones(1, 1, 1, 3), offset, torch.ones(1, 1, 1, 1))
    assert y.isnan().flatten().tolist() == [False, True, False]


def test_the_separable_layer_is_counted_and_learns_its_offsets() -> None:
    layer = snn.DeformableSeparableConv2d(4, 6, 3, padding="same", modulated=True)
    cost = count(layer, torch.empty(1, 4, 5, 5)).total
    assert cost.macs == 25 * (3 * 81 * 4 + 9 * 4 + 4 * 6)
    layer(torch.randn(2, 4, 5, 5)).square().sum().backward()
    gradients = {name: float(parameter.grad.abs().sum()) for name, parameter in layer.named_parameters()}
    assert gradients["depthwise.offset.weight"] > 0
    assert gradients["depthwise.modulation.weight"] > 0
    assert "depthwise.bias" not in gradients


@pytest.mark.parametrize(
    ("x", "offset", "weight", "complaint"),
    [
        ((1, 2, 5, 5), (1, 18, 3, 4), (2, 1, 3, 3), r"offset of shape \(1, 18, 3, 4\); expected \(1, 18, 3, 3\)"),
        ((1, 2, 5, 5), (1, 18, 3, 3), (3, 1, 3, 3), r"expected \(n, c, h, w\) and \(c · m, 1, k_h, k_w\)"),
        ((2, 5, 5), (1, 18, 3, 3), (2, 1, 3, 3), r"an input \(2, 5, 5\)"),
        ((1, 2, 2, 5), (1, 18, 1, 3), (2, 1, 3, 3), "room for a kernel of 3×3"),
    ],
)
def test_shapes_that_disagree_are_named(
    x: tuple[int, ...], offset: tuple[int, ...], weight: tuple[int, ...], complaint: str
) -> None:
    with pytest.raises(SpecError, match=complaint):
        snn.deformable_depthwise_conv2d(torch.zeros(x), torch.zeros(offset), torch.zeros(weight))
