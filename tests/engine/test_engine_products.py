"""Layers with fewer multiplications. In: layers and networks. Out: who gets such a kernel, and agreement."""

from collections.abc import Callable, Sequence

import pytest
import torch
from small_networks import Bottleneck, build
from torch import Tensor, nn

from separable.engine import compile
from separable.engine.program import Program
from separable.kernels.catalogue import Kernel
from separable.kernels.epilogue import NONE
from separable.kernels.isa import SHAPES, Isa
from separable.kernels.layout import Layout, panels
from separable.kernels.products import Products
from separable.kernels.strassen import Strassen
from separable.kernels.winograd import Winograd
from separable.runtime.native import NativeNetwork
from separable.runtime.products import GAIN, SCRATCH_BYTES, dense, with_fewer_multiplications
from separable.runtime.tiles import shares
from separable.runtime.tuning import Tuner
from separable.spec import ConvSpec

Ways = Sequence[tuple[Kernel, ...]]
CLOSE = 1e-5  # of the norm


def residual() -> nn.Module:
    """Blocks of a ResNet with every way in which a 3×3 layer ends: alone, with an activation, with a sum."""
    pair = nn.Sequential(nn.Conv2d(128, 48, 3, padding=1), nn.SiLU(), nn.Conv2d(48, 80, 3, padding=1))
    return nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1), Bottleneck(32, 32, 1), Bottleneck(128, 32, 1), pair)


def first_of(products: int) -> Callable[[Tuner, Ways], tuple[Kernel, ...]]:
    """A tuner that takes the first kernel with so many matrix products."""

    def choose(_: Tuner, ways: Ways) -> tuple[Kernel, ...]:
        return next((way for way in ways if isinstance(way[0], Products) and way[0].products == products), ways[0])

    return choose


def native_of(program: Program, x: Tensor) -> NativeNetwork:
    (native,) = program.prepare(x).natives.values()
    return native


def widths(program: Program, x: Tensor) -> list[int]:
    return [step.kernel.width for step in native_of(program, x).schedule.steps if isinstance(step.kernel, Winograd)]


