"""Maps seen with other axes. In: views, permutations, layers with the channels last. Out: what PyTorch gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from small_networks import build
from torch import Tensor, nn

from separable.engine import compile
from separable.engine.axes import Arranged, of_map, permuted, reorder_of, viewed
from separable.engine.lowered import Call
from separable.engine.program import Program
from separable.engine.reading import Map
from separable.runtime.network import Reorder


@st.composite
def arrangements(draw: st.DrawFn) -> tuple[Tensor, Arranged, Tensor]:
    """A map's tensor, the map seen through some views and permutations, and what PyTorch makes of the tensor."""
    n, c, h, w = (draw(st.sampled_from(sizes)) for sizes in ((1, 2, 3), (1, 6, 12), (1, 4), (1, 5, 6)))
    x = torch.arange(n * c * h * w).reshape(n, c, h, w)
    seen, y = of_map(Map(name="x", shape=(c, h, w), rank=4), n), x
    for _ in range(draw(st.integers(1, 4))):
        if draw(st.booleans()):
            dims = draw(st.permutations(range(y.ndim)))
            seen, y = permuted(seen, dims), y.permute(dims)
            continue
        shape, rest = [], y.numel()
        while rest > 1:
            shape.append(draw(st.sampled_from([d for d in range(2, rest + 1) if rest % d == 0])))
            rest //= shape[-1]
        after = viewed(seen, shape)
        if after is not None:
            seen, y = after, y.reshape(shape)
    return x, seen, y


@given(arrangements())
def test_views_and_permutations_are_what_pytorch_makes_of_them(drawn: tuple[Tensor, Arranged, Tensor]) -> None:
    x, seen, y = drawn
    assert torch.equal(seen.seen(x), y)
    assert torch.equal(seen.restored(y), x)


@given(st.sampled_from([1, 3]), st.sampled_from([(2, 3), (3, 2), (1, 6), (6, 1), (4, 4)]), st.integers(1, 3))
def test_a_shuffle_is_an_order_of_channels(batch: int, parts: tuple[int, int], width: int) -> None:
    c = prod(parts)
    x = torch.arange(batch * c * 2 * width).reshape(batch, c, 2, width)
    split = viewed(of_map(Map(name="x", shape=(c, 2, width), rank=4), batch), (batch, *parts, 2, width))
    assert split is not None
    whole = viewed(permuted(split, (0, 2, 1, 3, 4)), (batch, c, 2, width))
    assert whole is not None
    reorder = reorder_of(whole, batch)
    assert reorder is not None
    assert reorder.step == reorder.parts == (1, 1)
    assert torch.equal(x[:, reorder.order], F.channel_shuffle(x.float(), parts[0]).long())


