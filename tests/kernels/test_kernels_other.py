"""Pooling, arithmetic and moving of maps against NumPy. In: odd shapes. Out: agreement, and nothing written beside."""

from collections.abc import Callable

import numpy as np
import pytest
from guarded import run

from separable.errors import SpecError
from separable.kernels import reference
from separable.kernels.across import Normalise, Reduce, Softmax
from separable.kernels.elementwise import Elementwise, spread
from separable.kernels.epilogue import Activation
from separable.kernels.gathering import Gather
from separable.kernels.group_norm import GroupNorm
from separable.kernels.isa import Isa
from separable.kernels.layout import NO_BORDER, Border, Layout, channels_last, panels, planar
from separable.kernels.moving import Move
from separable.kernels.pooling import GlobalAverage, Pool
from separable.spec import ConvSpec

BORDER: Border = ((1, 2), (0, 3))
NOWHERE = float("nan")


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32).astype(np.float64)


@pytest.mark.parametrize("kernel", [2, 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kind", ["max", "average"])
def test_windows_are_pooled(kind: str, stride: int, kernel: int, isa: Isa) -> None:
    spec = ConvSpec(11, 11, kernel, (9, 10), stride=stride, padding=((1, 0), (0, 1)), groups=11)
    border = -np.inf if kind == "max" else 0.0
    x = numbers(11, 9, 10)
    for counts in (True, False):
        pool = Pool(
            kind=kind,
            spec=spec,
            source=panels(11, (9, 10), isa.lanes, spec.padding),
            target=panels(11, spec.size_out, isa.lanes, BORDER),
            counts_padding=counts,
        )
        got = run(pool, isa, {0: (pool.source, x, border)}, {1: pool.shares()}, threads=3)
        np.testing.assert_allclose(got, reference.pool(x, spec, kind, counts_padding=counts), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("border", [NO_BORDER, BORDER], ids=["bare", "bordered"])
def test_a_whole_map_is_averaged(border: Border, isa: Isa) -> None:
    x = numbers(21, 7, 5)
    source, target = panels(21, (7, 5), isa.lanes, border), panels(21, (1, 1), isa.lanes)
    kernel = GlobalAverage(source=source, target=target, activation=Activation(kind="hard_sigmoid"))
    expected = np.clip(x.mean((1, 2), keepdims=True) / 6 + 0.5, 0, 1)
    np.testing.assert_allclose(run(kernel, isa, {0: (source, x, NOWHERE)}, {}, threads=2), expected, rtol=1e-5)


COMBINED: dict[str, Callable[..., np.ndarray]] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "slope": lambda x, y: np.where(x < 0, x * y, x),
}


@pytest.mark.parametrize("operation", COMBINED)
@pytest.mark.parametrize("border", [NO_BORDER, BORDER], ids=["bare", "bordered"])
def test_two_maps_are_combined(operation: str, border: Border, isa: Isa) -> None:
    x, y = numbers(10, 6, 7), numbers(10, 7, 6).reshape(10, 6, 7)
    y += np.copysign(0.25, y)
    source, other = panels(10, (6, 7), isa.lanes, border), panels(10, (6, 7), isa.lanes)
    kernel = Elementwise(
        operation=operation, source=source, target=other, other=other, activation=Activation(kind="relu")
    )
    expected = np.maximum(COMBINED[operation](x, y), 0)
    got = run(kernel, isa, {0: (source, x, NOWHERE), 4: (other, y, NOWHERE)}, {}, threads=2)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


def test_a_gate_of_one_pixel_is_spread_over_the_map(isa: Isa) -> None:
    x, gate = numbers(19, 20, 16), numbers(19, 1, 1)
    source, one = panels(19, (20, 16), isa.lanes), panels(19, (1, 1), isa.lanes)
    kernel = Elementwise(operation="multiply", source=source, target=source, other=spread(one, source))
    # The gate's buffer holds one pixel a panel: it is written through its own layout and read through the spread one.
    spread_gate = np.broadcast_to(gate, (19, 20, 16))
    got = run(kernel, isa, {0: (source, x, NOWHERE), 4: (spread(one, source), spread_gate, NOWHERE)}, {}, threads=3)
    np.testing.assert_allclose(got, x * gate, rtol=1e-6)


def test_an_unknown_operation_is_refused() -> None:
    layout = panels(8, (2, 2), 8)
    with pytest.raises(SpecError, match="power"):
        Elementwise(operation="power", source=layout, target=layout, other=layout)


def layouts(channels: int, size: tuple[int, int], lanes: int) -> dict[str, Layout]:
    return {
        "planes": planar(channels, size),
        "planes with a border": planar(channels, size, BORDER),
        "channels last": channels_last(channels, size),
        "panels": panels(channels, size, lanes),
        "panels with a border": panels(channels, size, lanes, BORDER),
    }


@pytest.mark.parametrize("source", layouts(1, (1, 1), 8))
@pytest.mark.parametrize("target", layouts(1, (1, 1), 8))
@pytest.mark.parametrize("channels", [3, 24, 29])
def test_a_map_moves_between_any_two_layouts(source: str, target: str, channels: int, isa: Isa) -> None:
    for size in ((1, 1), (9, 18), (7, 75)):  # the last one is shared out by rows, and a row is two pieces
        all_of = layouts(channels, size, isa.lanes)
        move = Move(source=all_of[source], target=all_of[target])
        x = numbers(channels, *size)
        np.testing.assert_array_equal(run(move, isa, {0: (move.source, x, NOWHERE)}, {}, threads=2), x)


def test_maps_of_two_sizes_do_not_move_into_each_other(isa: Isa) -> None:
    with pytest.raises(SpecError, match="maps of one size"):
        run(Move(source=planar(3, (4, 4)), target=planar(3, (4, 5))), isa, {}, {})


@pytest.mark.parametrize("channels", [(24, 24), (21, 21), (40, 13), (3, 19)], ids=str)
@pytest.mark.parametrize("border", [NO_BORDER, BORDER], ids=["bare", "bordered"])
def test_channels_are_gathered_in_any_order(channels: tuple[int, int], border: Border, isa: Isa) -> None:
    c_in, c_out = channels
    source, target = panels(c_in, (5, 7), isa.lanes, border), panels(c_out, (5, 7), isa.lanes, BORDER)
    x, order = numbers(c_in, 5, 7), np.random.default_rng(c_in).integers(0, c_in, c_out)
    kernel = Gather(source=source, target=target)
    got = run(kernel, isa, {0: (source, x, NOWHERE)}, {5: kernel.offsets(order)}, threads=3)
    np.testing.assert_array_equal(got, x[order])


@pytest.mark.parametrize("channels", [(11, 21), (40, 3)], ids=str)
@pytest.mark.parametrize("step", [(1, 1), (2, 3), (1, 2)], ids=str)
@pytest.mark.parametrize("parts", [(1, 1), (2, 1), (3, 2)], ids=str)
@pytest.mark.parametrize("is_planar", [False, True], ids=["panels", "planes"])
def test_channels_are_gathered_from_pixels_into_pixels(
    channels: tuple[int, int], step: tuple[int, int], parts: tuple[int, int], is_planar: bool, isa: Isa
) -> None:
    (c_in, c_out), size = channels, (3, 4)
    source = panels(c_in, (3 * parts[0], 4 * parts[1]), isa.lanes, BORDER)
    larger = (size[0] * step[0], size[1] * step[1])
    target = planar(c_out, larger, BORDER) if is_planar else panels(c_out, larger, isa.lanes, BORDER)
    kernel = Gather(source=source, target=target, parts=parts, step=step, activation=Activation(kind="relu"))
    x = numbers(c_in, source.height, source.width)
    unshuffled = x.reshape(c_in, 3, parts[0], 4, parts[1]).transpose(0, 2, 4, 1, 3).reshape(-1, 3, 4)
    order = np.random.default_rng(c_in).integers(0, len(unshuffled), (*step, c_out))
    expected = np.zeros((c_out, *larger))
    for down, right in np.ndindex(step):
        expected[:, down :: step[0], right :: step[1]] = unshuffled[order[down, right]]
    got = run(kernel, isa, {0: (source, x, NOWHERE)}, {5: kernel.offsets(order.ravel())}, threads=3)
    np.testing.assert_array_equal(got, np.maximum(expected, 0))


@pytest.mark.parametrize("channels", [8, 13, 64, 3])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (2, 8)], ids=str)
def test_each_pixel_is_normalised_over_its_channels(channels: int, size: tuple[int, int], isa: Isa) -> None:
    source, target = panels(channels, size, isa.lanes, BORDER), panels(channels, size, isa.lanes)
    x, scale, shift = numbers(channels, *size) + 50, numbers(channels, 1), numbers(1, channels)[0]
    kernel = Normalise(source=source, target=target, eps=1e-3)
    padded = [np.zeros(target.panels * isa.lanes, np.float32) for _ in range(2)]
    for array, values in zip(padded, (scale[:, 0], shift), strict=True):
        array[:channels] = values
    expected = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-3) * scale[:, :, None] + shift[:, None, None]
    got = run(kernel, isa, {0: (source, x, NOWHERE)}, dict(enumerate(padded, start=1)), threads=2)
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("channels", [8, 13, 64, 3])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (2, 8)], ids=str)
def test_each_pixel_is_weighed_against_its_channels(channels: int, size: tuple[int, int], isa: Isa) -> None:
    source, target = panels(channels, size, isa.lanes, BORDER), panels(channels, size, isa.lanes, BORDER)
    x = (30 * numbers(channels, *size) + 100).astype(np.float32).astype(np.float64)
    powers = np.exp(x - x.max(0))
    got = run(Softmax(source=source, target=target), isa, {0: (source, x, NOWHERE)}, {}, threads=3)
    np.testing.assert_allclose(got, powers / powers.sum(0), rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("channels", [8, 13, 3])
@pytest.mark.parametrize("kind", ["max", "mean"])
def test_the_channels_of_a_pixel_become_one(kind: str, channels: int, isa: Isa) -> None:
    source, target = panels(channels, (3, 6), isa.lanes, BORDER), panels(1, (3, 6), isa.lanes, BORDER)
    x = numbers(channels, 3, 6) - 5
    got = run(Reduce(kind=kind, source=source, target=target), isa, {0: (source, x, NOWHERE)}, {}, threads=2)
    np.testing.assert_allclose(got, getattr(x, kind)(0, keepdims=True), rtol=1e-6)


def test_a_reduction_of_no_known_kind_is_refused(isa: Isa) -> None:
    with pytest.raises(SpecError, match=r"Reduce\.kind: got 'median'"):
        Reduce(kind="median", source=panels(3, (1, 1), isa.lanes), target=panels(1, (1, 1), isa.lanes))


@pytest.mark.parametrize("groups", [(12, 3), (20, 5), (24, 24), (13, 13), (18, 1), (44, 4), (40, 2)], ids=str)
@pytest.mark.parametrize("border", [NO_BORDER, BORDER], ids=["bare", "bordered"])
def test_groups_of_channels_are_normalised(groups: tuple[int, int], border: Border, isa: Isa) -> None:
    channels, count = groups
    source, target = panels(channels, (5, 3), isa.lanes, border), panels(channels, (5, 3), isa.lanes, BORDER)
    x, scale, shift = numbers(channels, 5, 3) + 50, numbers(channels), numbers(channels, 1)[:, 0]
    padded = [np.zeros(target.panels * isa.lanes, np.float32) for _ in range(2)]
    for array, values in zip(padded, (scale, shift), strict=True):
        array[:channels] = values
    grouped = x.reshape(count, -1)
    mean, deviation = grouped.mean(1, keepdims=True), np.sqrt(grouped.var(1, keepdims=True) + 1e-3)
    expected = ((grouped - mean) / deviation).reshape(x.shape) * scale[:, None, None] + shift[:, None, None]
    kernel = GroupNorm(source=source, target=target, groups=count, eps=1e-3, activation=Activation(kind="relu"))
    got = run(kernel, isa, {0: (source, x, NOWHERE)}, dict(enumerate(padded, start=1)), threads=3)
    np.testing.assert_allclose(got, np.maximum(expected, 0), rtol=2e-5, atol=2e-5)
