"""The fastest way. In: kernels, images, rates made up or measured. Out: a verdict, and the same pixels by every way."""

import numpy as np
import pytest
from scipy import ndimage

from separable import filters
from separable.cost import Ledger, Timing
from separable.errors import DataError, SpecError
from separable.filters.verdict import Rates, this_machines_rates

RULES = ["reflect", "mirror", "nearest", "wrap", "constant"]
EVEN = Rates(pixel_s=1e-9, term_s=1e-9, mac_s=1e-9, fft_s=1e-8)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("image", "kernel"), [((20, 31), (3, 4)), ((5, 6), (9, 14)), ((7, 8, 9), (3, 2, 4))])
@pytest.mark.parametrize("flip", [False, True])
def test_fourier_transforms_give_what_scipy_gives_for_every_border(image, kernel, rule, flip) -> None:
    pixels, weights = noise(*image), noise(*kernel, seed=1)
    theirs = (ndimage.convolve if flip else ndimage.correlate)(pixels, weights, mode=rule, cval=1.5)
    ours = filters.apply_fft(pixels, weights, filters.Border(rule, 1.5), flip=flip)
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_fourier_transforms_run_over_the_last_axes_and_give_the_types_of_apply() -> None:
    stack = np.random.default_rng(0).integers(0, 256, (3, 12, 14), dtype=np.uint8)
    for kernel in (filters.gaussian(1.0), filters.sobel(0), filters.gabor(0.2, 0.4)):
        ours, theirs = filters.apply_fft(stack, kernel), filters.apply(stack, kernel)
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, atol=1.0 if ours.dtype == np.uint8 else 1e-3)


def test_fourier_transforms_refuse_what_would_spread_and_kernels_of_too_many_axes() -> None:
    with pytest.raises(DataError, match="NaN"):
        filters.apply_fft(np.array([[1.0, np.nan]]), np.ones((1, 1)))
    with pytest.raises(SpecError, match="axes"):
        filters.apply_fft(np.ones(5), np.ones((2, 2)))
    assert filters.apply_fft(np.ones((0, 4)), np.ones((3, 3))).shape == (0, 4)


def test_the_verdict_follows_the_counts_where_all_rates_are_the_same() -> None:
    gauss = filters.choose(filters.gaussian(3.0), (512, 512), rates=EVEN)
    assert (gauss.method, gauss.terms) == ("separable", gauss.separable)
    small = filters.choose(noise(3, 3), (512, 512), rates=EVEN)
    assert (small.method, small.terms) == ("direct", small.direct)
    large = filters.choose(noise(31, 31), (512, 512), rates=EVEN)
    assert (large.method, large.terms) == ("fft", None)
    # 512² pixels of 1 + 1 + 2 · 25 units.
    assert gauss.predicted_s["separable"] == pytest.approx(512**2 * 52e-9)
    padded = (512 + 30) ** 2
    assert large.predicted_s["fft"] == pytest.approx(padded * np.log2(padded) * 1e-8)
    assert large.predicted_s["direct"] == pytest.approx(512**2 * (1 + 31 + large.direct.separable_macs) * 1e-9)


def test_a_looser_tolerance_can_turn_the_verdict() -> None:
    disk = np.hypot(*np.mgrid[-15:16, -15:16]) < 15.5
    exact, loose = (filters.choose(disk, (512, 512), tolerance=tolerance, rates=EVEN) for tolerance in (1e-12, 0.05))
    assert (exact.method, loose.method) == ("fft", "separable")
    assert loose.separable.error <= 0.05


def test_a_verdict_reads_as_a_table_fastest_first() -> None:
    lines = str(filters.choose(noise(31, 31), (512, 256), np.uint8, rates=EVEN)).splitlines()
    assert lines[0] == "Fourier is the fastest for 512×256 uint8 (predicted):"
    assert [line.split()[0] for line in lines[1:]] == ["fft", "direct", "separable"]


@pytest.mark.parametrize("shape", [(5,), (0, 4)])
def test_a_verdict_needs_an_image(shape) -> None:
    with pytest.raises(SpecError, match="shape"):
        filters.choose(np.ones((3, 3)), shape, rates=EVEN)


@pytest.mark.parametrize("kernel", [filters.gaussian(2.0), noise(3, 3), noise(25, 25)])
def test_the_fastest_way_gives_the_same_pixels(kernel, monkeypatch) -> None:
    monkeypatch.setattr("separable.filters.verdict.this_machines_rates", lambda _: EVEN)
    image = noise(40, 50).astype(np.float32)
    ours = filters.apply_fastest(image, kernel, "mirror")
    np.testing.assert_allclose(ours, filters.apply(image, kernel, "mirror"), rtol=1e-4, atol=1e-4)
    assert filters.apply_fastest(image[:0], kernel).shape == (0, 50)
    stack = noise(30, 40, 3)
    ours = filters.apply_fastest(stack, kernel, axes=(1, 0), flip=True)
    np.testing.assert_allclose(ours, filters.apply(stack, kernel, axes=(1, 0), flip=True), atol=1e-10)


def test_an_image_with_nan_is_never_transformed(monkeypatch) -> None:
    rates = Rates(pixel_s=1, term_s=1, mac_s=1, fft_s=1e-15)
    monkeypatch.setattr("separable.filters.verdict.this_machines_rates", lambda _: rates)
    image = noise(20, 20)
    image[3, 4] = np.nan
    assert np.isnan(filters.apply_fastest(image, filters.box(3))).sum() == 9


def test_rates_come_from_kept_times_and_none_is_negative(tmp_path, monkeypatch) -> None:
    asked = []

    def kept(_, key):
        asked.append(key["filters"])
        seconds = {"one": 2e-3, "long": 14.4e-3, "many": 5e-3, "fft": 1.0}[key["filters"]]
        return Timing(samples=(seconds,), threads=1, versions={})

    monkeypatch.setattr(Ledger, "get", kept)
    monkeypatch.setattr("separable.filters.verdict.this_machine", str)
    rates = this_machines_rates("float32", Ledger(tmp_path / "times.sqlite"))
    assert asked == ["one", "long", "many", "fft"]
    pixels = 1024**2
    # 124 more multiply-accumulates take 12.4 ms more, so each takes 0.1 ms for all pixels; 6 of them are in a term.
    assert rates.mac_s == pytest.approx(1e-4 / pixels)
    assert rates.term_s == pytest.approx((1e-3 - 6e-4) / pixels)
    assert rates.pixel_s == pytest.approx((2e-3 - 1e-3) / pixels)
    padded = (1024 + 64) ** 2
    assert rates.fft_s == pytest.approx(1 / (padded * np.log2(padded)))


def test_rates_are_measured_once_and_then_kept(tmp_path, monkeypatch) -> None:
    times = []

    def measured(run, **_):
        run()
        times.append(1)
        return Timing(samples=(1e-3,), threads=1, versions={})

    monkeypatch.setattr("separable.filters.verdict.measure", measured)
    monkeypatch.setattr("separable.filters.verdict.this_machine", str)
    ledger = Ledger(tmp_path / "times.sqlite")
    first = this_machines_rates("float64", ledger)
    assert first == this_machines_rates("float64", ledger)
    assert len(times) == 4
