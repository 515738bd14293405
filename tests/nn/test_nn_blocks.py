"""Residual, attention, ghost and Xception blocks against loops and compositions written out, in float64."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from separable import nn as snn
from separable.cost import count
from separable.errors import SpecError

DIMS = [1, 2, 3]


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def of(name: str, dims: int) -> type[nn.Module]:
    return getattr(snn, f"{name}{dims}d")


def macs(block: nn.Module, *shape: int) -> int:
    return count(block, torch.empty(shape)).total.macs


@pytest.mark.parametrize("dims", DIMS)
def test_squeeze_excitation_multiplies_each_channel_by_a_gate_of_all_means(dims: int) -> None:
    layer = of("SqueezeExcitation", dims)(3, 2, gate=nn.Hardsigmoid).double().requires_grad_(False)
    x = noise(2, 3, *[4] * dims)
    first, second = layer.fc1.weight.flatten(1), layer.fc2.weight.flatten(1)
    for n, c in product(range(2), range(3)):
        means = [x[n, i].sum() / 4**dims for i in range(3)]
        hidden = [max(0.0, sum(first[j, i] * means[i] for i in range(3)) + layer.fc1.bias[j]) for j in range(2)]
        gate = sum(second[c, j] * hidden[j] for j in range(2)) + layer.fc2.bias[c]
        gate = min(1.0, max(0.0, float(gate) / 6 + 0.5))
        torch.testing.assert_close(layer(x)[n, c], x[n, c] * gate)


@pytest.mark.parametrize("dims", DIMS)
def test_attention_stands_between_the_halves_of_a_separable_convolution(dims: int) -> None:
    layer = of("AttentionSeparableConv", dims)(8, 6, stride=2)
    assert [name for name, _ in layer.named_children()] == ["depthwise", "attention", "pointwise"]
    assert layer.attention.fc1.out_channels == 2
    assert layer(torch.zeros(2, 8, *[5] * dims)).shape == (2, 6, *[3] * dims)
    assert macs(layer, 1, 8, *[5] * dims) == 8 * (3**dims + 6) * 3**dims + 2 * 8 * 2


@pytest.mark.parametrize("dims", DIMS)
def test_an_inverted_residual_costs_what_its_docstring_says(dims: int) -> None:
    block = of("InvertedResidual", dims)(4, 4, hidden=12)
    assert macs(block, 1, 4, *[6] * dims) == 12 * (4 + 3**dims + 4) * 6**dims
    strided = of("InvertedResidual", dims)(4, 5, 5, 2, hidden=12, squeezed=3)
    assert macs(strided, 1, 4, *[6] * dims) == 12 * (4 * 6**dims + (5**dims + 5) * 3**dims) + 2 * 12 * 3


def test_an_inverted_residual_is_linear_at_its_end_and_added_to_its_input() -> None:
    block = snn.InvertedResidual2d(4, 4, hidden=12).double().eval()
    expand, filters, project = (block.block[index][0].weight for index in range(3))
    x = noise(2, 4, 5, 6)
    norm = 1 / (1 + 1e-5) ** 0.5  # What an untrained batch norm is in evaluation.
    y = (F.conv2d(x, expand) * norm).clamp(0, 6)
    y = (F.conv2d(y, filters, padding=1, groups=12) * norm).clamp(0, 6)
    torch.testing.assert_close(block(x), x + F.conv2d(y, project) * norm)


@pytest.mark.parametrize(("options", "is_residual"), [({}, True), ({"stride": 2}, False), ({"out_channels": 5}, False)])
@pytest.mark.parametrize("name", ["InvertedResidual2d", "MBConv2d", "FusedMBConv2d"])
def test_only_a_block_that_keeps_the_shape_is_residual(name: str, options: dict[str, int], is_residual: bool) -> None:
    block = getattr(snn, name)(**{"in_channels": 4, "out_channels": 4, **options})
    assert block.is_residual is is_residual


@pytest.mark.parametrize("dims", DIMS)
def test_mbconv_rounds_its_width_and_squeezes_a_quarter_of_its_input(dims: int) -> None:
    block = of("MBConv", dims)(12, 12, expansion=2)
    assert block.block[0][0].out_channels == 24
    assert block.block[2].fc1.out_channels == 3
    assert isinstance(block.block[2].activation, nn.SiLU)
    assert len(of("MBConv", dims)(8, 8, expansion=1, squeeze=0).block) == 2


@pytest.mark.parametrize("dims", DIMS)
def test_fused_mbconv_has_one_standard_convolution_in_the_place_of_two(dims: int) -> None:
    fused = of("FusedMBConv", dims)(4, 6, expansion=2)
    assert macs(fused, 1, 4, *[5] * dims) == 8 * (4 * 3**dims + 6) * 5**dims
    assert macs(of("FusedMBConv", dims)(4, 6, expansion=1), 1, 4, *[5] * dims) == 4 * 6 * 3**dims * 5**dims


def test_stochastic_depth_leaves_out_whole_images_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    layer, x = snn.StochasticDepth(0.25), torch.ones(4000, 2, 3)
    y = layer(x)
    assert y.unique().tolist() == pytest.approx([0, 4 / 3])
    assert torch.equal(y, y[:, :1, :1].expand_as(y))
    # The share kept of 4000 scatters by √(0.25·0.75/4000) = 0.007; four times that, over 0.75.
    assert float(y.mean()) == pytest.approx(1, abs=0.04)
    assert layer.eval()(x) is x


def test_a_branch_that_is_left_out_leaves_the_input() -> None:
    torch.manual_seed(0)
    block = snn.MBConv2d(8, 8, drop=0.5)
    x = torch.randn(40, 8, 4, 4)
    dropped = [torch.equal(given, out) for given, out in zip(x, block(x), strict=True)]
    assert 8 <= sum(dropped) <= 32


@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("ratio", [2, 3])
def test_ghost_channels_are_the_primary_ones_and_their_filtered_copies(dims: int, ratio: int) -> None:
    layer = of("GhostConv", dims)(4, 7, ratio=ratio, activation=None).double().eval()
    x = noise(2, 4, *[5] * dims)
    convolve, norm = (F.conv1d, F.conv2d, F.conv3d)[dims - 1], 1 / (1 + 1e-5) ** 0.5
    primary = convolve(x, layer.primary_conv[0].weight) * norm
    filters = layer.cheap_operation[0].weight
    m = primary.shape[1]
    assert m == -(-7 // ratio)
    expected = [primary]
    for index in range(m * (ratio - 1)):
        source = index // (ratio - 1)
        expected.append(convolve(primary[:, source : source + 1], filters[index : index + 1], padding=1) * norm)
    torch.testing.assert_close(layer(x), torch.cat(expected, dim=1)[:, :7])
    assert macs(layer.float(), 1, 4, *[5] * dims) == m * (4 + (ratio - 1) * 3**dims) * 5**dims


@pytest.mark.parametrize("dims", DIMS)
def test_a_ghost_bottleneck_adds_the_input_or_a_separable_copy(dims: int) -> None:
    plain = of("GhostBottleneck", dims)(6, 6, hidden=10).double().eval()
    x = noise(2, 6, *[5] * dims)
    torch.testing.assert_close(plain(x), x + plain.ghost2(plain.ghost1(x)))
    strided = of("GhostBottleneck", dims)(6, 8, 5, 2, hidden=10, squeezed=4).double().eval()
    assert [layer.kernel_size[0] for layer in strided.shortcut[::2]] == [5, 1]
    y = strided.ghost2(strided.se(strided.bn_dw(strided.conv_dw(strided.ghost1(x)))))
    torch.testing.assert_close(strided(x), y + strided.shortcut(x))
    assert y.shape == (2, 8, *[3] * dims)


@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize(
    ("widths", "stride", "has_shortcut"), [((4, 4), 1, False), ((6, 6), 1, True), ((4, 4), 2, True)]
)
def test_an_xception_block_has_a_shortcut_only_where_the_shape_changes(
    dims: int, widths: tuple[int, int], stride: int, has_shortcut: bool
) -> None:
    block = of("XceptionBlock", dims)(4, widths, stride).double().eval()
    x = noise(2, 4, *[5] * dims)
    assert (len(block.shortcut) > 0) is has_shortcut
    y = x
    for layer in block.layers:
        y = layer(y)
    torch.testing.assert_close(block(x), y + (block.shortcut(x) if has_shortcut else x))
    assert isinstance(block.layers[0], nn.ReLU)


def test_the_flows_are_those_of_the_paper_at_a_fraction_of_their_width() -> None:
    entry = snn.XceptionEntryFlow2d(stem=(2, 4), widths=(4, 6, 8)).eval()
    middle = snn.XceptionMiddleFlow2d(8, blocks=2).eval()
    leave = snn.XceptionExitFlow2d(8, (10, 12, 14)).eval()
    x = entry(torch.zeros(1, 3, 299, 299))
    assert x.shape == (1, 8, 19, 19)
    assert leave(middle(x)).shape == (1, 14, 10, 10)
    assert not isinstance(entry.block1.layers[0], nn.ReLU)


@pytest.mark.parametrize("dims", [1, 3])
def test_the_flows_exist_in_every_dimension(dims: int) -> None:
    flow = nn.Sequential(
        of("XceptionEntryFlow", dims)(2, (2, 3), (4,)),
        of("XceptionMiddleFlow", dims)(4, 1),
        of("XceptionExitFlow", dims)(4, (5, 6)),
    ).eval()
    assert flow(torch.zeros(1, 2, *[15] * dims)).shape == (1, 6, *[2] * dims)


BLOCKS = {
    "SqueezeExcitation2d": lambda: snn.SqueezeExcitation2d(4, 2),
    "InvertedResidual2d": lambda: snn.InvertedResidual2d(4, 4),
    "MBConv2d": lambda: snn.MBConv2d(4, 4),
    "FusedMBConv2d": lambda: snn.FusedMBConv2d(4, 4),
    "GhostConv2d": lambda: snn.GhostConv2d(4, 4),
    "GhostBottleneck2d": lambda: snn.GhostBottleneck2d(4, 4, hidden=6),
    "XceptionBlock2d": lambda: snn.XceptionBlock2d(4, (4, 4)),
    "MixConv2d": lambda: snn.MixConv2d(4),
    "AsymmetricConv2d": lambda: snn.AsymmetricConv2d(4, 4),
    "LargeKernelDepthwiseConv2d": lambda: snn.LargeKernelDepthwiseConv2d(4, 7),
    "ASPP2d": lambda: snn.ASPP2d(4, 4, (1, 2)),
    "DeformableDepthwiseConv2d": lambda: snn.DeformableDepthwiseConv2d(4, padding=1),
}


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("shape", [(4, 8, 8), (2, 3, 8, 8), (2, 4, 8, 8, 8)], ids=str)
def test_an_input_of_the_wrong_rank_or_channels_is_named(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(SpecError, match=rf"{name}: got an input of shape .* expected \(n, 4, h, w\)"):
        BLOCKS[name]()(torch.zeros(shape))


@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_takes_part_in_a_traced_model_and_learns(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), BLOCKS[name]())
    x = torch.randn(2, 3, 8, 8)
    model(x).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(snn.fold_batch_norm(model)(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: snn.InvertedResidual2d(4, 4, 2), r"InvertedResidual2d: got the even kernel_size \(2, 2\).*SamePad"),
        (lambda: snn.MBConv1d(0, 4), r"in_channels \(=0\)"),
        (lambda: snn.GhostConv2d(4, 4, ratio=1), r"ratio \(=1\); expected 2 to out_channels \(=4\)"),
        (lambda: snn.GhostConv2d(4, 4, ratio=5), r"ratio \(=5\)"),
        (lambda: snn.XceptionBlock2d(4, ()), "no widths"),
        (lambda: snn.SqueezeExcitation2d(4, 0), r"squeezed \(=0\)"),
        (lambda: snn.StochasticDepth(1.0), r"p \(=1.0\); expected a probability"),
        (lambda: snn.AttentionSeparableConv2d(4, 4, 4), r"AttentionSeparableConv2d: got the even kernel_size"),
    ],
)  # fmt: skip
def test_arguments_that_make_no_block_are_named(make: object, complaint: str) -> None:
    with pytest.raises(SpecError, match=complaint):
        make()
