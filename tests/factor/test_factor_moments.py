"""Moments of data. In: small inputs and outputs. Out: what a slow loop over the patches finds, whatever the order."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from factor_cases import conv_specs, convolve, random_tensor
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from separable.errors import DataError, SpecError
from separable.factor import Moments, response_error
from separable.spec import ConvSpec

NUMPY_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
FIELDS = ("input_mean", "output_mean", "inputs", "cross", "energy")


def patches(x: Tensor, spec: ConvSpec, mode: str = "zeros") -> np.ndarray:
    """Every patch, (g, n · places, d), one number at a time."""
    padded = np.pad(x.numpy(), [(0, 0), (0, 0), *spec.padding], mode=NUMPY_MODES[mode])
    per_group, found = spec.c_in // spec.groups, []
    for group in range(spec.groups):
        channels = range(group * per_group, (group + 1) * per_group)
        rows = [
            [padded[(image, channel, *_at(place, tap, spec))] for channel in channels for tap in _all(spec.kernel)]
            for image in range(len(x))
            for place in _all(spec.size_out)
        ]
        found.append(rows)
    return np.array(found, dtype=np.float64)


def _all(sizes: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    return itertools.product(*(range(size) for size in sizes))


def _at(place: tuple[int, ...], tap: tuple[int, ...], spec: ConvSpec) -> Iterator[int]:
    axes = zip(place, spec.stride, tap, spec.dilation, strict=True)
    return (p * stride + t * dilation for p, stride, t, dilation in axes)


def outputs(y: Tensor, groups: int) -> np.ndarray:
    rows = y.movedim(1, -1).reshape(-1, groups, y.shape[1] // groups)
    return rows.transpose(0, 1).double().numpy()


def assert_equal(one: Moments, other: Moments, tolerance: float = 1e-12) -> None:
    assert one.count == other.count
    for name in FIELDS:
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=tolerance, atol=tolerance)


@settings(max_examples=40, deadline=None)
@given(spec=conv_specs(channels=2), seed=st.integers(0, 2**16))
def test_the_moments_are_those_of_the_patches(spec: ConvSpec, seed: int) -> None:
    x, y = random_tensor(seed, 2, spec.c_in, *spec.size), random_tensor(seed + 1, 2, spec.c_out, *spec.size_out)
    moments = Moments(spec, positions=None)
    moments.update_(x, y)
    rows, wanted = patches(x, spec), outputs(y, spec.groups)
    u, v = rows - rows.mean(axis=1, keepdims=True), wanted - wanted.mean(axis=1, keepdims=True)
    assert moments.count == rows.shape[1]
    for name, truth in (
        ("input_mean", rows.mean(axis=1)),
        ("output_mean", wanted.mean(axis=1)),
        ("inputs", np.einsum("gni,gnj->gij", u, u)),
        ("cross", np.einsum("gno,gni->goi", v, u)),
        ("energy", np.einsum("gno,gno->g", v, v)),
    ):
        np.testing.assert_allclose(getattr(moments, name).numpy(), truth, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("mode", NUMPY_MODES)
def test_patches_at_the_border_are_padded_as_the_layer_pads(mode: str) -> None:
    spec = ConvSpec(2, 3, kernel=(3, 2), size=(5, 6), padding=[(2, 1), (0, 1)])
    x, y = random_tensor(0, 2, 2, 5, 6), random_tensor(1, 2, 3, *spec.size_out)
    moments = Moments(spec, mode, positions=None)
    moments.update_(x, y)
    np.testing.assert_allclose(moments.input_mean.numpy(), patches(x, spec, mode).mean(axis=1), atol=1e-12)


SPEC = ConvSpec(3, 4, kernel=3, size=8, padding=1)


def _data(seed: int, count: int = 6) -> tuple[Tensor, Tensor]:
    return random_tensor(seed, count, 3, 8, 8), random_tensor(seed + 1, count, 4, 8, 8)


def test_it_does_not_matter_how_the_data_are_cut_up() -> None:
    x, y = _data(0)
    whole, cut, other = (Moments(SPEC, positions=None) for _ in range(3))
    whole.update_(x, y)
    for at in range(4):
        cut.update_(x[at : at + 1], y[at : at + 1])
    other.update_(x[4:], y[4:])
    cut.merge_(other)
    assert_equal(whole, cut)


def test_merging_with_nothing_changes_nothing() -> None:
    x, y = _data(0)
    one, other = Moments(SPEC), Moments(SPEC)
    one.update_(x, y)
    other.update_(x, y)
    one.merge_(Moments(SPEC))
    assert_equal(one, other, tolerance=0.0)


def test_memory_layout_does_not_matter() -> None:
    x, y = _data(0)
    one, other = Moments(SPEC, positions=None), Moments(SPEC, positions=None)
    one.update_(x, y)
    other.update_(x.contiguous(memory_format=torch.channels_last), y.flip(0).flip(0))
    assert_equal(one, other)


def test_a_mean_far_from_zero_costs_no_accuracy() -> None:
    x, y = _data(0)
    inner = ConvSpec(3, 4, kernel=3, size=8)
    near, far = Moments(inner, positions=None), Moments(inner, positions=None)
    for at in range(6):
        near.update_(x[at : at + 1], y[at : at + 1, :, 1:7, 1:7])
        far.update_(x[at : at + 1] + 1e6, y[at : at + 1, :, 1:7, 1:7])
    torch.testing.assert_close(far.inputs, near.inputs, rtol=0, atol=1e-7)
    torch.testing.assert_close(far.cross, near.cross, rtol=0, atol=1e-7)


def test_of_large_images_only_so_many_places_are_read_the_same_ones_for_one_seed() -> None:
    spec = ConvSpec(1, 2, kernel=3, size=32, padding=1)
    x, y = random_tensor(0, 4, 1, 32, 32), random_tensor(1, 4, 2, 32, 32)
    one, same, other, dense = (Moments(spec, positions=p, seed=s) for p, s in ((50, 0), (50, 0), (50, 1), (None, 0)))
    for moments in (one, same, other, dense):
        moments.update_(x, y)
    assert (one.count, dense.count) == (200, 4096)
    assert_equal(one, same, tolerance=0.0)
    assert not torch.equal(one.inputs, other.inputs)
    # A sample's second moment of white noise is off by about √(2/count).
    torch.testing.assert_close(one.energy / one.count, dense.energy / dense.count, rtol=0.3, atol=0)


def test_while_there_are_few_patches_for_the_unknowns_more_places_are_read() -> None:
    spec = ConvSpec(8, 2, kernel=3, size=32, padding=1)
    moments = Moments(spec, positions=10)
    moments.update_(random_tensor(0, 1, 8, 32, 32), random_tensor(1, 1, 2, 32, 32))
    assert moments.count == 4 * 72
    moments.update_(random_tensor(0, 3, 8, 32, 32), random_tensor(1, 3, 2, 32, 32))
    assert moments.count == 4 * 72 + 30


def test_inputs_of_any_size_count() -> None:
    moments = Moments(SPEC, positions=None)
    moments.update_(random_tensor(0, 2, 3, 5, 7), random_tensor(1, 2, 4, 5, 7))
    assert moments.count == 70


@pytest.mark.parametrize(
    ("x", "y", "complaint"),
    [
        (torch.zeros(2, 4, 8, 8), torch.zeros(2, 4, 8, 8), r"inputs \(n, 3, 2 sizes\)"),
        (torch.zeros(3, 8, 8), torch.zeros(4, 8, 8), r"inputs \(n, 3, 2 sizes\)"),
        (torch.zeros(0, 3, 8, 8), torch.zeros(0, 4, 8, 8), "n from 1"),
        (torch.zeros(2, 3, 8, 8), torch.zeros(2, 4, 8, 7), r"outputs \(2, 4, 8, 8\)"),
        (torch.zeros(2, 3, 8, 8), torch.zeros(1, 4, 8, 8), r"outputs \(2, 4, 8, 8\)"),
        (torch.full((2, 3, 8, 8), float("nan")), torch.zeros(2, 4, 8, 8), "inputs that are NaN"),
        (torch.zeros(2, 3, 8, 8), torch.full((2, 4, 8, 8), float("inf")), "outputs that are NaN"),
    ],
)
def test_data_that_do_not_belong_to_the_convolution_are_refused(x: Tensor, y: Tensor, complaint: str) -> None:
    moments = Moments(SPEC)
    with pytest.raises(DataError, match=complaint):
        moments.update_(x, y)
    assert moments.count == 0


def test_another_padding_mode_and_moments_of_another_convolution_are_refused() -> None:
    with pytest.raises(SpecError, match="padding_mode 'mirror'"):
        Moments(SPEC, "mirror")
    with pytest.raises(SpecError, match="merge_"):
        Moments(SPEC).merge_(Moments(ConvSpec(3, 4, kernel=5, size=8)))


@settings(max_examples=30, deadline=None)
@given(spec=conv_specs(channels=3), seed=st.integers(0, 2**16))
def test_the_response_error_is_the_one_of_the_outputs_themselves(spec: ConvSpec, seed: int) -> None:
    x, y = random_tensor(seed, 3, spec.c_in, *spec.size), random_tensor(seed + 1, 3, spec.c_out, *spec.size_out)
    weight = random_tensor(seed + 2, *spec.weight_shape)
    moments = Moments(spec, positions=None)
    moments.update_(x, y)
    axes = [0, *range(2, y.dim())]
    left = y - convolve(x, weight, spec)
    truth = (left - left.mean(axes, keepdim=True)).square().sum() / (y - y.mean(axes, keepdim=True)).square().sum()
    assert response_error(weight, moments) == pytest.approx(float(truth), rel=1e-9)


def test_where_nothing_is_wanted_to_change_the_response_error_is_0_or_1() -> None:
    moments = Moments(SPEC)
    moments.update_(random_tensor(0, 2, 3, 8, 8), torch.ones(2, 4, 8, 8))
    assert response_error(torch.zeros(SPEC.weight_shape), moments) == 0.0
    assert response_error(torch.ones(SPEC.weight_shape), moments) == 1.0


def test_a_weight_of_another_shape_is_refused() -> None:
    with pytest.raises(SpecError, match=r"\(4, 3, 3, 3\)"):
        response_error(torch.zeros(4, 3, 3), Moments(SPEC))
