"""Maps interleaved from phases. In: transposed convolutions, pixel shuffles. Out: what PyTorch gives, natively."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from small_networks import build
from torch import Tensor, nn

from separable.engine import compile
from separable.engine.phases import read_transposed
from separable.engine.program import Program
from separable.engine.reading import Map, Request
from separable.kernels import reference
from separable.runtime import load
from separable.runtime.network import Convolve, Interleave, Network, Node, Reorder, Take


def agrees(model: nn.Module, x: Tensor, threads: int = 2) -> Program:
    """Compiles a model that must be one native part, and must give what PyTorch gives in float64."""
    program = compile(model, x, threads=threads, measure=False)
    got = program(x)
    with torch.no_grad():
        expected = model.double()(x.double())
    model.float()
    assert got.shape == expected.shape
    assert (got - expected).norm() <= 1e-5 * expected.norm() + 1e-12
    lowered = program.prepare(x).lowered
    assert (len(lowered.steps), lowered.calls) == (1, ())
    return program


@st.composite
def axes(draw: st.DrawFn) -> dict[str, int]:
    """One axis of a transposed convolution, with an output."""
    axis = {name: draw(st.integers(1, most)) for name, most in (("size", 7), ("kernel_size", 5), ("stride", 4))}
    axis["dilation"], axis["padding"] = draw(st.integers(1, 3)), draw(st.integers(0, 5))
    axis["output_padding"] = draw(st.integers(0, max(axis["stride"], axis["dilation"]) - 1))
    reach = axis["dilation"] * (axis["kernel_size"] - 1)
    assume((axis["size"] - 1) * axis["stride"] - 2 * axis["padding"] + reach + axis["output_padding"] >= 0)
    return axis


@st.composite
def layers(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, ...]]:
    """A transposed convolution over signals or maps, and the shape that it reads, batch left out."""
    drawn = draw(st.lists(axes(), min_size=1, max_size=2))
    groups = draw(st.sampled_from([1, 1, 2, 5]))
    c_in, c_out = (groups * draw(st.sampled_from([1, 2, 3, 9])) for _ in range(2))
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d)[len(drawn) - 1]
    how: Any = {name: tuple(a[name] for a in drawn) for name in drawn[0] if name != "size"}
    layer = kind(c_in, c_out, groups=groups, bias=draw(st.booleans()), **how)
    return layer, (c_in, *(a["size"] for a in drawn))


def shuffled(x: np.ndarray, reorder: Reorder) -> np.ndarray:
    """Channels in order, which become pixels."""
    assert reorder.parts == (1, 1)
    (_, h, w), (rows, columns) = x.shape, reorder.step
    y = x[reorder.order].reshape(rows, columns, -1, h, w).transpose(2, 3, 0, 4, 1)
    return y.reshape(y.shape[0], rows * h, columns * w)


def in_float64(network: Network, x: np.ndarray) -> np.ndarray:
    """What the nodes say, step by step."""
    maps = dict.fromkeys(network.inputs, x)
    for node in network.nodes:
        (source, *_) = given = [maps[name] for name in node.inputs]
        match node.operator:
            case Convolve() as c:
                y = reference.convolve(source, c.weights.astype(np.float64), c.bias.astype(np.float64), c.spec)
            case Take() as take:
                y = source[:, take.rows.index[:, 0]][:, :, take.columns.index[:, 0]]
            case Reorder() as reorder:
                y = shuffled(source, reorder)
            case Interleave() as interleave:
                y = np.full(node.shape, np.nan)
                for phase, (i, j) in zip(given, np.ndindex(interleave.step), strict=True):
                    y[:, i :: interleave.step[0], j :: interleave.step[1]] = phase
        assert y.shape == node.shape
        maps[node.name] = y
    return y


@settings(max_examples=300, deadline=None)
@given(layers())
def test_a_transposed_convolution_is_its_phases(drawn: tuple[nn.Module, tuple[int, ...]]) -> None:
    layer, shape = drawn
    x = torch.randn(1, *shape)
    with torch.no_grad():
        expected = layer.double()(x.double())[0].numpy()
    arguments = {
        "input": Map(name="x", shape=(shape[0], *[1] * (3 - len(shape)), *shape[1:]), rank=x.ndim),
        "weight": layer.weight.float(),
        "bias": None if layer.bias is None else layer.bias.float(),
        **{name: list(getattr(layer, name)) for name in ("stride", "padding", "dilation")},
        "groups": layer.groups,
    }
    nodes = read_transposed(Request(arguments=arguments, shape=(1, *expected.shape)), "y")
    network = Network(inputs={"x": arguments["input"].shape}, nodes=tuple(nodes), outputs={"y": "y"})
    whole = x.double().numpy().reshape(arguments["input"].shape)
    np.testing.assert_allclose(in_float64(network, whole).reshape(expected.shape), expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(layers(), st.sampled_from([1, 3]), st.sampled_from([1, 2]))
def test_a_transposed_convolution_gives_what_pytorch_gives(
    drawn: tuple[nn.Module, tuple[int, ...]], batch: int, threads: int
) -> None:
    layer, shape = drawn
    agrees(layer.eval(), torch.randn(batch, *shape), threads)


class Between(nn.Module):
    """24 or 18 channels on 6×9, then the call, then a padded convolution."""

    def __init__(self, call: Callable[[], nn.Module], channels: int = 24) -> None:
        super().__init__()
        self.first, self.call = nn.Conv2d(4, channels, 3, padding=1), call()
        self.last = nn.LazyConv2d(5, 3, padding=1)
        self(torch.zeros(1, 4, 6, 9))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.call(torch.sigmoid(self.first(x))))
        return y


class Apply(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def channels_to_depth(x: Tensor) -> Tensor:
    """As ONNX's "DCR" and TensorFlow: the pixel is the outer part of the channels."""
    n, c, h, w = x.shape
    return x.view(n, 2, 3, c // 6, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // 6, 2 * h, 3 * w)


def space_to_channels(x: Tensor) -> Tensor:
    """Rows of pixels to channels, the pixel's place being the outer part of them."""
    n, c, h, w = x.shape
    return x.view(n, c, h // 3, 3, w).permute(0, 3, 1, 2, 4).reshape(n, 3 * c, h // 3, w)


def focus(x: Tensor) -> Tensor:
    return torch.cat([x[..., i::2, j::3] for i in range(2) for j in range(3)], 1)


def shuffled_signal(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    y = x.reshape(n, c * h, 1, w)[:, :, 0]
    return y.view(n, c * h // 2, 2, w).transpose(2, 3).reshape(n, c * h // 2, 1, 2 * w)


MOVEMENTS: dict[str, Callable[[], nn.Module]] = {
    "a pixel shuffle": lambda: nn.PixelShuffle(2),
    "a pixel shuffle to few channels": lambda: nn.Sequential(nn.Conv2d(24, 9, 1), nn.PixelShuffle(3), nn.ReLU()),
    "a pixel shuffle to whole panels": lambda: nn.Sequential(
        nn.Conv2d(24, 64, 1), nn.BatchNorm2d(64), nn.PixelShuffle(2), nn.SiLU()
    ),
    "a norm behind a pixel shuffle": lambda: nn.Sequential(nn.PixelShuffle(2), nn.BatchNorm2d(6), nn.Hardswish()),
    "a pixel unshuffle": lambda: nn.PixelUnshuffle(3),
    "an unshuffle of a shuffle": lambda: nn.Sequential(nn.PixelShuffle(2), nn.ReLU6(), nn.PixelUnshuffle(2)),
    "a shuffle of a shuffle": lambda: nn.Sequential(nn.Conv2d(24, 32, 1), nn.PixelShuffle(2), nn.PixelShuffle(2)),
    "channels to rows and columns by views": lambda: Apply(channels_to_depth),
    "rows to channels by views": lambda: Apply(space_to_channels),
    "slices joined": lambda: Apply(focus),
}


@pytest.mark.parametrize("name", MOVEMENTS)
@pytest.mark.parametrize("batch", [1, 3])
def test_pixels_move_natively(name: str, batch: int) -> None:
    agrees(build(lambda: Between(MOVEMENTS[name])), torch.randn(batch, 4, 6, 9))


def test_a_vector_becomes_a_map() -> None:
    body = [nn.Linear(7, 20 * 12), nn.Unflatten(1, (20, 3, 4)), nn.BatchNorm2d(20), nn.ReLU()]
    agrees(build(lambda: nn.Sequential(*body, nn.Conv2d(20, 3, 3, padding=1))), torch.randn(2, 7))


def test_signals_are_shuffled() -> None:
    class Signal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv1d(3, 20, 3), nn.Conv1d(10, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            n, c, w = y.shape
            z: Tensor = self.last(y.view(n, c // 2, 2, w).transpose(2, 3).reshape(n, c // 2, 2 * w))
            return z

    agrees(build(Signal), torch.randn(2, 3, 11))


def test_more_phases_than_are_worth_it_stay_in_pytorch() -> None:
    model, x = build(lambda: nn.Sequential(nn.Conv2d(3, 81, 1), nn.PixelShuffle(9))), torch.randn(1, 3, 4, 4)
    program = compile(model, x, threads=1, measure=False)
    with torch.no_grad():
        torch.testing.assert_close(program(x), model(x))
    model = build(lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 2, 16, 9)))
    program = compile(model, x, threads=1, measure=False)
    with torch.no_grad():
        torch.testing.assert_close(program(x), model(x))
    assert "transposed convolutions of 81 phases have no native operator" in program.explain()


def test_volumes_with_slices_that_no_tap_reaches_are_left_to_pytorch() -> None:
    model = build(lambda: nn.Sequential(nn.Conv3d(2, 3, 1), nn.ConvTranspose3d(3, 2, 2, 3)))
    x = torch.randn(1, 2, 3, 4, 4)
    program = compile(model, x, threads=1, measure=False)
    with torch.no_grad():
        torch.testing.assert_close(program(x), model(x))
    assert "a slice that no tap reaches has no native operator" in program.explain()


def test_a_kernel_that_the_network_computes_stays_in_pytorch() -> None:
    class Dynamic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return F.conv_transpose2d(y, y[:1, :, :2, :2].reshape(4, 1, 2, 2), stride=2)

    model, x = build(Dynamic), torch.randn(1, 4, 3, 3)
    program = compile(model, x, threads=1, measure=False)
    with torch.no_grad():
        torch.testing.assert_close(program(x), model(x))
    assert "weight is computed by the network" in program.explain()


def block(c_in: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(c_in, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU())


class UNet(nn.Module):
    """Two levels; each way up is a transposed convolution with a batch norm and an activation."""

    def __init__(self, **up: int) -> None:
        super().__init__()
        self.left, self.down, self.bottom = block(3, 12), block(12, 24), block(24, 40)
        self.up1 = nn.Sequential(nn.ConvTranspose2d(40, 24, bias=False, **up), nn.BatchNorm2d(24), nn.ReLU())
        self.up2 = nn.Sequential(nn.ConvTranspose2d(24, 12, **up), nn.BatchNorm2d(12), nn.LeakyReLU(0.1))
        self.right, self.last = block(48, 24), nn.Conv2d(24, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.left(x)
        b = self.down(F.max_pool2d(a, 2))
        c = self.up1(self.bottom(F.max_pool2d(b, 2)))
        y: Tensor = self.last(torch.cat([self.up2(self.right(torch.cat([b, c], 1))), a], 1))
        return y


def espcn() -> nn.Module:
    body = [nn.Conv2d(1, 20, 5, padding=2), nn.Tanh(), nn.Conv2d(20, 12, 3, padding=1), nn.Tanh()]
    return nn.Sequential(*body, nn.Conv2d(12, 27, 3, padding=1), nn.PixelShuffle(3), nn.Sigmoid())


def generator() -> nn.Module:
    up = [nn.ConvTranspose2d(10, 32, 4), nn.BatchNorm2d(32), nn.ReLU()]
    up += [nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.ConvTranspose2d(16, 3, 4, 2, 1)]
    return nn.Sequential(*up, nn.Tanh())


def nodes(program: Program, x: Tensor) -> tuple[Node, ...]:
    (network,) = program.prepare(x).lowered.steps
    assert isinstance(network, Network)
    return network.nodes


def kinds(program: Program, x: Tensor) -> set[str]:
    return {type(node.operator).__name__ for node in nodes(program, x)}


@pytest.mark.parametrize("batch", [1, 3])
def test_networks_that_scale_up_are_one_native_part_without_norms_and_activations(batch: int) -> None:
    """A norm of its own would be a 1×1 convolution by channel, an activation an operator."""
    for moved, up in (("Reorder", {"kernel_size": 2}), ("Interleave", {"kernel_size": 4, "padding": 1})):
        model, x = build(lambda up=up: UNet(stride=2, **up)), torch.randn(batch, 3, 20, 28)
        program = agrees(model, x)
        assert kinds(program, x) == {"Convolve", "Pooling", "Join", moved}
        assert not any(isinstance(n.operator, Convolve) and n.operator.is_depthwise for n in nodes(program, x))
    x = torch.randn(batch, 1, 13, 9)
    assert kinds(agrees(build(espcn), x), x) == {"Convolve", "Reorder"}
    x = torch.randn(batch, 10, 1, 1)
    assert kinds(agrees(build(generator), x), x) == {"Convolve", "Reorder", "Interleave"}


def test_what_makes_the_phases_is_said_once() -> None:
    body = [nn.ConvTranspose2d(6, 16, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(16, 8, 2, 2), nn.PixelUnshuffle(2)]
    model = build(lambda: nn.Sequential(*body, nn.PixelShuffle(2), nn.Conv2d(8, 3, 1)))
    text = compile(model, torch.randn(1, 6, 5, 5), threads=1, measure=False).explain()
    expected = [
        "_0.0 to _0.3: convolve 6→16 2×2 on 5×5 → relu",
        "_0: interleave 2×2",
        "_2.phases: convolve 16→32 1×1 on 10×10",
        "_2: pixel shuffle 2×2",
        "pixel_unshuffle: pixel unshuffle 2×2",
        "pixel_shuffle: pixel shuffle 2×2",
        "_5: convolve 8→3 1×1 on 20×20",
    ]
    assert [line.strip() for line in text.splitlines()][2:] == expected


def kernels(model: nn.Module, x: Tensor) -> list[str]:
    """Those between the caller's tensors."""
    (native,) = agrees(model, x).prepare(x).natives.values()
    return [type(step.kernel).__name__ for step in native.schedule.steps][1:-1]


@pytest.mark.parametrize(
    "up",
    [lambda c: nn.ConvTranspose2d(40, c, 2, 2), lambda c: nn.Sequential(nn.Conv2d(40, 4 * c, 1), nn.PixelShuffle(2))],
)
def test_channels_are_computed_where_they_belong_unless_they_or_their_pixels_are_few(
    up: Callable[[int], nn.Module],
) -> None:
    for channels, expected in ((16, ["Convolution"] * 4), (2, ["Convolution", "Gather"])):
        model = build(lambda c=channels: nn.Sequential(up(c), nn.BatchNorm2d(c), nn.SiLU()))
        assert kernels(model, torch.randn(1, 40, 13, 15)) == expected
        assert kernels(model, torch.randn(1, 40, 1, 1)) == ["Convolution", "Gather"]


def test_a_saved_program_scales_up(tmp_path: Path) -> None:
    for make, shape in ((espcn, (1, 1, 5, 7)), (generator, (2, 10, 1, 1))):
        model, x = build(make), torch.randn(shape)
        program = compile(model, x, threads=1, measure=False)
        program.save(tmp_path / "model.safetensors")
        got = load(tmp_path / "model.safetensors", threads=1, measure=False)(x.numpy())
        np.testing.assert_array_equal(got, program(x))