def agree(program: Program, model: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        expected = model(x)
    assert (program(x) - expected).norm() <= CLOSE * expected.norm()


@pytest.mark.parametrize(("batch", "threads"), [(1, 1), (1, 3), (3, 2)])
@pytest.mark.parametrize("size", [(48, 48), (61, 43)], ids=["whole tiles", "odd maps"])
def test_a_network_agrees_with_pytorch(size: tuple[int, int], batch: int, threads: int) -> None:
    model, x = build(residual), torch.randn(batch, 3, *size)
    program = compile(model, x, threads=threads, measure=False)
    assert len(widths(program, x)) == 4
    agree(program, model, x)


@pytest.mark.parametrize("width", [2, 4])
def test_tiles_of_each_width_agree(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("separable.runtime.products.dense", with_fewer_multiplications)
    monkeypatch.setattr(Tuner, "__call__", first_of((width + 2) ** 2))
    model = build(lambda: nn.Sequential(nn.Conv2d(40, 48, 3, padding=1), nn.Conv2d(48, 40, 3, padding=1)))
    x = torch.randn(2, 40, 17, 22)
    program = compile(model, x, threads=2)
    assert widths(program, x) == [width, width]
    agree(program, model, x)


def test_what_is_measured_to_be_faster_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = lambda _, kernels: [float(isinstance(kernel, Winograd)) + 1.0 for kernel in kernels]  # noqa: E731
    monkeypatch.setattr(Tuner, "measure", slow)
    model, x = build(lambda: nn.Conv2d(64, 64, 3, padding=1)), torch.randn(1, 64, 29, 29)
    program = compile(model, x, threads=1)
    assert widths(program, x) == []
    agree(program, model, x)


def inverted() -> nn.Module:
    """Pointwise layers that end in every way, large enough to pay."""
    block = nn.Sequential(nn.Conv2d(320, 512, 1), nn.ReLU6(), nn.Conv2d(512, 320, 1))
    return nn.Sequential(nn.Conv2d(3, 320, 3, 2, 1), Sum(block), nn.Conv2d(320, 640, 1), nn.SiLU())


class Sum(nn.Module):
    """x + block(x)."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to the same."""
        return x + self.block(x)


@pytest.mark.parametrize(("batch", "threads"), [(1, 1), (1, 3), (3, 2)])
@pytest.mark.parametrize("size", [(28, 28), (25, 17)], ids=["an even number of pixels", "an odd one"])
def test_pointwise_layers_agree_with_pytorch(
    size: tuple[int, int], batch: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tuner, "__call__", first_of(7))
    model, x = build(inverted), torch.randn(batch, 3, *size)
    program = compile(model, x, threads=threads)
    kernels = [step.kernel for step in native_of(program, x).schedule.steps]
    assert sum(isinstance(kernel, Strassen) for kernel in kernels) >= 2  # three threads cannot share out all of them
    agree(program, model, x)
    assert torch.equal(program(x), program(x))


@pytest.mark.parametrize(("size", "is_taken"), [(28, True), (4, False)])
def test_weights_count_as_coming_from_memory(size: int, is_taken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With warm weights Strassen's way takes a twentieth less; of few pixels that is less than its weights cost."""
    seconds = lambda _, kernels: [(1 - 0.05 * isinstance(k, Strassen)) * k.spec.macs / 4e10 for k in kernels]  # noqa: E731
    monkeypatch.setattr(Tuner, "measure", seconds)
    monkeypatch.setitem(GAIN, Strassen, 0.0)
    model, x = build(lambda: nn.Conv2d(512, 512, 1)), torch.randn(1, 512, size, size)
    program = compile(model, x, threads=1)
    kernels = [step.kernel for step in native_of(program, x).schedule.steps]
    assert any(isinstance(kernel, Strassen) for kernel in kernels) == is_taken


def maps(spec: ConvSpec, isa: Isa) -> tuple[Layout, Layout, None]:
    source = panels(spec.c_in, (spec.size[0], spec.size[1]), isa.lanes, spec.padding)
    return source, panels(spec.c_out, (spec.size_out[0], spec.size_out[1]), isa.lanes), None


OTHERS = {
    "few channels of a pointwise layer": ConvSpec(64, 64, 1, (28, 28)),
    "a pointwise layer of one pixel": ConvSpec(512, 512, 1, 1),
    "groups of pointwise layers": ConvSpec(512, 512, 1, (28, 28), groups=2),
    "a stride": ConvSpec(64, 64, 3, (28, 28), padding=1, stride=2),
    "a dilation": ConvSpec(64, 64, 3, (28, 28), padding=2, dilation=2),
    "a larger filter": ConvSpec(64, 64, 5, (28, 28), padding=2),
    "groups": ConvSpec(64, 64, 3, (28, 28), padding=1, groups=4),
    "a small map": ConvSpec(64, 64, 3, (3, 3)),
    "few channels": ConvSpec(4, 4, 3, (56, 56), padding=1),
}


@pytest.mark.parametrize("isa", SHAPES, indirect=True)
@pytest.mark.parametrize("name", OTHERS)
def test_other_layers_are_left_to_other_kernels(name: str, isa: Isa) -> None:
    spec = OTHERS[name]
    assert not any(isinstance(kernel, Products) for kernel in dense(spec, maps(spec, isa), NONE, isa, 2))


DENSE = [ConvSpec(c, c, 3, (size, size), padding=1) for c, size in ((32, 112), (64, 56), (256, 14), (512, 8), (48, 61))]
POINTWISE = [ConvSpec(c, c, 1, (size, size)) for c, size in ((512, 28), (1024, 14), (1024, 7))]


@pytest.mark.parametrize("isa", SHAPES, indirect=True)
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("spec", DENSE, ids=str)
def test_a_dense_layer_is_expected_to_gain(spec: ConvSpec, threads: int, isa: Isa) -> None:
    assert isinstance(dense(spec, maps(spec, isa), NONE, isa, threads)[0], Winograd)


@pytest.mark.parametrize("isa", ["avx2"], indirect=True)
@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("spec", POINTWISE, ids=str)
def test_a_pointwise_layer_of_many_channels_is_measured_with_the_best_other_one(
    spec: ConvSpec, threads: int, isa: Isa
) -> None:
    assert isinstance(dense(spec, maps(spec, isa), NONE, isa, threads)[1], Strassen)


@pytest.mark.parametrize("isa", SHAPES, indirect=True)
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("spec", [*DENSE, *POINTWISE], ids=str)
def test_every_candidate_fits_a_stack_and_keeps_all_threads_busy(spec: ConvSpec, threads: int, isa: Isa) -> None:
    found = with_fewer_multiplications(spec, maps(spec, isa), NONE, isa, threads)
    assert found
    for kernel in found[:4]:
        assert kernel.scratch_bytes <= 1.02 * max(SCRATCH_BYTES)  # rounded up to cache lines
        units = kernel.strips.count if kernel.tile.split == "channels" else kernel.blocks
        assert shares(kernel, threads) <= units
        # A thread may be idle where the others do no more than they would if it were not.
        even = -(-kernel.units // (kernel.tile.pixels * threads))
        assert threads <= shares(kernel, threads) or kernel.tile.block <= even
