"""(2+1)D and channel-separated blocks: their weights and costs worked by hand, and what they compose to."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from separable import nn as snn
from separable.cost import count
from separable.errors import SpecError


@pytest.mark.parametrize(("c_in", "c_out", "kernel"), [(64, 64, 3), (4, 6, (3, 5, 5)), (3, 8, (5, 1, 3))])
def test_the_channels_between_space_and_time_are_the_most_that_add_no_weights(
    c_in: int, c_out: int, kernel: int | tuple[int, ...]
) -> None:
    layer = snn.SpaceTimeSeparableConv3d(c_in, c_out, kernel)
    weights = layer.space.weight.numel() + layer.time.weight.numel()
    dense = nn.Conv3d(c_in, c_out, kernel).weight.numel()
    k_t, k_h, k_w = layer.time.kernel_size[0], *layer.space.kernel_size[1:]
    assert weights <= dense < weights + k_h * k_w * c_in + k_t * c_out


def test_without_norm_and_activation_it_is_the_convolution_with_the_summed_products() -> None:
    layer = snn.SpaceTimeSeparableConv3d(
        *(2, 3, 3, (2, 1, 2), (1, 0, 1)), middle=4, norm=lambda _: nn.Identity(), activation=nn.Identity
    ).double()
    weight = torch.einsum("mihw,omt->oithw", layer.space.weight[:, :, 0], layer.time.weight[..., 0, 0])
    x = torch.randn(1, 2, 6, 5, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    torch.testing.assert_close(layer(x), F.conv3d(x, weight, layer.time.bias, (2, 1, 2), (1, 0, 1)))


def test_same_padding_keeps_space_and_time() -> None:
    assert snn.SpaceTimeSeparableConv3d(2, 3, (3, 5, 5), padding="same")(torch.zeros(2, 2, 4, 6, 5)).shape == (
        *(2, 3, 4, 6, 5),
    )


@pytest.mark.parametrize(("interaction", "macs"), [("preserved", 6 * (4 + 6 + 27 + 4)), ("reduced", 6 * (4 + 27 + 4))])
def test_a_channel_separated_block_costs_what_its_docstring_says(interaction: str, macs: int) -> None:
    block = snn.ChannelSeparatedBottleneck3d(4, 4, hidden=6, interaction=interaction)
    assert count(block, torch.empty(1, 4, 3, 5, 5)).total.macs == macs * 75
    assert len(block.shortcut) == 0
    kinds = {conv.groups for conv in block.modules() if isinstance(conv, nn.Conv3d) and conv.kernel_size != (1, 1, 1)}
    assert kinds == {6}


def test_a_block_that_changes_shape_has_a_pointwise_shortcut() -> None:
    block = snn.ChannelSeparatedBottleneck3d(4, 8, stride=(1, 2, 2), hidden=6).eval()
    x = torch.randn(1, 4, 3, 5, 5)
    assert block.shortcut[0].kernel_size == (1, 1, 1)
    torch.testing.assert_close(block(x), F.relu(block.layers(x) + block.shortcut(x)))
    assert block(x).shape == (1, 8, 3, 3, 3)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: snn.SpaceTimeSeparableConv3d(2, 3, (3, 3)), r"kernel_size \(=\(3, 3\)\); expected .* or 3 of them"),
        (lambda: snn.SpaceTimeSeparableConv3d(2, 3, 3, middle=0), r"middle \(=0\)"),
        (lambda: snn.ChannelSeparatedBottleneck3d(2, 3, hidden=4, interaction="none"), r"interaction \(='none'\)"),
        (
            lambda: snn.ChannelSeparatedBottleneck3d(2, 3, hidden=4)(torch.zeros(2, 4, 4, 4)),
            r"shape \(2, 4, 4, 4\); expected \(n, 2, d, h, w\)",
        ),
    ],
)
def test_arguments_and_inputs_that_do_not_fit_are_named(make: object, complaint: str) -> None:
    with pytest.raises(SpecError, match=complaint):
        make()
