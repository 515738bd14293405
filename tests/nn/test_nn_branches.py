"""Parallel and mixed kernels, atrous pyramids and strided "same" padding against what they amount to, in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from separable import nn as snn
from separable.cost import count
from separable.errors import ModelError, SpecError


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def lived_in(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for module in model.double().eval().modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(tensor, generator=generator)
            nn.init.uniform_(module.running_var, 0.5, 1.5, generator=generator)
    return model


BRANCHES = {
    "large 1d": (lambda: snn.LargeKernelDepthwiseConv1d(3, 9, 2), (2, 3, 20)),
    "large 2d": (lambda: snn.LargeKernelDepthwiseConv2d(3, 7, small_kernel=3), (2, 3, 9, 8)),
    "large 3d": (lambda: snn.LargeKernelDepthwiseConv3d(2, 7), (1, 2, 7, 6, 5)),
    "largest": (lambda: snn.LargeKernelDepthwiseConv2d(2), (1, 2, 33, 17)),
    "asymmetric": (lambda: snn.AsymmetricConv2d(4, 6, 3, groups=2), (2, 4, 7, 6)),
    "asymmetric 5, stride 2": (lambda: snn.AsymmetricConv2d(3, 2, 5, 2), (2, 3, 8, 9)),
}


@pytest.mark.parametrize("name", BRANCHES)
def test_the_folded_convolution_computes_what_the_branches_do(name: str) -> None:
    make, shape = BRANCHES[name]
    layer = lived_in(make())
    folded = layer.fold()
    assert type(folded) in (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    torch.testing.assert_close(folded(noise(*shape)), layer(noise(*shape)), rtol=1e-10, atol=1e-10)


def test_the_asymmetric_kernels_add_up_on_the_cross_in_the_middle() -> None:
    layer = snn.AsymmetricConv2d(1, 1, 3, norm=lambda c: nn.BatchNorm2d(c, eps=0.0)).eval()
    for branch in layer.branches.values():
        nn.init.ones_(branch[0].weight)
    assert layer.fold().weight[0, 0].tolist() == [[1, 2, 1], [2, 3, 2], [1, 2, 1]]


def test_all_branches_of_a_model_fold_also_after_their_norms() -> None:
    parts = (nn.Conv2d(3, 4, 1), snn.AsymmetricConv2d(4, 4), nn.ReLU(), snn.LargeKernelDepthwiseConv2d(4, 7))
    model, x = lived_in(nn.Sequential(*parts)), noise(2, 3, 9, 9)
    expected = model(x)
    for folded in (snn.fold_branches(model), snn.fold_branches(snn.fold_batch_norm(model))):
        assert [type(layer) for layer in folded] == [nn.Conv2d, nn.Conv2d, nn.ReLU, nn.Conv2d]
        torch.testing.assert_close(folded(x), expected)
    assert isinstance(model[1], snn.AsymmetricConv2d)


def test_branches_in_training_or_with_other_norms_are_not_folded() -> None:
    with pytest.raises(ModelError, match=r"training mode.*model.eval\(\)"):
        snn.AsymmetricConv2d(2, 2).fold()
    with pytest.raises(ModelError, match=r"GroupNorm.*expected a batch norm with running statistics"):
        snn.AsymmetricConv2d(2, 2, norm=lambda c: nn.GroupNorm(1, c)).eval().fold()


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_mixed_kernels_filter_groups_of_channels(dims: int) -> None:
    layer = getattr(snn, f"MixConv{dims}d")(7, (3, 1, 5), stride=2).double()
    assert layer.groups == [3, 2, 2]
    x, convolve = noise(2, 7, *[6] * dims), (F.conv1d, F.conv2d, F.conv3d)[dims - 1]
    places = [(c, conv, index) for conv in range(3) for index, c in enumerate(((0, 1, 2), (3, 4), (5, 6))[conv])]
    expected = []
    for c, conv, index in places:
        weight, bias = layer.convs[conv].weight[index : index + 1], layer.convs[conv].bias[index : index + 1]
        expected.append(convolve(x[:, c : c + 1], weight, bias, 2, (3, 1, 5)[conv] // 2))
    torch.testing.assert_close(layer(x), torch.cat(expected, dim=1))


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("separable", [True, False])
def test_an_atrous_pyramid_costs_what_its_docstring_says_and_keeps_the_size(dims: int, separable: bool) -> None:
    layer = getattr(snn, f"ASPP{dims}d")(4, 6, (1, 2, 3), separable=separable).eval()
    example = torch.zeros(1, 4, *[5] * dims)
    assert layer(example).shape == (1, 6, *[5] * dims)
    dilated = 3 * (4 * 3**dims + 4 * 6) if separable else 3 * 4 * 6 * 3**dims
    assert count(layer, example).total.macs == (4 * 6 + dilated + 5 * 6 * 6) * 5**dims + 4 * 6


def test_the_pyramid_sees_as_far_as_its_rate_and_its_mean_sees_everything() -> None:
    layer = lived_in(snn.ASPP2d(1, 1, (3,), dropout=0.0))
    x = torch.zeros(1, 1, 15, 15, dtype=torch.float64)
    x[0, 0, 7, 7] = 1
    reached = layer.branches[1].depthwise(x)[0, 0].nonzero() - 7
    assert sorted(map(tuple, reached.tolist())) == [(i, j) for i in (-3, 0, 3) for j in (-3, 0, 3)]
    torch.testing.assert_close(layer.mean[0](x).item(), 1 / 225)


@pytest.mark.parametrize(
    ("convention", "size", "kernel", "stride", "pads"),
    [
        ("fixed", 8, 3, 2, (1, 1)),
        ("tensorflow", 8, 3, 2, (0, 1)),
        ("tensorflow", 7, 3, 2, (1, 1)),
        ("fixed", 8, 4, 2, (1, 2)),
        ("tensorflow", 8, 4, 2, (1, 1)),
        ("tensorflow", 7, 4, 2, (1, 2)),
        ("tensorflow", 9, 1, 2, (0, 0)),
        ("fixed", 5, 2, 1, (0, 1)),
        ("tensorflow", 5, 2, 1, (0, 1)),
    ],
)
def test_both_conventions_of_strided_same_padding_are_those_of_hand_worked_cases(
    convention: str, size: int, kernel: int, stride: int, pads: tuple[int, int]
) -> None:
    padded = snn.SamePad1d(kernel, stride, convention=convention)(torch.ones(1, 1, size))[0, 0].tolist()
    assert padded == [0.0] * pads[0] + [1.0] * size + [0.0] * pads[1]
    assert len(range(0, len(padded) - kernel + 1, stride)) == -(-size // stride)


@pytest.mark.parametrize("convention", ["fixed", "tensorflow"])
def test_same_padding_goes_along_each_axis_and_through_tracing(convention: str) -> None:
    pad, conv = snn.SamePad2d((2, 5), (1, 3), 2, convention=convention), nn.Conv2d(3, 4, (2, 5), (1, 3), dilation=2)
    model = nn.Sequential(pad, conv, nn.BatchNorm2d(4)).eval()
    assert model(torch.zeros(1, 3, 6, 8)).shape == (1, 4, 6, 3)
    assert isinstance(snn.fold_batch_norm(model)[2], nn.Identity)
    assert snn.SamePad3d(3, 2, convention=convention)(torch.zeros(1, 1, 4, 5, 6)).dim() == 5


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: snn.SamePad2d(3, convention="keras"), r"convention \(='keras'\); expected one of fixed, tensorflow"),
        (lambda: snn.SamePad2d(3, convention="fixed")(torch.zeros(3, 4, 4)), r"shape \(3, 4, 4\); .*\(n, c, h, w\)"),
        (lambda: snn.DepthwiseConv2d(4, 4, stride=2, padding="same"), r"two conventions: put a SamePad layer"),
        (lambda: snn.MixConv2d(2, (3, 5, 7)), r"kernel_sizes \(=\(3, 5, 7\)\); expected 1 to 2"),
        (lambda: snn.MixConv2d(4, (3, 4)), "even kernel_size"),
        (lambda: snn.LargeKernelDepthwiseConv2d(4, 5), r"kernel_size \(=5\); expected an odd number from 7 to 31"),
        (lambda: snn.LargeKernelDepthwiseConv2d(4, 7, small_kernel=7), r"small_kernel \(=7\)"),
        (lambda: snn.AsymmetricConv2d(4, 6, groups=4), r"out_channels \(=6\); expected a multiple of groups \(=4\)"),
        (lambda: snn.ASPP2d(4, 4, (6, 6)), r"rates \(=\(6, 6\)\)"),
    ],
)
def test_arguments_that_make_no_layer_are_named(make: object, complaint: str) -> None:
    with pytest.raises(SpecError, match=complaint):
        make()
