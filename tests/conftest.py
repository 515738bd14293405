"""For every test: a cache that goes away with the run. For those who ask: levels, and a clock that shows MACs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings
from torch import Tensor, nn

from separable import pipeline
from separable.cost import Comparison, Timing, count
from separable.kernels import isa as instruction_sets
from separable.kernels.isa import SHAPES, Isa, host
from separable.nn import FactorizedConv

# The same examples in every run: a failure that somebody sees, everybody can see.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Measurements are not kept in the person's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEPARABLE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


OWN = instruction_sets.levels()
WIDEST = max(SHAPES, key=lambda level: SHAPES[level])


@pytest.fixture(params=dict.fromkeys((*OWN, WIDEST)))
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Isa:
    """Each level that this machine runs, and the widest; by indirect parameters any other.

    A level that this machine lacks has its lanes and its registers, and this machine's instructions.
    """
    monkeypatch.setattr(instruction_sets, "levels", lambda: tuple(dict.fromkeys((*OWN, *SHAPES))))
    return host(request.param)


def in_turns(original_s: float, rewritten_s: float) -> Comparison:
    def timing(seconds: float) -> Timing:
        return Timing(samples=(seconds,) * 9, threads=1, versions={})

    return Comparison(timings={"original": timing(original_s), "rewritten": timing(rewritten_s)})


@pytest.fixture
def clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A clock on which time goes with the MACs, and with a cost of rewriting that the layers alone do not show."""

    def set_to(hidden: float) -> None:
        def seconds(layer: nn.Module, x: Tensor) -> float:
            return count(layer, x).total.macs * 1e-9

        def model_s(model: nn.Module, example: Any) -> float:
            macs = count(model, example).total.macs
            return macs * 1e-9 * (1 + hidden * any(isinstance(part, FactorizedConv) for part in model.modules()))

        monkeypatch.setattr(pipeline, "eager_timer", lambda *_: seconds)
        monkeypatch.setattr(
            pipeline, "time_in_turns", lambda a, b, example, **_: in_turns(model_s(a, example), model_s(b, example))
        )

    if "real_clock" not in request.keywords:
        set_to(hidden=0.0)
    return set_to
