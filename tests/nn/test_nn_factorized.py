"""Chains of small convolutions against the one convolution that they multiply out to, in float64."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from separable.errors import ModelError, SpecError
from separable.factor.factors import Factor, Factors
from separable.nn import FactorizedConv, from_factors, spec_of
from separable.spec import ConvSpec

CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
MODES = ("zeros", "reflect", "replicate", "circular")


def chain(specs: list[ConvSpec], whole: ConvSpec, seed: int = 0) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(spec.weight_shape, generator=generator, dtype=torch.float64) for spec in specs]
    factors = tuple(Factor(weight=weight, spec=spec) for weight, spec in zip(weights, specs, strict=True))
    return Factors(family="spatial", rank=(specs[0].c_out,), spec=whole, factors=factors, error=0.25)


def spatial(whole: ConvSpec, rank: int) -> Factors:
    """Random factors along one axis after the other."""
    specs, size, channels = [], list(whole.size), whole.c_in
    for axis in range(whole.dims):
        c_out = whole.c_out if axis == whole.dims - 1 else rank
        only = [tuple(v if i == axis else o for i in range(whole.dims)) for v, o in (
            (whole.kernel[axis], 1), (whole.stride[axis], 1), (whole.dilation[axis], 1), (whole.padding[axis], (0, 0)),
        )]  # fmt: skip
        spec = ConvSpec(channels, c_out, kernel=only[0], size=size, stride=only[1], dilation=only[2], padding=only[3])
        specs.append(spec)
        size, channels = list(spec.size_out), c_out
    return chain(specs, whole)


def dense(x: Tensor, factors: Factors, bias: Tensor, mode: str) -> Tensor:
    spec = factors.spec
    pads = [amount for pair in reversed(spec.padding) for amount in pair]
    padded = F.pad(x, pads, mode="constant" if mode == "zeros" else mode)
    return CONVOLVE[spec.dims](padded, factors.dense(), bias, spec.stride, 0, spec.dilation, spec.groups)


@st.composite
def convolutions(draw: st.DrawFn) -> ConvSpec:
    dims = draw(st.integers(1, 3))
    per_axis = st.tuples(*[st.integers(1, 3)] * dims)
    pads = st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 2))] * dims)
    return ConvSpec(
        draw(st.integers(1, 3)), draw(st.integers(1, 3)), kernel=draw(per_axis), stride=draw(per_axis),
        dilation=draw(per_axis), padding=draw(pads), size=draw(st.tuples(*[st.integers(7, 9)] * dims)),
    )  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(convolutions(), st.sampled_from(MODES), st.integers(1, 4))
def test_a_chain_computes_what_the_convolution_with_its_product_computes(spec: ConvSpec, mode: str, rank: int) -> None:
    factors = spatial(spec, rank)
    bias = torch.arange(1.0, spec.c_out + 1, dtype=torch.float64)
    x = torch.randn((2, spec.c_in, *spec.size), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    layer = from_factors(factors, bias=bias, padding_mode=mode)
    torch.testing.assert_close(layer(x), dense(x, factors, bias, mode), rtol=1e-9, atol=1e-9)


def test_the_children_are_plain_convolutions_with_a_bias_on_the_last_only() -> None:
    layer = from_factors(spatial(ConvSpec(3, 5, kernel=3, size=8, padding=1), rank=4), bias=torch.zeros(5))
    assert [type(child) for child in layer] == [nn.Conv2d, nn.Conv2d]
    assert [conv.bias is None for conv in layer.convs] == [True, False]
    assert str(layer).splitlines()[1].strip() == "spatial rank 4 in the place of 3→5 3×3 on 8×8"


def test_a_model_can_read_the_sizes_of_the_convolution_that_was_replaced() -> None:
    conv = nn.Conv2d(4, 6, (3, 5), stride=(1, 2), dilation=(2, 1), groups=2)
    layer = from_factors(spatial(spec_of(conv, (9, 9)), rank=2), bias=None)
    for name in ("in_channels", "out_channels", "kernel_size", "stride", "dilation", "groups"):
        assert getattr(layer, name) == getattr(conv, name)


def test_padding_that_differs_before_and_behind_gets_a_layer_of_its_own() -> None:
    spec = ConvSpec(3, 5, kernel=2, size=8, padding=((0, 1), (1, 1)))
    layer = from_factors(spatial(spec, rank=4), bias=None)
    assert [type(child) for child in layer] == [nn.ZeroPad2d, nn.Conv2d, nn.Conv2d]
    assert layer.bias is None


def test_the_factors_come_back_as_they_went_in_and_are_copies() -> None:
    factors = spatial(ConvSpec(3, 5, kernel=3, size=8), rank=4)
    layer = from_factors(factors, bias=torch.ones(5, dtype=torch.float64))
    back = layer.factors()
    assert (back.family, back.rank, back.spec, back.specs, back.error) == (
        "spatial",
        (4,),
        factors.spec,
        factors.specs,
        0.25,
    )
    assert all(torch.equal(a.weight, b.weight) for a, b in zip(back.factors, factors.factors, strict=True))
    back.factors[0].weight.zero_()
    assert layer.convs[0].weight.abs().sum() > 0


def test_loading_keeps_the_dtype_of_the_layer_and_no_bias_means_zero() -> None:
    spec = ConvSpec(3, 5, kernel=3, size=8)
    layer = from_factors(spatial(spec, rank=4), bias=torch.ones(5)).float()
    other = spatial(spec, rank=4)
    other.factors[0].weight.mul_(2)
    layer.load_factors_(other)
    assert layer.convs[0].weight.dtype == torch.float32
    assert torch.equal(layer.convs[0].weight, other.factors[0].weight.float())
    assert torch.equal(layer.bias, torch.zeros(5))
    assert all(parameter.requires_grad for parameter in layer.parameters())


def test_factors_of_other_shapes_or_a_bias_without_a_place_are_refused_and_change_nothing() -> None:
    spec = ConvSpec(3, 5, kernel=3, size=8)
    layer = from_factors(spatial(spec, rank=4), bias=None)
    before = layer.factors()
    with pytest.raises(SpecError, match="expected the chain 3→4 3×1 on 8×8, 4→5 1×3 on 6×8"):
        layer.load_factors_(spatial(spec, rank=2))
    changed = spatial(spec, rank=4)
    changed.factors[0].weight.zero_()
    with pytest.raises(SpecError, match="bias=True"):
        layer.load_factors_(changed, torch.ones(5))
    assert all(torch.equal(a.weight, b.weight) for a, b in zip(before.factors, layer.factors().factors, strict=True))


@pytest.mark.parametrize(
    "specs",
    [
        [],
        [ConvSpec(3, 4, kernel=3, size=8)],
        [ConvSpec(3, 4, kernel=(3, 1), size=8), ConvSpec(3, 5, kernel=(1, 3), size=(6, 8))],
        [ConvSpec(3, 4, kernel=(3, 1), size=8), ConvSpec(4, 5, kernel=(1, 3), size=8)],
    ],
    ids=["nothing", "other end", "other middle", "other size between"],
)
def test_a_chain_that_does_not_lead_from_the_input_to_the_output_is_refused(specs: list[ConvSpec]) -> None:
    with pytest.raises(SpecError, match="expected one that makes 3→5 3×3 on 8×8"):
        FactorizedConv(ConvSpec(3, 5, kernel=3, size=8), specs, family="spatial", rank=(4,))


def test_an_unknown_padding_mode_is_refused() -> None:
    spec = ConvSpec(3, 5, kernel=3, size=8)
    with pytest.raises(SpecError, match=r"padding_mode 'mirror'.*reflect"):
        FactorizedConv(spec, [spec], family="channel", rank=(3,), padding_mode="mirror")


@pytest.mark.parametrize(
    ("conv", "size", "expected"),
    [
        (nn.Conv1d(4, 6, 3, 2, 1, groups=2), (9,), ConvSpec(4, 6, (3,), (9,), (2,), 1, (1,), 2)),
        (nn.Conv2d(3, 5, (3, 2), padding="same", dilation=2), (9, 8), ConvSpec(3, 5, (3, 2), (9, 8), 1, "same", 2)),
        (nn.Conv2d(3, 5, 3, 2, padding="valid"), (9, 8), ConvSpec(3, 5, 3, (9, 8), 2)),
        (nn.Conv3d(1, 2, (1, 2, 3), padding=(0, 1, 2)), (5, 5, 5), ConvSpec(1, 2, (1, 2, 3), (5, 5, 5), 1, (0, 1, 2))),
    ],
)
def test_the_spec_of_a_layer_is_its_shape_and_predicts_its_output(
    conv: nn.Module, size: tuple[int, ...], expected: ConvSpec
) -> None:
    assert spec_of(conv, size) == expected
    assert conv(torch.zeros(1, expected.c_in, *size)).shape[2:] == expected.size_out


@pytest.mark.parametrize("layer", [nn.ConvTranspose2d(3, 3, 3), nn.Linear(3, 3)])
def test_a_layer_that_is_no_convolution_has_no_spec(layer: nn.Module) -> None:
    with pytest.raises(ModelError, match=type(layer).__name__):
        spec_of(layer, (8, 8))


def test_a_lazy_convolution_has_no_spec_before_its_first_input() -> None:
    with pytest.raises(ModelError, match=r"Run the model once"):
        spec_of(nn.LazyConv2d(3, 3), (8, 8))
