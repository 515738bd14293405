"""Times on the engine for who plans with them. In: layers, models. Out: seconds kept, forwards that agree, refusals."""

from pathlib import Path

import pytest
import torch
from small_networks import build, mobile
from torch import nn

from separable.cost import Ledger, this_machine
from separable.engine import compile
from separable.engine.layers import inner_steps
from separable.engine.timing import engine_timer, forward_on_engine, time_key
from separable.errors import ModelError


def test_a_convolution_is_timed_once_and_remembered_for_the_engine(tmp_path: Path) -> None:
    ledger, machine, x = Ledger(tmp_path / "ledger"), this_machine(), torch.randn(1, 8, 9, 9)
    layer = nn.Conv2d(8, 16, 3, padding=1)
    timer = engine_timer(ledger, machine)
    first = timer(layer, x)
    assert first > 0
    assert timer(nn.Conv2d(8, 16, 3, padding=1), x) == first
    assert time_key("separable", layer, x, machine) != time_key("eager", layer, x, machine)
    assert layer.training


def test_a_model_is_timed_whole(tmp_path: Path) -> None:
    model, x = build(mobile), torch.randn(2, 3, 32, 32)
    assert engine_timer(Ledger(tmp_path / "ledger"), this_machine())(model, x) > 0
    with torch.no_grad():
        torch.testing.assert_close(forward_on_engine(model, x)(), model(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(ModelError, match="a tuple of tensors"):
        forward_on_engine(model, {"x": x})


def test_what_is_timed_of_a_layer_leaves_the_callers_tensors_alone() -> None:
    x = torch.randn(2, 8, 9, 9)
    program = compile(build(lambda: nn.Conv2d(8, 16, 3, padding=1)), x, threads=1, measure=False)
    (native,) = program.prepare(x).natives.values()
    assert len(native.schedule.steps) == 3  # in, the convolution, out
    run = inner_steps(program, x)
    x.fill_(float("nan"))
    run()
    assert program(torch.zeros(2, 8, 9, 9)).isfinite().all()
