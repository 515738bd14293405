"""Causal convolution and its streams: no output sees the future, and pieces give what the whole signal gives."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from separable import nn as snn
from separable.errors import ModelError, SpecError


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return (
        nn.Sequential(
            snn.CausalConv1d(2, 4, 3, stride=2),
            nn.BatchNorm1d(4),
            nn.Hardswish(),
            snn.CausalSeparableConv1d(4, 6, 5, dilation=3, norm=nn.BatchNorm1d, activation=nn.ReLU),
            nn.Dropout(),
            snn.CausalSeparableConv1d(6, 3, 4, stride=3),
            snn.PointwiseConv1d(3, 2),
        )
        .double()
        .eval()
    )


def test_a_change_is_seen_by_no_output_before_it() -> None:
    layer = snn.CausalSeparableConv1d(2, 3, 4, dilation=2).double()
    x = noise(1, 2, 20)
    changed = x.clone()
    changed[..., 11] += 1
    differs = (layer(x) != layer(changed)).any(dim=1)[0].nonzero().flatten().tolist()
    assert differs == [11, 13, 15, 17]


def test_the_output_is_the_loop_over_the_past() -> None:
    layer = snn.CausalConv1d(1, 1, 3, stride=2, dilation=2).double()
    x, weight = noise(1, 1, 9), layer.weight[0, 0]
    expected = [
        layer.bias.item() + sum(weight[2 - i].item() * x[0, 0, t - 2 * i].item() for i in range(3) if t >= 2 * i)
        for t in range(0, 9, 2)
    ]
    torch.testing.assert_close(layer(x)[0, 0].tolist(), expected)


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 40), max_size=8))
def test_pieces_of_any_length_give_the_output_of_the_whole(cuts: list[int]) -> None:
    model, x = network(), noise(2, 2, 40)
    stream, edges = snn.Stream(model), [0, *sorted(cuts), 40]
    pieces = [stream(x[..., start:end]) for start, end in pairwise(edges)]
    with torch.no_grad():
        torch.testing.assert_close(torch.cat(pieces, dim=2), model(x), rtol=1e-12, atol=1e-12)


def test_residual_layers_stream_too() -> None:
    torch.manual_seed(0)
    layer = snn.CausalSeparableConv1d(2, 2, 3, dilation=2, norm=nn.BatchNorm1d, activation=nn.ReLU)
    model = nn.Sequential(snn.CausalConv1d(2, 2, 3), snn.CausalResidual(layer)).double().eval()
    x, stream = noise(2, 2, 11), snn.Stream(model)
    pieces = [stream(part) for part in x.split([1, 0, 7, 3], dim=2)]
    with torch.no_grad():
        first = model[0](x)
        torch.testing.assert_close(torch.cat(pieces, dim=2), first + layer(first))


def test_one_sample_at_a_time_gives_each_output_as_soon_as_it_can_be_known() -> None:
    layer = snn.CausalConv1d(1, 1, 3, stride=2)
    stream = snn.Stream(layer)
    assert [stream(torch.ones(1, 1, 1)).shape[2] for _ in range(6)] == [1, 0, 1, 0, 1, 0]


def test_a_reset_begins_a_new_signal() -> None:
    stream, x = snn.Stream(network()), noise(1, 2, 24)
    first = stream(x)
    stream.reset()
    assert torch.equal(stream(x), first)


def test_a_piece_that_fails_leaves_the_state_as_it_was() -> None:
    model, x = network(), noise(1, 2, 24)
    stream = snn.Stream(model)
    first = stream(x[..., :12])
    with pytest.raises(SpecError, match=r"expected \(n, 2, w\)"):
        stream(noise(1, 3, 5))
    with pytest.raises(SpecError, match=r"piece of batch 2 .* expected 1 and torch.float64"):
        stream(noise(2, 2, 5))
    with torch.no_grad():
        torch.testing.assert_close(torch.cat([first, stream(x[..., 12:])], dim=2), model(x))


class Backwards(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return x.flip(2)


@pytest.mark.parametrize(
    ("layer", "complaint"),
    [
        (nn.Conv1d(2, 2, 3, padding=1), r"layer '1' \(Conv1d\): .* look into the future; .*CausalConv1d"),
        (nn.Conv1d(2, 2, 1, padding=1), "look into the future"),
        (snn.SqueezeExcitation1d(2, 1), r"\(SqueezeExcitation1d\)"),
        (Backwards(nn.Identity()), r"layer '1' \(Backwards\)"),
        (nn.AvgPool1d(2), r"\(AvgPool1d\)"),
        (nn.BatchNorm1d(2).train(), r"\(BatchNorm1d\): got training mode; .*model.eval\(\)"),
    ],
)
def test_what_may_look_into_the_future_is_refused_before_the_first_piece(layer: nn.Module, complaint: str) -> None:
    with pytest.raises(ModelError, match=complaint):
        snn.Stream(nn.Sequential(snn.CausalConv1d(2, 2, 3), layer))


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: snn.CausalConv1d(3, 4, 3, groups=2), r"in_channels \(=3\); expected a multiple of groups \(=2\)"),
        (lambda: snn.CausalResidual(snn.CausalConv1d(3, 3, 3, stride=2)), r"layer '0': got stride 2; expected 1"),
        (lambda: snn.CausalSeparableConv1d(3, 4, 0), r"kernel_size \(=0\)"),
        (lambda: snn.CausalConv1d(3, 4, 3)(torch.zeros(3, 8)), r"shape \(3, 8\); expected \(n, 3, w\)"),
    ],
)
def test_arguments_and_inputs_that_do_not_fit_are_named(make: object, complaint: str) -> None:
    with pytest.raises(SpecError, match=complaint):
        make()
