"""Convolutions that run as chains. In: networks with large maps. Out: the same bits as apart, and who is no chain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from small_networks import build
from torch import Tensor, nn

from separable import models
from separable.engine import compile
from separable.engine.program import Program
from separable.kernels.catalogue import Kernel
from separable.kernels.chain import Chain
from separable.runtime.native import NativeNetwork
from separable.runtime.tuning import Tuner

Ways = Sequence[tuple[Kernel, ...]]


def is_chained(way: tuple[Kernel, ...]) -> bool:
    return any(isinstance(kernel, Chain) for kernel in way)


def first_with(wanted: Callable[[tuple[Kernel, ...]], bool]) -> Callable[[Tuner, Ways], tuple[Kernel, ...]]:
    """A tuner that takes the first way of a kind."""
    return lambda _, ways: next((way for way in ways if wanted(way)), ways[0])


def compiled(model: nn.Module, x: Tensor, monkeypatch: pytest.MonkeyPatch, *, chained: bool, threads: int) -> Program:
    with monkeypatch.context() as patch:
        patch.setattr(Tuner, "__call__", first_with(lambda way: is_chained(way) == chained))
        return compile(model, x, threads=threads)


def native_of(program: Program, x: Tensor) -> NativeNetwork:
    (native,) = program.prepare(x).natives.values()
    return native


def count_of_chains(program: Program, x: Tensor) -> int:
    return sum(isinstance(step.kernel, Chain) for step in native_of(program, x).schedule.steps)


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2", "mobilenet_v3_large_minimalistic", "xception"])
@pytest.mark.parametrize(("batch", "threads"), [(1, 1), (1, 3), (3, 2)])
def test_chains_give_the_same_bits(name: str, batch: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.build(name).eval()
    x = torch.randn(batch, 3, 131, 117)
    apart, chains = (compiled(model, x, monkeypatch, chained=c, threads=threads) for c in (False, True))
    assert count_of_chains(chains, x) > 1 > count_of_chains(apart, x)
    assert torch.equal(chains(x), apart(x))
    if name == "mobilenet_v2":  # its widest maps lie within blocks
        assert native_of(chains, x).bytes < 0.85 * native_of(apart, x).bytes


class Watched(nn.Module):
    """A block whose expanded map is also an output."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.depthwise = nn.Conv2d(16, 32, 1), nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.project = nn.Conv2d(32, 16, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        wide = self.expand(x)
        return self.project(self.depthwise(wide)) + x, wide


def test_a_map_that_somebody_else_reads_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = build(Watched), torch.randn(1, 16, 96, 96)
    program = compiled(model, x, monkeypatch, chained=True, threads=2)
    (chain,) = (s.kernel for s in native_of(program, x).schedule.steps if isinstance(s.kernel, Chain))
    assert len(chain.links) == 2
    with torch.no_grad():
        for got, expected in zip(program(x), model(x), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_small_maps_run_apart() -> None:
    model, x = build(Watched), torch.randn(1, 16, 20, 20)
    assert count_of_chains(compile(model, x, measure=False), x) == 0


def test_without_measuring_large_maps_run_as_chains() -> None:
    model, x = build(lambda: nn.Sequential(*Watched().children())), torch.randn(1, 16, 200, 200)
    assert count_of_chains(compile(model, x, measure=False), x) == 1


@pytest.mark.parametrize(("threads", "expected"), [(1, 0), (2, 1)])
def test_where_threads_meet_fewer_steps_are_worth_some_microseconds(
    threads: int, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(_: Tuner, kernels: Sequence[Kernel]) -> list[float]:
        return [300e-6 if isinstance(kernel, Chain) else 95e-6 for kernel in kernels]

    monkeypatch.setenv("SEPARABLE_CACHE", str(tmp_path))
    monkeypatch.setattr(Tuner, "measure", measure)
    model, x = build(lambda: nn.Sequential(*Watched().children())), torch.randn(1, 16, 96, 96)
    assert count_of_chains(compile(model, x, threads=threads), x) == expected


def test_a_measured_choice_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEPARABLE_CACHE", str(tmp_path))
    model, x = build(lambda: nn.Sequential(*Watched().children())), torch.randn(1, 16, 96, 96)
    first = compile(model, x, threads=2)
    monkeypatch.setattr(Tuner, "measure", lambda *_: pytest.fail("measured again"))
    again = compile(model, x, threads=2)
    kernels = [[step.kernel for step in native_of(program, x).schedule.steps] for program in (first, again)]
    assert kernels[0] == kernels[1]
    with torch.no_grad():
        torch.testing.assert_close(first(x), model(x), rtol=1e-4, atol=1e-5)