def moved(x: Tensor, reorder: Reorder) -> Tensor:
    """Pixels to channels, channels in order, phases interleaved."""
    (n, c, h, w), (p_h, p_w), (s_h, s_w) = x.shape, reorder.parts, reorder.step
    parts = x.reshape(n, c, h // p_h, p_h, w // p_w, p_w).permute(0, 1, 3, 5, 2, 4).reshape(n, -1, h // p_h, w // p_w)
    orders = reorder.order.reshape(s_h * s_w, -1)
    y = parts.new_empty(n, orders.shape[1], h // p_h * s_h, w // p_w * s_w)
    for i, order in enumerate(orders):
        y[:, :, i // s_w :: s_h, i % s_w :: s_w] = parts[:, order]
    return y


def seen_as(x: Tensor, *views: Sequence[int]) -> tuple[Arranged, Tensor]:
    """A tensor in a shape, its axes permuted, and in a shape again."""
    first, dims, last = views
    split = viewed(of_map(Map(name="x", shape=(x.shape[1], x.shape[2], x.shape[3]), rank=4), len(x)), first)
    assert split is not None
    whole = viewed(permuted(split, dims), last)
    assert whole is not None
    return whole, x.reshape(first).permute(dims).reshape(last)


@given(st.tuples(*[st.integers(1, 3)] * 6), st.permutations([1, 2, 3]), st.booleans())
def test_a_new_order_makes_the_tensor_from_the_map(sizes: tuple[int, ...], roles: list[int], is_back: bool) -> None:
    """Three parts of the channels in any order become channels, rows and columns, and back."""
    n, h, w, *parts = sizes
    c, down, right = (parts[role - 1] for role in roles)
    views = (n, *parts, h, w), (0, roles[0], 4, roles[1], 5, roles[2]), (n, c, h * down, w * right)
    if is_back:
        back = [views[1].index(axis) for axis in range(6)]
        views = (n, c, h, down, w, right), back, (n, c * down * right, h, w)
    x = torch.arange(n * h * w * prod(parts)).reshape(n, -1, *((h * down, w * right) if is_back else (h, w)))
    seen, y = seen_as(x, *views)
    reorder = reorder_of(seen, n)
    if reorder is None:  # a vector seen as a signal, or with its channels last
        assert (h, w) == (1, 1)
        assert 1 in (down, right)
    else:
        assert torch.equal(moved(x, reorder), y)


def test_a_tensor_with_its_channels_last_stays_as_it_is_seen() -> None:
    for size in ((1, 1), (1, 5), (4, 5)):
        channels_last = permuted(of_map(Map(name="x", shape=(6, *size), rank=4), 2), (0, 2, 3, 1))
        assert reorder_of(channels_last, 2) is None
    tokens = permuted(of_map(Map(name="x", shape=(6, 1, 5), rank=3), 2), (0, 2, 1))
    heads = viewed(of_map(Map(name="x", shape=(6, 1, 5), rank=3), 2), (2, 3, 2, 5))
    for seen in (tokens, heads):
        assert seen is not None
        assert reorder_of(seen, 2) is None


def test_an_axis_cut_unevenly_is_not_seen() -> None:
    assert viewed(of_map(Map(name="x", shape=(6, 1, 5), rank=4), 1), (10, 3)) is None


class Between(nn.Module):
    """Some channels on 6×8, then the call, then what reads its result; both have weights of their own."""

    def __init__(self, call: Callable[[], nn.Module], channels: int = 20) -> None:
        super().__init__()
        self.first, self.call = nn.Conv2d(4, channels, 3, padding=1), call()
        self.last = nn.Conv2d(channels, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.call(torch.sigmoid(self.first(x))))
        return y


class Apply(nn.Module):
    """A function of the map and of layers for 20 channels."""

    def __init__(self, function: Callable[[Apply, Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.norm, self.scale = function, nn.LayerNorm(20), nn.Parameter(torch.rand(20))
        self.up, self.down = nn.Linear(20, 33), nn.Linear(33, 20, bias=False)
        nn.init.normal_(self.norm.weight)
        nn.init.normal_(self.norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def shuffled(_: Apply, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, 5, c // 5, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


def shuffled_in_parts(m: Apply, x: Tensor) -> Tensor:
    a, b = shuffled(m, x).chunk(2, 1)
    return torch.cat([b, a.relu()], 1)


def normalised(m: Apply, x: Tensor) -> Tensor:
    y: Tensor = m.norm(x.permute(0, 2, 3, 1))
    return y.permute(0, 3, 1, 2)


def convnext(m: Apply, x: Tensor) -> Tensor:
    y = m.scale * m.down(F.gelu(m.up(m.norm(x.permute(0, 2, 3, 1))))) + 0.25
    return x + y.permute(0, 3, 1, 2)


def tokens(m: Apply, x: Tensor) -> Tensor:
    y = x.flatten(2).transpose(1, 2)
    y = y + m.down(torch.tanh(m.up(m.norm(y))))
    return y.transpose(1, 2).reshape(x.shape)


NATIVE = {
    "channels shuffled by views": lambda: Apply(shuffled),
    "channels shuffled by a layer": lambda: nn.ChannelShuffle(4),
    "channels shuffled and taken in parts": lambda: Apply(shuffled_in_parts),
    "layer norm over channels": lambda: Apply(normalised),
    "a block with the channels last": lambda: Apply(convnext),
    "pixels as tokens": lambda: Apply(tokens),
    "group norm": lambda: nn.Sequential(nn.GroupNorm(5, 20), nn.ReLU()),
    "instance norm": lambda: nn.Sequential(nn.InstanceNorm2d(20), nn.LeakyReLU(0.1)),
    "instance norm with weights": lambda: nn.InstanceNorm2d(20, affine=True),
}


def agrees(model: nn.Module, x: Tensor) -> Program:
    program = compile(model, x, threads=2, measure=False)
    with torch.no_grad():
        expected = model(x)
    torch.testing.assert_close(program(x), expected, rtol=1e-4, atol=1e-5)
    return program


def calls(program: Program, x: Tensor) -> list[Call]:
    return [step for step in program.prepare(x).lowered.steps if isinstance(step, Call)]


@pytest.mark.parametrize("name", NATIVE)
@pytest.mark.parametrize("batch", [1, 3])
def test_no_call_is_left_to_pytorch(name: str, batch: int) -> None:
    x = torch.randn(batch, 4, 6, 8)
    program = agrees(build(lambda: Between(NATIVE[name])), x)
    assert not calls(program, x)


@pytest.mark.parametrize("name", sorted(NATIVE.keys() - {"instance norm with weights"}))  # PyTorch refuses that one
def test_a_batch_may_be_empty(name: str) -> None:
    agrees(build(lambda: Between(NATIVE[name])), torch.randn(0, 4, 6, 8))


def test_a_single_number_has_no_axes() -> None:
    model = nn.Sequential(nn.Conv2d(4, 1, (6, 8)), Apply(lambda _, x: torch.sigmoid(x.squeeze())))
    agrees(build(lambda: model), torch.randn(1, 4, 6, 8))


def test_signals_may_have_their_channels_last() -> None:
    class Speech(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm, self.linear = nn.Conv1d(4, 20, 3), nn.LayerNorm(20), nn.Linear(20, 7)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.linear(self.norm(self.first(x).transpose(1, 2)))
            return y

    for batch in (1, 2):
        x = torch.randn(batch, 4, 15)
        assert not calls(agrees(build(Speech), x), x)


def softmax_last(m: Apply, x: Tensor) -> Tensor:
    return m.norm(x.permute(0, 2, 3, 1)).softmax(-1).permute(0, 3, 1, 2)


def transposed(_: Apply, x: Tensor) -> Tensor:
    return x.transpose(2, 3).cumsum(2).transpose(2, 3)


def windows(_: Apply, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    parts = x.view(n, c, h // 2, 2, w // 4, 4).permute(0, 2, 4, 3, 5, 1)
    parts = parts - parts.mean((3, 4), keepdim=True)
    return parts.permute(0, 5, 1, 3, 2, 4).reshape(x.shape)


@pytest.mark.parametrize("function", [softmax_last, transposed, windows])
@pytest.mark.parametrize("batch", [1, 2])
def test_what_has_no_operator_reads_the_map_in_its_own_axes(function: Callable[..., Tensor], batch: int) -> None:
    x = torch.randn(batch, 4, 6, 8)
    assert calls(agrees(build(lambda: Between(lambda: Apply(function))), x), x)


@pytest.mark.parametrize("batch", [1, 2])
def test_a_convolution_reads_a_map_whose_axes_pytorch_has_put_in_order(batch: int) -> None:
    """The rows and columns of a map exchanged; an input with its channels last, as Keras gives it."""
    turned = build(lambda: Between(lambda: Apply(lambda _, x: x.transpose(2, 3))))
    last = nn.Sequential(Apply(lambda _, x: x.permute(0, 3, 1, 2)), Between(nn.ReLU))
    for model, x in ((turned, torch.randn(batch, 4, 6, 8)), (build(lambda: last), torch.randn(batch, 6, 8, 4))):
        (call,) = calls(agrees(model, x), x)
        assert call.name.endswith("settled")


@pytest.mark.parametrize("batch", [1, 2])
def test_layers_that_no_convolution_is_near_run_in_pytorch(batch: int) -> None:
    x = torch.randn(batch, 20, 6, 8)
    for model in (
        nn.Sequential(nn.BatchNorm2d(20), nn.MaxPool2d(2)),
        Apply(normalised),
        Apply(lambda m, x: m.norm(x.permute(0, 2, 3, 1))),
        Apply(shuffled_in_parts),
    ):
        assert calls(agrees(build(lambda model=model: model), x), x)


def test_a_map_may_leave_with_other_axes() -> None:
    model = nn.Sequential(nn.Conv2d(4, 20, 1), Apply(lambda m, x: m.up(x.permute(0, 3, 2, 1)).sin()))
    for batch in (1, 2):
        agrees(build(lambda: model), torch.randn(batch, 4, 6, 8))
    model = nn.Sequential(nn.Conv2d(4, 20, 1), Apply(lambda m, x: m.up(x.permute(0, 2, 3, 1))))
    agrees(build(lambda: model), torch.randn(2, 4, 6, 8))
