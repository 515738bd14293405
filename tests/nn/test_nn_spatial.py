"""Spatially separable layers against the one kernel that their passes multiply out to, in float64."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from separable.errors import SpecError
from separable.nn import SpatiallySeparableConv2d, SpatiallySeparableConv3d
from separable.nn.geometry import PADDING_MODES


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@settings(max_examples=40, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)), stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)), dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    groups=st.integers(1, 2), rank=st.integers(1, 3), mode=st.sampled_from(PADDING_MODES),
)  # fmt: skip
def test_two_linear_passes_are_one_convolution(
    kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int],
    groups: int, rank: int, mode: str,
) -> None:  # fmt: skip
    c_in, c_out, x = 2 * groups, 3 * groups, noise(2, 2 * groups, 9, 8)
    layer = SpatiallySeparableConv2d(
        c_in, c_out, kernel, stride, padding, dilation, groups, padding_mode=mode, rank=rank * groups
    ).double()
    parts = [
        layer.height.weight.reshape(groups, rank, 2, kernel[0]),
        layer.width.weight.reshape(groups, 3, rank, kernel[1]),
    ]
    weight = torch.einsum("grci,gorj->gocij", *parts).flatten(0, 1)
    whole = nn.Conv2d(c_in, c_out, kernel, stride, padding, dilation, groups, padding_mode=mode).double()
    whole.load_state_dict({"weight": weight, "bias": layer.width.bias})
    torch.testing.assert_close(layer(x), whole(x), rtol=1e-10, atol=1e-10)


def test_three_linear_passes_are_one_convolution_over_a_volume() -> None:
    layer = SpatiallySeparableConv3d(2, 3, (2, 3, 1), stride=(1, 2, 3), padding=(1, 0, 2), rank=(4, 5)).double()
    parts = [layer.depth.weight[..., 0, 0], layer.height.weight[:, :, 0, :, 0], layer.width.weight[:, :, 0, 0]]
    weight = torch.einsum("rci,srj,osk->ocijk", *parts)
    x = noise(2, 2, 5, 7, 6)
    expected = F.conv3d(x, weight, layer.width.bias, (1, 2, 3), (1, 0, 2))
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)


def test_sobel_is_its_column_times_its_row() -> None:
    layer = SpatiallySeparableConv2d(1, 1, 3, bias=False, rank=1).double()
    layer.load_state_dict(
        {
            "height.weight": torch.tensor([1.0, 2.0, 1.0]).reshape(1, 1, 3, 1),
            "width.weight": torch.tensor([-1.0, 0.0, 1.0]).reshape(1, 1, 1, 3),
        }
    )
    impulse = torch.zeros(1, 1, 5, 5, dtype=torch.float64)
    impulse[0, 0, 2, 2] = 1
    sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=torch.float64)
    assert torch.equal(layer(impulse)[0, 0], sobel.flip(0, 1))


def test_norm_and_activation_stand_between_the_passes_only() -> None:
    layer = SpatiallySeparableConv3d(2, 3, 3, norm=nn.BatchNorm3d, activation=nn.ReLU)
    names = ["depth", "depth_norm", "depth_activation", "height", "height_norm", "height_activation", "width"]
    assert [name for name, _ in layer.named_children()] == names
    assert [layer.depth.bias is None, layer.height.bias is None, layer.width.bias is None] == [True, True, False]
    without_norm = SpatiallySeparableConv2d(2, 3, 3, activation=nn.ReLU)
    assert without_norm.height.bias is not None


def test_the_rank_is_the_number_of_output_channels_unless_given() -> None:
    assert SpatiallySeparableConv2d(2, 3, 3).height.out_channels == 3
    assert SpatiallySeparableConv3d(2, 3, 3, rank=5).height.weight.shape[:2] == (5, 5)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"groups": 4}, r"in_channels \(=6\); expected a multiple of groups \(=4\)"),
        ({"groups": 2, "rank": 5}, r"rank \(=5\); expected a multiple of groups \(=2\)"),
        ({"rank": (2, 3)}, r"rank \(=\(2, 3\)\)"),
        ({"rank": 0}, r"rank \(=0\)"),
        ({"kernel_size": (3,)}, r"kernel_size \(=\(3,\)\)"),
    ],
)
def test_arguments_that_make_no_layer_are_named(options: dict[str, object], complaint: str) -> None:
    with pytest.raises(SpecError, match=f"SpatiallySeparableConv2d: got {complaint}"):
        SpatiallySeparableConv2d(**{"in_channels": 6, "out_channels": 8, "kernel_size": 3, **options})
