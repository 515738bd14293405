"""Where time goes, layer by layer. In: a small program. Out: every step once, and shares that add up."""

import pytest
import torch
from small_networks import build, mobile

from separable.engine import compile
from separable.engine.layers import LayerTime, LayerTimes, layer_times
from separable.kernels.isa import host
from separable.kernels.peak import peak_loop


def test_every_step_between_the_callers_tensors_is_timed() -> None:
    program = compile(build(mobile), torch.randn(1, 3, 32, 32), threads=1, measure=False)
    times = layer_times(program, torch.randn(1, 3, 32, 32))
    (native,) = program.prepare(torch.randn(1, 3, 32, 32)).natives.values()
    assert len(times.layers) == len(native.schedule.steps) - 2
    assert sum(layer.macs for layer in times.layers) == native.network.macs
    assert all(layer.seconds > 0 for layer in times.layers)
    assert "convolution 3→16 3×3 on 32×32 stride 2×2" in str(times)


def test_the_share_of_the_peak_is_work_over_time() -> None:
    layers = tuple(LayerTime(name=n, what=n, macs=m, seconds=s) for n, m, s in (("a", 600, 2.0), ("b", 0, 1.0)))
    times = LayerTimes(layers=layers, peak=400.0, threads=1)
    assert times.seconds == 3.0
    assert times.share == pytest.approx(0.5)
    assert times.to_json()["layers"][0]["macs"] == 600


def test_a_layer_with_fewer_multiplications_is_said_to_pass_the_peak() -> None:
    layers = (LayerTime(name="a", what="winograd 8→8", macs=600, seconds=1.0),)
    assert "150" in str(LayerTimes(layers=layers, peak=400.0, threads=1))
    assert "may pass it" in str(LayerTimes(layers=layers, peak=400.0, threads=1))


def test_the_peak_is_counted_for_all_threads() -> None:
    (run, one), (_, two) = peak_loop(host(), 1), peak_loop(host(), 2)
    run()
    assert two == 2 * one == 2 * 12 * host().lanes * 100_000
