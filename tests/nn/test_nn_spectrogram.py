"""Log-mel features and cepstra against a loop over samples in float64, in one piece and as a stream."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.fft import dct
from torch import Tensor, nn

from separable import nn as snn
from separable.errors import SpecError


def sound(n: int, samples: int) -> Tensor:
    return torch.randn((n, samples), generator=torch.Generator().manual_seed(7), dtype=torch.float64) * 0.1


def mel(hertz: float) -> float:
    return 2595 * math.log10(1 + hertz / 700)


def loop(x: list[float], *, rate: int, window: int, hop: int, mels: int, low: float, high: float) -> list[list[float]]:
    """The features of one signal, frame by frame, worked out by the definitions alone."""
    transform = 1
    while transform < window:
        transform *= 2
    step = (mel(high) - mel(low)) / (mels + 1)
    corners = [700 * (10 ** ((mel(low) + i * step) / 2595) - 1) for i in range(mels + 2)]
    frames = []
    for start in range(0, len(x) - window + 1, hop):
        taper = [0.5 - 0.5 * math.cos(2 * math.pi * t / window) for t in range(window)]
        samples = [a * b for a, b in zip(x[start : start + window], taper, strict=True)]
        energies = [0.0] * mels
        for k in range(transform // 2 + 1):
            real = sum(s * math.cos(2 * math.pi * k * t / transform) for t, s in enumerate(samples))
            imaginary = sum(s * math.sin(2 * math.pi * k * t / transform) for t, s in enumerate(samples))
            hertz = k * rate / transform
            for m in range(mels):
                before, top, behind = corners[m : m + 3]
                height = min((hertz - before) / (top - before), (behind - hertz) / (behind - top))
                energies[m] += max(0.0, height) * (real**2 + imaginary**2)
        frames.append([math.log(energy + 1e-6) for energy in energies])
    return frames


@pytest.mark.parametrize(("window", "hop"), [(50, 20), (64, 64), (40, 1)])
def test_the_features_are_those_of_the_loop(window: int, hop: int) -> None:
    sizes = {"rate": 1000, "window": window, "hop": hop, "mels": 5}
    x = sound(2, window + 3 * hop + hop // 2)
    expected = torch.tensor([loop(row, **sizes, low=30.0, high=400.0) for row in x.tolist()])
    features = snn.LogMel(**sizes, low=30.0, high=400.0)(x.float())
    # Single precision over a transform of 64, a sum over 33 energies and a logarithm of numbers from 1e-3 to 10.
    torch.testing.assert_close(features, expected.transpose(1, 2).float(), rtol=1e-4, atol=1e-4)


def test_a_second_is_as_many_frames_as_fit_and_silence_is_the_floor() -> None:
    features = snn.LogMel(16_000, window=640, hop=320)(torch.zeros(1, 16_000))
    assert features.shape == (1, 40, 49)
    torch.testing.assert_close(features, torch.full((1, 40, 49), math.log(1e-6)))


def test_a_tone_is_loudest_in_the_filter_around_it() -> None:
    layer = snn.LogMel(16_000, window=400, hop=160, mels=20, low=0.0)
    time = torch.arange(1600) / 16_000
    step = mel(8000) / 21
    for hertz in (300.0, 1000.0, 4000.0):
        loudest = layer(torch.sin(2 * math.pi * hertz * time)[None])[0].mean(dim=1).argmax().item()
        assert loudest == round(mel(hertz) / step) - 1


def test_twice_the_amplitude_is_four_times_the_energy() -> None:
    layer, x = snn.LogMel(1000, window=64, hop=32, mels=4, floor=1e-30), sound(1, 200).float()
    torch.testing.assert_close(layer(2 * x) - layer(x), torch.full((1, 4, 5), math.log(4)), rtol=0, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(0, 300), max_size=6))
def test_pieces_of_any_length_give_the_frames_of_the_whole(cuts: list[int]) -> None:
    layer, x = snn.LogMel(1000, window=50, hop=20, mels=4), sound(2, 300).float()
    stream, edges = snn.Stream(nn.Sequential(layer)), [0, *sorted(cuts), 300]
    pieces = [stream(x[:, start:end]) for start, end in pairwise(edges)]
    torch.testing.assert_close(torch.cat(pieces, dim=2), layer(x), rtol=1e-6, atol=1e-6)


def test_a_piece_of_another_batch_is_no_continuation() -> None:
    stream = snn.Stream(snn.LogMel(1000, window=50, hop=20, mels=4))
    assert stream(torch.zeros(2, 30)).shape == (2, 4, 0)
    with pytest.raises(SpecError, match=r"LogMel: got a piece of batch 1 .* expected 2"):
        stream(torch.zeros(1, 30))


def test_the_cepstrum_is_the_orthonormal_cosine_transform_and_keeps_the_energy() -> None:
    x = sound(2, 240).float().reshape(2, 12, 20)
    expected = torch.from_numpy(dct(x.double().numpy(), type=2, norm="ortho", axis=1)).float()
    torch.testing.assert_close(snn.Cepstrum(12, 5)(x), expected[:, :5])
    torch.testing.assert_close(snn.Cepstrum(12, 12)(x).square().sum(), x.square().sum())


def test_autocast_leaves_the_features_in_single_precision() -> None:
    layer, x = snn.LogMel(1000, window=64, hop=32, mels=4), sound(1, 200).float()
    with torch.autocast("cpu", torch.bfloat16):
        features = layer(x)
    assert torch.equal(features, layer(x))


def test_it_exports_for_any_batch_and_any_length() -> None:
    model = nn.Sequential(snn.LogMel(1000, window=64, hop=32, mels=6), snn.Cepstrum(6, 4))
    shapes = ({0: torch.export.Dim("n", min=2), 1: torch.export.Dim("w", min=96, max=10_000)},)
    exported = torch.export.export(model, (sound(2, 200).float(),), dynamic_shapes=shapes)
    x = sound(3, 333).float()
    torch.testing.assert_close(exported.module()(x), model(x))


def test_it_has_no_parameters_and_nothing_to_store() -> None:
    layer = snn.LogMel(16_000, window=640, hop=320)
    assert not list(layer.parameters())
    assert not layer.state_dict()


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: snn.LogMel(16_000, window=0, hop=1), r"window \(=0\)"),
        (lambda: snn.LogMel(16_000, window=400, hop=401), r"hop \(=401\); expected at most window \(=400\)"),
        (lambda: snn.LogMel(16_000, window=400, hop=160, high=9000.0), r"high \(=9000.0\); .* ≤ 8000.0"),
        (lambda: snn.LogMel(16_000, window=400, hop=160, low=500.0, high=500.0), r"0 ≤ low < high"),
        (lambda: snn.LogMel(16_000, window=400, hop=160, floor=0.0), r"floor \(=0.0\)"),
        (
            lambda: snn.LogMel(16_000, window=256, hop=160, mels=80),
            r"mels \(=80\), of which number \d+ lies between two frequencies 62.5 Hz apart; .* Ask for fewer mels",
        ),
        (lambda: snn.LogMel(1000, window=64, hop=32, mels=4)(torch.zeros(1, 63)), "63 samples; .* window of 64"),
        (lambda: snn.LogMel(1000, window=64, hop=32, mels=4)(torch.zeros(100)), r"float32 of shape \(100,\)"),
        (
            lambda: snn.LogMel(1000, window=64, hop=32, mels=4)(torch.zeros(1, 100, dtype=torch.int16)),
            r"int16 of shape \(1, 100\); expected floating-point samples \(n, w\). .*divided",
        ),
        (lambda: snn.Cepstrum(4, 5), r"coefficients \(=5\); expected at most mels \(=4\)"),
        (lambda: snn.Cepstrum(4, 3)(torch.zeros(1, 5, 7)), r"shape \(1, 5, 7\); expected \(n, 4, w\)"),
    ],
)
def test_arguments_and_inputs_that_do_not_fit_are_named(make: object, complaint: str) -> None:
    with pytest.raises(SpecError, match=complaint):
        make()
