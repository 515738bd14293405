"""Separable convolution of signals of different lengths: padding further changes nothing, whatever the mode."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from separable import nn as snn
from separable.cost import count
from separable.errors import SpecError
from separable.nn.time_channel import masked_mean, masked_norm, strided

LENGTHS = torch.tensor([9, 4, 7])


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def block(stride: int = 1) -> snn.TimeChannelResidual1d:
    torch.manual_seed(0)
    return snn.TimeChannelResidual1d(3, 5, 5, stride, repeats=3).double()


@pytest.mark.parametrize("stride", [1, 2])
def test_each_signal_comes_out_as_if_it_were_alone(stride: int) -> None:
    model, x = block(stride).eval(), noise(3, 3, 12)
    y = model(x, LENGTHS)
    for signal, length, out in zip(x, LENGTHS.tolist(), y, strict=True):
        alone = model(signal[None, :, :length])[0]
        assert alone.shape[1] == -(-length // stride)
        torch.testing.assert_close(out[:, : alone.shape[1]], alone)


@pytest.mark.parametrize("stride", [1, 2])
def test_in_training_too_padding_further_changes_neither_outputs_nor_gradients_nor_statistics(stride: int) -> None:
    x, outcomes = noise(3, 3, 20), []
    for size in (9, 20):
        model = block(stride)
        y = model(x[..., :size], LENGTHS)
        mean = masked_mean(y, strided(LENGTHS, stride))
        mean.square().sum().backward()
        outcomes.append([mean, *(p.grad for p in model.parameters()), *model.buffers()])
    for short, long in zip(*outcomes, strict=True):
        torch.testing.assert_close(short, long)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_where_every_position_counts_the_norm_is_pytorchs(momentum: float | None) -> None:
    own, theirs = (nn.BatchNorm1d(4, momentum=momentum).double() for _ in range(2))
    for norm in (own, theirs):
        nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(1))
        nn.init.normal_(norm.bias, generator=torch.Generator().manual_seed(2))
    x = noise(2, 3, 4, 6)
    for batch in x:
        y = masked_norm(own, batch, torch.full((3,), 6))
        torch.testing.assert_close(y, theirs(batch))
    for mine, other in zip(own.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(mine, other)


def test_the_statistics_are_those_of_the_positions_that_count() -> None:
    norm = nn.BatchNorm1d(1, affine=True).double()
    y = masked_norm(norm, torch.tensor([[[1.0, 3.0, 100.0]]]).double(), torch.tensor([2]))
    torch.testing.assert_close(y[0, 0, :2], torch.tensor([-1.0, 1.0]).double() / (1 + 1e-5) ** 0.5)
    # A tenth of the mean 2, and nine tenths of 1 with a tenth of the unbiased variance 2.
    assert norm.running_mean.item() == pytest.approx(0.2)
    assert norm.running_var.item() == pytest.approx(1.1)


def test_bfloat16_activations_are_normalised_in_single_precision() -> None:
    norm, x = nn.BatchNorm1d(1), torch.full((1, 1, 1000), 3.0).bfloat16()
    x[..., 0] = 4.0
    y = masked_norm(norm, x, torch.tensor([1000]))
    assert y.dtype == torch.bfloat16
    assert norm.running_mean.item() == pytest.approx(0.3001, rel=1e-5)


def test_a_block_whose_norms_were_folded_computes_the_same_with_and_without_lengths() -> None:
    model = block()
    model(noise(8, 3, 12))
    folded, x = snn.fold_batch_norm(nn.Sequential(model.eval())), noise(3, 3, 12)
    assert not any(isinstance(layer, nn.BatchNorm1d) for layer in folded.modules())
    torch.testing.assert_close(folded(x), model(x))
    torch.testing.assert_close(folded[0](x, LENGTHS), model(x, LENGTHS))


def test_it_is_the_sum_of_separable_convolutions_and_a_pointwise_one() -> None:
    model, x = snn.TimeChannelResidual1d(3, 4, 3, repeats=1).double().eval(), noise(2, 3, 8)
    depthwise, pointwise = model.layers[0].conv
    y = F.conv1d(F.conv1d(x, depthwise.weight, padding=1, groups=3), pointwise.weight)
    # Untouched running statistics: a division by √(1 + ε).
    expected = F.relu((y + F.conv1d(x, model.shortcut.weight)) / (1 + 1e-5) ** 0.5)
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize(("standard", "macs"), [(False, (5 + 6) * 4), (True, 5 * 4 * 6)])
def test_a_convolution_costs_what_its_docstring_says(standard: bool, macs: int) -> None:
    layer = snn.TimeChannelConv1d(4, 6, 5, stride=2, standard=standard)
    x = torch.empty(1, 4, 9)
    assert count(layer, x).total.macs == 5 * macs
    assert layer(torch.zeros(1, 4, 9)).shape == (1, 6, 5)


def test_the_mean_over_what_counts_and_over_nothing() -> None:
    x = torch.tensor([[[1.0, 3.0, 100.0]], [[5.0, 6.0, 7.0]]])
    assert masked_mean(x, torch.tensor([2, 0])).tolist() == [[2.0], [0.0]]
    assert masked_mean(x, None)[1].item() == 6.0


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: snn.TimeChannelConv1d(4, 6, 4), r"TimeChannelConv1d: got the even kernel_size \(4,\)"),
        (lambda: snn.TimeChannelResidual1d(4, 6, 3, repeats=0), r"repeats \(=0\)"),
        (lambda: snn.TimeChannelConv1d(4, 6, 3)(torch.zeros(4, 9)), r"shape \(4, 9\); expected \(n, 4, w\)"),
        (lambda: snn.length_mask(torch.tensor([0.5]), 3), r"float32 of shape \(1,\); expected whole numbers"),
        (lambda: snn.length_mask(torch.tensor(2), 3), r"int64 of shape \(\)"),
    ],
)
def test_arguments_and_inputs_that_do_not_fit_are_named(make: object, complaint: str) -> None:
    with pytest.raises(SpecError, match=complaint):
        make()
