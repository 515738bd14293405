"""Whole networks on the engine against PyTorch. In: small networks. Out: agreement, and what is said of the rest."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from small_networks import NETWORKS, build, mobile
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from separable.engine import compile, forward
from separable.errors import ModelError, SeparableError
from separable.kernels.convolution import Convolution
from separable.kernels.depthwise import Depthwise
from separable.kernels.epilogue import NONE
from separable.kernels.isa import SHAPES, Isa
from separable.runtime.tiles import depthwise, is_by_rows

CLOSE = 1e-5  # relative; sums of some hundred float32 products in another order


def agree(a: object, b: object) -> None:
    """Trees of tensors that are the same numbers, to rounding."""
    got, expected = pytree.tree_leaves(a), pytree.tree_leaves(b)
    assert pytree.tree_structure(a) == pytree.tree_structure(b)
    for x, y in zip(got, expected, strict=True):
        assert x.shape == y.shape
        assert (x - y).norm() <= CLOSE * y.norm()


def expected(model: nn.Module, *inputs: Tensor) -> object:
    with torch.no_grad():
        return model(*inputs)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_gives_what_pytorch_gives(name: str) -> None:
    make, shape = NETWORKS[name]
    model, x = build(make), torch.randn(shape)
    for threads in (1, 2):
        program = compile(model, x, threads=threads, measure=False)
        agree(program(x), expected(model, x))
        y = torch.randn(shape)
        agree(program(y), expected(model, y))


@pytest.mark.parametrize("isa", SHAPES, indirect=True)
@pytest.mark.parametrize("name", ["inverted residuals", "branches", "a multiplier", "groups", "a signal"])
def test_a_network_gives_the_same_in_panels_of_every_width(name: str, isa: Isa) -> None:
    make, shape = NETWORKS[name]
    model, x = build(make), torch.randn(shape)
    agree(compile(model, x, threads=2, measure=False, level=isa.name)(x), expected(model, x))


def test_one_network_that_does_everything_runs_without_an_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = build(mobile), torch.randn(1, 3, 32, 32)
    program = compile(model, x, threads=1, measure=False)
    monkeypatch.setattr(forward, "Environment", lambda *_: pytest.fail("an environment was made"))
    agree(program(x), expected(model, x))
    last = x.to(memory_format=torch.channels_last)
    agree(program(last), expected(model, last))


@pytest.mark.parametrize(("channels", "size", "split"), [(512, 16, "channels"), (32, 32, "rows")])
def test_a_depthwise_layer_is_shared_out_as_what_wrote_its_input(channels: int, size: int, split: str) -> None:
    """Each thread reads what it has written, whatever the tile."""
    layers = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
    x = torch.randn(1, channels, size, size)
    program = compile(build(lambda: nn.Sequential(*layers)), x, threads=2, measure=False)
    (native,) = program.prepare(x).natives.values()
    kernels = [step.kernel for step in native.schedule.steps]
    before, after = (next(k for k in kernels if isinstance(k, kind)) for kind in (Convolution, Depthwise))
    assert is_by_rows(before) == is_by_rows(after) == (split == "rows")
    every_tile = depthwise(after.spec, (after.source, after.target, None), NONE, program.isa, 2, before)
    assert {kernel.split for kernel in every_tile} == {split}


def test_measured_tiles_compute_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEPARABLE_CACHE", str(tmp_path))
    model, x = build(mobile), torch.randn(1, 3, 32, 32)
    for _ in range(2):  # measured, then remembered
        agree(compile(model, x, threads=2)(x), expected(model, x))
    assert list((tmp_path / "tuning").glob("*.json"))


def test_a_damaged_tuning_entry_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEPARABLE_CACHE", str(tmp_path))
    model, x = build(lambda: nn.Conv2d(8, 16, 1)), torch.randn(1, 8, 6, 6)
    compile(model, x, threads=1)
    (path,) = (tmp_path / "tuning").glob("*.json")
    path.write_text("{")
    agree(compile(model, x, threads=1)(x), expected(model, x))
    assert path.read_text() != "{"


def test_batch_and_size_may_change_and_each_is_compiled_once() -> None:
    model = build(mobile)
    program = compile(model, torch.randn(1, 3, 32, 32), threads=2, measure=False)
    for shape in ((1, 3, 32, 32), (3, 3, 32, 32), (4, 3, 40, 32), (1, 3, 32, 32)):
        x = torch.randn(shape)
        agree(program(x), expected(model, x))
    assert program.explain().count("for ") == 3


def test_arrays_channels_last_and_strided_tensors_are_read() -> None:
    model, x = build(mobile), torch.randn(2, 3, 32, 32)
    program = compile(model, x, threads=1, measure=False)
    agree(program(x.numpy()), expected(model, x))
    agree(program(x.to(memory_format=torch.channels_last)), expected(model, x))
    agree(program(torch.randn(2, 3, 32, 64)[..., ::2].copy_(x)), expected(model, x))
    assert program(np.asfortranarray(x.numpy())).shape == (2, 10)


def test_what_is_not_known_stays_in_pytorch_and_is_said() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(4, 8, 3), nn.Conv2d(8, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(torch.cumsum(torch.relu(self.one(x)), 3)).flip(2)  # type: ignore[no-any-return]

    model, x = build(Odd), torch.randn(2, 4, 8, 8)
    program = compile(model, x, measure=False)
    agree(program(x), expected(model, x))
    assert "2 native, 1 in PyTorch" in program.explain()
    assert "cumsum: there is no native operator for aten.cumsum" in program.explain()


def test_a_model_without_convolutions_stays_in_pytorch() -> None:
    model, x = build(lambda: nn.Sequential(nn.ReLU(), nn.Softmax(1))), torch.randn(2, 5)
    program = compile(model, x)
    agree(program(x), expected(model, x))
    assert "0 native" in program.explain()


def test_a_value_changed_in_place_is_read_changed() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            torch.relu_(y)
            return y * 2

    model, x = build(InPlace), torch.randn(1, 3, 8, 8)
    agree(compile(model, x, measure=False)(x), expected(model, x))


def test_outputs_are_tensors_of_their_own() -> None:
    """Of any call, in any mode: one that is kept does not change, and can be trained on."""
    model, x = build(mobile), torch.randn(1, 3, 40, 40)
    program = compile(model, x, threads=1, measure=False)
    with torch.inference_mode():
        inside = [program(i * x) for i in range(20)]
    outside = [program(i * x) for i in range(20)]
    assert len({y.untyped_storage().data_ptr() for y in inside + outside}) == 40
    weight = torch.ones(inside[0].shape[1], requires_grad=True)
    for i, (a, b) in enumerate(zip(inside, outside, strict=True)):
        agree(a, expected(model, i * x))
        assert torch.equal(a, b)
        (a * weight).sum().backward()
        assert a.untyped_storage().nbytes() == a.nbytes


def test_defaults_for_new_tensors_do_not_matter() -> None:
    model, x = build(mobile), torch.randn(1, 3, 40, 40)
    answer = expected(model, x)
    program = compile(model, x, threads=1, measure=False)
    torch.set_default_dtype(torch.float64)
    try:
        agree(program(x), answer)
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.device("meta"):
        agree(program(x), answer)


def test_infinite_and_missing_numbers_come_out_where_pytorch_has_them() -> None:
    model, x = build(lambda: nn.Sequential(nn.Conv2d(3, 11, 3, padding=1), nn.ReLU())), torch.randn(1, 3, 8, 8)
    x[0, 0, 2, 2] = float("nan")
    got, wanted = compile(model, x, measure=False)(x), expected(model, x)
    assert isinstance(wanted, Tensor)
    assert torch.equal(got.isnan(), wanted.isnan())


def test_inputs_that_cannot_run_are_refused() -> None:
    model = build(mobile)
    program = compile(model, torch.randn(1, 3, 32, 32), measure=False)
    with pytest.raises(ModelError, match="expected float32"):
        program(torch.randn(1, 3, 32, 32, dtype=torch.float64))
    with pytest.raises(ModelError, match="on the CPU"):
        program(torch.empty(1, 3, 32, 32, device="meta"))
    with pytest.raises(ModelError, match="Train in PyTorch"):
        program(torch.randn(1, 3, 32, 32, requires_grad=True))
    with pytest.raises(ModelError, match="Give several inputs as a tuple"):
        program([1.0])  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"does not depend"):
        program(torch.randn(1, 4, 32, 32))
    with pytest.raises(ModelError, match=r"model\.eval"):
        compile(model.train(), torch.randn(1, 3, 32, 32))
    with pytest.raises(ModelError, match="threads=0"):
        compile(model.eval(), torch.randn(1, 3, 32, 32), threads=0)
    with pytest.raises(SeparableError, match="'mmx'"):
        compile(model, torch.randn(1, 3, 32, 32), level="mmx")


def test_several_threads_may_call_one_program() -> None:
    model = build(mobile)
    inputs = [torch.randn(1, 3, 32, 32) for _ in range(4)]
    program = compile(model, inputs[0], threads=2, measure=False)
    wanted, wrong = [expected(model, x) for x in inputs], []

    def call(i: int) -> None:
        for _ in range(20):
            got = program(inputs[i])
            if not torch.allclose(got, wanted[i], rtol=1e-4, atol=1e-5):  # type: ignore[arg-type]
                wrong.append(i)

    callers = [threading.Thread(target=call, args=(i,)) for i in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert wrong == []
